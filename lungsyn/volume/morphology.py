"""Shapes of masks, by balls, and who is whose neighbour."""

import numpy as np
from scipy import ndimage

# Neighbours in an axial slice, for ndimage: [x y z].
IN_PLANE = ndimage.generate_binary_structure(2, 1)[:, :, None] & np.array([False, True, False])


def within(mask: np.ndarray, radius: float, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """The voxels at most ``radius`` (voxels) from one of ``mask``, all of them inside the array: bool. ``axes``: those
    along which one may go (``(0, 1)``: in each axial plane); without it all.

    Exact: squares of distances are a sum over axes, so that one windowed minimum per axis finds the smallest. With
    ``distance_transform_edt``, which finds all distances, preparing a case takes twice as long.
    """
    beyond = int(radius**2) + 1
    square = np.where(mask, 0, beyond).astype(np.min_scalar_type(2 * beyond))
    for axis in range(mask.ndim) if axes is None else axes:
        line = np.moveaxis(square, axis, 0)
        nearest = line.copy()
        for k in range(1, int(radius) + 1):
            step = line + line.dtype.type(k * k)
            np.minimum(nearest[k:], step[:-k], out=nearest[k:])
            np.minimum(nearest[:-k], step[k:], out=nearest[:-k])
        square = np.moveaxis(nearest, 0, axis)
    return square < beyond
