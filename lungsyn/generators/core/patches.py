"""What the generator sees of a case: a patch, its masks, its place, and a coarse view of its noisy surroundings.

Patch and masks come with a halo of ``HALO`` voxels. Beyond the padded volume its outermost voxels are repeated.

Around a patch of P voxels lies its *surroundings*, a cube of k P voxels (k = ``context_factor``) with the same centre.
Averaged over cubes of 2k voxels it has P / 2 voxels along an axis, like the network's half-resolution level: the
network knows what is being made next door, and at a noise level where single voxels tell nothing the averages
still do. Training and synthesis must make it in the same way:

- a volume is padded at its far end with air to ``padded_shape``; beyond that box the coarse view is zero;
- noise is averaged too. The mean of (2k)^3 independent normals is a normal with standard deviation (2k)^-3/2, so in
  training the surroundings' noise is drawn directly on the coarse grid, and only the patch's own noise is averaged.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from lungsyn.errors import InputError
from lungsyn.generators.core.bands import HALO, inner
from lungsyn.generators.core.learning import Learning
from lungsyn.generators.core.prediction import diffuse, training_target
from lungsyn.generators.core.schedule import middle_of_part
from lungsyn.generators.core.settings import PatchSettings
from lungsyn.random import stream
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.labels import ALWAYS
from lungsyn.volume.patches import box, coordinates, padded_shape, random_start, window
from lungsyn.volume.source import Source, source_of

USUAL, LEAST = Source(2.0, 20.0), Source(0.1, 1.0)  # of which numbers are multiples; less is taken to be as much


def masks_window(case: Case, start, size: int, labels: Sequence[str] = ALWAYS) -> np.ndarray:
    """Where each label is, as 0/1: uint8 ``[n size size size]``, zero outside the case. Raises InputError naming a
    label that the case has not."""
    missing = [name for name in labels if name not in case.labels]
    if missing:
        raise InputError(
            f"case {case.about.get('case', '')} has no label {missing[0]!r}: its labels are "
            f"{', '.join(case.labels.names)}"
        )
    return np.stack([window(case.labels[name], start, size, 0) > 0 for name in labels]).astype(np.uint8)


def with_halo(volume: Tensor, start, size) -> Tensor:
    """The patch at ``start`` of a volume ``[... x y z]``, of ``size`` voxels (one int, or three), with its halo of
    ``HALO`` voxels on each side.

    Beyond the volume its outermost voxels are repeated."""
    for axis, (inside, length) in enumerate(zip(box(start, size), volume.shape[-3:], strict=True), volume.ndim - 3):
        low, high = inside.start - HALO, inside.stop + HALO
        if low < 0 or high > length:
            volume = volume.index_select(axis, torch.arange(low, high, device=volume.device).clamp_(0, length - 1))
        else:
            volume = volume.narrow(axis, low, high - low)
    return volume


def coarse_windows(
    learning: Learning, starts: Sequence, size: Sequence[int], shape, views: Tensor | None, device="cpu"
) -> Tensor:
    """The half-resolution inputs of patches of ``size`` voxels: their coordinates, then the ``views``:
    ``[b c X/2 Y/2 Z/2]``."""
    half = [n // 2 for n in size]
    parts = []
    if learning.position:
        for axis, n in enumerate(half):
            line = torch.from_numpy(coordinates(starts, size[axis], axis, shape)).to(device)
            pairs = line.unflatten(-1, (n, 2)).mean(dim=-1)  # [b n]
            along = pairs.reshape(-1, 1, *(n if k == axis else 1 for k in range(3)))
            parts.append(along.expand(-1, 1, *half))
    if views is not None:
        parts.append(views)
    return torch.cat(parts, dim=1) if parts else torch.zeros(len(starts), 0, *half, device=device)


def known_source(case: Case) -> Source:
    """What kind of scan a train case is. Raises InputError where its ``case.json`` does not say so."""
    source = source_of(case)
    if source is None:
        raise InputError(
            f"case {case.about.get('case', '')} does not say what kind of scan it is, as when an older version "
            "prepared it: delete its folder in results/cases and give the same command again, or remove "
            "source_conditions"
        )
    return source


def source_numbers(source: Source | None) -> Tensor:
    """What a network is told of a kind of scan: ``[2]``, the logarithms of slice spacing and noise as multiples of
    ``USUAL``. What is not known is taken to be usual."""
    known = source or Source()
    pairs = zip(known, USUAL, LEAST, strict=True)
    return torch.tensor([0.0 if n is None else math.log(max(n, least) / usual) for n, usual, least in pairs])


@dataclasses.dataclass(frozen=True)
class Example:
    """One training patch; tensors without a batch axis. ``case`` is the index of its case, for error messages."""

    x_t: Tensor  # [c P+2h P+2h P+2h], h = HALO, c = 1 for CT alone; [2c ...] where there is no target: x_0 and noise
    target: Tensor | None  # [c P P P]; None where the network alone can tell it
    masks: Tensor  # [labels P+2h P+2h P+2h] uint8
    coarse: Tensor  # [c P/2 P/2 P/2]
    t: Tensor  # []
    spacing_mm: Tensor  # []
    source: Tensor | None  # [2]: `source_numbers`; None where the network is not told
    case: int


class TrainingPatches(Dataset):
    """Patch number i of a training. Everything random about it derives from (seed, i), so that neither the batch size
    nor the number of loader processes nor a restart changes what is learned from."""

    def __init__(self, folders: list[Path], settings: PatchSettings, seed: int, stratified: int = 0):
        """``stratified``: if not 0, patch i takes the i-th of so many evenly spaced noise levels, is not mirrored, and
        keeps its nodules (validation)."""
        if not folders:
            raise InputError("no case to train on: the cohort's train split is empty")
        self.folders, self.settings, self.seed, self.stratified = folders, settings, seed, stratified
        self.purpose = "watched patch" if stratified else "patch"
        self.learning = settings.learning()
        self.cases = [open_case(folder) for folder in folders]
        self.centres = [nodule_centres(case) for case in self.cases]
        self.with_nodules = [i for i, centres in enumerate(self.centres) if centres]

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, i: int) -> Example:
        s, learning, rng = self.settings, self.learning, stream(self.seed, self.purpose, i)
        near = rng.random() < s.nodule_patches and self.with_nodules
        number = int(rng.choice(self.with_nodules) if near else rng.integers(len(self.cases)))
        case = self.cases[number]
        padded = padded_shape(case.ct.shape, s.patch_voxels, s.grid_multiple)
        centre = self.centres[number][rng.integers(len(self.centres[number]))] if near else None
        start = random_start(rng, padded, s.patch_voxels, centre)
        t = learning.timestep(rng)
        if self.stratified:
            t = middle_of_part(i, self.stratified, learning.timesteps)
        abar = learning.abar[t].float()

        corner, size = [a - HALO for a in start], s.patch_voxels + 2 * HALO
        x0 = torch.from_numpy(learning.image(case, corner, size))  # [c P+2h P+2h P+2h]
        noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
        masks = torch.from_numpy(masks_window(case, corner, size, s.labels))
        if rng.random() < learning.nodule_dropout and not self.stratified:
            masks[0] = 0
        in_padded = tuple(slice(max(-a, 0), min(size, n - a)) for a, n in zip(corner, padded, strict=True))
        there = [min(a, HALO) for a in start]  # where the patch begins in that
        tells_itself = learning.prediction is None
        x_t = torch.cat([x0, noise]) if tells_itself else diffuse(x0, noise, abar)
        x_t = with_halo(x_t[:, *in_padded], there, s.patch_voxels)
        masks = with_halo(masks[:, *in_padded], there, s.patch_voxels)
        x0, noise = inner(x0), inner(noise)
        view = learning.seen(case, padded, start, rng)
        if learning.context_factor:
            view = self._coarse_view(case, padded, start, noise[0], abar, rng)
        coarse = coarse_windows(
            learning, [start], (s.patch_voxels,) * 3, case.ct.shape, None if view is None else view[None]
        )[0]
        target = None if tells_itself else training_target(learning.prediction, x0, noise, abar)
        example = [x_t, target, masks, coarse]
        flips = s.flips and not self.stratified
        flipped = [1 + axis for axis in range(3) if flips and rng.random() < 0.5]
        if flipped:
            example = [tensor if tensor is None else tensor.flip(flipped) for tensor in example]
        x_t, target, mask, coarse = example
        spacing = torch.tensor(case.space.spacing_mm.mean(), dtype=torch.float32)
        source = source_numbers(known_source(case)) if learning.source_numbers else None
        return Example(x_t, target, mask, coarse, torch.tensor(t), spacing, source, number)

    def _coarse_view(self, case: Case, padded, start, noise: Tensor, abar: Tensor, rng) -> Tensor:
        """The averaged x_t of the surroundings: ``[1 P/2 P/2 P/2]``, zero beyond the padded box."""
        s, factor = self.settings, self.learning.context_factor
        pool, size = 2 * factor, factor * s.patch_voxels
        margin = (size - s.patch_voxels) // 2
        corner = [a - margin for a in start]
        x0 = torch.from_numpy(to_model_range(window(case.ct, corner, size, AIR_HU), s.window_hu))
        mean = F.avg_pool3d(x0[None], pool)[0]
        mean_noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32)) * pool**-1.5
        a, b = margin // pool, margin // pool + s.patch_voxels // pool
        mean_noise[a:b, a:b, a:b] = F.avg_pool3d(noise[None], pool)[0]
        view = diffuse(mean, mean_noise, abar)
        for axis in range(3):
            index = corner[axis] + pool * np.arange(mean.shape[axis])
            outside = torch.from_numpy((index < 0) | (index + pool > padded[axis]))
            view.index_fill_(axis, outside.nonzero()[:, 0], 0.0)
        return view[None]


def nodule_centres(case: Case) -> list[tuple[int, int, int]]:
    """The middle voxel of each nodule's box, from ``case.json``; reads no volume."""
    return [tuple((a + b) // 2 for a, b in nodule["box"]) for nodule in case.about["nodules"]]


def collate(examples: list[Example]) -> dict:
    """A batch: stacked tensors, and the list of the examples' cases."""
    columns = {f.name: [getattr(e, f.name) for e in examples] for f in dataclasses.fields(Example)[:-1]}
    batch = {name: torch.stack(column) for name, column in columns.items() if column[0] is not None}
    return batch | {"cases": [e.case for e in examples]}
