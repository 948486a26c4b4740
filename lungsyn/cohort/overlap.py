"""Images that are cut from one scan, however they were cut, turned or padded: they have runs of voxels in common.

A *run* is ``RUN`` voxels in a row along the patient's x, all between ``HU`` and no plateau. Two scans have none in
common, since noise makes each one's own. An image keeps the runs with the smallest hashes: of two images that overlap
many are the same (bottom-k sketches: Broder 1997, Compression and Complexity of Sequences).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lungsyn.volume.space import Volume

RUN = 9
HU = (-900, 300)  # what clipping and padding leave alone
ONE_IN = 16  # of all runs are hashed: those whose middle has a value of that class
MOST_EQUAL = 2  # neighbours of a run: more are a plateau, such as a filled area
KEPT = 128  # hashes an image
SHARED = 4  # so many of them are no chance: of 904 real cut-outs no two of different patients share any


def sketch(ct: Volume) -> tuple[int, ...]:
    """The smallest hashes of the runs of an image in HU ``[x y z]``: ascending, at most ``KEPT``."""
    along = np.moveaxis(ct.data, int(np.abs(ct.affine[0, :3]).argmax()), 0)
    found = np.zeros(0, dtype=np.uint64)
    if along.shape[0] >= RUN:
        for k in range(along.shape[2]):
            found = np.union1d(found, _hashes(np.rint(along[:, :, k]).T))[:KEPT]
    return tuple(found.tolist())


def _hashes(lines: np.ndarray) -> np.ndarray:
    """Of every run of ``lines`` (each along the last axis), alike in both directions: uint64."""
    half = RUN // 2
    middle = lines[:, half:-half]
    at, start = np.nonzero((middle >= HU[0]) & (middle <= HU[1]) & (middle % ONE_IN == 0))
    runs = lines[at[:, None], start[:, None] + np.arange(RUN)]
    equal = (np.diff(runs, axis=1) == 0).sum(axis=1)
    runs = runs[(runs.min(axis=1) >= HU[0]) & (runs.max(axis=1) <= HU[1]) & (equal <= MOST_EQUAL)]
    runs = (runs - HU[0]).astype(np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=RUN, dtype=np.uint64) | np.uint64(1)
    there, back = (_mixed((runs * one).sum(axis=1, dtype=np.uint64)) for one in (factors, factors[::-1]))
    return there ^ back


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Each uint64 as another one, such that the smallest are a fair sample (splitmix64's last step)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


def overlapping(sketches: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of images that have a part in common, by their place in the sequence: by joining pairs all are found."""
    first: dict[int, int] = {}
    shared = Counter((first.setdefault(run, place), place) for place, one in enumerate(sketches) for run in one)
    return [(one, other) for (one, other), count in shared.items() if one != other and count >= SHARED]
