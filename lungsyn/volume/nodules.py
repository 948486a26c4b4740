"""What a mask of indexed nodules says: each nodule's box, volume and diameter."""

import numpy as np
from scipy import ndimage

from lungsyn.volume.space import Space


def nodule_facts(nodules: np.ndarray, space: Space) -> list[dict]:
    """One dict per nodule index present: ``index``, ``box`` ([first, past last] per axis, voxels), ``volume_mm3`` and
    ``diameter_mm`` of the sphere of that volume."""
    facts = []
    for index, found in enumerate(ndimage.find_objects(nodules), start=1):
        if found is None:
            continue
        volume_mm3 = float((nodules[found] == index).sum()) * space.voxel_ml * 1000
        facts.append(
            {
                "index": index,
                "box": [[int(s.start), int(s.stop)] for s in found],
                "volume_mm3": round(volume_mm3, 3),
                "diameter_mm": round((6 * volume_mm3 / np.pi) ** (1 / 3), 3),
            }
        )
    return facts
