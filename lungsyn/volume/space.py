"""Space: a voxel grid in the patient, shape plus affine. A volume never travels without it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # of the patient: the axis across


@dataclass(frozen=True, eq=False)
class Space:
    """A voxel grid: ``shape`` (three ints) and ``affine`` (4x4, voxel index to mm, RAS+)."""

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        """Distance of neighbouring voxels along each axis: ``[3]``, mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def isotropic(self, spacing_mm: float) -> "Space":
        """The axis-aligned RAS+ grid of ``spacing_mm`` that covers this one, first corner on first corner."""
        low, high = self.bounds_mm()
        shape = np.maximum(np.round((high - low) / spacing_mm).astype(int), 1)
        affine = np.diag([spacing_mm] * 3 + [1.0])
        affine[:3, 3] = low + spacing_mm / 2
        return Space(tuple(int(n) for n in shape), affine)

    def bounds_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner of the box that holds all voxels, their half-widths included: ``[3]`` mm each."""
        corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in self.shape], indexing="ij")).reshape(3, -1)
        points = self.affine[:3, :3] @ corners + self.affine[:3, 3:]
        return points.min(axis=1), points.max(axis=1)

    def crop(self, start, stop) -> "Space":
        """The sub-grid of voxels ``start <= index < stop`` (it may reach outside: that is a padding)."""
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ np.asarray(start) + self.affine[:3, 3]
        return Space(tuple(int(b - a) for a, b in zip(start, stop, strict=True)), affine)

    def same_as(self, other: "Space", tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and their corners agree within ``tolerance_mm``."""
        return self.shape == other.shape and bool(
            np.allclose(np.concatenate(self.bounds_mm()), np.concatenate(other.bounds_mm()), atol=tolerance_mm)
            and np.allclose(self.affine, other.affine, atol=tolerance_mm)
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """Values on a grid: ``data`` ``[x y z]`` (or ``[c x y z]``) and the ``affine`` of its last three axes."""

    data: np.ndarray
    affine: np.ndarray

    @property
    def space(self) -> Space:
        return Space(tuple(self.data.shape[-3:]), self.affine)

    def crop(self, start, stop) -> "Volume":
        """The voxels ``start <= index < stop``, inside the volume."""
        box: tuple[Any, ...] = (..., *(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)))
        return Volume(self.data[box], self.space.crop(start, stop).affine)


def bounding_box(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last index of the true voxels along each axis. Raises ValueError on an empty mask."""
    if not mask.any():
        raise ValueError("the mask is empty: it has no bounding box")
    start, stop = [], []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
        start.append(hit[0])
        stop.append(hit[-1] + 1)
    return np.array(start), np.array(stop)
