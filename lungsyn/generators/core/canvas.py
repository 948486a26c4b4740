"""A volume in the making: its conditions, what of it is known, and patches blended into a whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lungsyn.generators.core.settings import PatchSettings
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.patches import Patch, Span, all_patches, batches, box, importance_vector, padded_shape, total_weight
from lungsyn.volume.source import Source

Grid = list[list[Span]]  # along each axis; patches are their product


@dataclass(frozen=True)
class How:
    """How a volume is computed, beside what ``synthesis`` asks for.

    ``progress`` is told how many steps are done. ``grid``: the patches of every step, if not where ``synthesis``
    has them; elsewhere nothing is made."""

    patches_per_batch: int
    precision: torch.dtype = torch.float32
    progress: Callable[[int], None] = lambda step: None
    grid: Grid | None = None


@dataclass(frozen=True, eq=False)
class Background:
    """What is known: ``values`` (model range), and how much of them is replaced: ``weight`` (0 to 1); ``[x y z]``."""

    values: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Canvas:
    """The conditions of one volume, padded; tensors ``[x y z]`` but for the masks."""

    masks: Tensor  # uint8 0/1 [labels x y z]: nodules, lungs, body, then others
    occupied: np.ndarray  # bool: cubes with voxels that need the network, on the grid on which patches begin and end
    shape: tuple[int, int, int]  # of the case itself
    spacing_mm: float
    air: float  # AIR_HU in the model range
    background: Tensor | None = None  # float32, model range; None: air
    weight: Tensor | None = None  # float32 0 ... 1
    source: Source | None = None  # the kind of scan that is made

    @property
    def padded(self) -> tuple[int, int, int]:
        return tuple(self.masks.shape[1:])

    def generated(self, *where: slice) -> Tensor:
        """Which voxels of a part need the network (bool); not kept, since it would be a volume more."""
        return to_generate(self.masks[:, *where], None if self.weight is None else self.weight[where])


def to_generate(masks: Tensor, weight: Tensor | None) -> Tensor:
    """Voxels of the ``masks`` ``[labels x y z]`` of which some ``weight`` is replaced, without one all (bool)."""
    needed = masks.amax(dim=0) > 0
    return needed if weight is None else needed & (weight > 0)


def make_canvas(
    masks: np.ndarray,
    spacing_mm: float,
    settings: PatchSettings,
    device: torch.device,
    background: Background | None = None,
    source: Source | None = None,
) -> Canvas:
    """Pad ``masks`` ``[labels x y z]`` at their far ends to a shape that holds whole patches on the coarse grid."""
    shape = masks.shape[1:]
    padded = padded_shape(shape, settings.patch_voxels, settings.grid_multiple)
    pads = [(0, b - a) for a, b in zip(shape, padded, strict=True)]

    def on_device(array: np.ndarray, fill: float = 0) -> Tensor:
        return torch.from_numpy(np.pad(array, pads, constant_values=fill)).to(device)

    conditions = torch.stack([on_device((mask > 0).astype(np.uint8)) for mask in masks])
    air = float(to_model_range(AIR_HU, settings.window_hu))
    values = weight = None
    if background is not None:
        values, weight = on_device(background.values, air), on_device(background.weight)
    occupied = reduce_by(to_generate(conditions, weight), settings.grid_multiple).cpu().numpy()
    return Canvas(conditions, occupied, shape, spacing_mm, air, values, weight, source)


def reduce_by(mask: Tensor, edge: int) -> Tensor:
    """Whether any voxel of each cube of ``edge`` voxels is true; the shape is divided by it."""
    for axis in range(3):
        mask = mask.unflatten(axis, (-1, edge)).any(dim=axis + 1)
    return mask


def set_known(x0: Tensor, canvas: Canvas) -> None:
    """Write what is known into ``x0``, in place: air where nothing is generated, or the background, feathered."""
    for i in range(0, len(x0), 8):  # slab by slab: no second volume
        set_known_part(x0[i : i + 8], canvas, slice(i, i + 8))


def set_known_part(x0: Tensor, canvas: Canvas, *where: slice) -> None:
    """The same for a part of a volume."""
    generated = canvas.generated(*where)
    if canvas.background is None:
        x0.masked_fill_(~generated, canvas.air)
    else:
        known = canvas.background[where]
        x0.copy_(torch.where(generated, torch.lerp(known, x0, canvas.weight[where]), known))


def blend(
    into: Tensor, grid: Grid, patches_per_batch: int,
    evaluate: Callable[[list[Patch]], Tensor], wanted: Callable[[Patch], bool] = lambda patch: True,
) -> Tensor:  # fmt: skip
    """The weighted mean of patches, written into zeros ``[... x y z]``.

    ``evaluate`` makes those of the ``grid`` that it is given, all of one size: ``[b ... X Y Z]``; those that are not
    ``wanted`` are not made and count as zero."""
    for group in groups([patch for patch in all_patches(grid) if wanted(patch)], patches_per_batch):
        importance = importance_map(group[0].size, into.device)
        for patch, made in zip(group, evaluate(group) * importance, strict=True):
            into[(..., *box(*patch))].add_(made)
    for axis, (length, spans) in enumerate(zip(into.shape[-3:], grid, strict=True)):
        weight = torch.from_numpy(total_weight(length, spans)).float().to(into.device)
        into /= weight.reshape([-1 if k == axis else 1 for k in range(3)])
    return into


def groups(patches: list[Patch], patches_per_batch: int) -> Iterator[list[Patch]]:
    """Batches of patches of one size, in their order."""
    by_size: dict[tuple, list[Patch]] = {}
    for patch in patches:
        by_size.setdefault(patch.size, []).append(patch)
    for alike in by_size.values():
        yield from batches(alike, patches_per_batch)


@cache
def importance_map(size: tuple[int, int, int], device: torch.device) -> Tensor:
    """The weights of a patch's voxels: ``[X Y Z]``, the product of a triangle along each axis."""
    x, y, z = (torch.from_numpy(importance_vector(n)) for n in size)
    return (x[:, None, None] * y[:, None] * z).to(device)
