"""Patches that are made of two patients: what a generator has to beat, since it costs nothing.

Each way takes a patch and a nodule of another patient, and gives the patch with that nodule in it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lungsyn.volume.files import Case
from lungsyn.volume.intensity import AIR_HU
from lungsyn.volume.pasting import cut_out, fitted, paste
from lungsyn.volume.patches import box, random_start, window


class Patch(NamedTuple):
    """A cube of a case: its HU (int16, or float32 once mixed) and nodules (bool), ``[P P P]``; where it begins."""

    case: Case
    start: tuple[int, ...]
    hu: np.ndarray
    nodule: np.ndarray


class Donor(NamedTuple):
    """A nodule of a case, as the case's ``about`` tells of it; ``least``: how much smaller it may become, a factor."""

    case: Case
    fact: dict
    least: float


def cut(case: Case, start: tuple[int, ...], size: int) -> Patch:
    """The patch of ``size`` voxels at ``start``; air where it reaches outside."""
    return Patch(case, start, window(case.ct, start, size, AIR_HU), window(case.nodules, start, size, 0) > 0)


def carvemix(patch: Patch, donor: Donor, rng: np.random.Generator) -> Patch:
    """CarveMix (Zhang et al. 2021, MICCAI; Eq. 1 to 4): a region around the donor's nodule takes the place of the
    patch's own voxels, CT and mask alike, with a hard edge.

    The region is where the signed distance to the nodule's surface (negative inside) is at most lambda. Half the time
    lambda is drawn from minus half the nodule's depth to 0, half the time from 0 to its depth.
    """
    size = len(patch.hu)
    middle = [(a + b) // 2 for a, b in donor.fact["box"]]
    other = cut(donor.case, random_start(rng, donor.case.ct.shape, size, middle), size)
    if not other.nodule.any() or other.nodule.all():  # no surface
        return patch
    inside, outside = (ndimage.distance_transform_edt(mask) for mask in (other.nodule, ~other.nodule))
    depth = inside.max()
    limit = rng.uniform(-depth / 2, 0) if rng.random() < 0.5 else rng.uniform(0, depth)
    carved = outside - inside <= limit
    hu, nodule = (np.where(carved, b, a) for a, b in ((patch.hu, other.hu), (patch.nodule, other.nodule)))
    return patch._replace(hu=hu, nodule=nodule)


def pasted(patch: Patch, donor: Donor, rng: np.random.Generator) -> Patch:
    """The donor's nodule, varied, blended into the patch's lung with a soft edge; nothing where it does not fit."""
    lungs = window(patch.case.lungs, patch.start, len(patch.hu), 0) > 0
    placed = fitted(*cut_out(donor.case, donor.fact), lungs & ~patch.nodule, None, donor.least, rng)
    if placed is None:
        return patch
    hu, nodule = patch.hu.astype(np.float32), patch.nodule.copy()
    paste(hu, placed)
    nodule[box(placed.start, placed.mask.shape)] |= placed.mask
    return patch._replace(hu=hu, nodule=nodule)


WAYS: dict[str, Callable[[Patch, Donor, np.random.Generator], Patch]] = {"carvemix": carvemix, "paste": pasted}
