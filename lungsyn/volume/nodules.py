"""What a mask of indexed nodules says: each nodule's box, volume, diameter and whether it lies at the lung's border."""

import numpy as np
from scipy import ndimage

from lungsyn.volume.space import Space


def diameter_mm(volume_mm3: float) -> float:
    """Diameter of the sphere of that volume."""
    return float(np.cbrt(6 * volume_mm3 / np.pi))


def fullest(occupancy: np.ndarray, voxels: float) -> np.ndarray:
    """As many ``voxels`` as a nodule's volume is worth, at least one: those that its mask fills most (bool). None but
    the first is without any of it.

    Cutting at half full instead, as for large organs, shrinks what is convex and a few voxels wide: a 5 mm nodule on a
    2 mm grid loses a third of its volume, a 4 mm one may vanish.
    """
    chosen = np.zeros(occupancy.shape, dtype=bool)
    order = np.argsort(-occupancy, axis=None, kind="stable")[: max(1, round(voxels))]
    chosen.flat[order[(occupancy.flat[order] > 0) | (order == order[0])]] = True
    return chosen


def nodule_facts(nodules: np.ndarray, lungs: np.ndarray, space: Space) -> list[dict]:
    """One dict per nodule index present in ``nodules``: ``index``, ``box`` ([first, past last] per axis, voxels),
    ``volume_mm3``, ``diameter_mm`` of the sphere of that volume and ``touches_pleura``: a voxel of or next to it (26
    neighbours) is outside the ``lungs``, be it wall, diaphragm or mediastinum. All arrays ``[x y z]``."""
    facts = []
    for index, found in enumerate(ndimage.find_objects(nodules), start=1):
        if found is None:
            continue
        volume_mm3 = float((nodules[found] == index).sum()) * space.voxel_ml * 1000
        wider = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in found)
        beside = ndimage.binary_dilation(nodules[wider] == index, np.ones((3, 3, 3)))
        facts.append(
            {
                "index": index,
                "box": [[int(s.start), int(s.stop)] for s in found],
                "volume_mm3": round(volume_mm3, 3),
                "diameter_mm": round(diameter_mm(volume_mm3), 3),
                "touches_pleura": bool((lungs[wider][beside] == 0).any()),
            }
        )
    return facts
