"""Resampling between spaces: linear, antialiased when the new grid is coarser.

A plain linear interpolation onto a coarser grid skips voxels: it aliases, and a small nodule's mask gains or loses
volume by luck. So each axis is first smoothed with the box-equivalent Gaussian of the target voxel (scikit-image's
rule for ``anti_aliasing``), and a mask is resampled as an occupancy in [0, 1] and cut at one half.
"""

import numpy as np
from scipy import ndimage

from lungsyn.volume.space import Space, Volume


def resample(volume: Volume, space: Space, fill: float) -> np.ndarray:
    """Values of ``volume`` at the voxel centres of ``space``: float32, ``fill`` outside."""
    to_source = np.linalg.inv(volume.affine) @ space.affine  # target index -> source index
    step = np.abs(to_source[:3, :3]).max(axis=1)  # source voxels per target voxel, per source axis
    data = np.asarray(volume.data, dtype=np.float32)
    sigma = np.maximum(0.0, (step - 1.0) / 2.0)
    if sigma.any():
        data = ndimage.gaussian_filter(data, sigma, mode="nearest", truncate=3.0)
    matrix = to_source[:3, :3]
    if np.allclose(matrix, np.diag(np.diag(matrix))):
        matrix = np.diag(matrix)  # scipy's fast, separable path
    inside = ndimage.affine_transform(
        data, matrix, to_source[:3, 3], output_shape=space.shape, order=1, mode="nearest", prefilter=False
    )
    outside = outside_of(volume.space, space)
    if outside.any():
        inside[outside] = fill
    return inside


def resample_mask(mask: Volume, space: Space) -> np.ndarray:
    """A binary mask on ``space``: the voxels whose occupancy is at least one half (bool)."""
    return resample(Volume(mask.data.astype(np.float32), mask.affine), space, fill=0.0) >= 0.5


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
