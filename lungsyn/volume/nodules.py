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
    2 mm grid loses a third of its volume, a 4 mm one may vanish. Of voxels filled alike those nearest to the mask's
    middle are taken, and of these as many from the array's end as from its start: else all nodules move to its start.
    """
    some = np.flatnonzero(occupancy > 0) if (occupancy > 0).any() else np.array([occupancy.argmax()])
    filled, away = np.round(occupancy.flat[some], 4), _from_middle(occupancy, some)
    order = np.lexsort((away, -filled))
    count = min(max(1, round(voxels)), len(order))
    last = order[count - 1]
    first, stop = np.flatnonzero((filled[order] == filled[last]) & (away[order] == away[last]))[[0, -1]]
    alike, wanted = order[first : stop + 1], count - first
    at_start = (wanted + count % 2) // 2  # of an odd number one more at either end, by chance
    picked = np.concatenate([order[:first], alike[:at_start], alike[len(alike) - (wanted - at_start) :]])
    chosen = np.zeros(occupancy.shape, dtype=bool)
    chosen.flat[some[picked]] = True
    return chosen


def _from_middle(occupancy: np.ndarray, some: np.ndarray) -> np.ndarray:
    """How far ``some`` voxels (flat indices) are from the centre of what they hold, voxels, squared."""
    index = np.array(np.unravel_index(some, occupancy.shape), dtype=np.float64)
    weights = occupancy.flat[some].clip(min=1e-6)
    centre = index @ weights / weights.sum(dtype=np.float64)
    return np.round(((index - centre[:, None]) ** 2).sum(axis=0), 3)


def marked(nodules: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Where nodules are (as ``np.nonzero``), and the index of each such voxel's nodule. As files lie: z slowest."""
    at = np.nonzero(nodules.T)[::-1]
    return at, nodules[at]


def share_of_each(index: np.ndarray, hit: np.ndarray) -> list[float]:
    """Of each nodule, from number 1 on, the share of its voxels that are ``hit``; both of ``marked`` voxels."""
    voxels = np.bincount(index)[1:]
    return (np.bincount(index[hit], minlength=len(voxels) + 1)[1:] / np.maximum(voxels, 1)).tolist()


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
