"""What a segmenter learns from: augmented patches of real and synthetic cases, which look the same to it."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from lungsyn.config import Segmenter
from lungsyn.errors import InputError
from lungsyn.volume.files import open_case
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.patches import random_start, window

MAX_ROTATION_DEGREES = 30.0
SCALES = (0.8, 1.25)


class TrainingPatches(Dataset):
    """Patch number i of a training: ``(image [1 P P P], nodule [1 P P P])``, drawn from (seed, i) alone.

    ``real`` and ``synthetic`` cases are drawn alike, or ``synthetic_share`` of the patches from the synthetic ones.
    """

    def __init__(
        self, real: list[Path], synthetic: list[Path], synthetic_share: float | None, settings: Segmenter, seed: int
    ):
        if not real and not synthetic:
            raise InputError("no case to train on: the arm names neither real cases nor a synthetic set with volumes")
        self.settings, self.seed, self.synthetic_share = settings, seed, synthetic_share
        self.cases = [open_case(folder) for folder in [*real, *synthetic]]
        self.boxes = [[nodule["box"] for nodule in case.about["nodules"]] for case in self.cases]
        kinds = range(len(real)), range(len(real), len(self.cases))
        everything = range(len(self.cases))
        self.pools = (everything, everything) if synthetic_share is None else kinds  # real, synthetic
        self.with_nodules = tuple([i for i in pool if self.boxes[i]] for pool in self.pools)

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        s, rng = self.settings, np.random.default_rng([self.seed, i])
        kind = int(self.synthetic_share is not None and rng.random() < self.synthetic_share)
        near = rng.random() < s.nodule_patches and self.with_nodules[kind]
        number = int(rng.choice(self.with_nodules[kind] if near else self.pools[kind]))
        case = self.cases[number]
        centre = None
        if near:
            centre = [(a + b) // 2 for a, b in self.boxes[number][rng.integers(len(self.boxes[number]))]]
        start = random_start(rng, case.ct.shape, s.patch_voxels, centre)
        image = to_model_range(window(case.ct, start, s.patch_voxels, AIR_HU), s.window_hu)
        nodule = (window(case.nodules, start, s.patch_voxels, 0) > 0).astype(np.float32)
        return augment(torch.from_numpy(np.stack([image, nodule])), rng)


def augment(pair: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mirror, rotate, scale, shift the grey values and add noise; ``pair`` is image and nodule ``[2 P P P]``."""
    pair = pair.flip([1 + axis for axis in range(3) if rng.random() < 0.5])
    if rng.random() < 0.3:
        pair = _rotate_and_scale(pair, rng)
    image, nodule = pair[:1], (pair[1:] >= 0.5).float()
    image = image * rng.uniform(0.9, 1.1) + rng.uniform(-0.1, 0.1)
    if rng.random() < 0.2:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        image = image + float(rng.uniform(0, 0.1)) * torch.from_numpy(noise)
    return image, nodule


def _rotate_and_scale(pair: Tensor, rng: np.random.Generator) -> Tensor:
    """One random rotation (about x, then y, then z) and isotropic scaling, linear, about the patch's centre."""
    angles = np.deg2rad(rng.uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES, size=3))
    matrix = np.eye(3) / np.exp(rng.uniform(*np.log(SCALES)))
    for axis, angle in enumerate(angles):
        turn, (a, b) = np.eye(3), [k for k in range(3) if k != axis]
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    theta = torch.from_numpy(np.hstack([matrix, np.zeros((3, 1))]).astype(np.float32))[None]
    grid = F.affine_grid(theta, [1, 1, *pair.shape[1:]], align_corners=False)
    return F.grid_sample(pair[None], grid, padding_mode="border", align_corners=False)[0]
