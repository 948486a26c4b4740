"""The noise of synthetic patches, made that of real ones: else a segmenter may tell the two by it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lungsyn.volume.files import Case
from lungsyn.volume.source import noise_hu

CASES = 20  # of either kind that are measured, at most
SLAB = 24  # slices in the middle of a case
MOST_BLUR_VOXELS = 1.5
HALVINGS = 10


class Texture(NamedTuple):
    """What synthetic patches get: white noise of so many HU, or a Gaussian blur. One of the two is 0."""

    noise_hu: float
    blur_voxels: float

    def given(self, hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A patch ``[P P P]`` (HU) with it: float32."""
        if self.blur_voxels:
            return blurred(hu, self.blur_voxels)
        return (hu + self.noise_hu * rng.standard_normal(hu.shape)).astype(np.float32)


def matching(real: Sequence[Case], synthetic: Sequence[Case]) -> Texture:
    """What gives synthetic cases the median noise of the real ones, as `noise_hu` measures it in soft tissue. Nothing
    where either have too little of it."""
    slabs = [slab(case) for case in spread(synthetic)]
    wanted, there = typical([slab(case) for case in spread(real)]), typical(slabs)
    if wanted is None or there is None:
        return Texture(0.0, 0.0)
    if there <= wanted:  # variances of independent noise add up
        return Texture(float(np.sqrt(wanted**2 - there**2)), 0.0)
    low, high = 0.0, MOST_BLUR_VOXELS
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        left = typical([blurred(hu, middle) for hu in slabs])
        low, high = (middle, high) if left is not None and left > wanted else (low, middle)
    return Texture(0.0, high)


def spread(cases: Sequence[Case]) -> Sequence[Case]:
    """``CASES`` of them at most, evenly."""
    return cases[:: -(-len(cases) // CASES)] if cases else cases


def slab(case: Case) -> np.ndarray:
    """The slices in a case's middle."""
    first = max((case.ct.shape[2] - SLAB) // 2, 0)
    return np.asarray(case.ct[:, :, first : first + SLAB])


def typical(slabs: Sequence[np.ndarray]) -> float | None:
    """Median noise, HU; None where none of them can be measured."""
    found = [noise for hu in slabs if (noise := noise_hu(hu)) is not None]
    return float(np.median(found)) if found else None


def blurred(hu: np.ndarray, sigma_voxels: float) -> np.ndarray:
    return ndimage.gaussian_filter(np.asarray(hu, dtype=np.float32), sigma_voxels, mode="nearest")
