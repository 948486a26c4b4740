"""Resampling between spaces: linear, antialiased when the new grid is coarser.

A plain linear interpolation onto a coarser grid skips voxels: it aliases, and a small nodule's mask gains or loses
volume by luck. So each axis is first smoothed with the box-equivalent Gaussian of the target voxel (scikit-image's
rule for ``anti_aliasing``), and a mask is resampled as an occupancy in [0, 1] and cut at one half.

Where the grids' axes are parallel, as they nearly always are, the whole is one small sparse matrix per axis, applied to
one slice after the other: several times faster than ``scipy.ndimage.affine_transform``, which does not separate linear
interpolation, and without a copy of the source in float. Oblique grids take scipy's way.
"""

from collections.abc import Iterator

import nibabel as nib
import numpy as np
from scipy import ndimage, sparse

from lungsyn.volume.space import Space, Volume

SLAB = 16  # slices at a time


def resample(volume: Volume, space: Space, fill: float) -> np.ndarray:
    """Values of ``volume`` at the voxel centres of ``space``: float32, ``fill`` outside."""
    result = empty(space, np.float32)
    for part, values in slabs(volume, space, fill):
        result[:, :, part] = values
    return result


def resample_mask(mask: Volume, space: Space) -> np.ndarray:
    """A binary mask on ``space``: the voxels whose occupancy is at least one half (bool)."""
    result = empty(space, bool)
    for part, values in slabs(mask, space, fill=0.0):
        result[:, :, part] = values >= 0.5
    return result


def empty(space: Space, dtype: np.typing.DTypeLike) -> np.ndarray:
    """An array ``[x y z]`` for ``space``, nothing in it yet, z slowest in memory, as in a file."""
    return np.empty(space.shape[::-1], dtype).T


def slabs(volume: Volume, space: Space, fill: float) -> Iterator[tuple[slice, np.ndarray]]:
    """``resample`` a few slices at a time, for what does not keep float: slices along z, their values (float32).

    Memory that a program has not touched before is slow to get, so that whole volumes of float cost more than the sums.
    """
    to_source = np.linalg.inv(volume.affine) @ space.affine  # target index -> source index
    step = np.abs(to_source[:3, :3]).max(axis=1)  # source voxels per target voxel, per source axis
    sigma = np.maximum(0.0, (step - 1.0) / 2.0)
    axes = _parallel_axes(to_source[:3, :3])
    if axes is None:
        yield slice(0, space.shape[2]), _resample_oblique(volume, space, to_source, sigma, fill)
        return
    centres = [to_source[a, k] * np.arange(space.shape[k]) + to_source[a, 3] for k, a in enumerate(axes)]
    lengths = [volume.data.shape[a] for a in axes]
    along_x, along_y, along_z = (
        _line_weights(n, at, sigma[a]) for n, at, a in zip(lengths, centres, axes, strict=True)
    )
    beyond_x, beyond_y, beyond_z = (
        (at < -0.5 - 1e-6) | (at > n - 0.5 + 1e-6) for n, at in zip(lengths, centres, strict=True)
    )
    data = volume.data.transpose(axes)
    for first in range(0, space.shape[2], SLAB):
        part = slice(first, min(first + SLAB, space.shape[2]))
        values = _apply(along_x, along_y, along_z[part], data)
        values[beyond_x] = values[:, beyond_y] = values[:, :, beyond_z[part]] = fill
        yield part, values


def _parallel_axes(matrix: np.ndarray) -> list[int] | None:
    """The source axis that runs along each target axis, or None if the grids are oblique to each other."""
    large = np.abs(matrix) > 1e-5 * np.abs(matrix).max()
    return list(large.argmax(axis=0)) if (large.sum(axis=0) == 1).all() and (large.sum(axis=1) == 1).all() else None


def _line_weights(length: int, at: np.ndarray, sigma: float) -> sparse.csr_array:
    """Smoothing and linear interpolation along one axis as a matrix, float32 ``[target source]``.

    ``at``: where the targets lie, source voxels. Beyond the first and last centre values are constant.
    """
    at = np.clip(at, 0, length - 1)
    low = np.minimum(at.astype(int), max(length - 2, 0))
    high = np.minimum(low + 1, length - 1)
    rows = np.arange(len(at))
    weights = sparse.csr_array(
        (np.concatenate([1 - (at - low), at - low]), (np.tile(rows, 2), np.concatenate([low, high]))),
        shape=(len(at), length),
    )
    if sigma > 0:
        weights = weights @ ndimage.gaussian_filter1d(np.eye(length), sigma, axis=0, mode="nearest", truncate=3.0)
    weights = sparse.csr_array(weights, dtype=np.float32)
    weights.eliminate_zeros()
    return weights


def _apply(along_x, along_y, along_z, data: np.ndarray) -> np.ndarray:
    """The three axes' matrices applied to ``data`` ``[x y z]``: float32, z slowest in memory."""
    first, stop = along_z.indices.min(), along_z.indices.max() + 1  # slices that are needed
    planes = np.empty((stop - first, along_y.shape[0], along_x.shape[0]), dtype=np.float32)  # [z y x]
    for plane, k in zip(planes, range(first, stop), strict=True):
        plane[...] = (along_x @ (along_y @ data[:, :, k].T.astype(np.float32, order="C")).T).T
    result = along_z[:, first:stop] @ planes.reshape(len(planes), -1)
    return result.reshape(-1, *planes.shape[1:]).T


def _resample_oblique(volume: Volume, space: Space, to_source: np.ndarray, sigma, fill: float) -> np.ndarray:
    data = np.asarray(volume.data, dtype=np.float32)
    if sigma.any():
        data = ndimage.gaussian_filter(data, sigma, mode="nearest", truncate=3.0)
    inside = ndimage.affine_transform(
        data, to_source[:3, :3], to_source[:3, 3], output_shape=space.shape, order=1, mode="nearest", prefilter=False
    )
    inside[outside_of(volume.space, space)] = fill
    return inside


def outside_of(source: Space, target: Space) -> np.ndarray:
    """The voxels of ``target`` whose centre lies outside the box of voxels of ``source`` (bool)."""
    to_source = np.linalg.inv(source.affine) @ target.affine
    index = np.meshgrid(*[np.arange(n) for n in target.shape], indexing="ij", sparse=True)
    outside = np.zeros(target.shape, dtype=bool)
    for axis, length in enumerate(source.shape):
        row = to_source[axis]
        position = sum(row[k] * index[k] for k in range(3) if row[k]) + row[3]  # a line, where axes are parallel
        outside |= (position < -0.5 - 1e-6) | (position > length - 0.5 + 1e-6)
    return outside


def reoriented(volume: Volume, axes: str) -> Volume:
    """The same voxels with axes reordered and flipped to run as nearly as they can as ``axes`` says: ``RAS`` is to the
    patient's right, front and top, ``LPS`` (DICOM's) to the left, back and top."""
    turn = nib.orientations.ornt_transform(nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(axes))
    data = nib.apply_orientation(volume.data, turn)
    return Volume(data, volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.data.shape))
