"""DICOM series on disk: what their headers say is wrong with them, and their HU. Knows nothing of LIDC-IDRI's readers.

Series are told apart by SeriesInstanceUID, whatever folders their files lie in.

Privacy: no text of a file is passed on, only numbers, UIDs and identities in LIDC-IDRI's own form; nor any message or
warning of the DICOM library, since those quote the values that they complain about.

Axes: ``[x y z]`` is DICOM's [column, row, slice], z ascending. LPS (DICOM) to RAS+ (here) flips the first two mm axes.
"""

import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pydicom
from pydicom.pixels import get_decoder
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from lungsyn.errors import InputError
from lungsyn.volume.files import whole_file
from lungsyn.volume.space import Volume

GEOMETRY = {  # tags that a slice needs, and how many numbers each holds
    "PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3,
    "RescaleSlope": 1, "RescaleIntercept": 1,
}  # fmt: skip
PIXELS = {"Rows": 1, "Columns": 1, "BitsAllocated": 1, "SamplesPerPixel": 1}
IDENTITY = ("SeriesInstanceUID", "Modality", "PatientID")
Z_TOLERANCE_MM = 0.05  # 1,014 of LIDC-IDRI's 1,018 series are even to 0.001 mm, the other 4 are off by 0.5 mm and more
DECODING = ("BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation", "PixelData")


class Header(NamedTuple):
    """What the index needs of one file; ``flaw`` says what is wrong with it, in our words."""

    path: str  # relative to the root
    series_uid: str = ""
    modality: str = ""
    patient: str = ""  # only if it has the form of LIDC-IDRI's own identities
    z_mm: float = 0.0
    in_plane: tuple[float, ...] = ()  # orientation, PixelSpacing, matrix: one per series
    flaw: str = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """pydicom's warnings quote the values that they complain about: neither terminal nor log may show them."""
    mode, pydicom.config.settings.reading_validation_mode = (
        pydicom.config.settings.reading_validation_mode, pydicom.config.IGNORE
    )  # fmt: skip
    disabled, pydicom.config.logger.disabled = pydicom.config.logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        pydicom.config.settings.reading_validation_mode = mode
        pydicom.config.logger.disabled = disabled


def read_header(root: Path, path: str) -> Header | None:
    """One file's header, a few kB of it; None if the file does not claim to be DICOM. Never raises for bad content."""
    try:
        with _quiet(), open(root / path, "rb") as file:
            file.seek(128)
            if file.read(4) != b"DICM":
                is_named_so = path.lower().endswith(".dcm")
                return Header(path, flaw=f"unreadable file: {path}, not DICOM") if is_named_so else None
            file.seek(0)
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*IDENTITY, *GEOMETRY, *PIXELS])
            pixel_bytes = os.fstat(file.fileno()).st_size - file.tell()
            return _header_of(path, data, pixel_bytes)
    except Exception as error:  # whatever a damaged file makes pydicom raise; its message may quote the file
        return Header(path, flaw=f"unreadable file: {path}, {type(error).__name__}")


def _header_of(path: str, data: pydicom.Dataset, pixel_bytes: int) -> Header:
    modality, uid = str(data.get("Modality", "")), str(data.get("SeriesInstanceUID", ""))
    if not re.fullmatch(r"[\d.]{1,64}", uid):
        return Header(path, flaw=f"unreadable file: {path}, no SeriesInstanceUID")
    patient = str(data.get("PatientID", ""))
    patient = patient if re.fullmatch(r"LIDC-IDRI-\d{4}", patient) else ""
    header = Header(path, uid, modality, patient)
    if modality != "CT":
        return header
    number = {tag: _numbers(data, tag, count) for tag, count in (GEOMETRY | PIXELS).items()}
    missing = [tag for tag, values in number.items() if not values]
    if missing:
        return header._replace(flaw=f"tags missing, or no number: {', '.join(missing)} in {path}")
    syntax = data.file_meta.get("TransferSyntaxUID", "")
    flaw = _syntax_flaw(syntax, path)
    if flaw:
        return header._replace(flaw=flaw)
    tag_bytes = 8 if UID(syntax).is_implicit_VR else 12
    needed = data.Rows * data.Columns * data.SamplesPerPixel * data.BitsAllocated // 8 + tag_bytes
    if not UID(syntax).is_encapsulated and not UID(syntax).is_deflated and pixel_bytes < needed:
        flaw = f"truncated file: {path}, {needed - pixel_bytes} bytes of its pixels are gone"
    in_plane = sum((number[tag] for tag in ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")), ())
    return header._replace(z_mm=number["ImagePositionPatient"][2], in_plane=in_plane, flaw=flaw)


def _numbers(data: pydicom.Dataset, tag: str, count: int) -> tuple[float, ...]:
    """A tag's value as ``count`` finite numbers; empty if it is absent or anything else.

    Decimal strings are read as they lie in the file: by pydicom's own type for them a header took 2.0 ms, so 1.2.
    """
    raw = data.get_item(tag)
    is_text = raw is not None and raw.VR == "DS" and isinstance(raw.value, bytes)
    try:
        values = raw.value.strip(b" \0").split(b"\\") if is_text else np.ravel(data.get(tag))
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()


def _syntax_flaw(syntax: str, path: str) -> str:
    """Why pixels in this transfer syntax cannot be read here, with the package to install; empty if they can."""
    if not UID(syntax).is_transfer_syntax:
        return f"transfer syntax unknown: {path}"
    if not UID(syntax).is_encapsulated:
        return ""
    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError:
        return f"transfer syntax {UID(syntax).name} cannot be decoded ({path}): convert the series"
    if decoder.is_available:
        return ""
    needs = [line for line in decoder.missing_dependencies if line.startswith("pylibjpeg")]
    packages = re.findall(r"pylibjpeg-\w+", " ".join(needs)) or ["python-gdcm"]
    return f"compressed pixels ({UID(syntax).name}): pip install pylibjpeg {packages[0]}"


def _headers_in(job: tuple[Path, list[str]]) -> list[Header]:
    root, paths = job
    return [header for path in paths if (header := read_header(root, path)) is not None]


def _unreadable(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: {error.strerror}: make the folder readable, or move it out of the data")


def find_series(root: Path, map_over=map) -> tuple[dict[str, list[Header]], list[Header]]:
    """Every series below ``root`` by its UID, and the files that are unreadable. ``map_over``: a pool's map, or map."""
    paths = sorted(
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root, onerror=_unreadable, followlinks=True)
        for name in names if not name.startswith(".")
    )  # fmt: skip
    jobs = [(root, paths[first : first + 500]) for first in range(0, len(paths), 500)]
    series, unreadable = defaultdict(list), []
    for header in (header for headers in map_over(_headers_in, jobs) for header in headers):
        (series[header.series_uid] if header.series_uid else unreadable).append(header)
    return dict(series), unreadable


def series_files(folder: Path, series_uid: str) -> list[Path]:
    """The files of one series below its folder, unordered. Raises InputError if there is none."""
    found = [path for path in folder.rglob("*") if path.is_file() and _series_uid(path) == series_uid]
    if not found:
        raise InputError(f"{folder}: no file of series {series_uid}; index the cohort again")
    return found


def _series_uid(path: Path) -> str:
    """The series that a file says it is of; empty for what is not DICOM or damaged."""
    try:
        with _quiet():
            data = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
            return str(data.get("SeriesInstanceUID", ""))
    except Exception:  # whatever a damaged file makes pydicom raise
        return ""


def step_flaw(z_mm: np.ndarray) -> str:
    """What is wrong with the steps between slices at ascending ``z_mm``, or an empty text: a volume has even ones."""
    if len(z_mm) < 2:
        return "a single slice"
    even, steps = np.linspace(z_mm[0], z_mm[-1], len(z_mm)), np.diff(z_mm)
    is_even = np.abs(z_mm - even).max() <= Z_TOLERANCE_MM
    return "" if is_even else f"uneven z: steps from {steps.min():g} to {steps.max():g} mm"


def read_ct(files: list[Path]) -> Volume:
    """A CT series as HU: int16 ``[x y z]``, z ascending, and its RAS+ affine. Memory: the result and one slice.

    Each slice has its own rescale; the plane's geometry is that of the first file by name. Raises InputError naming the
    file, or if the slices' steps are uneven, as where one is gone: then there is no such affine.
    """
    files = sorted(files)  # by name: nearly always along z, so that nothing has to be moved
    first = _read(files[0], (*GEOMETRY, *PIXELS))
    slices = np.empty((len(files), first.Rows, first.Columns), dtype=np.int16)  # [z y x]
    z_mm = np.array([_read_slice(path, data) for data, path in zip(slices, files, strict=True)])
    order = np.argsort(z_mm, kind="stable")
    if flaw := step_flaw(z_mm[order]):
        raise InputError(f"{files[0].parent}: {flaw}; get the series again")
    if (order[::-1] == np.arange(len(files))).all():
        slices = slices[::-1]
    elif (order != np.arange(len(files))).any():
        slices = slices[order]
    step_mm = np.ptp(z_mm) / (len(files) - 1)
    row_mm, column_mm = (float(value) for value in first.PixelSpacing)  # distance of rows, of columns
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = np.array(first.ImageOrientationPatient[:3], dtype=float).round() * column_mm
    affine_lps[:3, 1] = np.array(first.ImageOrientationPatient[3:], dtype=float).round() * row_mm
    affine_lps[:3, 2] = 0.0, 0.0, step_mm
    affine_lps[:3, 3] = [*(float(value) for value in first.ImagePositionPatient[:2]), z_mm.min()]
    return Volume(slices.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps)


def _read(path: Path, tags: Iterable[str]) -> pydicom.Dataset:
    try:
        with _quiet():
            return pydicom.dcmread(path, specific_tags=list(tags), stop_before_pixels="PixelData" not in tags)
    except Exception as error:
        raise InputError(f"{path}: unreadable ({type(error).__name__}); get the file again") from None


def _read_slice(path: Path, hu: np.ndarray) -> float:
    """Read one slice's z, mm, and its HU, rounded and clipped to int16, into ``hu`` ``[row column]``."""
    data = _read(path, (*GEOMETRY, *PIXELS, *DECODING))
    try:
        with _quiet():
            pixels = data.pixel_array
            slope, intercept = float(data.RescaleSlope), float(data.RescaleIntercept)
            z_mm = float(data.ImagePositionPatient[2])
    except Exception as error:
        raise InputError(f"{path}: pixels cannot be decoded ({type(error).__name__}); get the file again") from None
    if pixels.shape != hu.shape:
        raise InputError(f"{path}: {pixels.shape} voxels, but the series' first slice has {hu.shape}")
    scaled = pixels * np.float32(slope) + np.float32(intercept)
    hu[...] = np.rint(scaled, out=scaled).clip(-32768, 32767, out=scaled)
    return z_mm


def write_ct(folder: Path, ct: Volume, header: pydicom.Dataset) -> None:
    """Write int16 HU as ``001.dcm`` (the highest slice) to ``NNN.dcm``: CT Image Storage, uncompressed.

    The axes of ``ct`` run to the patient's left, to the back and up, as read_ct returns them. ``header`` says whose
    image it is and where it comes from (series and study UID, patient, equipment); the rest is filled in here.
    """
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = CTImageStorage
    first_hu = min(-1024, int(ct.data.min()))  # the value of a stored zero
    header.Modality, header.PatientPosition = "CT", "HFS"
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PixelSpacing = [round(float(-ct.affine[i, i]), 6) for i in (1, 0)]
    header.Columns, header.Rows = ct.data.shape[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = 1, first_hu, "HU"
    x_mm, y_mm, z_mm = ct.affine[:3, 3] * (-1, -1, 1)
    for number in range(1, ct.data.shape[2] + 1):
        k = ct.data.shape[2] - number
        header.SOPInstanceUID = generate_uid(entropy_srcs=[header.SeriesInstanceUID, str(number)])
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.InstanceNumber = number
        header.ImagePositionPatient = [round(float(mm), 6) for mm in (x_mm, y_mm, z_mm + k * ct.affine[2, 2])]
        header.SliceLocation = header.ImagePositionPatient[2]
        header.PixelData = (ct.data[:, :, k].T.astype(np.int32) - first_hu).astype("<u2").tobytes()
        with whole_file(folder / f"{number:03d}.dcm") as temporary:
            header.save_as(temporary, enforce_file_format=True)
