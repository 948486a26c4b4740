"""What a segmenter learns from: augmented patches of real and synthetic cases, which look the same to it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import Dataset

from lungsyn.errors import InputError
from lungsyn.random import stream
from lungsyn.segmenters.core.mixing import Mixer, cut
from lungsyn.segmenters.core.settings import PatchTraining
from lungsyn.segmenters.core.texture import matching
from lungsyn.settings.arms import Use
from lungsyn.volume.files import open_case
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.patches import random_start

MAX_ROTATION_DEGREES = 30.0
SCALES = (0.8, 1.25)


class TrainingPatches(Dataset):
    """Patch number i of a training: ``(image [1 P P P], nodule [1 P P P])``, drawn from (seed, i) alone.

    ``real`` and ``synthetic`` cases are drawn alike, or as ``use`` says: a share of the patches from the synthetic
    ones; those of the first steps from synthetic and all others from real ones; real patches mixed, synthetic ones with
    the noise of real ones.
    """

    def __init__(
        self, real: Sequence[Path], synthetic: Sequence[Path], use: Use, settings: PatchTraining, seed: int
    ):  # fmt: skip
        if not real and not synthetic:
            raise InputError("no case to train on: the arm names neither real cases nor a synthetic set with volumes")
        self.settings, self.seed, self.use = settings, seed, use
        self.cases = [open_case(folder) for folder in [*real, *synthetic]]
        self.boxes = [[nodule["box"] for nodule in case.about["nodules"]] for case in self.cases]
        kinds = range(len(real)), range(len(real), len(self.cases))
        everything = range(len(self.cases))
        alike = use.synthetic_share is None and use.pretrain is None
        self.pools = (everything, everything) if alike else kinds  # real, synthetic
        self.with_nodules = tuple([i for i in pool if self.boxes[i]] for pool in self.pools)
        halves = self.cases[: len(real)], self.cases[len(real) :]
        self.mixer = Mixer(use.mixing, *halves) if use.mixing else None
        self.texture = matching(*halves) if use.match_noise else None
        self.n_real = len(real)

    def __len__(self) -> int:
        return 2**62

    def share(self, i: int) -> float | None:
        """How likely it is that patch ``i`` is of a synthetic case; None: each case is drawn alike."""
        if self.use.pretrain is None:
            return self.use.synthetic_share
        return float(i // self.settings.batch_patches < round(self.use.pretrain * self.settings.steps))

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        s, rng = self.settings, stream(self.seed, "patch", i)
        share = self.share(i)
        kind = int(share is not None and rng.random() < share)
        near = rng.random() < s.nodule_patches and self.with_nodules[kind]
        number = int(rng.choice(self.with_nodules[kind] if near else self.pools[kind]))
        case = self.cases[number]
        centre = None
        if near:
            centre = [(a + b) // 2 for a, b in self.boxes[number][rng.integers(len(self.boxes[number]))]]
        patch = cut(case, random_start(rng, case.ct.shape, s.patch_voxels, centre), s.patch_voxels)
        hu, nodule = patch.hu, patch.nodule
        if self.mixer and number < self.n_real:
            hu, nodule = self.mixer.mixed(number, patch, stream(self.seed, "mixing", i))
        if self.texture and number >= self.n_real:
            hu = self.texture.given(hu, stream(self.seed, "noise", i))
        image = to_model_range(hu, s.window_hu)
        return augment(torch.from_numpy(np.stack([image, nodule.astype(np.float32)])), rng)


def augment(pair: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mirror, rotate and scale, then change the grey values; ``pair`` is image and nodule ``[2 P P P]``."""
    pair = pair.flip([1 + axis for axis in range(3) if rng.random() < 0.5])
    if rng.random() < 0.3:
        pair = _rotate_and_scale(pair, rng)
    return change_grey_values(pair[:1], rng), (pair[1:] >= 0.5).float()


def change_grey_values(image: Tensor, rng: np.random.Generator) -> Tensor:
    """nnU-Net's intensity transforms (Isensee et al. 2021, Supplementary Note 4) on one patch ``[1 P P P]``.

    Scanners and reconstruction kernels differ as much as these do, and so do real and synthetic CT. Sharpening is added
    to them: kernels sharpen as well as blur.
    """
    image = image * rng.uniform(0.9, 1.1) + rng.uniform(-0.1, 0.1)
    if rng.random() < 0.15:
        image = (image - image.mean()) * rng.uniform(0.75, 1.25) + image.mean()
    if rng.random() < 0.3:
        unit = (image.clamp(-1, 1) + 1) / 2
        image = 2 * unit ** rng.uniform(0.7, 1.5) - 1
    if rng.random() < 0.4:  # sharpen by up to all that the blur takes away, or blur
        detail = image - blur(image, rng.uniform(0.5, 1.0))
        image = image + rng.uniform(-1, 1) * detail
    if rng.random() < 0.25:
        coarse = F.interpolate(image[None], scale_factor=rng.uniform(0.5, 1.0), mode="area")
        image = F.interpolate(coarse, image.shape[1:], mode="trilinear")[0]
    if rng.random() < 0.15:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = image + float(rng.uniform(0, 0.15)) * noise
    return image


def blur(image: Tensor, sigma_voxels: float) -> Tensor:
    """Gaussian blur of ``[1 P P P]``, the border repeated."""
    return torch.from_numpy(ndimage.gaussian_filter(image[0].numpy(), sigma_voxels, mode="nearest", truncate=2.5))[None]


def _rotate_and_scale(pair: Tensor, rng: np.random.Generator) -> Tensor:
    """One random rotation (about x, then y, then z) and isotropic scaling, linear, about the patch's centre."""
    degrees = rng.uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES, size=3)
    rotation = Rotation.from_euler("XYZ", degrees, degrees=True).as_matrix()
    matrix = rotation / np.exp(rng.uniform(*np.log(SCALES)))
    theta = torch.from_numpy(np.hstack([matrix, np.zeros((3, 1))]).astype(np.float32))[None]
    grid = F.affine_grid(theta, [1, 1, *pair.shape[1:]], align_corners=False)
    return F.grid_sample(pair[None], grid, padding_mode="border", align_corners=False)[0]
