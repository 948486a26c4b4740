"""Agreement nodule by nodule: which were found, which finds are none, and the Dice of each.

The truth is an index volume (0, or the nodule's index); the prediction falls into components (26 neighbours).
A nodule owns every component that touches it. It is *found* when the two overlap with an intersection over
union of at least 0.1 (nnDetection's criterion for 3-D: Baumgartner et al. 2021), so a flood over half a lung
finds nothing. A component that touches no found nodule is a *false positive*.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FOUND_IOU = 0.1
STRATA_MM = {
    "< 6 mm": (0, 6),
    "6-10 mm": (6, 10),
    "10-20 mm": (10, 20),
    "> 20 mm": (20, np.inf),
}  # [low, high)


@dataclass(frozen=True)
class Nodule:
    """One nodule of the truth. ``dice`` is with its own components; 0 when it is missed."""

    index: int
    diameter_mm: float
    found: bool
    dice: float

    @property
    def stratum(self) -> str:
        return next(name for name, (low, high) in STRATA_MM.items() if low <= self.diameter_mm < high)


def sphere_diameter_mm(volume_ml: float) -> float:
    """Diameter of the sphere of this volume: V = pi d^3 / 6."""
    return float(np.cbrt(6.0 * 1000.0 * volume_ml / np.pi))


def match_nodules(prediction: np.ndarray, nodules: np.ndarray, voxel_ml: float) -> tuple[list[Nodule], int]:
    """The nodules of ``nodules`` (uint8 index ``[x y z]``) in order, and the number of false positives.

    A component over two nodules is owned by both, and neither is charged for its voxels on the other.
    """
    components, n_components = ndimage.label(prediction, structure=np.ones((3, 3, 3)))
    indices, counts = _contingency(components, nodules, n_components)
    overlap, background = counts[1:, 1:], counts[1:, 0]  # [p n], [p] voxels on no nodule
    owned = overlap > 0  # [p n]
    intersection = overlap.sum(axis=0)  # [n]
    truth = counts[:, 1:].sum(axis=0)  # [n]
    extra = background @ owned  # [n] voxels predicted beyond any nodule
    found = intersection >= FOUND_IOU * (truth + extra)  # union = truth + extra
    score = np.where(found, 2.0 * intersection / (truth + intersection + extra), 0.0)
    false_positives = int(np.count_nonzero(~(owned & found).any(axis=1)))
    return [
        Nodule(int(index), sphere_diameter_mm(size * voxel_ml), bool(hit), float(value))
        for index, size, hit, value in zip(indices, truth, found, score, strict=True)
    ], false_positives


def _contingency(components, nodules, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """The truth's indices ``[n]``, and shared voxels ``[1 + components, 1 + n]``; row and column 0: none."""
    marked = (components > 0) | (nodules > 0)
    component, nodule = components[marked].astype(np.int64), np.asarray(nodules[marked], dtype=np.int64)
    indices = np.unique(nodule[nodule > 0])
    column = np.searchsorted(indices, nodule, side="right")  # 0 for index 0, else 1 + its place
    shape = (n_components + 1, len(indices) + 1)
    return indices, np.bincount(component * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)


def by_diameter(nodules: list[Nodule]) -> list[dict]:
    """One row per stratum: ``stratum, n_nodules, found_nodules, sensitivity, lesion_dice`` (None where
    there are none).
    """
    rows = []
    for stratum in STRATA_MM:
        members = [nodule for nodule in nodules if nodule.stratum == stratum]
        found = sum(nodule.found for nodule in members)
        rows.append({
            "stratum": stratum, "n_nodules": len(members), "found_nodules": found,
            "sensitivity": found / len(members) if members else None,
            "lesion_dice": float(np.mean([nodule.dice for nodule in members])) if members else None,
        })  # fmt: skip
    return rows
