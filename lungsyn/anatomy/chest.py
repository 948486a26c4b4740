"""A chest without disease: its anatomy as signed distances, which ``cohort.chest_painting`` paints into HU.

Distances are mm, negative inside, so that edges have partial volume. Coordinates are LPS mm: x to the patient's left,
y to the back, z to the head. The *level* t is the height in the lungs: 0 at the deepest recess behind the diaphragm,
1 at the apex.

Nothing here is fitted to images. Sizes are textbook values for adults.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel centres along each axis, LPS mm; x and y ascend to the left and to the back, z to the head."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        return np.array([axis[1] - axis[0] for axis in (self.x, self.y, self.z)])

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.x), len(self.y), len(self.z)

    @property
    def affine(self) -> np.ndarray:
        """Voxel index to RAS+ mm."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = self.x[0], self.y[0], self.z[0]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    @property
    def fov_corner_mm(self) -> tuple[float, float]:
        """Outer corner of the first pixel: x, y, LPS mm."""
        dx, dy, _ = self.spacing_mm
        return float(self.x[0] - dx / 2), float(self.y[0] - dy / 2)

    def box(self, low_mm, high_mm) -> tuple[slice, slice, slice]:
        """The voxels whose centres lie between two corners (LPS mm)."""
        axes = zip((self.x, self.y, self.z), low_mm, high_mm, strict=True)
        return tuple(slice(*np.searchsorted(axis, (low, high))) for axis, low, high in axes)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One patient's chest. Lengths in mm; ``x``, ``y`` of the parts count from ``centre``."""

    centre: tuple[float, float]  # middle of the rib cage at its widest, LPS
    width: float  # half the inner width of the rib cage
    depth: float  # half its inner depth
    base_z: float  # deepest recess of the lungs
    top_z: float  # apex
    dome: tuple[float, float]  # height of the right and left diaphragm over base_z
    wall: float  # fat and muscle between ribs and skin, at the side
    skew: tuple[float, float]  # how far the body is from mirror symmetry, fraction
    heart: float  # its size relative to an average one
    contrast: bool
    phase: np.ndarray  # [3 3] of the mottle
    pockets: tuple = ()  # capsules (point, radius, point) by which the lungs reach to nodules outside them

    def level(self, z):
        return (z - self.base_z) / (self.top_z - self.base_z)

    def taper(self, z):
        """0 below mid-chest, 1 at the apex: how far the cage has narrowed."""
        return np.clip((self.level(z) - 0.4) / 0.6, 0.0, 1.15) ** 2.2

    def cage(self, z):
        """Half-width, half-depth and the middle's y of the rib cage's inner surface."""
        s = self.taper(z)
        front, back = -self.depth * (1 - 1.05 * s), self.depth * (1 - 0.22 * s)
        return self.width * (1 - 0.70 * s), np.maximum((back - front) / 2, 8.0), (front + back) / 2

    def spine_y(self, z):
        """The middle of the vertebral bodies."""
        return self.depth * (1 - 0.22 * np.minimum(self.taper(z), 1.0)) - 21.0

    def body_box(self) -> tuple[np.ndarray, np.ndarray]:
        """Two corners, LPS mm, between which the body lies."""
        reach = np.array([1.03 * (self.width + self.wall), self.depth + 0.75 * self.wall + 14.0, np.inf])
        return np.array([*self.centre, 0.0]) - reach, np.array([*self.centre, 0.0]) + reach


def ellipse(x, y, a: float, b: float):
    """Approximate distance to an ellipse's outline: exact for a circle."""
    return (np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1.0) * min(a, b)


def ellipsoid(x, y, z, radii):
    return (np.sqrt((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2) - 1.0) * min(radii)


def capsule(x, y, z, start, end, r_start: float, r_end: float):
    """Distance to a cone with round ends around the segment from ``start`` to ``end``."""
    ax = np.asarray(end, dtype=np.float32) - np.asarray(start, dtype=np.float32)
    px, py, pz = x - start[0], y - start[1], z - start[2]
    along = np.clip((px * ax[0] + py * ax[1] + pz * ax[2]) / max(float(ax @ ax), 1e-6), 0.0, 1.0)
    gap = np.sqrt((px - along * ax[0]) ** 2 + (py - along * ax[1]) ** 2 + (pz - along * ax[2]) ** 2)
    return gap - (r_start + along * (r_end - r_start))


def smooth_min(a, b, width: float):
    """Union of two distances with a fillet of ``width`` mm (the polynomial of Quilez)."""
    h = np.maximum(width - np.abs(a - b), 0.0) / width
    return np.minimum(a, b) - h * h * (width / 4)


def oval(x, y, a, b, square: float = 0.35):
    """Distance, along the ray from its middle, to an oval of half-axes a, b between ellipse (0) and squircle
    (1).
    """
    u, v = (x / a) ** 2, (y / b) ** 2
    rho = np.sqrt((1.0 - square) * (u + v) + square * np.sqrt(u * u + v * v) + 1e-6)
    return np.sqrt(x * x + y * y) * (1.0 - 1.0 / rho)


def heart_distance(a: Anatomy, x, y, z):
    """The heart and its sac: left of the midline, on the diaphragm, behind the sternum."""
    z0 = a.base_z + 0.5 * (a.dome[0] + a.dome[1]) + 26.0 * a.heart
    x1, y1 = x - 19.0, y + 0.34 * a.depth
    along, across = 0.86 * x1 - 0.5 * y1, 0.5 * x1 + 0.86 * y1  # the axis points to the left and the front
    return ellipsoid(along - 0.25 * (z0 - z), across, z - z0, (53 * a.heart, 40 * a.heart, 47 * a.heart))


def mediastinum_distance(a: Anatomy, x, y, z):
    """What lies between the lungs: the spine's ridge, the great vessels and the heart, one smooth whole."""
    _, d, yc = a.cage(z)
    v = np.clip((y - yc) / d, -1.0, 1.0)
    column = np.abs(x - 2.0) - (4.0 + 22.0 * (1.0 - np.minimum(np.abs(v - 0.1) / 0.9, 1.0) ** 2))
    ridge = ellipse(x, y - a.spine_y(z) - 4.0, 25.0, 27.0)
    aorta = ellipse(x - 24.0, y - a.spine_y(z) + 24.0, 14.0, 14.0) + np.maximum(a.level(z) - 0.72, 0.0) * 150.0
    arch_z = a.base_z + 0.72 * (a.top_z - a.base_z)
    knob = ellipsoid(x - 22.0, y - a.spine_y(z) + 42.0, z - arch_z, (16.0, 34.0, 15.0))
    hilum_z = a.base_z + 0.53 * (a.top_z - a.base_z)
    hila = ellipsoid(np.abs(x) - 20.0, y - a.spine_y(z) + 46.0, z - hilum_z, (21.0, 15.0, 20.0))
    back = smooth_min(smooth_min(column, ridge, 10.0), np.minimum(aorta, knob), 8.0)
    return smooth_min(smooth_min(back, hila, 10.0), heart_distance(a, x, y, z), 14.0)


def diaphragm_z(a: Anatomy, x, y, z):
    """Height of the domes: highest in the middle of each lung, deep at the side and the back."""
    w, d, yc = a.cage(z)
    side = (np.abs(x) - 0.45 * w) / (0.57 * w)
    side = np.where(side > 0, side, 0.55 * side)  # falls little towards the heart
    back = np.maximum(y - yc + 0.15 * d, 0.0) / (1.15 * d)
    front = np.maximum(yc - 0.35 * d - y, 0.0) / (1.1 * d)
    height = 0.5 * (a.dome[0] + a.dome[1]) - 0.5 * (a.dome[0] - a.dome[1]) * np.tanh(x / 20.0)
    return a.base_z + height * (1.0 - side**2 - back**2 - front**2)


def lung_distance(a: Anatomy, x, y, z):
    """Distance to the pleura of both lungs: inside the cage, outside the mediastinum, above the diaphragm."""
    x, y = x - a.centre[0], y - a.centre[1]
    w, d, yc = a.cage(z)
    above = 0.75 * (diaphragm_z(a, x, y, z) - z)
    lungs = np.maximum(np.maximum(oval(x, y - yc, w, d), above), -mediastinum_distance(a, x, y, z))
    lungs = np.maximum(lungs, (z - a.top_z) * 0.8)
    for start, radius, end in a.pockets:
        lungs = smooth_min(lungs, capsule(x, y, z, start, end, radius, radius), 12.0)
    return lungs


def body_distance(a: Anatomy, x, y, z: float):
    """Distance to the skin, without the groove over the spine; x, y count from the anatomy's ``centre``."""
    _, _, yc = a.cage(z)
    s = min(a.taper(z), 1.0)
    r = np.sqrt(x * x + (y - yc) ** 2) + 1e-3
    front = (yc - y) / r  # -1 back ... 1 front
    skew = 1.0 + a.skew[0] * (x / r) * front + a.skew[1] * (x / r)
    shoulder = 1.0 - 0.25 * np.clip((z - a.top_z) / 40.0, 0.0, 1.0)
    half_depth = (a.depth + 0.75 * a.wall + 8.0) * (1.0 - 0.14 * s)
    back = 4.0 + a.depth + 0.75 * a.wall + 8.0
    return oval(x * skew, y - (back - half_depth - 6.0 * s), (a.width + a.wall) * shoulder, half_depth, 0.45)


def draw_anatomy(rng: np.random.Generator, grid: Grid, contrast: bool) -> Anatomy:
    """A random chest that fills the field of view as a radiographer would have chosen it."""
    half_fov, length = float(grid.x[-1] - grid.x[0]) / 2, float(np.ptp(grid.z))
    body = min(half_fov * rng.uniform(0.90, 0.95), rng.uniform(165, 195))
    wall = min(rng.uniform(22, 36), 0.19 * body)
    width = body - wall
    height = min(rng.uniform(0.72, 0.92) * length, rng.uniform(215, 285))
    top_z = float(grid.z[-1]) - rng.uniform(0.1, 1.0) * min(length - height, 45.0)
    # Such chests hold about 2 x width x depth x height of lung: at most 7 litres in a large field of view.
    depth = min(width * rng.uniform(0.70, 0.84), 7e6 / (2.0 * width * height))
    right_dome = rng.uniform(0.24, 0.36) * height
    middle_x, middle_y = float(grid.x[0]) + half_fov, float(grid.y[0]) + half_fov
    return Anatomy(
        centre=(
            middle_x + rng.uniform(-0.6, 0.6) * (half_fov - body),
            middle_y + rng.uniform(-0.12, 0.12) * half_fov,
        ),
        width=width,
        depth=depth,
        base_z=top_z - height,
        top_z=top_z,
        dome=(right_dome, right_dome - rng.uniform(5, 18)),
        wall=wall,
        skew=(rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)),
        heart=min(width, 1.35 * depth) / 130 * rng.uniform(0.88, 1.08),
        contrast=contrast,
        phase=rng.uniform(0, 2 * np.pi, (3, 3)).astype(np.float32),
    )


def fit_anatomy(rng: np.random.Generator, grid: Grid, contrast: bool, points: list[np.ndarray]) -> Anatomy:
    """Of many random chests the one whose lungs best hold the nodules (``points``: ``[n 3]`` LPS mm of each
    nodule).

    What still lies outside is reached by a pocket of the lung, so that it is at the pleura and not in muscle.
    """
    every = np.concatenate(points) if points else np.zeros((0, 3))

    def outside_mm(a: Anatomy) -> float:
        return float(np.maximum(lung_distance(a, *every.T) + 1.0, 0.0).sum())

    best = min((draw_anatomy(rng, grid, contrast) for _ in range(120)), key=outside_mm)
    centre = np.array([*best.centre, 0.0])
    pockets = []
    for nodule in points:
        if (lung_distance(best, *nodule.T) <= -0.5).all():
            continue
        middle = nodule.mean(axis=0) - centre
        radius = float(np.linalg.norm(nodule - centre - middle, axis=1).max()) + 1.5
        inside_z = best.base_z + np.clip(best.level(middle[2]), 0.42, 0.8) * (best.top_z - best.base_z)
        w, d, yc = best.cage(inside_z)
        pockets.append((middle, radius, np.array([np.copysign(0.6 * w, middle[0]), yc + 0.25 * d, inside_z])))
    return replace(best, pockets=tuple(pockets))
