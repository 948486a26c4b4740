"""What kind of scan a case comes from: how far apart its slices were, and how noisy it is. Read off the scan itself.

``noise_hu`` is the standard deviation of white noise that would leave as much in a high-pass of soft tissue (Immerkaer
1996, Computer Vision and Image Understanding 64:300, with the median in place of the mean, so that edges do not count).
Neighbouring pixels of a soft kernel are alike, so it has less than its standard deviation: sharp and soft kernels
differ. It is measured in the slices, since along the patient their distance differs from scan to scan.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lungsyn.volume.files import Case
from lungsyn.volume.space import Volume

TISSUE_HU = (-200, 200)  # mean of a pixel's surroundings: fat, muscle, blood
SURROUNDINGS = 5  # pixels along an edge
SLICES = 24  # that are looked at, spread evenly
FEWEST_PIXELS = 500
LAPLACIANS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)  # blind for planes and straight edges
OF_NORMAL = 0.6745  # median of the absolute value of a standard normal variable


class Source(NamedTuple):
    """A kind of scan; None: not known."""

    slice_mm: float | None = None
    noise_hu: float | None = None


def measured(ct: Volume) -> Source:
    """What kind of scan ``ct`` is, as it was taken: HU in any orientation and spacing."""
    along = int(np.argmax(np.abs(ct.affine[2, :3]) / ct.space.spacing_mm))
    return Source(round(float(ct.space.spacing_mm[along]), 3), noise_hu(np.moveaxis(ct.data, along, 2)))


def noise_hu(hu: np.ndarray) -> float | None:
    """Noise of soft tissue in the slices of ``hu`` ``[x y z]``; None where there is hardly any tissue."""
    found = []
    for z in np.unique(np.linspace(0, hu.shape[2] - 1, SLICES).round().astype(int)):
        image = np.asarray(hu[:, :, z], dtype=np.float32)
        mean = ndimage.uniform_filter(image, SURROUNDINGS)
        tissue = (mean > TISSUE_HU[0]) & (mean < TISSUE_HU[1])
        found.append(np.abs(ndimage.convolve(image, LAPLACIANS)[tissue]))
    rest = np.concatenate(found)
    if rest.size < FEWEST_PIXELS:
        return None
    return round(float(np.median(rest) / OF_NORMAL / np.linalg.norm(LAPLACIANS)), 2)


def source_of(case: Case) -> Source | None:
    """What kind of scan a prepared case comes from; None for one of before November 2026."""
    known = case.about.get("source")
    return None if known is None else Source(**known)
