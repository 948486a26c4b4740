"""Is it a chest? One number each for spine, ribs, airway, fat and muscle, organs, heart and vessels.

The numbers stand for what one sees at a glance and patches do not know: that vertebrae follow each other, that the
trachea leads to the lungs, that muscle is not fat, that an organ is even, that the heart lies to the left, that vessels
are trees. Each is a share or a length, so that it means the same at every spacing; none needs more than thresholds,
connected pieces and means, so that all take less time than the other measures of quality control.
"""

import numpy as np
from scipy import ndimage

from lungsyn.anatomy.tissues import AIRWAY, BONE, FAT, MUSCLE, Chest, averaged, label_map, whole_chest

SPINE_REACH_MM = 20.0  # from the midline
SPINE_DEPTH_MM = (-8.0, 36.0)  # from the lungs' back edge to the front: arches to the front of the vertebral body
SPINE_MM2 = 60.0  # of bone in a slice: about the cortex of half an arch
RIB_REACH_MM = 14.0  # sideways of the lungs' outer surface
RIB_MM = 8.0  # of bone in a slice on one side, front to back: one rib cut across
BONE_PIECE_ML = 5.0  # a rib has 10 ml, a vertebra 20
VESSEL_PIECE_ML = 0.5
VESSEL_HU = 300  # above the lungs' median
PLEURA_MM = 4.0  # of the lungs' rim are not looked at: chest wall in the mask
HEART_LEVEL = (0.3, 0.6)  # of the lungs' height: above the liver, below the great vessels
HEART_REACH_MM = 75.0
TISSUE_HU = -300  # above: no lung
ORGAN_MM = 6.0  # means over this
ORGAN_HU = (0.0, 120.0)
ORGAN_PERCENTILE = 10  # the most even places: every chest has some liver, blood or muscle, however it is enhanced
FEWEST_VOXELS = 200  # for a share, a histogram or a percentile
HISTOGRAM_HU = np.arange(-200, 151, 10)


def measure(
    hu: np.ndarray, lungs: np.ndarray, nodules: np.ndarray, body: np.ndarray, spacing_mm: float
) -> dict[str, float]:
    """Every measure that a chest has the voxels for; none of a cut-out.

    ``hu`` is real, ``lungs`` uint8 (0; 1 and 2 the sides), ``nodules`` and ``body`` 0 or not: ``[x y z]``, RAS+.
    """
    chest = whole_chest(hu, lungs, nodules, body, spacing_mm)
    if chest is None:
        return {}
    labels = label_map(chest)
    bone = labels == BONE
    found = {
        "spine_slices": spine_slices(chest, bone), "rib_slices": rib_slices(chest, bone),
        "bone_connected": connected_share(bone, BONE_PIECE_ML, chest.spacing_mm),
        "airway_mm": airway_mm(chest, labels == AIRWAY), "fat_muscle_valley": fat_muscle_valley(chest, labels),
        "organ_mottle_hu": organ_mottle_hu(chest), "heart_left": heart_left(chest),
    } | vessel_measures(chest)  # fmt: skip
    return {name: float(value) for name, value in found.items() if value is not None}


def spine_slices(chest: Chest, bone: np.ndarray) -> float:
    """Share of the slices in which the largest piece of bone behind the heart shows.

    The place is a band around the midline, from the lungs' back edge to the front: the aorta lies before it.
    """
    y = np.arange(bone.shape[1])[:, None]
    behind, before = (chest.back + depth / chest.spacing_mm for depth in SPINE_DEPTH_MM)
    place = ((y >= behind) & (y <= before))[:, chest.slices]
    pieces, count = ndimage.label(bone[chest.near_midline(SPINE_REACH_MM), :, chest.slices] & place)
    if not count:
        return 0.0
    largest = 1 + np.bincount(pieces.ravel())[1:].argmax()
    area_mm2 = (pieces == largest).sum(axis=(0, 1)) * chest.spacing_mm**2
    return (area_mm2 >= SPINE_MM2).mean()


def rib_slices(chest: Chest, bone: np.ndarray) -> float:
    """Share of the slices that show a rib on both sides."""
    reach = chest.voxels(RIB_REACH_MM)
    seen = []
    for turned in (slice(None), slice(None, None, -1)):  # from either side, the outer surface comes first
        lungs, hard = (mask[turned, :, chest.slices] for mask in (chest.lungs, bone))
        surface, rows = lungs.argmax(axis=0), np.indices(lungs.shape[1:])
        beside = [hard[np.maximum(surface - d, 0), *rows] & (surface >= d) for d in range(1, reach + 1)]
        seen.append(np.logical_or.reduce(beside).sum(axis=0) * chest.spacing_mm >= RIB_MM)
    return (seen[0] & seen[1]).mean()


def connected_share(mask: np.ndarray, piece_ml: float, spacing_mm: float, neighbours: int = 1) -> float | None:
    """Share of ``mask`` in connected pieces of ``piece_ml`` or more; 0 if it is empty."""
    pieces, count = ndimage.label(mask, ndimage.generate_binary_structure(3, neighbours))
    if not count:
        return 0.0
    sizes = np.bincount(pieces.ravel())[1:]
    return sizes[sizes * spacing_mm**3 / 1000 >= piece_ml].sum() / sizes.sum()


def airway_mm(chest: Chest, air: np.ndarray) -> float:
    """Height of the airway, from its top in the volume to its lowest slice."""
    slices = np.flatnonzero(air.any(axis=(0, 1)))
    return (slices[-1] - slices[0] + 1) * chest.spacing_mm if len(slices) else 0.0


def fat_muscle_valley(chest: Chest, labels: np.ndarray) -> float | None:
    """How far fat and muscle are apart: 1 - the lowest count between them / the geometric mean of the two peaks.

    Of the HU histogram of soft tissue in steps of 10, smoothed a little; 0 where one of the two is missing.
    """
    values = chest.hu[(labels == FAT) | (labels == MUSCLE)]
    if len(values) < FEWEST_VOXELS:
        return None
    counts = ndimage.gaussian_filter1d(np.histogram(values, HISTOGRAM_HU)[0].astype(float), 1)
    middles = (HISTOGRAM_HU[1:] + HISTOGRAM_HU[:-1]) / 2
    fat, valley, muscle = (counts[(middles > a) & (middles < b)] for a, b in ((-140, -60), (-70, 10), (0, 100)))
    peaks = (fat.max() * muscle.max()) ** 0.5
    return 1 - valley.min() / peaks if peaks else 0.0


def organ_mottle_hu(chest: Chest) -> float | None:
    """How uneven the most even soft tissue is: standard deviation of 27 neighbouring means over ``ORGAN_MM``."""
    factor = max(1, int(ORGAN_MM / chest.spacing_mm + 0.01))
    hu = averaged(chest.hu, factor).astype(np.float32)
    inside = averaged(chest.body & ~chest.lungs, factor) > 0.99
    mean, square = ndimage.uniform_filter(hu, 3), ndimage.uniform_filter(hu * hu, 3)
    organ = shrunk(inside, 1) & (mean > ORGAN_HU[0]) & (mean < ORGAN_HU[1])
    if organ.sum() < FEWEST_VOXELS:
        return None
    return np.percentile(np.sqrt(np.maximum(square - mean * mean, 0)[organ]), ORGAN_PERCENTILE)


def heart_left(chest: Chest) -> float | None:
    """Share of the tissue between the lungs, at the height of the heart, that lies left of the midline."""
    box = (chest.near_midline(HEART_REACH_MM), slice(None), chest.level(*HEART_LEVEL))
    lungs = chest.lungs[:, :, box[2]]
    between = np.maximum.accumulate(lungs, axis=0) & np.maximum.accumulate(lungs[::-1], axis=0)[::-1]
    tissue = (between[box[0]] & (chest.hu[box] > TISSUE_HU)).sum(axis=(1, 2))
    if tissue.sum() < FEWEST_VOXELS:
        return None
    x = np.arange(len(tissue)) + box[0].start
    return tissue[x < chest.midline].sum() / tissue[x != chest.midline].sum()


def vessel_measures(chest: Chest) -> dict[str, float]:
    """Share of the inner lungs that is vessel, and share of that which hangs together."""
    inner = shrunk(chest.lungs & ~chest.nodules, chest.voxels(PLEURA_MM))
    if inner.sum() < FEWEST_VOXELS:
        return {}
    vessels = inner & (chest.hu > np.median(chest.hu[inner]) + VESSEL_HU)
    connected = connected_share(vessels, VESSEL_PIECE_ML, chest.spacing_mm, neighbours=3)
    return {"vessel_share": vessels.sum() / inner.sum(), "vessel_connected": connected}


def shrunk(mask: np.ndarray, voxels: int) -> np.ndarray:
    """The voxels of ``mask`` whose neighbours within a cube of ``voxels`` to each side are all in it; beyond the array
    all is. The same as ``ndimage.binary_erosion`` with such a cube, in a tenth of the time."""
    result = mask.copy()
    for axis in range(3):
        line = np.moveaxis(result, axis, 0)
        for _ in range(voxels):
            before = line.copy()
            line[1:] &= before[:-1]
            line[:-1] &= before[1:]
    return result
