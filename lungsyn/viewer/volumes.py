"""A case's volumes as a browser takes them: few voxels, one byte each, and as text.

A page that was opened from the disk may load scripts, and nothing else. So a volume is a NIfTI in gzip in base64, which
a script hands to the page. What is beyond the body is cut off. Where more than ``LARGEST_VOXELS`` remain the grid is
coarser. HU are rounded to ``STEP_HU``, which is less than the noise of any CT. The middle of the grid is at 0 mm, so
that cases can be looked at side by side.
"""

import base64
import gzip

import nibabel as nib
import numpy as np

from lungsyn.evaluation.scores import nodule_mask
from lungsyn.volume.files import Case
from lungsyn.volume.nodules import fullest
from lungsyn.volume.resample import resample
from lungsyn.volume.space import Space, Volume, bounding_box

LARGEST_VOXELS = 3_000_000
STEP_HU, LOWEST_HU = 8, -1024  # one byte reaches up to 1,016 HU


def grid_of(case: Case, largest_voxels: int = LARGEST_VOXELS) -> Space:
    """The grid on which a case is shown: around its body, or all of it where it has none."""
    body = np.asarray(case.body) != 0
    start, stop = bounding_box(body) if body.any() else (np.zeros(3, int), np.array(body.shape))
    cropped = case.space.crop(start, stop)
    too_many = np.prod(cropped.shape) / largest_voxels
    return cropped if too_many <= 1 else cropped.isotropic(float(cropped.spacing_mm.max() * too_many ** (1 / 3)))


def ct_text(case: Case, grid: Space) -> str:
    """The CT on ``grid``: HU are ``STEP_HU`` times the byte, plus ``LOWEST_HU``."""
    hu = resample(Volume(np.asarray(case.ct), case.affine), grid, fill=LOWEST_HU)
    steps = np.clip(np.rint((hu - LOWEST_HU) / STEP_HU), 0, 255).astype(np.uint8)
    return _text(steps, grid, STEP_HU, LOWEST_HU)


def mask_texts(case: Case, grid: Space) -> dict[str, str]:
    """Each of the case's labels that is not empty, by name, as `mask_text`."""
    layers = {name: np.asarray(case.labels[name]) for name in case.labels.names}
    return {name: mask_text(layer != 0, case, grid) for name, layer in layers.items() if layer.any()}


def prediction_text(percent: np.ndarray, case: Case, grid: Space) -> str:
    """Where a prediction (percent ``[x y z]``) says nodule."""
    return mask_text(nodule_mask(percent), case, grid)


def mask_text(mask: np.ndarray, case: Case, grid: Space) -> str:
    """A mask (bool ``[x y z]``, on the case's grid) on ``grid``, where it keeps its volume."""
    shown = np.zeros(grid.shape, bool)
    if mask.any():
        share = resample(Volume(mask, case.affine), grid, fill=0.0)
        shown = fullest(share, mask.sum() * case.space.voxel_ml / grid.voxel_ml)
    return _text(shown.astype(np.uint8), grid, 1, 0)


def nodule_places(case: Case, grid: Space) -> dict[int, list[float]]:
    """The middle of each nodule, by its index: mm from the middle of ``grid``."""
    nodules, found = np.asarray(case.nodules), {}
    for index in map(int, np.unique(nodules[nodules != 0])):
        middle = np.argwhere(nodules == index).mean(axis=0)
        at_mm = case.affine[:3, :3] @ middle + case.affine[:3, 3] - middle_mm(grid)
        found[index] = [round(float(mm), 1) for mm in at_mm]
    return found


def middle_mm(grid: Space) -> np.ndarray:
    """The middle of the grid: ``[3]`` mm."""
    return np.mean(grid.bounds_mm(), axis=0)


def _text(data: np.ndarray, grid: Space, slope: float, first: float) -> str:
    affine = grid.affine.copy()
    affine[:3, 3] -= middle_mm(grid)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, first)
    return base64.b64encode(gzip.compress(image.to_bytes(), 9, mtime=0)).decode("ascii")
