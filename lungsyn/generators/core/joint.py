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
from scipy import ndimage

from lungsyn.anatomy import lungs
from lungsyn.anatomy.shapes import are_cut_outs
from lungsyn.seams import Sampled
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.intensity import AIR_HU, to_hu, to_model_range
from lungsyn.volume.labels import LabelMap
from lungsyn.volume.patches import window
from lungsyn.volume.space import Space, Volume

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
