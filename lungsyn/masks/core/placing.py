"""Nodules of real cases, varied, and placed into the lungs of a real case.

A nodule lies anywhere in the lungs, or near its own place. Nodules are mirrored, rotated and scaled, and their HU with
them, for those who paste them; none becomes smaller than any of the cases that masks are taken from: a generator makes
faint ones of a size that it never saw, and where the annotation has a least size a segmenter is told that smaller ones
are none.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lungsyn.masks.core.rows import OWN
from lungsyn.random import stream
from lungsyn.seams import Scene
from lungsyn.volume.files import Case
from lungsyn.volume.labels import ALWAYS, LabelMap
from lungsyn.volume.nodules import diameter_mm
from lungsyn.volume.pasting import Placed, cut_out, fitted
from lungsyn.volume.patches import box
from lungsyn.volume.source import source_of

MOST_NODULES = 255  # of one case: more numbers an 8-bit mask has not
INPAINT_MARGIN_MM = 6.0  # around an inpainted nodule, made with it; as much again is the feathered edge


class Arrangement(NamedTuple):
    """What a volume is made from: uint8 ``[3 x y z]`` (nodule index, lungs, body), the case it lies in, new nodules."""

    masks: np.ndarray
    body: Case
    placed: list[Placed]


def make_masks(row: dict, open_source: Callable[[str], Case], keep: bool = False) -> Arrangement:
    """The masks of the volume that ``row`` describes; ``keep``: beside the body's own nodules.

    If no nodule of the donor fits into the lungs, the body's own nodules are varied at their own place instead. Where
    not even they fit, as in a crop that is hardly larger than its nodule, they stay as they are.
    """
    rng = stream(int(row["seed"]), "masks")
    body = open_source(row["body_case"])
    kept = np.array(body.nodules) if keep else np.zeros_like(body.nodules)
    nothing = np.zeros_like(body.nodules)
    for donor, nodules, place in [(open_source(row["nodule_case"]), kept, row["place"]), (body, nothing, OWN)]:
        masks, placed = _place_nodules(donor, body, nodules, float(row["smallest_mm"]), place, rng)
        if placed:
            return Arrangement(masks, body, placed)
    return as_it_is(body)


def as_it_is(body: Case) -> Arrangement:
    """The masks of a case, nothing placed in it."""
    return Arrangement(np.stack([body.nodules, body.lungs, body.body]), body, [])


def changed_nodules(nodules: np.ndarray, before: np.ndarray) -> list[int]:
    """The numbers of the nodules that are not where they were, or were not there."""
    differ = nodules != before
    return [int(number) for number in np.union1d(nodules[differ], before[differ]) if number]


def region_to_make(nodules: np.ndarray, body: Case) -> np.ndarray:
    """How much of each voxel is made anew when ``nodules`` are inpainted into ``body``: 0 ... 1, float32 ``[x y z]``.

    1 up to ``INPAINT_MARGIN_MM`` around every nodule that is new or gone, falling to 0 over the same distance again.
    """
    numbers = changed_nodules(nodules, body.nodules)
    if not numbers:
        return np.zeros(nodules.shape, dtype=np.float32)
    changed = np.isin(nodules, numbers) | np.isin(body.nodules, numbers)
    distance_mm = ndimage.distance_transform_edt(~changed, sampling=body.space.spacing_mm)
    return np.clip(2.0 - distance_mm / INPAINT_MARGIN_MM, 0.0, 1.0).astype(np.float32)


def _place_nodules(
    donor: Case, body: Case, present: np.ndarray, smallest_mm: float, place: str, rng: np.random.Generator
) -> tuple[np.ndarray, list[Placed]]:
    """The body's masks ``[3 x y z]`` with the nodules ``present`` and as many of the donor's as fit, and those."""
    nodules, lungs, inside = present.copy(), np.array(body.lungs), np.array(body.body)
    placed: list[Placed] = []
    for fact in donor.about["nodules"]:
        if nodules.max() == MOST_NODULES:
            left = len(donor.about["nodules"]) - len(placed)
            print(f"{left} nodules are not placed: a case has at most {MOST_NODULES}", flush=True)
            break
        near = (np.mean(fact["box"], axis=1) * body.ct.shape // donor.ct.shape).astype(int) if place == OWN else None
        least = min(smallest_mm / diameter_mm(fact["volume_mm3"]), 1.0)
        found = fitted(*cut_out(donor, fact), (lungs > 0) & (nodules == 0), near, least, rng)
        if found is None:
            continue
        where, shape = box(found.start, found.mask.shape), found.mask
        shape &= nodules[where] == 0  # it may touch another nodule, not take voxels from it
        nodules[where][shape] = int(nodules.max()) + 1
        inside[where][shape] = 1
        lungs[where][shape & (lungs[where] == 0)] = lungs[where].max()
        placed.append(found)
    return np.stack([nodules, lungs, inside]), placed


def arranged_scene(row: dict, open_case: Callable[[str], Case], keep: bool = False) -> Scene:
    """The scene of a row; ``keep``: the body's CT is known but for the new nodules and what is near them."""
    masks, body, placed = make_masks(row, open_case, keep)
    labels = LabelMap(dict(zip(ALWAYS, masks, strict=True)))
    if not keep:  # where a patient lay is his
        affine = np.diag([*body.space.spacing_mm, 1.0])
        return Scene(labels, affine, placed=tuple(placed), source=source_of(body))
    made = region_to_make(masks[0], body)
    return Scene(labels, body.affine, body, made, tuple(placed), source_of(body))
