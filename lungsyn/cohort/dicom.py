"""DICOM series on disk: what their headers say is wrong with them, and their HU. Knows nothing of LIDC-IDRI's readers.

Series are told apart by SeriesInstanceUID, whatever folders their files lie in.

Privacy: no text of a file is passed on, only numbers, UIDs and identities in LIDC-IDRI's own form; nor any message or
warning of the DICOM library, since those quote the values that they complain about.

Axes: ``[x y z]`` is DICOM's [column, row, slice], z ascending. LPS (DICOM) to RAS+ (here) flips the first two mm axes.
"""

import hashlib
import math
import os
import re
import stat
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.pixels import get_decoder
from pydicom.uid import UID, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from lungsyn.errors import InputError
from lungsyn.volume.space import Volume

GEOMETRY = {  # tags that a slice needs, and how many numbers each holds
    "PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3,
    "RescaleSlope": 1, "RescaleIntercept": 1,
}  # fmt: skip
PIXELS = {
    "Rows": 1, "Columns": 1, "SamplesPerPixel": 1, "BitsAllocated": 1, "BitsStored": 1, "PixelRepresentation": 1,
}  # fmt: skip
OPTIONAL = {"NumberOfFrames": 1, "HighBit": 1, "GantryDetectorTilt": 1}
IDENTITY = ("SeriesInstanceUID", "StudyInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "PatientID")
TERMS = ("PhotometricInterpretation", "RescaleType", "LossyImageCompression")
MULTI_FRAME = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
DECODING = ("HighBit", "PhotometricInterpretation", "PixelPaddingValue", "PixelData")
AS_DRAWN = ((1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0))  # supine and prone: how scanners store rows and columns
SHIFT_TOLERANCE_MM = 0.05  # of slices in their plane, against the first: headers have three decimals and more
Z_TOLERANCE_MM = 0.05  # 1,014 of LIDC-IDRI's 1,018 series are even to 0.001 mm, the other 4 are off by 0.5 mm and more
LEAST_BITS = 12  # what scanners store; with fewer, gray values of a window
LEAST_TILT = 0.5  # degrees
HIGHEST_HU = 32767  # of int16
HIGHEST_PADDING_HU = -900  # padding above it would be taken for lung or tissue
GRAY = ("MONOCHROME1", "MONOCHROME2")


class Header(NamedTuple):
    """What the index needs of one file. ``flaw`` says why it cannot be used, ``odd`` what a reader should know: both in
    our words, without a name. No identity leaves the process but LIDC-IDRI's own."""

    path: str  # relative to the root
    series_uid: str = ""
    modality: str = ""
    patient: str = ""  # only if it has the form of LIDC-IDRI's own identities
    subject: str = ""  # digest of PatientID, to tell patients apart; never written
    study_uid: str = ""
    instance_uid: str = ""
    position_mm: tuple[float, ...] = ()  # of the first pixel's centre: x, y, z
    in_plane: tuple[float, ...] = ()  # orientation, PixelSpacing, matrix: one per series
    flaw: str = ""
    odd: tuple[str, ...] = ()


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
                return Header(path, flaw="unreadable file: not DICOM") if is_named_so else None
            file.seek(0)
            tags = [*IDENTITY, *GEOMETRY, *PIXELS, *OPTIONAL, *TERMS]
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
            pixel_bytes = os.fstat(file.fileno()).st_size - file.tell()
            return _header_of(path, data, pixel_bytes)
    except Exception as error:  # whatever a damaged file makes pydicom raise; its message may quote the file
        return Header(path, flaw=f"unreadable file: {type(error).__name__}")


def _header_of(path: str, data: pydicom.Dataset, pixel_bytes: int) -> Header:
    uid, patient = str(data.get("SeriesInstanceUID", "")), str(data.get("PatientID", ""))
    if not re.fullmatch(r"[\d.]{1,64}", uid):
        return Header(path, flaw="unreadable file: no SeriesInstanceUID")
    header = Header(
        path, uid, str(data.get("Modality", "")), patient if re.fullmatch(r"LIDC-IDRI-\d{4}", patient) else "",
        hashlib.sha256(patient.encode(errors="replace")).hexdigest(),
        str(data.get("StudyInstanceUID", "")), str(data.get("SOPInstanceUID", "")),
    )  # fmt: skip
    if header.modality != "CT":
        return header
    number = {tag: _numbers(data, tag, count) for tag, count in (GEOMETRY | PIXELS | OPTIONAL).items()}
    if flaw := _flaw(data, number, pixel_bytes):
        return header._replace(flaw=flaw)
    in_plane = sum((number[tag] for tag in ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")), ())
    return header._replace(position_mm=number["ImagePositionPatient"], in_plane=in_plane, odd=_oddities(data, number))


def _flaw(data: pydicom.Dataset, number: dict[str, tuple[float, ...]], pixel_bytes: int) -> str:
    """Why a CT file cannot be read as one slice of HU; empty if it can."""
    if (number["NumberOfFrames"] or (1,))[0] != 1 or data.get("SOPClassUID") in MULTI_FRAME:
        return "multi-frame file: convert the series to one file per slice"
    if missing := [tag for tag in (*GEOMETRY, *PIXELS) if not number[tag]]:
        return f"tags missing, or no number: {', '.join(missing)}"
    if number["SamplesPerPixel"] != (1,) or _term(data, "PhotometricInterpretation") not in GRAY:
        return "pixels are not gray values: convert the series to MONOCHROME2"
    if number["RescaleSlope"] == (0,):
        return "RescaleSlope is 0: every voxel would have one value"
    if _term(data, "RescaleType") not in ("", "HU", "US"):
        return "values are not HU: RescaleType says something else"
    if number["HighBit"] not in ((), (number["BitsStored"][0] - 1,)):
        return "HighBit is not BitsStored - 1: where a value's bits lie is not known"
    return _syntax_flaw(data.file_meta.get("TransferSyntaxUID", "")) or _truncation(data, pixel_bytes)


def _term(data: pydicom.Dataset, tag: str) -> str:
    return str(data.get(tag) or "").strip()


def _truncation(data: pydicom.Dataset, pixel_bytes: int) -> str:
    """How much is gone of pixels whose number of bytes the header tells; ``pixel_bytes``: from their tag to the end."""
    syntax = UID(data.file_meta.TransferSyntaxUID)
    if syntax.is_encapsulated or syntax.is_deflated:
        return ""
    needed = data.Rows * data.Columns * data.BitsAllocated // 8 + (8 if syntax.is_implicit_VR else 12)
    return f"truncated file: {needed - pixel_bytes} bytes of its pixels are gone" if pixel_bytes < needed else ""


def _oddities(data: pydicom.Dataset, number: dict[str, tuple[float, ...]]) -> tuple[str, ...]:
    """What is no reason against a slice, but may be one against what is learned from it."""
    tilt, bits = (number["GantryDetectorTilt"] or (0,))[0], number["BitsStored"][0]
    found = {
        "RescaleType says that the values have no unit: they are read as HU": _term(data, "RescaleType") == "US",
        "pixels are meant to be shown inverted (MONOCHROME1): they are read as HU all the same": (
            _term(data, "PhotometricInterpretation") == "MONOCHROME1"
        ),
        "pixels were compressed with loss": _term(data, "LossyImageCompression") == "01",
        f"only {bits:g} bits per voxel: gray values of a window?": bits < LEAST_BITS,
        f"gantry tilt of {tilt:g} degrees, but slices that are not tilted: resampled?": abs(tilt) >= LEAST_TILT,
    }
    return tuple(text for text, is_so in found.items() if is_so)


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


def _syntax_flaw(syntax: str) -> str:
    """Why pixels in this transfer syntax cannot be read here, with the package to install; empty if they can."""
    if not UID(syntax).is_transfer_syntax:
        return "transfer syntax unknown: convert the series"
    if not UID(syntax).is_encapsulated:
        return ""
    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError:
        return f"transfer syntax {UID(syntax).name} cannot be decoded: convert the series"
    if decoder.is_available:
        return ""
    needs = [line for line in decoder.missing_dependencies if line.startswith("pylibjpeg")]
    packages = re.findall(r"pylibjpeg-\w+", " ".join(needs)) or ["python-gdcm"]
    return f"compressed pixels ({UID(syntax).name}): pip install pylibjpeg {packages[0]}"


def _headers_in(job: tuple[Path, list[str]]) -> list[Header]:
    root, paths = job
    return [header for path in paths if (header := read_header(root, path)) is not None]


def find_series(root: Path, map_over=map) -> tuple[dict[str, list[Header]], list[Header]]:
    """Every series below ``root`` by its UID, and what cannot be read: files, links to nothing, and folders (their path
    ends in a slash). ``map_over``: a pool's map, or map. Raises InputError if ``root`` itself cannot be read."""
    paths, unreadable = _files_below(Path(root))
    jobs = [(root, paths[first : first + 500]) for first in range(0, len(paths), 500)]
    series = defaultdict(list)
    for header in (header for headers in map_over(_headers_in, jobs) for header in headers):
        (series[header.series_uid] if header.series_uid else unreadable).append(header)
    return dict(series), unreadable


def _files_below(root: Path) -> tuple[list[str], list[Header]]:
    """Files below ``root``, each once by whatever links it is reached, and what cannot be reached.

    Paths are relative to the root. Real folders come before links, so that a link never hides a path without one. Files
    whose names start with a dot are no data.
    """
    paths, unreachable, seen = [], [], set()
    folders = deque([root])
    while folders:
        folder = folders.popleft()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if _is_new(folder, seen) else []
        except OSError as error:
            if folder == root:
                raise InputError(f"the data's folder cannot be read: {error.strerror}", str(root)) from None
            place = os.path.join(os.path.relpath(folder, root), "")
            unreachable.append(Header(place, flaw=f"unreadable folder: {error.strerror}"))
            continue
        for entry in entries:
            path = os.path.relpath(entry.path, root)
            try:
                mode = entry.stat().st_mode
                if stat.S_ISDIR(mode):
                    (folders.append if entry.is_symlink() else folders.appendleft)(Path(entry.path))
                elif stat.S_ISREG(mode) and not entry.name.startswith(".") and _is_new(entry, seen):
                    paths.append(path)
            except OSError as error:
                if not entry.name.startswith("."):
                    unreachable.append(Header(path, flaw=f"unreadable file or link: {error.strerror}"))
    return sorted(paths), unreachable


def _is_new(place, seen: set[tuple[int, int]]) -> bool:
    """Whether a file or folder is met for the first time, by whatever name; notes that it has been."""
    status = place.stat()
    is_new = (status.st_dev, status.st_ino) not in seen
    seen.add((status.st_dev, status.st_ino))
    return is_new


def check_stack(headers: Sequence[Header]) -> None:
    """Raises InputError unless files are slices of one stack: whole, of one patient and plane, above each other.

    ``detail`` names files. Heights are checked by ``step_flaw``.
    FrameOfReferenceUID says nothing here: TCIA's copy of LIDC-IDRI has another in every file.
    """
    if flawed := [header for header in headers if header.flaw]:
        count, flaw = len(flawed), flawed[0].flaw
        raise InputError(f"{flaw} (so it is with {count} of {len(headers)} files)", _named(flawed))
    if others := _odd_ones(headers, lambda header: (header.subject, header.study_uid)):
        raise InputError("files of several patients or studies in one series", _named(others))
    if others := _odd_ones(headers, lambda header: header.in_plane):
        raise InputError("orientation, pixel spacing or matrix differ between the files", _named(others))
    if not np.allclose(np.abs(headers[0].in_plane[:6]), np.abs(AS_DRAWN[0]), atol=1e-3):
        raise InputError("orientation is not axial with rows to the side and columns to the back")
    if not any(np.allclose(headers[0].in_plane[:6], plane, atol=1e-3) for plane in AS_DRAWN):
        raise InputError("orientation is mirrored: rows or columns run against the patient's other axis")
    x_mm, y_mm, _ = np.ptp([header.position_mm for header in headers], axis=0)
    if max(x_mm, y_mm) > SHIFT_TOLERANCE_MM:
        raise InputError(f"slices do not lie above each other: shifted by {x_mm:.4g} mm in x, {y_mm:.4g} mm in y")


def _odd_ones(headers: Sequence[Header], value: Callable[[Header], Hashable]) -> list[Header]:
    """The files that differ from most in ``value``."""
    usual = Counter(map(value, headers)).most_common(1)[0][0]
    return [header for header in headers if value(header) != usual]


def _named(headers: Sequence[Header]) -> str:
    return ", ".join(header.path for header in headers[:3]) + (", ..." if len(headers) > 3 else "")


def oddities(headers: Sequence[Header]) -> list[str]:
    """What is odd with a series' files, each text once."""
    counts = Counter(text for header in headers for text in header.odd)
    repeated = len(headers) - len({header.instance_uid for header in headers})
    counts |= {"SOPInstanceUID is another file's: copies under one identity?": repeated} if repeated else {}
    return [f"{text} ({count} of {len(headers)} files)" for text, count in counts.items()]


def step_flaw(z_mm: np.ndarray) -> str:
    """What is wrong with the steps between slices at ascending ``z_mm``, or an empty text: a volume has even ones."""
    if len(z_mm) < 2:
        return "a single slice"
    even, steps = np.linspace(z_mm[0], z_mm[-1], len(z_mm)), np.diff(z_mm)
    is_even = np.abs(z_mm - even).max() <= Z_TOLERANCE_MM
    return "" if is_even else f"uneven z: steps from {steps.min():g} to {steps.max():g} mm"


def read_ct(root: Path, headers: Sequence[Header]) -> Volume:
    """A CT series as HU: int16 ``[x y z]``, z ascending, and its RAS+ affine. Memory: the result and one slice.

    ``headers`` as ``find_series`` gives them. Each slice has its own rescale. Raises InputError as ``check_stack``, if
    pixels cannot be read, or if the slices' steps are uneven, as where one is gone: then there is no such affine.
    """
    check_stack(headers)
    headers = sorted(headers, key=lambda header: header.position_mm[2])
    z_mm = np.array([header.position_mm[2] for header in headers])
    if flaw := step_flaw(z_mm):
        raise InputError(f"{flaw}; get the series again")
    *orientation, row_mm, column_mm, rows, columns = headers[0].in_plane  # distance of rows, of columns
    slices = np.empty((len(headers), int(rows), int(columns)), dtype=np.int16)  # [z y x]
    for hu, header in zip(slices, headers, strict=True):
        hu[...] = read_slice(root, header)
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = np.round(orientation[:3]) * column_mm
    affine_lps[:3, 1] = np.round(orientation[3:]) * row_mm
    affine_lps[:3, 2] = 0.0, 0.0, np.ptp(z_mm) / (len(headers) - 1)
    affine_lps[:3, 3] = headers[0].position_mm
    return Volume(slices.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps)


def read_slice(root: Path, header: Header) -> np.ndarray:
    """One slice's HU, rounded to int16: ``[row column]``. Raises InputError; ``detail`` names the file."""
    try:
        with _quiet():
            data = pydicom.dcmread(Path(root) / header.path, specific_tags=[*GEOMETRY, *PIXELS, *DECODING])
            pixels = data.pixel_array
            slope, intercept = np.float32(data.RescaleSlope), np.float32(data.RescaleIntercept)
            padding = _padding(data)
    except Exception as error:  # whatever damaged pixels make decoders raise; the message may quote the file
        reason = f"pixels cannot be decoded ({type(error).__name__}); get the series again"
        raise InputError(reason, header.path) from None
    if pixels.shape != header.in_plane[8:]:
        raise InputError(f"a slice of {pixels.shape} voxels, which its header does not say", header.path)
    hu = np.rint(pixels * slope + intercept)
    if hu.max() > HIGHEST_HU:
        reason = f"values are not HU: up to {hu.max():g}, beyond 16 bits; are signed values said to be unsigned?"
        raise InputError(reason, header.path)
    if (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == padding).all() and hu[0, 0] > HIGHEST_PADDING_HU:
        raise InputError(f"padding outside the field of view reads as {hu[0, 0]:g} HU: make it -2000 HU", header.path)
    return hu.clip(-HIGHEST_HU - 1, HIGHEST_HU).astype(np.int16)  # lower than that is padding only


def _padding(data: pydicom.Dataset) -> int | None:
    """PixelPaddingValue as the pixels hold it: some write a signed one's bits as an unsigned number."""
    value = data.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    wraps = data.PixelRepresentation == 1 and value >= 2 ** (data.BitsAllocated - 1)
    return value - 2**data.BitsAllocated if wraps else value
