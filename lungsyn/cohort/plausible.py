"""What cannot be a chest in HU with nodules, told from numbers at hand: values, geometry, and where the label lies.

What is impossible raises InputError; what is only odd is a warning, a sentence without numbers, so that the same one of
many cases is told once. Limits were measured on 909 real nodules of at least 3 mm (LIDC-IDRI, 4D-Lung, Radiogenomics).
"""

import hashlib

import numpy as np
from scipy import ndimage

from lungsyn.errors import InputError
from lungsyn.volume.nodules import diameter_mm
from lungsyn.volume.space import Space, Volume

PADDING_HU = -1100  # below there is no tissue and no air: outside the scanner's field of view
LUNG_HU, TISSUE_HU, BONE_HU = -500, -200, 300  # below: lung or air; above: tissue; above: bone, metal
SOME = 0.005  # of each some voxels in a thousand, so that neither padding nor a few odd voxels pass for them
MOST_BELOW_AIR = 0.05  # of 911 real images at most 0.037; shifted by -500 HU or more: all beyond
DARK_HU = (-960, -600)  # medians below LUNG_HU of 806 real cut-outs: -951 to -635; 38 of them show hardly any tissue
DARKEST_HU = -650  # the darkest hundredth of 911 real images is below -744, of cut-outs of lung, too
LUNG_RANGE_HU = (-1015, -700)  # median below LUNG_HU, middle of the cases: -842, -852 (cut-outs), -985 (chests)
TISSUE_RANGE_HU = 100  # median of what is between -200 and 300 HU, likewise: 19, -2, -3

MOST_FILLED = 0.002  # share of the voxels whose neighbours in the slice all have their value; in 911 real images none
FILLABLE_HU = (-900, 300)  # clipping leaves plateaus below and above
LOOKED_AT = 64  # slices

LARGEST_NODULE_MM, LARGE_NODULE_MM = 120, 80  # real: at most 52; a lung is some 160
MOST_OF_IMAGE = 0.5  # real labels: at most 0.30, in tight cut-outs
MOST_NODULES = 255  # what uint8 can number
AIR_HU = -900  # medians of real nodules: at least -800
LEAST_CONTRAST_HU = 40  # nodules below LUNG_HU: at least 71 above their surroundings; balls in lung: 98.6 % below 40
JUDGED_MM = 3  # smaller ones blur away
FLATTEST = 3  # wider by more than its height, if of a single slice; real: 1.6, the only one of 909
AROUND_MM = (1.5, 5)  # surroundings: from and to this distance of a nodule; real: at least 0.1 of them is lung
# How many voxels along an axis a nodule is tried. Of 305 real ones 58 to 84 % lie best where they are marked, at most
# 20 % best at any other place; if all are shifted, 58 % and more at that one.
SHIFTS, MOST_SHIFTED, LEAST_NODULES = 3, 0.5, 20
NODULE_RANGE_HU = (-1000, 200)

VOXEL_MM = (0.05, 20)
LEAST_SIDE_MM = 10  # of the longest side
MOST_SIDES_MM = (1000, 2500)  # second longest and longest side: whole bodies are long, no scanner is wider
WIDE_MM = 700
MOST_VOXELS = 2**31  # 4 GiB as int16; a chest at 0.5 mm has some 3e8

NO_POSITION = "its header has neither sform nor qform: left and right are not known for sure"
TWO_POSITIONS = (
    "its header, or its label's, has two different positions or voxel sizes (sform, qform, pixdim): the first is used"
)
SHEARED = "its voxel axes are not at right angles, as of a tilted gantry: it is resampled along them"
WIDE = "its image is wider than 700 mm, more than scanners see: are the voxel sizes right?"
LARGE = "a nodule is larger than 80 mm: look at its label"
NO_DENSER = "a nodule is no denser than the lung or air around it: look at its label"
NO_LUNG = "a nodule has no lung within 5 mm: look at its label"
FLAT = "a nodule is wide, but marked in a single slice: was it marked in none of the others?"
FILLED = "a part of the image has one value: was it padded, or are data gone?"
FRACTIONS = "its label holds fractions, as after interpolation: they were rounded"
MISPLACED = "most nodules would fit the image better a voxel or more to one side: were the labels shifted?"
SHIFTED = "in most cases lung is not near -850 HU or tissue not near 0: was something added to the values?"


def check_hu(values: np.ndarray) -> None:
    """Refuse values that cannot be HU of a chest: there is lung or air, and tissue or lung where it should be,
    little is below air, and nothing exceeds int16."""
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and not np.isfinite([low, high]).all():
        raise InputError("non-finite values in the image: replace them by -1024 or leave the case out")
    if low < -32768 or high > 32767:
        raise InputError(f"values are not HU: from {low:g} to {high:g}, beyond 16 bits")
    some = values[::2, ::2, ::2]
    some = some[some >= PADDING_HU]
    told = f"values are not HU of a chest: from {low:g} to {high:g}; air is -1000, lung -850, soft tissue about 40"
    if not some.size or np.mean(some < LUNG_HU) < SOME or _share_below_air(values) > MOST_BELOW_AIR:
        raise InputError(f"{told}: undo the normalisation or offset")
    if np.mean(some > TISSUE_HU) < SOME and not DARK_HU[0] < np.median(some[some < LUNG_HU]) < DARK_HU[1]:
        raise InputError(f"{told}: undo the normalisation or offset")
    if (dark := np.percentile(some, 1)) > DARKEST_HU:
        raise InputError(f"{told}, and hardly any is below {dark:.0f}: undo the offset, or write what was cut off")


def _share_below_air(values: np.ndarray) -> float:
    """Which share of the voxels is below air and not all one value, as padding is: lung, where HU were shifted."""
    low = values[::2, ::2, ::2]
    n, low = low.size, np.rint(low[low < PADDING_HU]).astype(np.int64)
    if not low.size:
        return 0.0
    padding = np.bincount(low - low.min()).max()
    return float((low.size - padding) / max(n - padding, 1))


def value_doubts(values: np.ndarray) -> list[str]:
    """Warnings on an image's values in HU ``[x y z]``: noise leaves no plateau."""
    some = np.rint(values[:, :, :: max(1, values.shape[2] // LOOKED_AT)])
    middle = some[1:-1, 1:-1]
    same = (middle >= FILLABLE_HU[0]) & (middle <= FILLABLE_HU[1])
    for x, y in np.ndindex(3, 3):
        same &= some[x : x + len(middle), y : y + middle.shape[1]] == middle
    return [FILLED] if same.size and same.mean() > MOST_FILLED else []


def typical_hu(values: np.ndarray) -> tuple[float, float]:
    """Median of what is dark in an image as lung or air is, and of what may be soft tissue: HU, or nan without any."""
    some = values[::2, ::2, ::2]
    dark = some[(some < LUNG_HU) & (some > max(float(some.min()), -1900))]
    soft = some[(some > TISSUE_HU) & (some < BONE_HU)]
    return tuple(float(np.median(part)) if part.size else float("nan") for part in (dark, soft))


def shifted(typical: list[tuple[float, float]]) -> bool:
    """Whether lung or soft tissue lies elsewhere than it should in the middle of the cases (``typical_hu`` of each)."""
    if len(typical) < 3:
        return False
    lung, tissue = np.nanmedian(typical, axis=0)
    return not (LUNG_RANGE_HU[0] <= lung <= LUNG_RANGE_HU[1] and abs(tissue) <= TISSUE_RANGE_HU)


def voxel_digest(values: np.ndarray) -> str:
    """The same for one image however it is turned, flipped, padded by air or stored: a digest of its histogram.

    It counts the whole HU from -900 to 300, so padding with air and clipping outside that change nothing. Two scans
    with 1,200 equal counts are one. ``values`` ``[x y z]``.
    """
    counts = np.zeros(1201, dtype=np.int64)
    for z in range(values.shape[2]):
        whole = np.rint(values[:, :, z])
        inside = whole[(whole >= -900) & (whole <= 300)].astype(np.int64) + 900
        counts += np.bincount(inside, minlength=1201)
    return hashlib.sha256(counts.tobytes()).hexdigest()


def check_geometry(space: Space) -> None:
    """Refuse grids on which no chest was ever scanned. Raises InputError with the sizes."""
    if not np.isfinite(space.affine).all() or abs(np.linalg.det(space.affine)) < 1e-30:
        raise InputError("affine without a volume: write the image with a valid sform")
    spacing, sides = space.spacing_mm, np.sort(space.spacing_mm * space.shape)
    told = " x ".join(f"{value:.4g}" for value in spacing)
    if spacing.min() < VOXEL_MM[0] or spacing.max() > VOXEL_MM[1]:
        raise InputError(f"voxels of {told} mm: a CT has {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g}; write the spacing in mm")
    if space.voxel_ml * 1000 < 0.2 * spacing.prod():
        raise InputError("affine nearly without a volume: its axes lie almost in a plane; write a valid sform")
    if sides[2] < LEAST_SIDE_MM or sides[1] > MOST_SIDES_MM[0] or sides[2] > MOST_SIDES_MM[1]:
        told = " x ".join(f"{value:.4g}" for value in spacing * space.shape)
        raise InputError(f"image of {told} mm: no chest, nor a part of one; write the spacing in mm")


def check_grid(space: Space, spacing_mm: float) -> None:
    """Refuse an image that has more voxels than a machine holds once it has the cohort's spacing."""
    if (voxels := np.prod(space.isotropic(spacing_mm).shape, dtype=float)) > MOST_VOXELS:
        raise InputError(
            f"too many voxels: {voxels:.2g} at {spacing_mm:g} mm, and {MOST_VOXELS:.2g} can be held; raise "
            "cohort.preprocess.spacing_mm"
        )


def geometry_doubts(space: Space, *headers) -> list[str]:
    """Warnings on a grid and the NIfTI headers that told of it, the image's and its label's."""
    axes = space.affine[:3, :3] / space.spacing_mm
    found = {
        NO_POSITION: any(not header["sform_code"] and not header["qform_code"] for header in headers),
        TWO_POSITIONS: any(_two_positions(space, header) for header in headers),
        SHEARED: np.abs(axes.T @ axes - np.eye(3)).max() > 0.01,
        WIDE: np.sort(space.spacing_mm * space.shape)[1] > WIDE_MM,
    }
    return [text for text, holds in found.items() if holds]


def _two_positions(space: Space, header) -> bool:
    sform, s_code = header.get_sform(coded=True)
    qform, q_code = header.get_qform(coded=True)
    two = s_code and q_code and not Space(space.shape, sform).same_as(Space(space.shape, qform), 1.0)
    return bool(two) or not np.allclose(header.get_zooms()[:3], space.spacing_mm, rtol=0.01)


def label_doubts(mask: np.ndarray, name: str) -> list[str]:
    """Warnings on the mask (bool) of a further label."""
    share = mask.mean()
    if share > MOST_OF_IMAGE:
        return [f"its label {name} covers more than half of the image: are background and label exchanged?"]
    return [] if share else [f"its label {name} is empty"]


def check_lesion(lesion: np.ndarray, label_name: str) -> None:
    """Refuse a lesion mask (bool) that fills its image. ``label_name`` says what its value is called, or is empty."""
    if (share := lesion.mean()) > MOST_OF_IMAGE:
        raise InputError(
            f"label is no nodule: it covers {share:.0%} of the image{label_name}; are background and nodule exchanged, "
            "or is another value meant (cohort.lesion_labels)?"
        )


def check_nodules(ct: Volume, nodules: list[Volume], label_name: str) -> list[str]:
    """Refuse nodules that are too large, too many, or mostly of the density of what is around them.

    ``nodules`` are bool masks in boxes on the CT's grid. Returns warnings for a few odd ones.
    """
    if len(nodules) > MOST_NODULES:
        raise InputError(
            f"too many nodules: {len(nodules)}, and {MOST_NODULES} can be numbered; raise "
            "cohort.nodules.min_diameter_mm, or clean the label"
        )
    sizes = [diameter_mm(float(mask.data.sum()) * mask.space.voxel_ml * 1000) for mask in nodules]
    if max(sizes) > LARGEST_NODULE_MM:
        raise InputError(
            f"label is no nodule: it has one of {max(sizes):.0f} mm{label_name}; is another value meant "
            "(cohort.lesion_labels)?"
        )
    judged = [_surrounded(ct, mask) for mask, size in zip(nodules, sizes, strict=True) if size >= JUDGED_MM]
    odd = [inside for inside, around, _ in judged if inside < AIR_HU or _no_denser(inside, around)]
    if odd and len(odd) * 2 >= len(judged):
        raise InputError(
            f"label is not on nodules: {len(odd)} of {len(judged)} are no denser than the lung or air around them "
            f"(median {np.median(odd):.0f} HU){label_name}; was the label flipped, shifted, or another value meant?"
        )
    lungless = any(share == 0 and inside > LUNG_HU for inside, _, share in judged)
    flat = any(_is_flat(mask) for mask in nodules)
    found = {LARGE: max(sizes) > LARGE_NODULE_MM, FLAT: flat, NO_DENSER: bool(odd), NO_LUNG: lungless}
    return [text for text, holds in found.items() if holds]


def best_shift(ct: Volume, mask: Volume) -> tuple[int | None, int | None, int | None]:
    """By how many voxels to the patient's right, front and head a nodule's mask (bool, in a box on the CT's grid) lies
    on the densest tissue, each axis alone; None where the image ends too near."""
    corner = _corner(ct, mask)
    best: list[int | None] = [None] * 3
    for axis in range(3):
        reach = [corner[axis] - SHIFTS, corner[axis] + mask.data.shape[axis] + SHIFTS]
        if reach[0] < 0 or reach[1] > ct.data.shape[axis]:
            continue
        hu = {}
        for by in sorted(range(-SHIFTS, SHIFTS + 1), key=abs):  # of equal ones the nearest
            start = corner + by * (np.arange(3) == axis)
            box = ct.data[tuple(slice(a, a + n) for a, n in zip(start, mask.data.shape, strict=True))]
            hu[by] = float(box[mask.data].clip(*NODULE_RANGE_HU).mean(dtype=float))
        towards = int(np.abs(ct.affine[:3, axis]).argmax())
        best[towards] = int(np.sign(ct.affine[towards, axis])) * max(hu, key=lambda by: hu[by])
    return tuple(best)


def misplaced(shifts: list[tuple[int | None, ...]]) -> bool:
    """Whether most nodules lie best at one and the same other place along an axis (``best_shift`` of each)."""
    for along in zip(*shifts, strict=True):
        known = [by for by in along if by is not None]
        if len(known) >= LEAST_NODULES and any(known.count(by) > MOST_SHIFTED * len(known) for by in {*known} - {0}):
            return True
    return False


def _corner(ct: Volume, mask: Volume) -> np.ndarray:
    """The first voxel of a box on the CT's grid."""
    return np.rint(np.linalg.solve(ct.affine, mask.affine[:, 3])[:3]).astype(int)


def _is_flat(mask: Volume) -> bool:
    """Whether a nodule in a tight box lies in one slice of any axis, and is far wider."""
    thin = np.array(mask.data.shape) == 1
    height_mm = float(mask.space.spacing_mm[thin].min(initial=np.inf))
    area_mm2 = float(mask.data.sum()) * mask.space.voxel_ml * 1000 / height_mm
    return bool(thin.any()) and 2 * (area_mm2 / np.pi) ** 0.5 > FLATTEST * height_mm


def _no_denser(inside_hu: float, around_hu: float) -> bool:
    return inside_hu < LUNG_HU and inside_hu - around_hu < LEAST_CONTRAST_HU


def _surrounded(ct: Volume, mask: Volume) -> tuple[float, float, float]:
    """Median HU of a nodule and of what surrounds it (``AROUND_MM``), and which share of that is lung or air.

    What lies outside the image is not there; without surroundings the last two are nan.
    """
    spacing = ct.space.spacing_mm
    corner = _corner(ct, mask)
    reach = np.ceil(AROUND_MM[1] / spacing).astype(int)
    start = np.maximum(corner - reach, 0)
    stop = np.minimum(corner + mask.data.shape + reach, ct.data.shape)
    nodule = np.zeros(stop - start, dtype=bool)
    nodule[tuple(slice(a, a + n) for a, n in zip(corner - start, mask.data.shape, strict=True))] = mask.data
    hu = ct.crop(start, stop).data
    away_mm = ndimage.distance_transform_edt(~nodule, sampling=spacing)
    around = hu[(away_mm > AROUND_MM[0]) & (away_mm <= AROUND_MM[1])]
    if not around.size:
        return float(np.median(hu[nodule])), float("nan"), float("nan")
    return float(np.median(hu[nodule])), float(np.median(around)), float(np.mean(around < LUNG_HU))
