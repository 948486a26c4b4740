"""From a scan as it was taken to a prepared case: one isotropic RAS+ grid, HU, nodule indices, lungs and body.

A scan whose axes are the patient's and whose spacing is already the wanted one (1 %) is only reordered and flipped: its
values stay what they were. In a ``chest`` field of view everything outside the skin becomes air, which removes the
table and clothes that a generator would otherwise have to learn, and the volume is cut around the lungs and nodules.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from lungsyn.anatomy import lungs
from lungsyn.cohort import recognised
from lungsyn.errors import InputError
from lungsyn.settings.cohort import Preprocess
from lungsyn.volume.files import Case
from lungsyn.volume.intensity import AIR_HU
from lungsyn.volume.labels import LabelMap
from lungsyn.volume.near import told_of_predictions
from lungsyn.volume.nodules import fullest
from lungsyn.volume.resample import empty, reoriented, resample, resample_mask, slabs
from lungsyn.volume.space import Space, Volume

HU_RANGE = (-1024, 3071)  # 12 bits, what scanners store; metal beyond it is clipped
SAME_SPACING = 0.01  # relative
LENGTHS_MM = (5, 3000)  # no image of a patient is shorter or longer


def prepare(
    ct: Volume, nodules: list[Volume], settings: Preprocess, further: Mapping[str, Volume] = MappingProxyType({})
) -> Case:
    """The case on its final grid; ``about`` holds ``warnings``, sentences on what is odd, for the caller to fill.

    ``ct`` is HU ``[x y z]`` in any orientation; ``nodules`` are binary masks in the order of their index, ``further``
    those of other labels by name, each on a grid of its own (a local box is enough). Raises InputError if a nodule lies
    outside the image or the body, the case has more than 255 nodules, or a chest cannot be one: see ``recognised``.
    """
    space = target_space(ct, settings.spacing_mm)
    index = nodule_index(nodules, space)
    case = _part(ct, space, index) if settings.field_of_view == "part" else _chest(ct, space, index, settings.margin_mm)
    case.about["warnings"] += told_of_predictions(case)
    return case.with_labels(**{name: resample_mask(mask, case.space).view(np.uint8) for name, mask in further.items()})


def _part(ct: Volume, space: Space, index: np.ndarray) -> Case:
    hu = on_grid(ct, space)
    body = np.ones(space.shape, dtype=np.uint8)
    labels = LabelMap({"nodules": index, "lungs": lungs.part_mask(hu, index > 0), "body": body})
    return Case(hu.data, labels, hu.affine, {"warnings": []})


def _chest(ct: Volume, space: Space, index: np.ndarray, margin_mm: float) -> Case:
    chest = lungs.find_chest(ct, space, index > 0)
    told = recognised.doubts(chest)
    start, stop, body, lung = lungs.chest_masks(chest, space, index > 0, margin_mm)
    hu = on_grid(ct, space.crop(start, stop))
    index = Volume(index, space.affine).crop(start, stop).data
    told += recognised.nodules_in_body(index, body, hu.data)
    body |= index > 0
    hu.data[~body] = AIR_HU
    labels = LabelMap({"nodules": index, "lungs": lung, "body": body.astype(np.uint8)})
    return Case(hu.data, labels, hu.affine, {"warnings": told})


def target_space(ct: Volume, spacing_mm: float) -> Space:
    """The isotropic RAS+ grid of a case: the scan's own where that is one (within ``SAME_SPACING``).

    Raises InputError for an image whose length is not within ``LENGTHS_MM``."""
    low, high = ct.space.bounds_mm()
    longest = float((high - low).max())
    if not LENGTHS_MM[0] <= longest <= LENGTHS_MM[1]:
        raise InputError(
            f"an image of a length that none has: {longest:.3g} mm, its spacing or the unit in its header is wrong"
        )
    if _is_aligned(ct.affine) and np.allclose(ct.space.spacing_mm, spacing_mm, rtol=SAME_SPACING):
        return reoriented(ct, "RAS").space
    return ct.space.isotropic(spacing_mm)


def on_grid(ct: Volume, space: Space) -> Volume:
    """``ct`` on the grid ``space``: int16 HU in ``HU_RANGE``, air outside the image; a new array.

    Where the grid is the scan's own no value changes, since interpolation at a voxel's centre is that voxel.
    """
    result = empty(space, np.int16)
    for part, hu in slabs(ct, space, fill=AIR_HU):
        np.rint(hu, out=hu)
        result[:, :, part] = np.clip(hu, *HU_RANGE, out=hu)
    return Volume(result, space.affine)


def _is_aligned(affine: np.ndarray) -> bool:
    """Whether every voxel axis runs along one of the patient's."""
    directions = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return bool(np.allclose(directions, directions.round(), atol=1e-4))


def nodule_index(masks: list[Volume], space: Space) -> np.ndarray:
    """Which nodule each voxel of ``space`` belongs to: uint8 ``[x y z]``, 0 none, ``i`` for the i-th mask.

    A nodule gets its ``fullest`` voxels. Where two nodules overlap the earlier one stays.
    Raises InputError for one that lies outside the image, or whose voxels are all another one's.
    """
    if len(masks) > 255:
        raise InputError(f"{len(masks)} nodules, more than uint8 can number: raise cohort.nodules.min_diameter_mm")
    index = np.zeros(space.shape, dtype=np.uint8)
    for i, mask in enumerate(masks, start=1):
        start, stop = _box_of(mask.space, space)
        if (start >= stop).any():
            raise InputError(f"nodule {i} lies outside the image: image and annotation do not belong together")
        padded, affine = _padded(mask, space)
        occupancy = resample(Volume(padded, affine), space.crop(start, stop), fill=0.0)
        part = index[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        free = part == 0
        if not free.any():
            raise InputError(
                f"nodule {i} has no voxel of its own at {space.spacing_mm[0]:g} mm: raise "
                "cohort.nodules.min_diameter_mm or lower cohort.preprocess.spacing_mm"
            )
        worth = mask.data.sum() * mask.space.voxel_ml / space.voxel_ml - occupancy[~free].clip(min=0).sum()
        part[fullest(np.where(free, occupancy, -1), worth) & free] = i
    return index


def _padded(mask: Volume, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """``mask`` with room around it, since what lies beyond an array's edge is taken to be like its edge."""
    width = int(np.ceil(2 * space.spacing_mm.max() / mask.space.spacing_mm.min())) + 1
    grid = mask.space.crop([-width] * 3, [n + width for n in mask.data.shape])
    return np.pad(mask.data.astype(np.float32), width), grid.affine


def _box_of(inner: Space, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last index in ``space`` (axis-aligned) of the voxels that ``inner`` reaches."""
    low, high = inner.bounds_mm()
    origin = space.bounds_mm()[0]
    start = np.floor((low - origin) / space.spacing_mm).astype(int)
    stop = np.ceil((high - origin) / space.spacing_mm).astype(int)
    return np.maximum(start, 0), np.minimum(stop, space.shape)
