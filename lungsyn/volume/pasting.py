"""A real nodule, varied, in another place: cut out of its case, mirrored, rotated and scaled, blended in."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from lungsyn.volume.files import Case
from lungsyn.volume.nodules import fullest

INSIDE_LUNGS = 0.95  # of a placed nodule's voxels; annotated nodules touch the pleura as well
SCALES = (0.8, 1.25)  # random scaling of a nodule's diameter
SHRINKS = (1.0, 0.75, 0.5)  # of a nodule for which there is no room
NEAR_VOXELS = 4  # how far a nodule moves from its own place along each axis
TRIES = 300
RIM_VOXELS = 2  # around a nodule, of whose HU a paste needs some


class Placed(NamedTuple):
    """A varied nodule in its new place: its mask (bool), and HU (float32) of the same box ``RIM_VOXELS`` wider."""

    start: tuple[int, ...]
    mask: np.ndarray
    hu: np.ndarray


def cut_out(case: Case, fact: dict) -> tuple[np.ndarray, np.ndarray]:
    """A nodule of a case, as its ``about`` tells of it: its mask (bool) in its box, and HU (float32) of the same box
    ``2 * RIM_VOXELS`` wider; beyond the border those at the border."""
    mask = np.asarray(case.nodules[tuple(slice(a, b) for a, b in fact["box"])]) == fact["index"]
    around = [np.clip(np.arange(a - 2 * RIM_VOXELS, b + 2 * RIM_VOXELS), 0, n - 1)
              for (a, b), n in zip(fact["box"], case.ct.shape, strict=True)]  # fmt: skip
    return mask, np.asarray(case.ct[np.ix_(*around)], dtype=np.float32)


def in_place(case: Case, fact: dict) -> Placed:
    """A nodule of a case where and as it is."""
    mask, hu = cut_out(case, fact)
    return Placed(tuple(a for a, _ in fact["box"]), mask, hu[(slice(RIM_VOXELS, -RIM_VOXELS),) * 3])


def vary(
    mask: np.ndarray, hu: np.ndarray, rng: np.random.Generator, shrink: float = 1.0, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A nodule's mask mirrored, rotated and scaled at random, cropped to its box; never empty; and its HU likewise.

    Its diameter is scaled by one of ``SCALES`` times ``shrink``, but by ``least`` at least.

    ``hu`` has ``2 * RIM_VOXELS`` voxels around ``mask``; what is returned has ``RIM_VOXELS`` around the varied mask.
    """
    mirror = np.diag([rng.choice([-1.0, 1.0]) for _ in range(3)])
    scale = max(shrink * np.exp(rng.uniform(*np.log(SCALES))), least)
    rotation = Rotation.from_quat(rng.standard_normal(4), scalar_first=True).as_matrix()  # uniformly random
    matrix = mirror @ rotation / scale  # output voxel -> input voxel, about both centres
    side = int(np.ceil(np.linalg.norm(mask.shape) * scale)) + 2 + 2 * RIM_VOXELS

    def warp(values: np.ndarray, outside: str) -> np.ndarray:
        offset = (np.array(values.shape) - 1) / 2 - matrix @ np.full(3, (side - 1) / 2)
        return ndimage.affine_transform(values.astype(np.float32), matrix, offset, (side,) * 3, order=1, mode=outside)

    filled = warp(np.pad(mask, 1), "constant")
    if not (filled > 0).any():  # so small that it falls between voxels
        filled[(side // 2,) * 3] = 1
    varied = fullest(filled, mask.sum() * scale**3)
    box = ndimage.find_objects(varied.astype(np.uint8))[0]
    wider = tuple(slice(s.start - RIM_VOXELS, s.stop + RIM_VOXELS) for s in box)
    return varied[box], warp(hu, "nearest")[wider]


def find_place(
    shape: np.ndarray, free: np.ndarray, near: np.ndarray | None, rng: np.random.Generator
) -> tuple[int, ...] | None:
    """A start at which the nodule ``shape`` lies in the ``free`` voxels: close to the centre ``near`` if one is given
    and there is room, anywhere otherwise."""
    if any(n > m for n, m in zip(shape.shape, free.shape, strict=True)):
        return None
    voxels = np.argwhere(free)
    for attempt in range(TRIES if len(voxels) else 0):
        if near is not None and attempt < TRIES // 2:
            centre = near + rng.integers(-NEAR_VOXELS, NEAR_VOXELS + 1, size=3)
        else:
            centre = voxels[rng.integers(len(voxels))]
        start = np.clip(centre - np.array(shape.shape) // 2, 0, np.array(free.shape) - shape.shape)
        where = tuple(slice(a, a + n) for a, n in zip(start, shape.shape, strict=True))
        if free[where][shape].mean() >= INSIDE_LUNGS:
            return tuple(int(a) for a in start)
    return None


def fitted(
    mask: np.ndarray, hu: np.ndarray, free: np.ndarray, near: np.ndarray | None, least: float, rng: np.random.Generator
) -> Placed | None:
    """The nodule of `cut_out` as `vary` has it, where it lies in the ``free`` voxels (`find_place`): as large as it
    comes, else smaller, but not by more than ``least``. None where it does not fit."""
    for shrink in SHRINKS:
        shape, varied_hu = vary(mask, hu, rng, shrink, least)
        start = find_place(shape, free, near, rng)
        if start is not None:
            return Placed(start, shape, varied_hu)
    return None


def paste(hu: np.ndarray, nodule: Placed) -> None:
    """Blend a nodule into ``hu``, in place: all of it inside the mask, falling to nothing over ``RIM_VOXELS``."""
    weight = np.clip(2 * ndimage.gaussian_filter(np.pad(nodule.mask, RIM_VOXELS).astype(np.float32), 0.7), 0, 1)
    first = np.array(nodule.start) - RIM_VOXELS
    low, high = np.maximum(first, 0), np.minimum(first + weight.shape, hu.shape)
    there = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    here = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    hu[there] += weight[here] * (nodule.hu[here] - hu[there])
