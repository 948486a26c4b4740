"""Patches of real cases that are made of two cases.

With a nodule of another patient in it: what a generator has to beat, since it costs nothing. Or faded into the same
patch of its twin, a synthetic case with the same masks.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lungsyn.errors import InputError
from lungsyn.settings.arms import Mixing
from lungsyn.volume.files import Case
from lungsyn.volume.intensity import AIR_HU
from lungsyn.volume.nodules import diameter_mm
from lungsyn.volume.pasting import cut_out, fitted, paste
from lungsyn.volume.patches import box, random_start, window

Pair = tuple[np.ndarray, np.ndarray]  # HU (int16, or float32 once blended) and nodules (bool): ``[P P P]`` each


class Patch(NamedTuple):
    """A cube of a case: where it begins, its HU (int16) and nodules (bool), ``[P P P]``."""

    case: Case
    start: tuple[int, ...]
    hu: np.ndarray
    nodule: np.ndarray


class Second(NamedTuple):
    """The second case of a patch; ``smallest_mm``: no nodule may become smaller in diameter."""

    case: Case
    smallest_mm: float

    def nodule(self, rng: np.random.Generator) -> dict:
        """One of its nodules, as its ``about`` tells of it."""
        return self.case.about["nodules"][rng.integers(len(self.case.about["nodules"]))]


def cut(case: Case, start: tuple[int, ...], size: int) -> Patch:
    """The patch of ``size`` voxels at ``start``; air where it reaches outside."""
    return Patch(case, start, window(case.ct, start, size, AIR_HU), window(case.nodules, start, size, 0) > 0)


def carvemix(patch: Patch, second: Second, rng: np.random.Generator) -> Pair:
    """After CarveMix (Zhang et al. 2021, MICCAI): a region around the second case's nodule takes the place of the
    patch's own voxels, CT and mask alike, with a hard edge.

    The region is where the signed distance to the nodule's surface (negative inside) is at most lambda. Half the time
    lambda is drawn from minus half the nodule's depth to 0, half the time from 0 to its depth.
    """
    size = len(patch.hu)
    middle = [(a + b) // 2 for a, b in second.nodule(rng)["box"]]
    other = cut(second.case, random_start(rng, second.case.ct.shape, size, middle), size)
    if not other.nodule.any() or other.nodule.all():  # no surface
        return patch.hu, patch.nodule
    inside, outside = (ndimage.distance_transform_edt(mask) for mask in (other.nodule, ~other.nodule))
    depth = inside.max()
    limit = rng.uniform(-depth / 2, 0) if rng.random() < 0.5 else rng.uniform(0, depth)
    carved = outside - inside <= limit
    hu, nodule = (np.where(carved, b, a) for a, b in ((patch.hu, other.hu), (patch.nodule, other.nodule)))
    return hu, nodule


def pasted(patch: Patch, second: Second, rng: np.random.Generator) -> Pair:
    """The second case's nodule, varied, blended into the patch's lung with a soft edge; nothing where it does not fit.

    As ``copy_paste`` does, but anew for each patch."""
    fact = second.nodule(rng)
    least = min(second.smallest_mm / diameter_mm(fact["volume_mm3"]), 1.0)
    lungs = window(patch.case.lungs, patch.start, len(patch.hu), 0) > 0
    placed = fitted(*cut_out(second.case, fact), lungs & ~patch.nodule, None, least, rng)
    if placed is None:
        return patch.hu, patch.nodule
    hu, nodule = patch.hu.astype(np.float32), patch.nodule.copy()
    paste(hu, placed)
    nodule[box(placed.start, placed.mask.shape)] |= placed.mask
    return hu, nodule


def faded(patch: Patch, second: Second, rng: np.random.Generator) -> Pair:
    """(1 - s) times the patch plus s times that of its twin, s drawn from 0 to 1; the mask is that of both."""
    s = np.float32(rng.random())
    twin = window(second.case.ct, patch.start, len(patch.hu), AIR_HU)
    return (1 - s) * patch.hu + s * twin, patch.nodule


def of_other_patients(real: Sequence[Case], synthetic: Sequence[Case]) -> list[list[Case]]:
    """For each real case those of other patients that have a nodule."""
    marked = [case for case in real if case.about["nodules"]]
    return [[case for case in marked if case.about["patient"] != own.about["patient"]] for own in real]


def twins(real: Sequence[Case], synthetic: Sequence[Case]) -> list[list[Case]]:
    """For each real case its synthetic twins."""
    return [[case for case in synthetic if case.about.get("known_case") == own.about["case"]] for own in real]


class Way(NamedTuple):
    """Which cases a real one may be mixed with, and how a patch is."""

    seconds: Callable[[Sequence[Case], Sequence[Case]], list[list[Case]]]
    mix: Callable[[Patch, Second, np.random.Generator], Pair]


WAYS = {
    "carvemix": Way(of_other_patients, carvemix),
    "paste": Way(of_other_patients, pasted),
    "twin": Way(twins, faded),
}


class Mixer:
    """Mixes patches of real cases, in the arm's share of them. Raises InputError where no case can be mixed."""

    def __init__(self, mixing: Mixing, real: Sequence[Case], synthetic: Sequence[Case]):
        self.way, self.share = WAYS[mixing.way], mixing.share
        self.seconds = self.way.seconds(real, synthetic)
        if not any(self.seconds):
            raise InputError(
                f"arms.*.mixing, {mixing.way}: there is no case to mix a real one with, neither a nodule of another "
                "patient nor a twin: remove it"
            )
        sizes = [diameter_mm(fact["volume_mm3"]) for case in real for fact in case.about["nodules"]]
        self.smallest_mm = min(sizes, default=0.0)

    def mixed(self, number: int, patch: Patch, rng: np.random.Generator) -> Pair:
        """A patch of real case ``number``; as it is where it is not mixed."""
        seconds = self.seconds[number]
        if not seconds or rng.random() >= self.share:
            return patch.hu, patch.nodule
        return self.way.mix(patch, Second(seconds[rng.integers(len(seconds))], self.smallest_mm), rng)
