"""The chest of ``anatomy.chest`` in HU: tissues, vessels, airways, noise.

Arrays are ``[x y z]``. Sections of the body are painted slice by slice: a slice stays in the processor's cache. Vessels
and airways are then stamped into their own small boxes. HU are those of common CT.
"""

import numpy as np
from scipy import ndimage

from lungsyn.anatomy.chest import (
    Anatomy,
    Grid,
    body_distance,
    capsule,
    diaphragm_z,
    ellipse,
    ellipsoid,
    heart_distance,
    lung_distance,
    oval,
)

AIR, SKIN, FAT, MUSCLE, LIVER, SPLEEN, WATER = -1000, 40, -100, 55, 60, 50, 10
CORTEX, MARROW, CARTILAGE, DISC = 650, 180, 110, 85
LUNG, VESSEL, BLOOD, BLOOD_CONTRAST = -860, 30, 42, 170
FIRST_HU = -1024  # the value of a stored zero
RIGHT, LEFT = 1, 2


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
    body = body_distance(a, x, y, z)
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
