"""Any cohort in NIfTI files: what an image and its label hold, and what is wrong with them. Which belong together is
said by ``cohort.pairs``.

A nodule is a 26-connected component of the voxels whose label is one of ``cohort.lesion_labels``; its diameter is that
of the sphere with its volume. Of a further label of ``cohort.labels``, such as ``airway``, what is not 0 counts.

Every image and every label has a row. Its ``reason`` and ``warnings`` may be read by all, so they name no file and no
patient; its ``detail`` does.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from lungsyn.cohort import overlap, plausible, raw
from lungsyn.cohort.pairs import NO_LABEL, find_pairs, further_files
from lungsyn.cohort.patients import same_image
from lungsyn.cohort.stack import slice_doubts
from lungsyn.cohort.workers import mapping
from lungsyn.errors import InputError
from lungsyn.hosts import HOST
from lungsyn.seams import RawCase
from lungsyn.settings.cohort import Listing, Preparation, Reading
from lungsyn.volume.files import read_image
from lungsyn.volume.nodules import diameter_mm
from lungsyn.volume.space import Volume

GEOMETRY_TOLERANCE_MM = 0.05  # headers hold float32; a real mismatch is a voxel
UNITS = {1: "metres", 3: "micrometres"}  # of xyzt_units; 2 is mm, and 0, not said, is read as mm by everyone


class NothingMarkedError(InputError):
    """A label without a nodule."""


def index(root: Path, settings: Listing, workers: int = 1) -> list[dict]:
    """One row per case: see ``cohort.table``. Reads every voxel once. Raises InputError if no layout fits.

    Besides: ``warnings`` (list of sentences), ``detail`` (names the file) and, of included rows, two digests:
    ``voxels``, and ``raw`` of the files' bytes. Patients that share an image are one.
    """
    if 0 in settings.lesion_labels:
        raise InputError("cohort.lesion_labels holds 0, which is background: name the values that are nodule")
    rows = find_pairs(Path(root), settings.readable)
    with mapping(workers) as map_over:
        rows = list(map_over(_row_of, [(row, Path(root), settings) for row in rows]))
    return same_image(_if_shifted(rows))


def _row_of(job: tuple[dict, Path, Listing]) -> dict:
    row, root, settings = job
    row = row | {"n_nodules": None, "spacing_mm": None, "status": "excluded"}
    if row["reason"] == NO_LABEL and settings.unmarked == HOST:
        row["reason"] = ""
    if row["reason"]:
        return row
    try:
        found, warnings = inspect_case(root, row["source"], row["annotation"], settings)
        further = further_files(root, row["source"], row["annotation"], settings.labels)
        files = [row["source"], *filter(None, [row["annotation"]]), *further.values()]
    except NothingMarkedError as error:
        if settings.unmarked == HOST:
            warned = [*row["warnings"], f"nothing is marked, so it is a host: {error}"]
            return _row_of((row | {"annotation": "", "warnings": warned}, root, settings))
        return row | {"reason": str(error), "detail": error.detail}
    except InputError as error:
        return row | {"reason": str(error), "detail": error.detail}
    ct = found.ct
    return row | {
        "status": "included",
        "n_nodules": len(found.nodules),
        "spacing_mm": "x".join(f"{value:.4g}" for value in ct.space.spacing_mm),
        "warnings": row["warnings"] + warnings,
        "voxels": plausible.voxel_digest(ct.data),
        "parts": overlap.sketch(ct),
        "raw": raw.digest(root, *files),
        "typical_hu": plausible.typical_hu(ct.data),
        "shifts": [plausible.best_shift(ct, mask) for mask in found.nodules],
    }


def _if_shifted(rows: list[dict]) -> list[dict]:
    """``rows``, the included ones with a warning if the values, or the labels, of most of them seem to be shifted."""
    included = [row for row in rows if row["status"] == "included"]
    told = [plausible.SHIFTED] if plausible.shifted([row["typical_hu"] for row in included]) else []
    if plausible.misplaced([shift for row in included for shift in row["shifts"]]):
        told.append(plausible.MISPLACED)
    for row in included:
        row["warnings"] += told
    return rows


def read_case(root: Path, image: str, label: str, settings: Reading) -> RawCase:
    """The CT (HU ``[x y z]``), its nodules' masks (bool, tight boxes) and further labels' (on the CT's grid). Without a
    ``label``, which is "" for hosts, there is no nodule. Raises InputError with the reason."""
    return inspect_case(root, image, label, settings)[0]


def inspect_case(root: Path, image: str, label: str, settings: Reading) -> tuple[RawCase, list[str]]:
    """The same and what is odd about it, as warnings."""
    ct, header = _read(root, image, "image")
    mask, label_header = _read(root, label, "label") if label else (None, None)
    nodules, warnings = [], []
    try:
        _check_grid(ct, header, settings)
        if mask:
            _check_same(ct, mask, "label")
        plausible.check_hu(ct.data)
        doubts = plausible.value_doubts(ct.data) + slice_doubts(ct)
        if mask:
            nodules, warnings = _nodules(ct, mask.data, label_names(root), settings)
    except InputError as error:
        raise type(error)(str(error), detail=", ".join(filter(None, [image, label]))) from error
    headers = [header, label_header] if label else [header]
    doubts, further = plausible.geometry_doubts(ct.space, *headers) + doubts, {}
    for name, path in further_files(root, image, label, settings.labels).items():
        further[name], more = _read_further(root, path, name, ct)
        warnings += more
    return RawCase(ct, nodules, labels=further), doubts + warnings


def _read_further(root: Path, path: str, name: str, ct: Volume) -> tuple[Volume, list[str]]:
    """A further label's mask (bool), on the CT's grid, and warnings."""
    mask, _ = _read(root, path, f"label {name}")
    _check_same(ct, mask, f"label {name}", path)
    values, warnings = _whole_numbers(mask.data, f"label {name}", path)
    if values.min() < 0:
        raise InputError(f"values below 0 in the label {name}: write 0 for background, and other whole numbers", path)
    return Volume(values != 0, ct.affine), warnings + plausible.label_doubts(values != 0, name)


def _whole_numbers(values: np.ndarray, what: str, path: str = "") -> tuple[np.ndarray, list[str]]:
    """A label's values, rounded where they are fractions, which is a warning. Raises InputError if one is none."""
    if values.dtype.kind != "f":
        return values, []
    whole = np.rint(values)
    if not np.isfinite(whole).all():
        raise InputError(f"non-finite values in the {what}: write whole numbers, 0 for background", path)
    return whole, [plausible.FRACTIONS] if np.abs(whole - values).max() > 0.01 else []


def _check_grid(ct: Volume, header, settings: Reading) -> None:
    if unit := UNITS.get(int(header["xyzt_units"]) & 7):
        raise InputError(f"lengths in {unit}: write the image with its lengths, and its header's unit, in mm")
    plausible.check_geometry(ct.space)
    if isinstance(settings, Preparation):
        plausible.check_grid(ct.space, settings.preprocess.spacing_mm)


def _check_same(ct: Volume, mask: Volume, what: str, path: str = "") -> None:
    """Raises InputError unless both volumes are on one grid."""
    if not ct.space.same_as(mask.space, GEOMETRY_TOLERANCE_MM):
        raise InputError(
            f"geometry mismatch: image {ct.data.shape}, {what} {mask.data.shape}"
            + (" with other affines" if ct.data.shape == mask.data.shape else "")
            + "; resample the label to the image's grid",
            path,
        )


def _nodules(
    ct: Volume, values: np.ndarray, names: dict[int, str], settings: Reading
) -> tuple[list[Volume], list[str]]:
    """The nodules of a label's ``values`` on the CT's grid, and warnings. Raises InputError if they cannot be some."""
    lesion, warnings = _lesion(values, settings.lesion_labels, names)
    meaning = _meaning(settings.lesion_labels, names)
    plausible.check_lesion(lesion, meaning)
    nodules = components(Volume(lesion, ct.affine), settings.nodules.min_diameter_mm)
    if not nodules:
        raise NothingMarkedError(f"no nodule left: none of at least {settings.nodules.min_diameter_mm:g} mm")
    return nodules, warnings + plausible.check_nodules(ct, nodules, meaning)


def _lesion(values: np.ndarray, lesion_labels: list[int], names: dict[int, str]) -> tuple[np.ndarray, list[str]]:
    """Which voxels of a label are lesion (bool), and warnings on its other values. Raises InputError if none is."""
    values, warnings = _whole_numbers(values, "label")
    lesion = np.isin(values, lesion_labels)
    others = sorted({int(value) for value in np.unique(values[values != 0])} - set(lesion_labels))
    told = ", ".join(str(value) + (f" ({names[value]})" if value in names else "") for value in others[:5])
    told += " and more" if len(others) > 5 else ""
    if not lesion.any():
        also = f"; its values are {told}" if others else ""
        raise NothingMarkedError(f"empty label: no voxel is one of {lesion_labels} (cohort.lesion_labels){also}")
    if others:
        warnings.append(
            f"its label also holds {told}, which is not in cohort.lesion_labels: add it there if it is nodule"
        )
    return lesion, warnings


def label_names(root: Path) -> dict[int, str]:
    """What ``dataset.json`` calls the values of labels: the Decathlon has {"1": "cancer"}, nnU-Net {"cancer": 1}."""
    try:
        labels = json.loads((root / "dataset.json").read_text(encoding="utf-8-sig"))["labels"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # nobody needs it
    pairs = [(key, value) if str(key).isdigit() else (value, key) for key, value in labels]
    return {int(value): " ".join(str(name).split())[:40] for value, name in pairs if str(value).isdigit()}


def _meaning(lesion_labels: list[int], names: dict[int, str]) -> str:
    """What ``dataset.json`` says of the lesion's values, as a part of a message."""
    told = [f"{value} is {names[value]!r}" for value in lesion_labels if value in names]
    return f" (dataset.json: {', '.join(told)})" if told else ""


def _read(root: Path, name: str, what: str) -> tuple[Volume, nib.Nifti1Header]:
    """A file's volume without trailing axes of one, and its header; anything else than three axes is refused."""
    try:
        volume, header = read_image(root / name)
    except InputError as error:
        raise InputError(f"unreadable file: the {what} is not a whole NIfTI volume; get it again", str(error)) from None
    if volume.data.dtype.kind not in "iuf":
        raise InputError(f"no number per voxel: the {what} holds {volume.data.dtype}; write HU, or labels", name)
    shape = volume.data.shape
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise InputError(f"not three axes: the {what} has {len(shape)} axes {shape}; write one volume to a file", name)
    return Volume(volume.data.reshape(shape[:3]), volume.affine), header


def components(lesion: Volume, min_diameter_mm: float) -> list[Volume]:
    """Nodules of a lesion mask, in the order of labelling: masks in tight boxes, each at least ``min_diameter_mm``."""
    pieces, _ = ndimage.label(lesion.data, np.ones((3, 3, 3)))
    found = []
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        start, stop = [side.start for side in box], [side.stop for side in box]
        piece = Volume(pieces, lesion.affine).crop(start, stop)
        mask = Volume(piece.data == number, piece.affine)
        if diameter_mm(float(mask.data.sum()) * mask.space.voxel_ml * 1000) >= min_diameter_mm:
            found.append(mask)
    return found
