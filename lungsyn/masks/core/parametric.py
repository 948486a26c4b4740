"""Bodies and lungs of no patient at all: random chests of `anatomy.chest`, which textbooks' sizes describe.

Of train cases they have three numbers at most, the size of the lungs along each axis, which is drawn from a normal
distribution of its logarithm. A cut-out is cut from such a chest, around a place as far from the lungs' border as is
wanted. Arrays are ``[x y z]``, to the patient's right, front and head, as RAS+ asks.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from lungsyn.anatomy import shapes
from lungsyn.anatomy.chest import Anatomy, Grid, body_distance, draw_anatomy, lung_distance
from lungsyn.masks.core.lesions import at_depth
from lungsyn.masks.core.mixing import MARGIN_MM, SMOOTH_VOXELS
from lungsyn.volume.files import Case
from lungsyn.volume.space import bounding_box

HALF_FIELD_MM, LENGTH_MM = 200.0, 340.0  # of the field of view that the chest is drawn for
STEP_MM = 4.0  # of the grid on which its lungs are measured
FEWEST_PATIENTS = 5  # whose sizes have a covariance
MOST_SPREADS = 2.0  # that a size may lie from the mean


def sizes_of(cases: Sequence[Case]) -> np.ndarray:
    """Logarithm of the lungs' extent along each axis, mm: ``[n 3]``. Cases without lungs are left out."""
    boxes = (
        (bounding_box(lungs), case.space.spacing_mm) for case in cases if (lungs := np.asarray(case.lungs) > 0).any()
    )
    return np.log([(high - low) * spacing_mm for (low, high), spacing_mm in boxes])


def draw_size_mm(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Extent of the lungs along each axis, drawn as those of patients are (``sizes``: `sizes_of`); None of too few."""
    if len(sizes) < FEWEST_PATIENTS:
        return None
    mean, spread = sizes.mean(0), MOST_SPREADS * sizes.std(0, ddof=1)
    return np.exp(np.clip(rng.multivariate_normal(mean, np.cov(sizes.T)), mean - spread, mean + spread))


def chest(
    size_mm: np.ndarray | None, lungs_l: float | None, spacing_mm: np.ndarray, rough: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Lungs (1 right, 2 left) and body of a whole chest, in a box with ``MARGIN_MM`` around the lungs. ``size_mm``: of
    the lungs along each axis; ``lungs_l``: their volume; ``rough``: how far their surface is from smooth, voxels."""
    anatomy, grid = _drawn(rng)
    inside = _lungs(anatomy, grid.x, grid.y, grid.z) > 0
    low, high = bounding_box(inside)
    extent_mm = (high - low) * STEP_MM
    scale = np.ones(3) if size_mm is None else size_mm / extent_mm
    if lungs_l is not None:
        scale = scale * np.cbrt(lungs_l * 1e6 / (inside.sum() * STEP_MM**3 * scale.prod()))
    axes = []
    for axis, first, length, by, step in zip((grid.x, grid.y, grid.z), low, extent_mm, scale, spacing_mm, strict=True):
        start, voxels = axis[first] - MARGIN_MM / by, round((length * by + 2 * MARGIN_MM) / step)
        axes.append(start + (np.arange(voxels) + 0.5) * step / by)
    x, y, z = axes
    field = _lungs(anatomy, x, y, z) * np.float32(scale.mean() / spacing_mm.mean())
    lungs = shapes.roughened(field, rough, SMOOTH_VOXELS, rng) > 0
    right = x[:, None, None] < anatomy.centre[0]
    lungs = 1 * shapes.largest_pieces(lungs & right, 1) + 2 * shapes.largest_pieces(lungs & ~right, 1)
    return _layers(lungs, _body(anatomy, x, y, z))


def cut_out(wall_mm: float, shape: Sequence[int], spacing_mm: np.ndarray, rng: np.random.Generator) -> dict:
    """Lungs (1) and body of a part of a chest, whose middle lies in the lungs, ``wall_mm`` from their border."""
    anatomy, grid = _drawn(rng)
    inside = _lungs(anatomy, grid.x, grid.y, grid.z) > 0
    middle = at_depth(ndimage.distance_transform_edt(inside) * STEP_MM, inside, wall_mm, rng)
    x, y, z = (
        axis[at] + (np.arange(n) - n // 2) * step
        for axis, at, n, step in zip((grid.x, grid.y, grid.z), middle, shape, spacing_mm, strict=True)
    )
    return _layers(_lungs(anatomy, x, y, z) > 0, _body(anatomy, x, y, z))


def _drawn(rng: np.random.Generator) -> tuple[Anatomy, Grid]:
    plane = np.arange(-HALF_FIELD_MM, HALF_FIELD_MM + 1, STEP_MM)
    grid = Grid(plane, plane, np.arange(0, LENGTH_MM + 1, STEP_MM))
    return draw_anatomy(rng, grid, contrast=False), grid


def _layers(lungs: np.ndarray, body: np.ndarray) -> dict[str, np.ndarray]:
    """The masks in RAS+: the chest is drawn in LPS."""
    layers = {"lungs": lungs, "body": (body > 0) | (lungs > 0)}
    return {name: np.ascontiguousarray(mask[::-1, ::-1]).astype(np.uint8) for name, mask in layers.items()}


def _lungs(a: Anatomy, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return _by_slice(lambda i, j, k: lung_distance(a, i, j, k), x, y, z)


def _body(a: Anatomy, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return _by_slice(lambda i, j, k: body_distance(a, i - a.centre[0], j - a.centre[1], k), x, y, z)


def _by_slice(distance: Callable, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """A distance at every voxel, mm, positive inside: float32 ``[x y z]``; a slice at a time stays in the cache."""
    field = np.empty((len(x), len(y), len(z)), np.float32)
    for k, height in enumerate(z):
        field[:, :, k] = -distance(x[:, None], y[None, :], float(height))
    return field
