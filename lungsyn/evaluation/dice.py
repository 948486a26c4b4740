"""Agreement of two masks of one case: overlap, surfaces, and what an empty mask counts.

Masks are bool ``[x y z]`` on one grid. A mask's *surface* is the centres of its voxels that have a face
neighbour outside of it (or outside of the volume). The distance from a point to an empty surface is infinite,
and that is all of the policy for empty masks: both empty is a perfect agreement (Dice 1, NSD 1, HD95 0 mm),
one empty is none (Dice 0, NSD 0, HD95 the diagonal of the volume). Every case has a finite number, so no case
leaves a mean unseen.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from lungsyn.volume.space import bounding_box

ROUNDING = 1e-4  # files keep spacings as float32: what is exactly at a tolerance is within it


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """2 |P and T| / (|P| + |T|) (Dice 1945), in [0, 1]; 1 when both are empty, 0 when one is.

    Whatever is not 0 is in a mask. Raises ValueError where the masks' shapes differ.

    >>> lungsyn.dice(np.array([0, 1, 1, 0]), np.array([0, 2, 0, 0]))
    0.6666666666666666
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"masks of shapes {prediction.shape} and {truth.shape}: give both on one grid")
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return float(2.0 * np.count_nonzero(np.logical_and(prediction, truth)) / total) if total else 1.0


def surface_points_mm(mask: np.ndarray, spacing_mm) -> np.ndarray:
    """Centres of the surface voxels: ``[n 3]`` mm from the centre of voxel (0, 0, 0)."""
    if not mask.any():
        return np.empty((0, 3))
    start, stop = bounding_box(mask)
    inside = mask[tuple(map(slice, start, stop))]
    surface = inside & ~ndimage.binary_erosion(inside)  # beyond the box counts as outside
    return (np.argwhere(surface) + start) * np.asarray(spacing_mm)


def surface_distances_mm(prediction: np.ndarray, truth: np.ndarray, spacing_mm) -> tuple[np.ndarray, np.ndarray]:
    """From each surface point of the prediction to the truth's surface, and the reverse: ``[n]``, ``[m]`` mm.

    Exact nearest neighbours by a k-d tree: the cost follows the surfaces, where a distance transform would
    fill all of the box that a false positive far from the nodule spans.
    """
    ours, theirs = surface_points_mm(prediction, spacing_mm), surface_points_mm(truth, spacing_mm)
    return _nearest_mm(ours, theirs), _nearest_mm(theirs, ours)


def _nearest_mm(points: np.ndarray, surface: np.ndarray) -> np.ndarray:
    return KDTree(surface).query(points)[0] if len(surface) else np.full(len(points), np.inf)


def normalised_surface_dice(distances_mm: tuple[np.ndarray, np.ndarray], tolerance_mm: float) -> float:
    """Fraction of both surfaces within ``tolerance_mm`` of the other (Nikolov et al. 2018, arXiv 1809.04430).

    ``distances_mm`` is what `surface_distances_mm` returns. Points count alike: no weighting by area.
    """
    both = np.concatenate(distances_mm)
    return float(np.mean(both <= tolerance_mm * (1 + ROUNDING))) if both.size else 1.0


def hd95_mm(distances_mm: tuple[np.ndarray, np.ndarray], diagonal_mm: float) -> float:
    """The larger of the two directed 95th percentiles of the surface distances, at most ``diagonal_mm``."""
    directed = [np.percentile(np.minimum(d, diagonal_mm), 95) for d in distances_mm if d.size]
    return float(max(directed, default=0.0))
