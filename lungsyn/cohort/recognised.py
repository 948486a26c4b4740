"""Whether what was found in a chest can be true: a reason to leave the case out, or sentences for people to read.

Numbers are of a human chest: total capacity 6 litres in adults, 9 in the tallest, 0.1 in the newborn (Quanjer et al.
1993, Eur Respir J 6 suppl 16:5). Arrays are ``[x y z]``, RAS+, isotropic, on the grid on which lungs are found.
"""

import numpy as np

from lungsyn.anatomy.lungs import FILL_HU, GAS_HU, LEFT, RIGHT, Coarse, pieces_beyond, thick
from lungsyn.errors import InputError
from lungsyn.volume.intensity import AERATED_HU
from lungsyn.volume.morphology import within
from lungsyn.volume.nodules import marked, share_of_each
from lungsyn.volume.space import Space

LEAST_LUNG_ML = 100  # a child's lungs have more, a cut-out of 5 cm has not
SMALL_LUNGS_ML, LARGE_LUNGS_ML, MOST_LUNGS_ML = 800, 10_000, 15_000
CUT_OUT_MM = 150  # a newborn's chest with its surroundings is wider
WIDE_MM = 700  # the widest opening of a scanner is 800
LEAST_OF_OTHER = 0.2  # one lung less than this of the other: collapsed, filled, taken out, or not found
TISSUE_HU = (-150, 250)  # median of the body's tissue: fat of the obese to contrast and bone
CUT_MM2 = 200  # lung at the image's border, or without a wall
UNSEEN = (0.1, 0.3)  # air as dark as lung that is not body though between tissue, of the lungs: told, refused
ROOM_HU = 40  # so much darker than the lungs is the room's air, even where a scanner does not give it -1000
UNSEEN_ENCLOSED = 0.2  # how much of a piece must lie between tissue; see ENCLOSED
UNUSED = (0.15, 0.6)  # the same inside the body, at the lungs' height
NODULE_OUTSIDE = (0.05, 0.5)  # share of a nodule outside the body: told, refused
SIDE = {RIGHT: "right", LEFT: "left"}
FACES = ("left", "right", "back", "front", "bottom", "top")


def doubts(chest: Coarse) -> list[str]:
    """What is odd about a chest, one sentence each. Raises InputError where it cannot be one, or much of its lung was
    not found."""
    hu, body, space = chest.hu, chest.body, chest.space
    lung = np.where(chest.marked, 0, chest.lung)
    sizes_ml = {side: float((lung == side).sum()) * space.voxel_ml for side in SIDE}
    _check_tissue(hu, body)
    if sum(sizes_ml.values()) < LEAST_LUNG_ML:
        if (marked_ml := float(chest.marked.sum()) * space.voxel_ml) > LEAST_LUNG_ML:
            raise InputError(
                f"no lungs beside the nodules: {marked_ml:.0f} ml are marked, is the label inverted, or a lung's?"
            )
        raise InputError(no_lungs(hu, body, space))
    told = unseen_lung(hu, body, lung, space)
    return [*told, *odd_sizes(sizes_ml, body, space), *lungs_of_gas(hu, lung, sizes_ml), *cut_lungs(body, lung, space)]


def _check_tissue(hu: np.ndarray, body: np.ndarray) -> None:
    tissue = hu[body & (hu > AERATED_HU)]
    median = float(np.median(tissue)) if tissue.size else 0.0
    if not TISSUE_HU[0] <= median <= TISSUE_HU[1]:
        raise InputError(
            f"values are not HU of a chest: the tissue's median is {median:.0f}, where fat has -100 and muscle 50; "
            "undo an offset or a wrong rescale slope and intercept"
        )


def no_lungs(hu: np.ndarray, body: np.ndarray, space: Space) -> str:
    """What to say of a chest without lungs, from its values."""
    image, width_mm = hu[hu > FILL_HU], hu.shape[0] * space.spacing_mm[0]
    said = "no lungs found: "
    if width_mm < CUT_OUT_MM:
        return said + (
            f"the image is {width_mm:.0f} mm wide: set cohort.preprocess.field_of_view to part if it is a cut-out, in "
            "which no skin is seen"
        )
    if not image.size or (image < AERATED_HU).mean() < 0.01:
        low = image.min() if image.size else hu.min()
        return said + (
            f"next to nothing is as dark as lung (-900 to -500 HU; the darkest here is {low:.0f}): no chest, or a "
            "rescale intercept or offset is wrong"
        )
    if not body.any():
        return said + f"nothing is as bright as tissue (above {AERATED_HU} HU): a rescale or an offset is wrong"
    inside, dark = body & (hu < AERATED_HU), (hu < AERATED_HU) & (hu > GAS_HU)
    if inside.sum() * space.voxel_ml >= LEAST_LUNG_ML and np.median(hu[inside]) <= GAS_HU:
        return said + "the body holds gas alone, as bowel: no chest, or filled lungs, or lungs of gas that have no wall"
    if (thick(dark, space) & ~body).sum() * space.voxel_ml >= LEAST_LUNG_ML:
        return said + (
            "what is as dark as lung lies outside the body: no chest, or set cohort.preprocess.field_of_view to part "
            "if it is a cut-out, in which no skin is seen"
        )
    return said + "the body holds hardly any air: no chest, or lungs filled by disease"


def unseen_lung(hu: np.ndarray, body: np.ndarray, lung: np.ndarray, space: Space) -> list[str]:
    """Told, or InputError: how much that is as dark as lung was not taken for it, in the lungs' height."""
    height = np.flatnonzero(lung.any(axis=(0, 1)))
    part = (slice(None), slice(None), slice(height[0], height[-1] + 1))
    hu, body, lung = hu[part], body[part], lung[part] > 0
    aerated = (hu < AERATED_HU) & (hu > GAS_HU)
    seen = max(int((aerated & lung).sum()), 1)
    pieces, sizes, enclosed = pieces_beyond(aerated & ~body, body, space)
    as_lung = np.median(hu[aerated & lung]) - ROOM_HU if seen > 1 else GAS_HU
    open_pieces = [n for n in np.flatnonzero(enclosed > UNSEEN_ENCLOSED) if np.median(hu[pieces == n]) > as_lung]
    outside = float(sizes[open_pieces].sum()) / seen
    inside = float(thick(aerated & body & ~lung, space).sum()) / seen
    if outside > UNSEEN[1]:
        raise InputError(
            f"the body was not found whole: air as dark as lung beside it is {outside:.0%} of the lungs found, and "
            "would be overwritten; leave it out, or set cohort.preprocess.field_of_view to part if it is a cut-out"
        )
    if inside > UNUSED[1]:
        raise InputError(
            f"the lungs were not found whole: in the body, air as dark as lung beside them is {inside:.0%} of them; "
            "look at the image"
        )
    told = []
    if outside > UNSEEN[0]:
        told.append(f"air as dark as lung beside the body was overwritten: {outside:.0%} of the lungs")
    if inside > UNUSED[0]:
        told.append(f"air as dark as lung in the body was not taken for lung: {inside:.0%} of the lungs")
    return told


def odd_sizes(sizes_ml: dict[int, float], body: np.ndarray, space: Space) -> list[str]:
    """Told, or InputError: volumes of lungs (ml by side) and a width of the chest that few or no people have."""
    total_ml, width_mm = sum(sizes_ml.values()), float(np.ptp(np.flatnonzero(body.any(axis=(1, 2))))) + 1
    width_mm *= space.spacing_mm[0]
    if total_ml > MOST_LUNGS_ML:
        raise InputError(
            f"lungs of a size that nobody has: {total_ml / 1000:.1f} litres, the spacing or its unit is wrong"
        )
    told = []
    if not SMALL_LUNGS_ML <= total_ml <= LARGE_LUNGS_ML:
        told.append(
            f"lungs of a size that few have: {total_ml / 1000:.2g} litres (adults: 2 to 9), is the spacing right?"
        )
    if width_mm > WIDE_MM:
        told.append(f"a chest of a width that few have: {width_mm:.0f} mm, is the spacing right?")
    small, large = sorted(SIDE, key=sizes_ml.get)
    if sizes_ml[small] < LEAST_OF_OTHER * sizes_ml[large]:
        told.append(
            f"one lung is much smaller: {SIDE[small]} {sizes_ml[small]:.0f} ml, {SIDE[large]} "
            f"{sizes_ml[large]:.0f} ml, so collapsed, filled, taken out, or not recognised"
        )
    return told


def lungs_of_gas(hu: np.ndarray, lung: np.ndarray, sizes_ml: dict[int, float]) -> list[str]:
    """Which lungs are as dark as gas: pneumothorax, emphysema, or bowel taken for lung."""
    medians = {side: float(np.median(hu[lung == side])) for side in SIDE if sizes_ml[side] >= LEAST_LUNG_ML}
    return [
        f"the {SIDE[side]} lung is mostly gas (median {median:.0f} HU): pneumothorax, emphysema, or an offset"
        for side, median in medians.items() if median <= GAS_HU
    ]  # fmt: skip


def cut_lungs(body: np.ndarray, lung: np.ndarray, space: Space) -> list[str]:
    """Where lung reaches the image's border, or has no wall."""
    any_lung, mm2, cut = lung > 0, space.spacing_mm[0] ** 2, []
    for axis in range(3):
        for number, ends in enumerate((slice(2), slice(-2, None))):
            end = any_lung[(slice(None),) * axis + (ends,)]
            if end.any(axis=axis).sum() * mm2 >= CUT_MM2:
                cut.append(FACES[2 * axis + number])
    if cut:
        return [f"lung reaches the image's border ({', '.join(cut)}): what lies beyond is not in the image"]
    bare_mm2 = float((any_lung & within(~body, 1)).sum()) * mm2
    return [f"lung without a wall: {bare_mm2 / 100:.0f} cm2, cut or open"] if bare_mm2 >= CUT_MM2 else []


def nodules_in_body(nodules: np.ndarray, body: np.ndarray, hu: np.ndarray) -> list[str]:
    """Told, or InputError: nodules that lie outside the body as found without them, or are gas."""
    told, (at, index) = [], marked(nodules)
    for number, outside in enumerate(share_of_each(index, ~body[at]), start=1):
        if outside > NODULE_OUTSIDE[1]:
            raise InputError(
                f"a nodule lies outside the body: {outside:.0%} of nodule {number}, so image and label do not belong "
                "together, one of them is mirrored or shifted, or the lung around is gas and open to the room"
            )
        if outside > NODULE_OUTSIDE[0]:
            told.append(f"a nodule reaches out of the body: {outside:.0%} of nodule {number}")
    for number, gas in enumerate(share_of_each(index, hu[at] <= GAS_HU), start=1):
        if gas > 0.5:
            told.append(f"a nodule is gas, no tissue: {gas:.0%} of nodule {number} has at most {GAS_HU} HU")
    return told
