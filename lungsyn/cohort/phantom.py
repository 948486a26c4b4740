"""The phantom: simulated chests that carry LIDC-IDRI's identities, slices and real nodule contours, as DICOM.

The anatomy comes from `chest` and `chest_painting`. Here scans are chosen, nodules painted, series written.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid
from scipy import ndimage

from lungsyn.anatomy.chest import Grid, fit_anatomy
from lungsyn.cohort import annotations
from lungsyn.cohort.annotations import DATABASE_MATRIX, Nodule
from lungsyn.cohort.chest_painting import LEFT, RIGHT, add_noise, section, table, vessels_and_airways
from lungsyn.cohort.dicom_writing import write_ct
from lungsyn.cohort.workers import mapping
from lungsyn.errors import InputError
from lungsyn.random import stream
from lungsyn.settings.cohort import Nodules, Phantom
from lungsyn.volume.resample import resample
from lungsyn.volume.space import Volume

TEXTURE_HU = {1: -640, 2: -520, 3: -330, 4: -90, 5: 30}  # by the readers' rating: ground glass to solid


def nodule_hu(nodule: Nodule, inside_mm: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """HU of a nodule's voxels from the readers' ratings and the depth under its surface, ``[x y z]``.

    A part-solid nodule (texture 2 to 4) has its solid part inside; calcification (6: none) is densest in the
    middle.
    """
    rating, calcification = nodule.ratings["texture"], nodule.ratings["calcification"]
    depth = inside_mm / max(float(inside_mm.max()), 1e-6)
    rim = np.interp(rating, list(TEXTURE_HU), list(TEXTURE_HU.values()))
    part_solid = 300.0 * np.clip(1.5 - abs(rating - 3.0), 0.0, 1.0)
    chalk = 450.0 * np.clip((5.7 - calcification) / 3.0, 0.0, 1.0)
    return rim + part_solid * (depth > 0.5) + chalk * depth**2 + 25.0 * texture


def paint_nodule(hu: np.ndarray, grid: Grid, nodule: Nodule, scan, rng: np.random.Generator) -> None:
    """Fill a nodule's consensus mask in ``hu`` [x y z], in place, with partial volume at its edge."""
    mask = annotations.mask_volume(nodule, scan, grid.fov_corner_mm)
    index = np.linalg.inv(grid.affine) @ mask.affine
    first = np.floor(index[:3, 3]).astype(int) - 3
    last = np.ceil(index[:3, 3] + np.diag(index)[:3] * (mask.data.shape)).astype(int) + 3
    first, last = np.maximum(first, 0), np.minimum(last, grid.shape)
    box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    margin = ((2, 2), (2, 2), (1, 1))
    space = Volume(hu, grid.affine).space.crop(first, last)
    source = Volume(mask.data.astype(np.float32), mask.affine)
    wide = source.space.crop([-m[0] for m in margin], [n + m[1] for n, m in zip(mask.data.shape, margin, strict=True)])
    occupancy = resample(Volume(np.pad(source.data, margin), wide.affine), space, fill=0.0)
    inside_mm = ndimage.distance_transform_edt(occupancy >= 0.5, sampling=grid.spacing_mm)
    texture = ndimage.gaussian_filter(rng.standard_normal(occupancy.shape), 0.8)
    part = hu[box]
    part += (occupancy * (nodule_hu(nodule, inside_mm, texture / max(texture.std(), 1e-6)) - part)).astype(hu.dtype)


def simulate(scan, settings: Phantom, nodules: list[Nodule], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A chest with the scan's nodules: HU (int16 ``[x y z]``), lungs (uint8, 1 right, 2 left), affine (to
    RAS+ mm).

    The true lungs hold their vessels and nodules. The draws depend on ``seed`` and the patient only.
    """
    rng = stream(seed, "phantom", scan.patient_id)
    fov_mm = DATABASE_MATRIX * scan.pixel_spacing
    pixels = (np.arange(settings.matrix) + 0.5) * fov_mm / settings.matrix - fov_mm / 2
    grid = Grid(pixels + rng.uniform(-10, 10), pixels + rng.uniform(-30, 10), annotations.slice_z_mm(scan))
    a = fit_anatomy(rng, grid, bool(scan.contrast_used), [_points(n, scan, grid) for n in nodules])
    # Slices first in memory: each is painted, and later written, as one contiguous piece.
    hu = np.empty(grid.shape[::-1], dtype=np.int16).T
    lungs = np.zeros(grid.shape[::-1], dtype=np.uint8).T
    around = table(a, grid)
    hu[...] = around[:, :, None]
    box = grid.box(*a.body_box())
    body = Grid(grid.x[box[0]], grid.y[box[1]], grid.z)
    side = np.where(body.x < a.centre[0], RIGHT, LEFT).astype(np.uint8)[:, None]
    for k in range(len(grid.z)):
        values = around[box[:2]].copy()
        occupancy = section(a, body, k, values, edge=float(grid.spacing_mm[0]))
        hu[*box[:2], k] = values
        lungs[*box[:2], k] = (occupancy >= 0.5) * side
    vessels_and_airways(a, hu, lungs, grid, rng)
    for nodule in nodules:
        paint_nodule(hu, grid, nodule, scan, rng)
    add_noise(hu, settings.noise_hu, rng)
    return hu, lungs, grid.affine


def _points(nodule: Nodule, scan, grid: Grid) -> np.ndarray:
    """Up to about 80 of the nodule's voxels, LPS mm ``[n 3]``."""
    volume = annotations.mask_volume(nodule, scan, grid.fov_corner_mm)
    voxels = np.argwhere(volume.data)
    voxels = voxels[:: max(1, len(voxels) // 80)]
    return (voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * (-1.0, -1.0, 1.0)


def choose_scans(settings: Phantom, nodules: Nodules, seed: int) -> list[tuple]:
    """Scans and their nodules, one scan per patient, in a seeded order of which more patients only extend the
    list; then the hosts, whose scans have none.

    Raises InputError when the database has too few that satisfy ``settings`` and hold a nodule, or hold none.
    """
    thinnest, thickest = settings.slice_thickness_mm
    scans = [scan for scan in annotations.all_scans() if thinnest <= scan.slice_thickness <= thickest]
    chosen, without = {}, {}
    for i in stream(seed, "scans of phantoms").permutation(len(scans)):
        if len(chosen) == settings.patients and len(without.keys() - chosen.keys()) >= settings.hosts:
            break
        scan, z_mm = scans[i], annotations.slice_z_mm(scans[i])
        fits = len(z_mm) <= settings.max_slices and annotations.evenly_spaced(z_mm)
        if not fits or scan.patient_id in chosen:
            continue
        found = annotations.nodules(scan, nodules)
        if not found:
            without.setdefault(scan.patient_id, (scan, found))
        elif len(chosen) < settings.patients:
            chosen[scan.patient_id] = (scan, found)
    if len(chosen) < settings.patients:
        raise InputError(
            f"only {len(chosen)} patients of LIDC-IDRI have a scan with slices of {thinnest:g} to "
            f"{thickest:g} mm, at most {settings.max_slices} of them, and such a nodule, but "
            f"cohort.phantom.patients is {settings.patients}: ask for fewer, or widen slice_thickness_mm, "
            "max_slices or cohort.nodules"
        )
    hosts = [scan for patient, scan in without.items() if patient not in chosen][: settings.hosts]
    if len(hosts) < settings.hosts:
        raise InputError(
            f"only {len(hosts)} further patients of LIDC-IDRI have such a scan without a nodule, but "
            f"cohort.phantom.hosts is {settings.hosts}: ask for fewer, or raise cohort.nodules.min_diameter_mm"
        )
    return [*chosen.values(), *hosts]


def write_series(folder: Path, scan, hu: np.ndarray, affine: np.ndarray) -> None:
    """Write a scan's slices under its identities, marked as simulated."""
    header = pydicom.Dataset()
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    header.Manufacturer, header.SeriesDescription = "lungsyn phantom", "PHANTOM (simulated)"
    header.SyntheticData, header.BurnedInAnnotation = "YES", "NO"
    header.PatientID = header.PatientName = scan.patient_id
    header.StudyInstanceUID, header.SeriesInstanceUID = scan.study_instance_uid, scan.series_instance_uid
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=["phantom frame", scan.series_instance_uid])
    header.SliceThickness = scan.slice_thickness
    write_ct(folder, Volume(hu, affine), header)


def write_cohort(
    settings: Phantom,
    nodules: Nodules,
    seed: int,
    root: Path,
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> None:
    """Write the phantom's series in LIDC-IDRI's layout: ``root/<patient>/<study>/<series>/NNN.dcm``.

    A scan's other nodules, marked by too few readers or too small, are not painted: the masks are complete.
    """
    series = [scan.series_instance_uid for scan, _ in choose_scans(settings, nodules, seed)]
    write = partial(_write_one, settings, nodules, seed, Path(root))
    with mapping(workers) as map_over:
        for number, line in enumerate(map_over(write, series), start=1):
            progress(f"phantom {number}/{len(series)}: {line}")


def _write_one(settings: Phantom, nodules: Nodules, seed: int, root: Path, series_uid: str) -> str:
    """Simulate and write one scan; the database is opened again, since its objects do not cross processes."""
    scan = annotations.find_scan(series_uid)
    found = annotations.nodules(scan, nodules)
    hu, _, affine = simulate(scan, settings, found, seed)
    write_series(root / scan.patient_id / scan.study_instance_uid / series_uid, scan, hu, affine)
    return f"{scan.patient_id}, {hu.shape[2]} slices, {len(found)} nodules"
