"""Label maps of other programs: one NIfTI in which each voxel has a value, as TotalSegmentator writes it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from lungsyn.errors import InputError
from lungsyn.volume.files import read_volume
from lungsyn.volume.labels import LabelMap
from lungsyn.volume.nodules import fullest
from lungsyn.volume.resample import reoriented, resample, resample_mask
from lungsyn.volume.space import Space, Volume

Values = int | Iterable[int] | Mapping[int, int]


def read_labels(
    path: str | Path, names: Mapping[str, Values], spacing_mm: float | None = None
) -> tuple[LabelMap, np.ndarray]:
    """The label map of one NIfTI, and its affine: RAS+, whatever the file's orientation. Both make a `Scene`.

    ``names``: for each label the value, or the values, of its voxels in the file. There the label is 1. A mapping says
    what each value becomes: lungs are 1 (right) and 2 (left), nodules have a number each. ``spacing_mm``: of an
    isotropic grid, such as that of a generator's cases. None keeps the file's voxels.
    Raises InputError that names the file.

    >>> names = {"lungs": {11: 1, 10: 2}, "nodules": {200: 1, 201: 2}, "body": [1, 10, 11, 200, 201]}
    >>> labels, affine = lungsyn.read_labels("labels.nii.gz", names, spacing_mm=4.0)
    >>> labels.names, labels.shape
    (('lungs', 'nodules', 'body'), (8, 8, 8))
    >>> scene = lungsyn.Scene(labels, affine)
    """
    values = reoriented(_whole_numbers(Path(path)), "RAS")
    space = values.space if spacing_mm is None else values.space.isotropic(spacing_mm)
    return LabelMap({name: _layer(values, _numbers(of), space, name) for name, of in names.items()}), space.affine


def _whole_numbers(path: Path) -> Volume:
    volume = read_volume(path)
    whole = np.rint(volume.data).astype(np.int32)
    if volume.data.ndim != 3 or not np.array_equal(whole, volume.data):
        raise InputError(f"{path}: not a label map: give one with three axes, and a whole number in each voxel")
    return Volume(whole, volume.affine)


def _numbers(values: Values) -> Mapping[int, int]:
    """What each of the file's values becomes."""
    if isinstance(values, Mapping):
        return values
    return dict.fromkeys([values] if isinstance(values, int) else values, 1)


def _layer(values: Volume, numbers: Mapping[int, int], space: Space, name: str) -> np.ndarray:
    """One label on ``space``: uint8 ``[x y z]``."""
    layer = np.zeros(space.shape, np.uint8)
    for number in sorted(set(numbers.values())):
        mask = np.isin(values.data, [value for value, becomes in numbers.items() if becomes == number])
        layer[_on(space, Volume(mask, values.affine), name)] = number
    return layer


def _on(space: Space, mask: Volume, name: str) -> np.ndarray:
    """A mask on another grid (bool). A nodule keeps its volume, however small it is."""
    if space.same_as(mask.space):
        return mask.data
    if not mask.data.any():
        return np.zeros(space.shape, bool)
    if name != "nodules":
        return resample_mask(mask, space)
    voxels = mask.data.sum() * mask.space.voxel_ml / space.voxel_ml
    return fullest(resample(mask, space, fill=0.0), voxels)
