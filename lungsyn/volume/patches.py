"""Patches of a volume: where they lie, how they are weighted, how they are blended back.

With patch 4 and overlap 1/2 (stride 2) along an axis of 7 voxels::

    voxel    0 1 2 3 4 5 6
    patch 0  # # # #
    patch 1      # # # #
    patch 2        # # # #      the last one is moved back to end at the border: no padding, more overlap

Every voxel is covered, every patch is whole. The blend divides the weighted sum by the sum of the weights. Importance
map and grid are both products over the axes, hence so is that sum: three vectors stand for a whole volume of weights.
"""

import itertools
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

Span = tuple[int, int]  # start and size along one axis


class Patch(NamedTuple):
    """Where a patch begins, and its size, along each axis."""

    start: tuple[int, int, int]
    size: tuple[int, int, int]


MIRRORS = tuple(axes for n in range(4) for axes in combinations(range(3), n))  # which axes are turned round


def spans_of(starts: list[int], size: int) -> list[Span]:
    """Patches of one size that begin at ``starts``."""
    return [(start, size) for start in starts]


def axis_starts(length: int, patch: int, stride: int) -> list[int]:
    """Starts along one axis: 0, stride, ... and a last one at ``length - patch``. All cover ``[0, length)``."""
    if length < patch:
        raise ValueError(f"the volume has {length} voxels along an axis, fewer than the patch ({patch}): pad it")
    if not 1 <= stride <= patch:
        raise ValueError(f"stride {stride} must be between 1 and the patch ({patch}), or voxels are left out")
    starts = list(range(0, length - patch, stride))
    return [*starts, length - patch]


def shifted_spans(length: int, patch: int, offset: int, unit: int) -> list[Span]:
    """A partition displaced by ``offset`` (0 <= offset < patch), so that each voxel is evaluated once.

    What is left at a border, if it is less than half a patch, is divided evenly with its neighbour: all spans are
    between half a patch and a patch long. Sizes are multiples of ``unit``; where the length is not, the last span
    begins up to a unit earlier.
    """
    if length < patch:
        raise ValueError(f"the volume has {length} voxels along an axis, fewer than the patch ({patch}): pad it")
    cuts = [0, *range(offset or patch, length, patch), length]
    if len(cuts) > 2 and cuts[1] - cuts[0] < patch / 2:
        cuts[1] = _half(cuts[2], unit)
    if len(cuts) > 2 and cuts[-1] - cuts[-2] < patch / 2:
        cuts[-2] = cuts[-3] + _half(cuts[-1] - cuts[-3], unit)
        if _up(cuts[-1] - cuts[-2], unit) < patch / 2:  # the neighbour had been made shorter: both are one
            del cuts[-2]
    spans = list(itertools.pairwise(cuts))
    return [(end - _up(end - start, unit), _up(end - start, unit)) for start, end in spans]


def _half(length: int, unit: int) -> int:
    return _up(-(-length // 2), unit)


def _up(length: int, unit: int) -> int:
    return -(-length // unit) * unit


def importance_vector(patch: int) -> np.ndarray:
    """A triangle along one axis of a patch, largest in the middle, nearly nothing at its ends (float32 ``[patch]``).

    The importance map is the product of three. Where two patches overlap, one fades into the other linearly, however
    much they overlap (up to one half): no blend has a smaller largest step, and what the patches disagree on is nowhere
    a seam. A Gaussian is either wide, and a patch begins with a jump (sigma 1/4, overlap 1/4: with a fifth of the
    weight), or narrow (nnU-Net's 1/8), and jumps in the middle.
    """
    position = np.abs(np.arange(patch) - (patch - 1) / 2)
    return (1 - position / (patch / 2)).astype(np.float32)


def total_weight(length: int, spans: list[Span]) -> np.ndarray:
    """Sum of the patches' weights along one axis: float64 ``[length]``, all positive when the spans cover it."""
    total = np.zeros(length)
    for start, size in spans:
        total[start : start + size] += importance_vector(size)
    return total


def all_patches(per_axis: list[list[Span]]) -> list[Patch]:
    """The product of three lists of spans, in C order: (starts, sizes) of each patch."""
    return [Patch(*map(tuple, zip(*spans, strict=True))) for spans in itertools.product(*per_axis)]


def box(start, size) -> tuple[slice, ...]:
    """The slices of the patch of ``size`` voxels (one int, or three) at ``start``."""
    sizes = (size,) * 3 if isinstance(size, int) else size
    return tuple(slice(a, a + n) for a, n in zip(start, sizes, strict=True))


def patch_stride(patch: int, overlap: float, multiple: int) -> int:
    """Distance of neighbouring patches: ``overlap`` (fraction of the patch) rounded up so that it is a multiple; at
    least one."""
    return max(int(patch * (1 - overlap)) // multiple, 1) * multiple


def padded_shape(shape, patch: int, multiple: int) -> tuple[int, int, int]:
    """The smallest shape that holds ``shape`` and a patch, each axis a multiple of ``multiple``."""
    return tuple(-(-max(n, patch) // multiple) * multiple for n in shape)


def coordinates(starts, size: int, axis: int, shape) -> np.ndarray:
    """Along an axis, each voxel's place in the volume, -1 at its first and 1 at its last voxel: float32 ``[b size]`` of
    the patches that begin at ``starts``."""
    index = np.asarray(starts, dtype=np.float32)[:, axis, None] + np.arange(size, dtype=np.float32)
    return 2 * index / max(shape[axis] - 1, 1) - 1


def batches(items: list, size: int) -> Iterator[list]:
    """Consecutive runs of ``size`` items; the last may be shorter."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def window(array: np.ndarray, start, size: int, fill) -> np.ndarray:
    """The cube of ``size`` voxels at ``start``, a copy; ``fill`` where it reaches outside."""
    low = [max(0, -a) for a in start]
    high = [min(size, n - a) for a, n in zip(start, array.shape, strict=True)]
    result = np.full((size,) * 3, fill, dtype=array.dtype)
    if all(a < b for a, b in zip(low, high, strict=True)):
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        source = tuple(slice(s + a, s + b) for s, a, b in zip(start, low, high, strict=True))
        result[inside] = array[source]
    return result


def random_start(rng: np.random.Generator, shape, patch: int, near=None) -> tuple[int, ...]:
    """A random start of a patch inside ``shape``: uniform, or so that the voxel ``near`` falls into its middle half.

    Along an axis shorter than the patch, ``shape`` lies anywhere in the patch: starts are negative."""
    room = np.asarray(shape) - patch
    lowest, highest = np.minimum(room, 0), np.maximum(room, 0)
    if near is None:
        return tuple(int(n) for n in rng.integers(lowest, highest + 1))
    start = np.asarray(near) - rng.integers(patch // 4, patch - patch // 4, size=3)
    return tuple(int(n) for n in np.clip(start, lowest, highest))
