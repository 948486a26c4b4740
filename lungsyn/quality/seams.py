"""Does it show where patches meet?"""

import math
from collections.abc import Iterator

import numpy as np

from lungsyn.settings.synthesis import Grid
from lungsyn.volume.patches import axis_starts, padded_shape, patch_stride

FEWEST_VOXELS = 200  # of a tissue, or inside the body on a plane, to be measured
NEAR_VOXELS = 2  # planes so close to a border of patches are no reference


def seam_measures(hu: np.ndarray, body: np.ndarray, grid: Grid) -> dict[str, float]:
    """The geometric mean of the seam ratios of all planes, and the largest step. Nothing where patches never meet."""
    logs, steps = seam_logs(hu, body, grid), seam_steps(hu, body, grid)
    return ({"seam_ratio": math.exp(np.mean(logs))} if logs else {}) | ({"seam_step_hu": max(steps)} if steps else {})


def seam_logs(volume: np.ndarray, body: np.ndarray, grid: Grid) -> list[float]:
    """The logarithm of the seam ratio of each border plane.

    *Seam ratio*: the mean |difference| of neighbouring voxels across a plane where patches end, divided by the same on
    the two planes about half a patch before and behind it, on the same voxels of the body. It is 1 without seams, and
    since anatomy also has a say, that of real CTs stands beside it.
    """
    logs = []
    for values, inside, planes in _along_axes(volume, body, grid):
        for plane, *far in planes:
            if not far:
                continue
            where = np.logical_and.reduce([inside[p] & inside[p - 1] for p in (plane, *far)])
            if where.sum() >= FEWEST_VOXELS:
                border, *others = (float(np.abs(_step(values, p)[where]).mean()) for p in (plane, *far))
                if border > 0 and sum(others) > 0:
                    logs.append(math.log(border / np.mean(others)))
    return logs


def seam_steps(volume: np.ndarray, body: np.ndarray, grid: Grid) -> list[float]:
    """How far each border plane as a whole is a step: |median over its voxels of the difference across it, minus the
    mean of those just before and behind|. Anatomy has edges, but not all along such a plane."""
    steps = []
    for values, inside, planes in _along_axes(volume, body, grid):
        for plane, *_ in planes:
            if 2 <= plane <= len(values) - 2:
                where = inside[plane - 2 : plane + 2].all(axis=0)
                if where.sum() >= FEWEST_VOXELS:
                    before, across, behind = (_step(values, p)[where] for p in (plane - 1, plane, plane + 1))
                    steps.append(abs(float(np.median(across - (before + behind) / 2))))
    return steps


def _along_axes(volume: np.ndarray, body: np.ndarray, grid: Grid) -> Iterator[tuple[np.ndarray, np.ndarray, list]]:
    """For each axis the volume and the body with that axis first, and its border planes."""
    patch, multiple = grid.patch_voxels, grid.multiple
    padded = padded_shape(volume.shape, patch, multiple)
    for axis in range(3):
        starts = axis_starts(padded[axis], patch, patch_stride(patch, grid.overlap, multiple))
        planes = border_planes(starts, patch, volume.shape[axis])
        yield np.moveaxis(volume, axis, 0), np.moveaxis(body, axis, 0), planes


def _step(values: np.ndarray, plane: int) -> np.ndarray:
    """Voxels behind ``plane`` minus those before it."""
    return values[plane].astype(np.float32) - values[plane - 1]


def border_planes(starts: list[int], patch: int, length: int) -> list[tuple[int, ...]]:
    """Planes p (between voxels p - 1 and p) where a patch begins or ends, each with two planes p - d and p + d that are
    not near any border, d as close to half a patch as can be; alone if there are none."""
    border = sorted({p for start in starts for p in (start, start + patch) if 0 < p < length})
    clear = {p for p in range(1, length) if all(abs(p - b) > NEAR_VOXELS for b in border)}
    found = []
    for p in border:
        distances = [d for d in range(1, patch) if p - d in clear and p + d in clear]
        d = min(distances, key=lambda d: abs(d - patch / 2), default=0)
        found.append((p, p - d, p + d) if d else (p,))
    return found
