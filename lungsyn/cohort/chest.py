"""A chest without disease: anatomy as signed distances, painted into HU.

Distances are mm, negative inside, so that edges have partial volume. Coordinates are LPS mm: x to the patient's left,
y to the back, z to the head. The *level* t is the height in the lungs: 0 at the deepest recess behind the diaphragm,
1 at the apex. Arrays are ``[x y z]``; sections of the body are painted slice by slice (a slice stays in the processor's
cache), vessels and airways are then stamped into their own small boxes.

Nothing here is fitted to images. Sizes are textbook values for adults, HU are those of common CT.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

AIR, SKIN, FAT, MUSCLE, LIVER, SPLEEN, WATER = -1000, 40, -100, 55, 60, 50, 10
CORTEX, MARROW, CARTILAGE, DISC = 650, 180, 110, 85
LUNG, VESSEL, BLOOD, BLOOD_CONTRAST = -860, 30, 42, 170
FIRST_HU = -1024  # the value of a stored zero
RIGHT, LEFT = 1, 2


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


def paint(hu: np.ndarray, distance, value, edge_mm: float) -> None:
    """Blend ``value`` into ``hu`` inside ``distance`` < 0, in place, over an edge of ``edge_mm``."""
    hu += np.clip(0.5 - distance / edge_mm, 0.0, 1.0) * (value - hu)


def mottle(a: Anatomy, x, y, z: float, wavelength_mm: float):
    """A smooth field of about unit spread: three plane waves, multiplied."""
    k = 2 * np.pi / wavelength_mm
    wave = [np.sin(k * (1 + 0.3 * i) * x + p[0] + k * z * 0.4) * np.sin(k * y + p[1] - k * z * 0.3 * i)
            for i, p in enumerate(a.phase)]  # fmt: skip
    return sum(wave)


def chest_wall(a: Anatomy, hu: np.ndarray, x, y, z: float, edge: float) -> None:
    """Skin, fat, muscle, ribs, sternum and shoulder girdle of one section."""
    w, d, yc = a.cage(z)
    s = min(a.taper(z), 1.0)
    r = np.sqrt(x * x + (y - yc) ** 2) + 1e-3
    front = (yc - y) / r  # -1 back ... 1 front
    skew = 1.0 + a.skew[0] * (x / r) * front + a.skew[1] * (x / r)
    shoulder = 1.0 - 0.25 * np.clip((z - a.top_z) / 40.0, 0.0, 1.0)
    half_depth = (a.depth + 0.75 * a.wall + 8.0) * (1.0 - 0.14 * s)
    back = 4.0 + a.depth + 0.75 * a.wall + 8.0
    body = oval(x * skew, y - (back - half_depth - 6.0 * s), (a.width + a.wall) * shoulder, half_depth, 0.45)
    groove = 6.0 * np.exp(-((x / 14.0) ** 2)) * (y > yc)
    paint(hu, body + groove, SKIN, edge)
    paint(hu, body + groove + 2.0, FAT + 8 * mottle(a, x, y, z, 37.0), edge)

    cage = oval(x, y - yc, w, d)
    beside_spine = 22.0 * np.exp(-(((np.abs(x) - 26.0) / 24.0) ** 2)) * (front < 0)
    muscle = 11.0 + 0.22 * a.wall * (1 - front) + s * (12.0 + 75.0 * np.abs(x) / r) + beside_spine
    fascia = 8.0 * mottle(a, x, y, z, 61.0)
    paint(hu, np.maximum(cage - muscle, body + 5.0 + 0.18 * a.wall), MUSCLE + fascia, edge)
    plane = np.abs(cage - 15.0 - 3.0 * mottle(a, x, y, z, 90.0)) - 1.0
    paint(hu, np.maximum(plane, body + 7.0), FAT / 2, edge)

    spacing = (a.top_z - a.base_z) / 9.3
    phase = (a.top_z + 8.0 - 0.42 * a.depth * (1 + front) - z) / spacing  # ribs fall towards the front
    number = np.round(phase)
    rib = np.sqrt(((cage - 6.0) / 4.2) ** 2 + ((phase - number) * (spacing / 7.0)) ** 2) - 1.0
    rib = np.where((number >= 0) & (number <= 10) & (np.abs(x) > 16.0), rib * 4.5, 9.0)
    cartilage = front > 0.80
    paint(hu, rib, np.where(cartilage, CARTILAGE, CORTEX), edge)
    paint(hu, rib + 1.6, np.where(cartilage, CARTILAGE, MARROW), edge)
    if 0.22 < a.level(z) < 0.86:
        sternum = np.maximum(np.abs(x) - 17.0, np.abs(cage - 7.0) - 5.0)
        paint(hu, np.maximum(sternum, y - yc), CORTEX * 0.7, edge)
        paint(hu, np.maximum(sternum + 1.8, y - yc), MARROW * 0.7, edge)
    if 0.45 < a.level(z) < 1.02:
        reach = 34.0 * np.sin(np.pi * (a.level(z) - 0.42) / 0.62)
        blade = np.maximum(np.abs(cage - 17.0 - 26.0 * s) - 2.2, np.abs(np.abs(x) - 0.66 * a.width) - reach)
        paint(hu, np.maximum(np.maximum(blade, yc - y), body + 9.0), CORTEX * 0.75, edge)
    for side in (-1, 1) if z > a.top_z - 30.0 else ():
        inner, outer = a.top_z - 22.0, a.top_z + 14.0
        ends = (
            (side * 20.0, a.cage(inner)[2] - a.cage(inner)[1] - 6.0, inner),
            (side * 0.8 * a.width, 8.0, outer),
        )
        clavicle = capsule(x, y, z, *ends, 7.0, 5.5)
        paint(hu, clavicle, CORTEX, edge)
        paint(hu, clavicle + 2.0, MARROW, edge)


def spine(a: Anatomy, hu: np.ndarray, x, y, z: float, edge: float) -> None:
    """One section of the vertebral column, its canal and its spinous and transverse processes."""
    y = y - a.spine_y(z)
    height = (z - a.base_z) / 25.0 % 1.0  # within a vertebra: its disc lies at 0
    paint(hu, ellipse(x, y, 17.5, 14.5), DISC if height < 0.18 else CORTEX, edge)
    if height >= 0.24:
        paint(hu, ellipse(x, y, 15.7, 12.7), MARROW + 25 * mottle(a, x, y, z, 11.0), edge)
    ring = np.abs(ellipse(x, y - 23.0, 11.5, 10.5)) - 2.2
    process = np.maximum(np.abs(x) - 2.6, np.abs(y - 40.0) - 9.0)
    wing = np.maximum(np.abs(np.abs(x) - 22.0) - 13.0, np.abs(y - 25.0 - 0.25 * np.abs(x)) - 3.5)
    paint(hu, ring if height < 0.55 else np.minimum(ring, process), CORTEX * 0.75, edge)
    if 0.5 < height < 0.85:
        paint(hu, wing, CORTEX * 0.6, edge)
    paint(hu, ellipse(x, y - 23.0, 9.0, 8.0), WATER + 15, edge)


def midline(a: Anatomy, hu: np.ndarray, x, y, z: float, edge: float) -> None:
    """What the cage holds apart from the lungs: fat, heart, great vessels, oesophagus, upper abdomen."""
    blood = BLOOD_CONTRAST if a.contrast else BLOOD
    w, d, yc = a.cage(z)
    t, ys = a.level(z), a.spine_y(z)
    cage = oval(x, y - yc, w, d)
    paint(hu, cage, FAT + 10, edge)
    below = 0.75 * (z - diaphragm_z(a, x, y, z))
    if t < 0.5:
        paint(hu, np.maximum(cage, below), MUSCLE, edge)  # the diaphragm itself, 3 mm of it
        paint(hu, np.maximum(cage, below) + 3.0, FAT, edge)
        liver = ellipsoid(x + 0.42 * w, y - yc, z - a.base_z + 30, (0.78 * w, 0.95 * d, a.dome[0] + 40))
        liver = np.maximum(liver, np.maximum(cage, below) + 3.0)
        paint(hu, liver, LIVER + (25 if a.contrast else 0) + 5 * mottle(a, x, y, z, 45.0), edge)
        spleen = ellipsoid(x - 0.68 * w, y - yc - 0.4 * d, z - a.base_z + 5, (0.24 * w, 0.42 * d, 55.0))
        paint(hu, np.maximum(spleen, np.maximum(cage, below) + 4.0), SPLEEN, edge)
        stomach = ellipsoid(x - 0.45 * w, y - yc + 0.15 * d, z - a.base_z + 8, (0.30 * w, 0.42 * d, 60.0))
        stomach = np.maximum(stomach, np.maximum(cage, below) + 5.0)
        paint(hu, stomach, MUSCLE - 10, edge)
        paint(hu, stomach + 4.0, np.where(y < yc - 0.2 * d, AIR + 20, WATER + 10), edge)  # gas above fluid
    heart = heart_distance(a, x, y, z) + 3.0
    paint(hu, np.maximum(heart, -below), MUSCLE, edge)
    paint(hu, np.maximum(heart + 7.0 + 3.0 * mottle(a, x, y, z, 40.0), -below), blood - 5, edge)
    if t < 0.72:
        paint(hu, ellipse(x - 24.0, y - ys + 24.0, 12.0, 12.0), blood, edge)  # descending aorta
    arch_z = a.base_z + 0.72 * (a.top_z - a.base_z)
    if abs(z - arch_z) < 15.0:
        arch = capsule(x, y, z, (-12.0, ys - 66.0, arch_z), (23.0, ys - 26.0, arch_z), 13.0, 12.0)
        paint(hu, arch, blood, edge)
    if 0.4 < t < 0.72:
        paint(hu, ellipse(x + 12.0, y - ys + 66.0, 15.0, 15.0), blood, edge)  # ascending aorta
    if t > 0.45:
        paint(hu, ellipse(x + 27.0, y - ys + 56.0, 8.5, 9.5), blood, edge)  # superior vena cava, brachiocephalic
    if t > 0.78:
        for artery_x in (-13.0, 8.0, 24.0):
            paint(hu, ellipse(x - artery_x, y - ys + 50.0 - 0.4 * artery_x, 5.5, 5.5), blood, edge)
    hilum_z = a.base_z + 0.53 * (a.top_z - a.base_z)
    for side in (-1, 1) if abs(z - hilum_z) < 24.0 else ():  # pulmonary arteries
        trunk, hilum = (
            (10.0, ys - 64.0, hilum_z + 6.0),
            (side * 34.0, ys - 46.0, hilum_z + (8.0 if side > 0 else 0.0)),
        )
        paint(hu, capsule(x, y, z, trunk, hilum, 12.0, 9.0), blood, edge)
    paint(hu, ellipse(x - 5.0, y - ys + 23.0, 8.0, 5.5), MUSCLE - 10, edge)  # oesophagus
    spine(a, hu, x, y, z, edge)


def table(a: Anatomy, grid: Grid) -> np.ndarray:
    """Air and the curved table under the back: HU, float32 ``[x y]``."""
    x, y = (grid.x - a.centre[0])[:, None], (grid.y - a.centre[1])[None, :]
    hu = np.full((len(grid.x), len(grid.y)), AIR, dtype=np.float32)
    curve = np.abs(y - (a.depth + a.wall + 16.0) + (x / 190.0) ** 2 * 26.0) - 1.2
    paint(hu, np.maximum(curve, np.abs(x) - 210.0), -250.0, grid.spacing_mm[0])
    return hu


def section(a: Anatomy, grid: Grid, k: int, hu: np.ndarray, edge: float) -> np.ndarray:
    """Paint slice ``k`` into ``hu`` (float32 ``[x y]``) but for vessels and nodules; the lungs' occupancy."""
    z = np.float32(grid.z[k])  # a float64 would make every array of the section one
    x = (grid.x - a.centre[0]).astype(np.float32)[:, None]
    y = (grid.y - a.centre[1]).astype(np.float32)[None, :]
    chest_wall(a, hu, x, y, z, edge)
    midline(a, hu, x, y, z, edge)
    lungs = np.clip(0.5 - lung_distance(a, x + a.centre[0], y + a.centre[1], z) / edge, 0.0, 1.0)
    fissure_y = a.spine_y(z) - 55.0 - 0.75 * (z - a.base_z - 0.45 * (a.top_z - a.base_z)) - 0.1 * np.abs(x)
    fissure = np.clip(1.0 - np.abs(y - fissure_y) / edge, 0.0, 1.0)
    parenchyma = LUNG + 0.45 * y + 9.0 * mottle(a, x, y, z, 70.0) + 110.0 * fissure  # denser at the back
    hu += lungs * (parenchyma - hu)
    return lungs


def stamp(hu: np.ndarray, grid: Grid, segment: tuple, value: float, only_below: float = np.inf) -> None:
    """Blend a capsule (start, end, radii; LPS mm) into ``hu`` [x y z] where it is below ``only_below``, in
    place.

    The edge is as wide as a voxel; a capsule thinner than that keeps its cross-section's share of the voxel
    instead.
    """
    start, end, r_start, r_end = segment
    dx, _, dz = grid.spacing_mm
    reach = max(r_start, r_end) + dz
    box = grid.box(np.minimum(start, end) - reach, np.maximum(start, end) + reach)
    part = hu[box]
    if part.size == 0:
        return
    x, y, z = (axis[s].astype(np.float32) for axis, s in zip((grid.x, grid.y, grid.z), box, strict=True))
    distance = capsule(x[:, None, None], y[:, None], z, start, end, r_start, r_end)
    occupancy = np.clip(0.5 - distance / dx, 0.0, min(1.0, (2.0 * max(r_start, r_end) / dx) ** 2))
    part[...] = np.where(part < only_below, part + occupancy * (value - part), part)


def grow_tree(rng: np.random.Generator, root: np.ndarray, targets: np.ndarray, radius_mm: float) -> list[tuple]:
    """A branching tree from ``root`` to every one of ``targets`` ``[n 3]``: segments (start, end, radii).

    Each branch runs part of the way to the middle of the targets it serves, then splits them in two across
    their widest extent. Radii follow Murray's law, the cube of a parent's being the sum of its children's.
    """
    segments, total = [], len(targets)
    stack = [(root, targets, radius_mm)]
    while stack:
        start, served, r_start = stack.pop()
        radius = radius_mm * (len(served) / total) ** (1 / 2.8)
        if len(served) == 1:
            segments.append((start, served[0], r_start, 0.8 * radius))
            continue
        step = (served.mean(axis=0) - start) * rng.uniform(0.35, 0.55)
        end = start + step + rng.normal(0.0, 0.08, 3) * np.linalg.norm(step)
        segments.append((start, end, r_start, radius))
        spread = served - served.mean(axis=0)
        axis = np.linalg.svd(spread, full_matrices=False)[2][0]
        order = np.argsort(spread @ axis)
        cut = int(np.clip(round(len(served) * rng.uniform(0.3, 0.7)), 1, len(served) - 1))
        stack += [(end, served[half], radius) for half in (order[:cut], order[cut:])]
    return segments


def vessels_and_airways(a: Anatomy, hu: np.ndarray, lungs: np.ndarray, grid: Grid, rng: np.random.Generator) -> None:
    """Stamp trachea, bronchi, pulmonary arteries and veins into ``hu``, in place."""
    height = a.top_z - a.base_z
    carina_z, hilum_z = a.base_z + 0.63 * height, a.base_z + 0.53 * height
    place = np.array([*a.centre, 0.0])
    carina = place + (0.0, a.spine_y(carina_z) - 40.0, carina_z)
    airways = [(place + (2.0, a.spine_y(a.top_z) - 36.0, a.top_z + 80.0), carina, 8.5, 8.0)]
    for side, label in ((-1, RIGHT), (1, LEFT)):
        hilum = place + (side * 36.0, a.spine_y(hilum_z) - 44.0, hilum_z)
        inside = np.argwhere(lungs[::4, ::4, ::2] == label) * (4, 4, 2)
        if len(inside) == 0:
            continue
        inside = np.stack([axis[i] for axis, i in zip((grid.x, grid.y, grid.z), inside.T, strict=True)], axis=1)
        for vein in (0.0, -12.0):
            targets = rng.permutation(inside)[:320]
            for segment in grow_tree(rng, hilum + (0.0, vein, vein), targets, 6.8):
                stamp(hu, grid, segment, VESSEL, only_below=VESSEL)
        central = hilum + 0.6 * (rng.permutation(inside)[:22] - hilum)
        airways += [(carina, hilum, 7.0, 5.5), *grow_tree(rng, hilum, central, 5.2)]
    for start, end, r_start, r_end in airways:
        stamp(hu, grid, (start, end, r_start + 1.3, r_end + 1.0), 0.0, only_below=0.0)
    for segment in airways:  # beyond the hila they push neither heart nor vessels aside
        main = segment[3] > 5.3
        stamp(hu, grid, segment, AIR + 15, only_below=np.inf if main else VESSEL)


def add_noise(hu: np.ndarray, noise_hu: float, rng: np.random.Generator) -> None:
    """Add noise of standard deviation ``noise_hu`` to ``hu`` [x y z], in place, correlated over about a
    voxel.
    """
    kernel = np.array([0.18, 0.64, 0.18], dtype=np.float32)
    kernel /= np.linalg.norm(kernel)  # so that the sum of squares, hence the variance, is 1 per axis
    shared = 0.35  # correlation of neighbouring slices
    field = np.zeros(hu.shape[:2], dtype=np.float32)
    for k in range(hu.shape[2]):
        fresh = rng.standard_normal(field.shape, dtype=np.float32)
        for axis in (0, 1):
            fresh = ndimage.convolve1d(fresh, kernel, axis, mode="wrap")
        field = fresh if k == 0 else shared * field + np.sqrt(1 - shared**2) * fresh
        hu[:, :, k] = np.clip(np.rint(hu[:, :, k] + noise_hu * field), FIRST_HU, 3071)
