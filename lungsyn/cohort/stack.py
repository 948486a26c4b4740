"""Whether the slices of a scan follow each other as they do in a body: told from how much neighbours differ.

In a body a slice differs less from its neighbours than they do from each other, and the differences change slowly. Not
so where slices were sorted by name (1, 10, 2), are gone, or have another scale than the rest. Limits are beyond what
876 real images have, of which 7 are whole chests of 1 to 8 mm.
"""

import numpy as np

from lungsyn.errors import InputError
from lungsyn.volume.space import Volume

SAMPLES = 64  # along the shorter side of a slice; more tell no more
RANGE_HU = (-1024, 1000)
LEAST_SLICES = 4
UNLIKE = (1.3, 3.0)  # of its neighbours' difference a slice differs from both: told, refused; real: at most 1.10
JUMP, JUMP_HU = 2.5, 250  # a step so many times its neighbours, told, and so large, refused; real: at most 1.9 and 103

UNLIKE_NEIGHBOURS = "a slice is unlike both its neighbours: are the slices in order, and none gone or of another scale?"
JUMPING = "neighbouring slices differ far more in one place than elsewhere: are some gone between?"
COPIED = "neighbouring slices have the same values: are they copies?"


def slice_doubts(ct: Volume) -> list[str]:
    """Warnings on the order of an image's slices, in HU ``[x y z]``. Raises InputError where they cannot follow each
    other in a body. Slices of one value at either end are padding."""
    slices = _thinned(ct)
    if len(slices) < LEAST_SLICES:
        return []
    step = np.abs(np.diff(slices, axis=0)).mean(axis=(1, 2))
    over = np.abs(slices[2:] - slices[:-2]).mean(axis=(1, 2)).clip(min=1)
    unlike = float((np.minimum(step[:-1], step[1:]) / over).max())
    around = np.maximum(np.r_[0, step[:-1]], np.r_[step[1:], 0]).clip(min=1)
    jumps = step / around > JUMP
    if unlike > UNLIKE[1] or (jumps & (step > JUMP_HU)).any():
        raise InputError(
            f"slices do not follow each other: neighbours differ by up to {step.max():.0f} HU, and most by "
            f"{np.median(step):.0f}; are they in order, and none gone or of another scale?"
        )
    found = {UNLIKE_NEIGHBOURS: unlike > UNLIKE[0], JUMPING: jumps.any(), COPIED: (step == 0).any()}
    return [text for text, holds in found.items() if holds]


def _thinned(ct: Volume) -> np.ndarray:
    """The slices from the patient's foot to head or back, fewer voxels of each, without padding at the ends: float32
    ``[slice row column]``."""
    slices = np.moveaxis(ct.data, int(np.abs(ct.affine[2, :3]).argmax()), 0)
    every = max(1, min(slices.shape[1:]) // SAMPLES)
    slices = slices[:, ::every, ::every].astype(np.float32).clip(*RANGE_HU)
    filled = np.flatnonzero(np.ptp(slices, axis=(1, 2)))
    return slices[filled[0] : filled[-1] + 1] if len(filled) else slices[:0]
