"""What a mask of indexed nodules says: each nodule's box, volume, diameter and whether it lies at the lung's border."""

import numpy as np
from scipy import ndimage

from lungsyn.volume.space import Space


def diameter_mm(volume_mm3: float) -> float:
    """Diameter of the sphere of that volume."""
    return float(np.cbrt(6 * volume_mm3 / np.pi))


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
