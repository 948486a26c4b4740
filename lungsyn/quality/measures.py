"""The measures of a case: of its image, and of the anatomy in it. Arrays are ``[x y z]``; HU."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lungsyn.anatomy import measures as anatomy
from lungsyn.hosts import is_host
from lungsyn.quality.seams import FEWEST_VOXELS, seam_measures
from lungsyn.settings.synthesis import Grid
from lungsyn.volume.files import Case
from lungsyn.volume.intensity import AERATED_HU, AIR_HU, NOT_FINITE_HU

FEWEST_NODULE_VOXELS = 5
FEWEST_SHELL_VOXELS = 20
SHELL_MM = 4.0  # the shell that a nodule is compared with: so thick, one voxel away from it


@dataclass(frozen=True)
class Measure:
    """What a measure is, the least difference to the train median that counts, whether it spreads by factors.

    ``lowest`` or ``highest``: no value towards it is wrong, so that the range ends there.
    """

    what: str
    least: float
    log: bool = False
    lowest: float | None = None
    highest: float | None = None


IMAGE = {
    "finite": Measure("share of voxels with a finite value", 0.0),
    "nodules": Measure("number of nodules", 1.0, highest=255.0),
    "body_spread_hu": Measure("standard deviation in the body, HU", 5.0, log=True),
    "tissue_hu": Measure("median of soft tissue, HU", 30.0),
    "tissue_spread_hu": Measure("interquartile range of soft tissue, HU", 10.0, log=True),
    "lung_hu": Measure("median of the lungs, HU", 30.0),
    "lung_spread_hu": Measure("interquartile range of the lungs, HU", 10.0, log=True),
    "lung_solid": Measure("share of the lungs above -400 HU", 0.02, log=True),
    "tissue_aerated": Measure("share of the body outside the lungs below -400 HU", 0.05, log=True),
    "noise_hu": Measure("noise of soft tissue (robust deviation from the mean of 27 voxels), HU", 3.0, log=True),
    "noise_correlation": Measure("correlation of that noise in neighbouring voxels", 0.1),
    "seam_ratio": Measure("gradient across planes where patches meet, relative to half a patch away", 0.1, log=True),
    "seam_step_hu": Measure("largest jump of a whole plane where patches meet, HU", 5.0),
    "nodule_hu": Measure("median of the darkest nodule, HU", 30.0),
    "nodule_spread_hu": Measure("interquartile range in nodules, HU", 10.0, log=True),
    "nodule_contrast_hu": Measure("weakest nodule: its median minus that of the lung around it, HU", 5.0, log=True),
}
ANATOMY = {
    "spine_slices": Measure("share of slices with connected bone in the spine's place", 0.1, highest=1.0),
    "rib_slices": Measure("share of slices with ribs on both sides", 0.15, highest=1.0),
    "bone_connected": Measure("share of bone in connected pieces of 5 ml or more", 0.1, highest=1.0),
    "airway_mm": Measure("height of the airway (trachea and main bronchi), mm", 30.0, highest=1000.0),
    "fat_muscle_valley": Measure("valley between fat and muscle in the histogram (1: apart)", 0.1, highest=1.0),
    "organ_mottle_hu": Measure("mottle of the most even soft tissue, HU", 4.0, log=True, lowest=0.0),
    "heart_left": Measure("share of the tissue between the lungs left of the midline", 0.15),
    "vessel_share": Measure("share of the inner lungs that is vessel", 0.015),
    "vessel_connected": Measure("share of the vessels in connected pieces of 0.5 ml or more", 0.08, highest=1.0),
}
MEASURES = IMAGE | ANATOMY
FAMILIES = {"image": IMAGE, "anatomy": ANATOMY}


def measure(case: Case, grid: Grid | None, made: np.ndarray | None = None) -> dict[str, float]:
    """Every measure that ``case`` has the voxels for. ``grid``: where patches meet, if there are any. ``made`` (bool):
    what an inpainted case did not keep."""
    ct = np.asarray(case.ct)
    unusable = ~np.isfinite(ct) | (ct == NOT_FINITE_HU)
    hu = np.where(unusable, AIR_HU, ct).astype(np.float32)
    nodules, spacing_mm = np.asarray(case.nodules), float(case.space.spacing_mm.mean())
    lungs = (np.asarray(case.lungs) > 0) & (nodules == 0)
    found = {"finite": float(1 - unusable.mean())}
    if made is not None:
        whole = [i for i in np.unique(nodules[nodules > 0]) if made[nodules == i].all()]
        return found | nodule_measures(hu, np.where(np.isin(nodules, whole), nodules, 0), lungs, spacing_mm)
    if not is_host(case.about):  # whose nodules are not marked
        found["nodules"] = float(len(np.unique(nodules[nodules > 0])))
    body = np.asarray(case.body) > 0
    tissue = body & (nodules == 0) & ~lungs
    found["body_spread_hu"] = float(hu[body].std()) if body.any() else 0.0
    found |= tissue_measures(hu, tissue, "tissue") | tissue_measures(hu, lungs, "lung")
    found |= shares(hu, lungs, tissue) | noise_measures(hu, inner(tissue))
    found |= seam_measures(hu, body, grid) if grid else {}
    found |= anatomy.measure(hu, np.asarray(case.lungs), nodules, body, spacing_mm)
    return found | nodule_measures(hu, nodules, lungs, spacing_mm)


def inner(mask: np.ndarray) -> np.ndarray:
    """Voxels of ``mask`` with all their 26 neighbours in it: they hold nothing of the next tissue."""
    return anatomy.shrunk(mask, 1)


def tissue_measures(hu: np.ndarray, mask: np.ndarray, name: str) -> dict[str, float]:
    """Median and interquartile range of the inner voxels of ``mask``."""
    values = hu[inner(mask)]
    if len(values) < FEWEST_VOXELS:
        return {}
    low, middle, high = (float(q) for q in np.percentile(values, (25, 50, 75)))
    return {f"{name}_hu": middle, f"{name}_spread_hu": high - low}


def shares(hu: np.ndarray, lungs: np.ndarray, tissue: np.ndarray) -> dict[str, float]:
    """Lung shape: how much of the lungs is solid, how much of the body outside them is aerated."""
    parts = {"lung_solid": (lungs, hu > AERATED_HU), "tissue_aerated": (tissue, hu < AERATED_HU)}
    return {name: float(odd[mask].mean()) for name, (mask, odd) in parts.items() if mask.sum() >= FEWEST_VOXELS}


def noise_measures(hu: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Strength and grain of the noise in ``mask``: what is left when the mean of each voxel's cube of 27 is taken away.

    Edges of vessels and fat are few and large: the median of the absolute values and the signs of neighbours (for
    normal variables of correlation r they agree with probability 1/2 + arcsin(r) / pi) hardly see them.
    """
    if mask.sum() < FEWEST_VOXELS:
        return {}
    rest = hu - ndimage.uniform_filter(hu, 3)
    noise = float(np.median(np.abs(rest[mask]))) / 0.6745 * (27 / 26) ** 0.5  # of the normal noise that leaves this
    signs, products, pairs = np.sign(rest).astype(np.int8), 0, 0
    for axis in range(3):
        sign, inside = np.moveaxis(signs, axis, 0), np.moveaxis(mask, axis, 0)
        both = inside[1:] & inside[:-1]
        products += int((sign[1:] * sign[:-1])[both].sum())
        pairs += int(both.sum())
    return {"noise_hu": noise, "noise_correlation": math.sin(math.pi / 2 * products / pairs) if pairs else 0.0}


def nodule_measures(hu: np.ndarray, nodules: np.ndarray, lungs: np.ndarray, spacing_mm: float) -> dict[str, float]:
    """Is each nodule where its mask says? Darkest median, spread within nodules, weakest contrast to the lung around.

    ``nodules`` holds indices, ``lungs`` (bool) no voxel of a nodule.
    """
    reach = math.ceil(SHELL_MM / spacing_mm) + 1
    medians, centred, contrasts = [], [], []
    for index, box in enumerate(ndimage.find_objects(nodules), start=1):
        if box is None or (nodules[box] == index).sum() < FEWEST_NODULE_VOXELS:
            continue
        wider = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in box)
        inside = nodules[wider] == index
        away = ndimage.distance_transform_edt(~inside)  # voxels
        shell = (away > 1) & (away <= max(SHELL_MM / spacing_mm, 1) + 1) & lungs[wider]
        medians.append(float(np.median(hu[wider][inside])))
        centred.append(hu[wider][inside] - medians[-1])
        if shell.sum() >= FEWEST_SHELL_VOXELS:
            contrasts.append(medians[-1] - float(np.median(hu[wider][shell])))
    found = {"nodule_contrast_hu": min(contrasts)} if contrasts else {}
    if medians:
        low, high = np.percentile(np.concatenate(centred), (25, 75))
        found |= {"nodule_hu": min(medians), "nodule_spread_hu": float(high - low)}
    return found
