"""From HU to a label map of the chest: bone, airway, fat, muscle. And the frame in which anatomy is described.

The *frame* comes from the lungs, since they are given and never made: the midline lies halfway between their outer
edges, their back edge tells where the spine is. So a chest without a spine has a place where the spine should be.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lungsyn.volume.morphology import IN_PLANE

FAT, MUSCLE, BONE, AIRWAY = 1, 2, 3, 4  # muscle stands for all soft tissue without fat, blood and organs too
FAT_HU = (-200, -30)
MUSCLE_HU = (-30, 150)
BONE_HU = 250  # above porous marrow and most enhanced blood: what is found is cortex and firm marrow
AIR_IN_LUMEN_HU = -700  # of a trachea, but not of its wall beside the lung, whatever the kernel
WORKING_MM = 2.0  # finer volumes are averaged to this: noise goes, cortex and trachea stay
AIRWAY_REACH_MM = 40.0  # from the midline: trachea and main bronchi
AIRWAY_LEVEL = 0.4  # of the lungs' height: below lie stomach and bowel
AIRWAY_MM2 = (40.0, 800.0)  # of a section
SHORTEST_MM = 50.0  # of slices that show both lungs, to call it a chest


@dataclass(frozen=True, eq=False)
class Chest:
    """A whole chest and its frame: HU and masks (bool) ``[x y z]`` of one isotropic grid."""

    hu: np.ndarray
    lungs: np.ndarray
    nodules: np.ndarray
    body: np.ndarray
    spacing_mm: float
    slices: slice  # from the lowest to the highest slice that shows both lungs
    midline: float  # x, voxels
    back: np.ndarray  # y of the lungs' back edge in each slice, the mean of both sides, voxels; [z]

    def level(self, low: float, high: float) -> slice:
        """The slices between two heights: 0 the lowest that shows both lungs, 1 the highest."""
        count = self.slices.stop - self.slices.start
        return slice(self.slices.start + round(low * count), self.slices.start + round(high * count))

    def near_midline(self, reach_mm: float) -> slice:
        """The x that are at most ``reach_mm`` from the midline."""
        reach = reach_mm / self.spacing_mm
        return slice(max(round(self.midline - reach), 0), round(self.midline + reach) + 1)

    def voxels(self, length_mm: float) -> int:
        """A length as a number of voxels, at least one."""
        return max(round(length_mm / self.spacing_mm), 1)


def whole_chest(
    hu: np.ndarray, lungs: np.ndarray, nodules: np.ndarray, body: np.ndarray, spacing_mm: float
) -> Chest | None:
    """The chest on its working grid; None for what is none: a cut-out, one lung, a few slices.

    ``lungs`` is uint8 (0; 1 and 2 are the two sides, whichever is which), ``nodules`` and ``body`` are 0 or not.
    """
    factor = max(1, int(WORKING_MM / spacing_mm + 0.01))
    sides = [averaged(lungs == side, factor) >= 0.5 for side in (1, 2)]
    both = np.flatnonzero(np.logical_and(*(side.any(axis=(0, 1)) for side in sides)))
    if not len(both) or (both[-1] - both[0] + 1) * spacing_mm * factor < SHORTEST_MM:
        return None
    inside = sides[0] | sides[1]
    first, last = _ends(inside.any(axis=1))
    backs = [side.any(axis=0).argmax(axis=0) for side in sides]
    return Chest(
        averaged(hu, factor), inside, averaged(nodules > 0, factor) > 0, averaged(body > 0, factor) >= 0.5,
        spacing_mm * factor, slice(int(both[0]), int(both[-1]) + 1),
        float(np.median((first + last)[both] / 2)), np.mean(backs, axis=0),
    )  # fmt: skip


def averaged(volume: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks of ``factor``^3 voxels, float32; what does not fill a block at the far ends is left out."""
    if factor == 1:
        return volume
    blocks = volume[tuple(slice(n // factor * factor) for n in volume.shape)]
    for axis in range(3):
        parts = np.moveaxis(blocks, axis, 0)
        total = parts[::factor].astype(np.float32)
        for k in range(1, factor):
            total += parts[k::factor]
        blocks = np.moveaxis(total, 0, axis)
    blocks /= factor**3
    return blocks


def _ends(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last index along the first axis at which ``mask`` is true."""
    return mask.argmax(axis=0), len(mask) - 1 - mask[::-1].argmax(axis=0)


def label_map(chest: Chest) -> np.ndarray:
    """uint8 ``[x y z]``: ``FAT``, ``MUSCLE``, ``BONE``, ``AIRWAY``; 0 for lungs, nodules and all else.

    The airway is marked where it is, in a lung mask too."""
    hu = chest.hu
    found = np.zeros(hu.shape, dtype=np.uint8)
    found[(hu >= FAT_HU[0]) & (hu < FAT_HU[1])] = FAT
    found[(hu >= MUSCLE_HU[0]) & (hu < MUSCLE_HU[1])] = MUSCLE
    found[hu > BONE_HU] = BONE
    found *= chest.body & ~chest.lungs & ~chest.nodules
    found[airway(chest)] = AIRWAY
    return found


def airway(chest: Chest) -> np.ndarray:
    """Trachea and main bronchi (bool): air near the midline, above the abdomen, that tissue encloses in its slice.

    Of the small sections the tallest chain. Lung masks are not asked: some hold the trachea, others do not.
    """
    box = (chest.near_midline(AIRWAY_REACH_MM), slice(None), slice(chest.level(AIRWAY_LEVEL, 1).start, None))
    sections, count = ndimage.label((chest.hu[box] < AIR_IN_LUMEN_HU) & chest.body[box], IN_PLANE)
    area_mm2 = np.bincount(sections.ravel(), minlength=count + 1) * chest.spacing_mm**2
    enclosed = (area_mm2 >= AIRWAY_MM2[0]) & (area_mm2 <= AIRWAY_MM2[1])
    enclosed[0] = False
    enclosed[np.unique(sections[[0, -1]])] = False  # lung goes on beyond the box
    pieces, count = ndimage.label(enclosed[sections])
    found = np.zeros(chest.hu.shape, dtype=bool)
    if count:
        heights = [place[2].stop - place[2].start for place in ndimage.find_objects(pieces)]
        found[box] = pieces == 1 + int(np.argmax(heights))
    return found
