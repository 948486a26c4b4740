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
from scipy.spatial.transform import Rotation

from lungsyn.masks.core.rows import OWN
from lungsyn.random import stream
from lungsyn.seams import Scene
from lungsyn.volume.files import Case
from lungsyn.volume.labels import ALWAYS, LabelMap
from lungsyn.volume.nodules import diameter_mm, fullest
from lungsyn.volume.source import source_of

INSIDE_LUNGS = 0.95  # of a placed nodule's voxels; annotated nodules touch the pleura as well
SCALES = (0.8, 1.25)  # random scaling of a nodule's diameter
NEAR_VOXELS = 4  # how far a nodule moves from its own place along each axis
TRIES = 300
MOST_NODULES = 255  # of one case: more numbers an 8-bit mask has not
RIM_VOXELS = 2  # around a nodule, of whose HU a paste needs some
INPAINT_MARGIN_MM = 6.0  # around an inpainted nodule, made with it; as much again is the feathered edge


class Placed(NamedTuple):
    """A varied nodule in its new place: its mask (bool), and HU (float32) of the same box ``RIM_VOXELS`` wider."""

    start: tuple[int, ...]
    mask: np.ndarray
    hu: np.ndarray


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
        crop = np.asarray(donor.nodules[tuple(slice(a, b) for a, b in fact["box"])]) == fact["index"]
        around = [np.clip(np.arange(a - 2 * RIM_VOXELS, b + 2 * RIM_VOXELS), 0, n - 1)
                  for (a, b), n in zip(fact["box"], donor.ct.shape, strict=True)]  # fmt: skip
        hu = np.asarray(donor.ct[np.ix_(*around)], dtype=np.float32)
        near = (np.mean(fact["box"], axis=1) * body.ct.shape // donor.ct.shape).astype(int) if place == OWN else None
        least = min(smallest_mm / diameter_mm(fact["volume_mm3"]), 1.0)
        for shrink in (1.0, 0.75, 0.5):
            shape, varied_hu = vary(crop, hu, rng, shrink, least)
            start = find_place(shape, (lungs > 0) & (nodules == 0), near, rng)
            if start is None:
                continue
            where = tuple(slice(a, a + n) for a, n in zip(start, shape.shape, strict=True))
            shape &= nodules[where] == 0  # it may touch another nodule, not take voxels from it
            nodules[where][shape] = int(nodules.max()) + 1
            inside[where][shape] = 1
            lungs[where][shape & (lungs[where] == 0)] = lungs[where].max()
            placed.append(Placed(start, shape, varied_hu))
            break
    return np.stack([nodules, lungs, inside]), placed


def vary(
    mask: np.ndarray, hu: np.ndarray, rng: np.random.Generator, shrink: float = 1.0, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A nodule's mask mirrored, rotated and scaled at random, cropped to its box; never empty; and its HU likewise.

    Its diameter is scaled by one of ``SCALES`` times ``shrink``, but by ``least`` at least.

    ``hu`` has ``2 * RIM_VOXELS`` voxels around ``mask``; what is returned has ``RIM_VOXELS`` around the varied mask.
    """
    mirror = np.diag([rng.choice([-1.0, 1.0]) for _ in range(3)])
    scale = max(shrink * np.exp(rng.uniform(*np.log(SCALES))), least)
    rotation = Rotation.from_quat(rng.standard_normal(4), scalar_first=True).as_matrix()  # uniformly random
    matrix = mirror @ rotation / scale  # output voxel -> input voxel, about both centres
    side = int(np.ceil(np.linalg.norm(mask.shape) * scale)) + 2 + 2 * RIM_VOXELS

    def warp(values: np.ndarray, outside: str) -> np.ndarray:
        offset = (np.array(values.shape) - 1) / 2 - matrix @ np.full(3, (side - 1) / 2)
        return ndimage.affine_transform(values.astype(np.float32), matrix, offset, (side,) * 3, order=1, mode=outside)

    filled = warp(np.pad(mask, 1), "constant")
    if not (filled > 0).any():  # so small that it falls between voxels
        filled[(side // 2,) * 3] = 1
    varied = fullest(filled, mask.sum() * scale**3)
    box = ndimage.find_objects(varied.astype(np.uint8))[0]
    wider = tuple(slice(s.start - RIM_VOXELS, s.stop + RIM_VOXELS) for s in box)
    return varied[box], warp(hu, "nearest")[wider]


def find_place(
    shape: np.ndarray, free: np.ndarray, near: np.ndarray | None, rng: np.random.Generator
) -> tuple[int, ...] | None:
    """A start at which the nodule ``shape`` lies in the ``free`` voxels: close to the centre ``near`` if one is given
    and there is room, anywhere otherwise."""
    if any(n > m for n, m in zip(shape.shape, free.shape, strict=True)):
        return None
    voxels = np.argwhere(free)
    for attempt in range(TRIES if len(voxels) else 0):
        if near is not None and attempt < TRIES // 2:
            centre = near + rng.integers(-NEAR_VOXELS, NEAR_VOXELS + 1, size=3)
        else:
            centre = voxels[rng.integers(len(voxels))]
        start = np.clip(centre - np.array(shape.shape) // 2, 0, np.array(free.shape) - shape.shape)
        where = tuple(slice(a, a + n) for a, n in zip(start, shape.shape, strict=True))
        if free[where][shape].mean() >= INSIDE_LUNGS:
            return tuple(int(a) for a in start)
    return None


def arranged_scene(row: dict, open_case: Callable[[str], Case], keep: bool = False) -> Scene:
    """The scene of a row; ``keep``: the body's CT is known but for the new nodules and what is near them."""
    masks, body, placed = make_masks(row, open_case, keep)
    labels = LabelMap(dict(zip(ALWAYS, masks, strict=True)))
    if not keep:  # where a patient lay is his
        affine = np.diag([*body.space.spacing_mm, 1.0])
        return Scene(labels, affine, placed=tuple(placed), source=source_of(body))
    made = region_to_make(masks[0], body)
    return Scene(labels, body.affine, body, made, tuple(placed), source_of(body))
