"""Where predictions count: near the lungs, found anew from the CT, without what is marked."""

import numpy as np
from scipy import ndimage

from lungsyn.volume.files import Case
from lungsyn.volume.intensity import AERATED_HU
from lungsyn.volume.morphology import within
from lungsyn.volume.nodules import marked, share_of_each

WORKING_MM = 2.0  # where predictions may be is found on a grid as coarse as that
CLOSING_MM = 10.0  # vessels and nodules up to twice as thick are inside the lung
LUNG_MARGIN_MM = 5.0  # a prediction may reach this far beyond it
RIGHT, LEFT = 1, 2


def near_lungs(case: Case) -> np.ndarray:
    """What is aerated in the lungs, closed over solid parts, and ``LUNG_MARGIN_MM`` around that: bool ``[x y z]``.

    Not the case's mask of the lungs, in which every marked nodule is by rule: it would tell where to look. A lung with
    less than half of the other's air (filled, collapsed) is also where the other one would lie, mirrored. Without any
    aerated lung predictions count everywhere.
    """
    near, every = _near(case)
    for axis in range(3):
        near = near.repeat(every, axis)
    return near[tuple(slice(n) for n in case.ct.shape)]


def outside_share(case: Case) -> list[float]:
    """Of each nodule, in the order of its index, the share of its voxels that lie where no prediction counts."""
    near, every = _near(case)
    at, index = marked(np.asarray(case.nodules))
    return share_of_each(index, ~near[tuple(i // every for i in at)])


def told_of_predictions(case: Case, least: float = 0.05) -> list[str]:
    """A sentence on the nodules of which at least that share lies where no prediction counts, if there are any."""
    far = {number: share for number, share in enumerate(outside_share(case), start=1) if share >= least}
    which = ", ".join(f"{share:.0%} of nodule {number}" for number, share in far.items())
    return [f"a nodule lies where no prediction counts (segmenters.*.keep_lungs): {which}"] if far else []


def _near(case: Case) -> tuple[np.ndarray, int]:
    """``near_lungs`` on every so many-th voxel, and how many."""
    every = max(1, int(WORKING_MM / case.space.spacing_mm[0] + 0.01))
    thin, spacing_mm = (slice(None, None, every),) * 3, case.space.spacing_mm[0] * every
    lungs, body = np.asarray(case.lungs[thin]), np.asarray(case.body[thin]) > 0
    aerated = (lungs > 0) & (np.asarray(case.ct[thin]) < AERATED_HU)
    if not aerated.any():
        return np.ones_like(aerated), every
    beyond = ~within(aerated, (CLOSING_MM + LUNG_MARGIN_MM) / spacing_mm)
    near = ndimage.binary_fill_holes(~within(beyond, CLOSING_MM / spacing_mm))
    return near | _other_side(near, aerated, lungs, body), every


def _other_side(near: np.ndarray, aerated: np.ndarray, lungs: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Where a lung that is filled or collapsed would lie: the other one mirrored at the body's middle, in the body."""
    air = {side: np.count_nonzero(aerated & (lungs == side)) for side in (RIGHT, LEFT)}
    cut_out = body.all() and not air[LEFT]  # knows no sides
    if cut_out or min(air.values()) >= 0.5 * max(air.values()):
        return np.zeros_like(near)
    across = np.bincount(np.nonzero(body)[0], minlength=len(body)).cumsum()
    middle = int(np.searchsorted(across, across[-1] / 2))
    good = max(air, key=lambda side: air[side])
    source = 2 * middle - np.arange(len(body))
    there = (source >= 0) & (source < len(body))
    mirrored = np.zeros_like(near)
    mirrored[there] = near[source[there]]
    beyond = np.arange(len(body)) >= middle if good == LEFT else np.arange(len(body)) <= middle
    return mirrored & body & beyond[:, None, None]
