"""CT and nodule mask made together: what a generator learns from that is led by no mask, and how what it makes becomes
a volume with a label map.

The nodule mask is a second channel, -1 outside and 1 inside. Of a made one the voxels above 0 (half of the way) are
nodule. Its connected pieces (26 neighbours) are the nodules, as in a real label of one value: two that touch are one.
Pieces smaller than every nodule of the train cases are dropped. Lungs and body are found in the made CT by the rules by
which they are found in real ones.

A volume in which no nodule was made is a volume all the same: quality control rejects it, so that it is made again.
Arrays are ``[x y z]``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lungsyn.anatomy import lungs
from lungsyn.anatomy.shapes import are_cut_outs
from lungsyn.generators.core.bands import from_bands, to_bands
from lungsyn.seams import Sampled
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.intensity import AIR_HU, to_hu, to_model_range
from lungsyn.volume.labels import LabelMap
from lungsyn.volume.patches import window
from lungsyn.volume.space import Space, Volume

IMAGES = 2  # CT and nodule mask
# Mean, and standard deviation of the Haar bands by the number of axes (0 to 3) along which they take a difference, in
# the model range: of CT and of nodule masks in cut-outs at 1 mm.
MEANS = (-0.35, -0.93)
BANDS_SD = ((1.6, 0.17, 0.07, 0.04), (0.8, 0.15, 0.07, 0.045))
MOST_NODULES = 255  # more numbers an 8-bit mask has not
WHOLE_MM = 1e6  # margin around the lungs that keeps all of a volume


def about_real(folders: Sequence[Path]) -> dict:
    """What of the train cases decides how made volumes are labelled; a fact of the model file: ``cut_out``, and the
    volume of the ``smallest_mm3`` nodule (0 where there is none)."""
    cases = [open_case(folder) for folder in folders]
    volumes = [nodule["volume_mm3"] for case in cases for nodule in case.about["nodules"]]
    return {"cut_out": are_cut_outs(cases), "smallest_mm3": min(volumes, default=0.0)}


def joint_window(case: Case, start, size: int, window_hu: tuple[float, float]) -> np.ndarray:
    """CT in the model range and nodule mask (-1 or 1) of the cube of ``size`` voxels at ``start``: float32
    ``[2 x y z]``, air without a nodule beyond the case."""
    hu = to_model_range(window(case.ct, start, size, AIR_HU), window_hu)
    nodule = window(case.nodules, start, size, 0) > 0
    return np.stack([hu, np.where(nodule, np.float32(1), np.float32(-1))])


def labelled(made: np.ndarray, affine: np.ndarray, window_hu: tuple[float, float], real: Mapping) -> Sampled:
    """The volume of ``made`` (CT and nodule mask in the model range, ``[2 x y z]``) with its own label map. ``real``:
    of `about_real`."""
    space = Space(made.shape[1:], affine)
    nodules = numbered(made[1] > 0, real["smallest_mm3"] / (1000 * space.voxel_ml))
    ct, known = Volume(to_hu(made[0], window_hu), affine), nodules > 0
    if real["cut_out"]:
        lung, body = lungs.part_mask(ct, known), np.ones(space.shape, bool)
    else:
        chest = lungs.find_chest(ct, space, known)
        _, _, body, lung = lungs.chest_masks(chest, space, known, WHOLE_MM)
        body = body | known
        ct.data[~body] = AIR_HU
    return Sampled(ct.data, LabelMap({"nodules": nodules, "lungs": lung, "body": body.astype(np.uint8)}))


def numbered(inside: np.ndarray, least_voxels: float) -> np.ndarray:
    """The connected pieces of a mask (bool), the largest first: uint8. Those of fewer than ``least_voxels`` are left
    out, and so are the smallest of more than ``MOST_NODULES``."""
    pieces, count = ndimage.label(inside, np.ones((3, 3, 3)))
    voxels = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-voxels, kind="stable")
    kept = order[voxels[order] >= max(least_voxels - 0.5, 1)][:MOST_NODULES]  # volumes are rounded
    number = np.zeros(count + 1, np.uint8)
    number[kept + 1] = np.arange(1, len(kept) + 1)
    return number[pieces]


def means() -> Tensor:
    """The mean of either image: ``[1 2 1 1 1]``."""
    return torch.tensor(MEANS).reshape(1, IMAGES, 1, 1, 1)


def bands_sd() -> Tensor:
    """The standard deviation of either image's Haar bands: ``[2 8 1 1 1]``."""
    return torch.tensor([[sd[i.bit_count()] for i in range(8)] for sd in BANDS_SD])[..., None, None, None]


def bands_of(both: Tensor, sd: Tensor) -> Tensor:
    """``[b 2 2x 2y 2z]`` as Haar bands of unit width: ``[b 16 x y z]``. ``sd``: of `bands_sd`."""
    bands = to_bands(both.flatten(0, 1)[:, None]).unflatten(0, (len(both), IMAGES))
    return (bands / sd).flatten(1, 2)


def from_bands_of(bands: Tensor, sd: Tensor) -> Tensor:
    """The inverse of `bands_of`."""
    scaled = bands.unflatten(1, (IMAGES, 8)) * sd
    return from_bands(scaled.flatten(0, 1))[:, 0].unflatten(0, (len(bands), IMAGES))
