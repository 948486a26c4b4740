"""Any cohort in NIfTI files: which image goes with which label, and what is wrong with a pair.

Layouts, told apart by the folders below the root (``.nii`` or ``.nii.gz``; names that start with a dot are ignored):

    images/{case}            labels/{case}       cases.tsv (optional: case, patient, [split, role, anything else])
    imagesTr/{case}          labelsTr/{case}     dataset.json               Medical Segmentation Decathlon
    imagesTr/{case}_0000     labelsTr/{case}     dataset.json               nnU-Net raw; channel 0 is the CT

Without ``cases.tsv`` every case is its own patient. A *host*, which only teaches the generator, is an image in
``hosts/`` beside these folders, one whose role in ``cases.tsv`` is host, or, if ``cohort.unmarked`` says so, one in
which nothing is marked; its label, if any, is not looked at.

A nodule is a 26-connected component of the voxels whose label is one of ``cohort.lesion_labels``; its diameter is that
of the sphere with its volume. A further label of ``cohort.labels``, such as ``airway``, is what is not 0 in
``labels_airway/{case}`` or ``labelsTr_airway/{case}``.

Every image and every label has a row. Its ``reason`` and ``warnings`` may be read by all, so they name no file and no
patient; its ``detail`` does.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from lungsyn.cohort import overlap, plausible, raw
from lungsyn.cohort.names import as_folder, readable
from lungsyn.cohort.patients import NO_LIST, read_list, refuse_alike, same_image
from lungsyn.cohort.readers.nifti import IMAGES
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
CHANNEL_ZERO = "0000"
HOSTS = "hosts"  # the folder
NO_LABEL = "missing label: none has the case's name"
LABEL_OF_HOST = "the label of a host: ignored"
IMAGE_FILE = re.compile(
    r"(.+?)(\.nii|\.(mha|mhd|nrrd|nhdr|hdr|img|mgh|mgz|dcm|npy|npz|tiff?|gipl|vti|h5)|(\.(nii|mha|nrrd|img|dcm))?"
    r"\.(gz|bz2|xz|zst|zip|7z|tar|tgz))",
    re.IGNORECASE | re.DOTALL,
)
# Half a download, a pointer to data elsewhere, a format unknown here.
ANY_FILE = re.compile(r"(.+?)(\.nii.*|\.[^.]*)?", re.IGNORECASE | re.DOTALL)
NO_IMAGE = re.compile(
    r".*\.(json|txt|md|csv|tsv|xlsx?|ods|docx?|pdf|xml|html?|ya?ml|toml|ini|db|log|png|jpe?g|gif|svg|py|ipynb|m|r|sh|"
    r"bval|bvec|ctbl|label|md5|sha\d+)|readme|licen[sc]e|changes|changelog|manifest|makefile",
    re.IGNORECASE | re.DOTALL,
)
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


def find_pairs(root: Path, public_names: bool = True) -> list[dict]:
    """Every case of ``root``, as a row: case (its file's name; if ``public_names``, as a folder), patient, split, role,
    source and annotation (paths relative to the root, or empty), warnings, and the reason if the files alone say that
    it cannot be used.

    Raises InputError if no layout fits, the list of patients cannot be meant, or, where names are public, two files
    give a case of one name.
    """
    images, labels = _layout(root)
    image_of, label_of = _files(root, images), _files(root, labels)
    if not any(is_nifti(path) for paths in image_of.values() for path in paths):
        raise InputError(
            "no .nii or .nii.gz in images/ (with labels/) or imagesTr/ (with labelsTr/): put the files themselves "
            "there, not folders of them nor other formats",
            detail=str(root),
        )
    for name, paths in _files(root, HOSTS).items():
        image_of[name] = [*image_of.get(name, []), *paths]
    image_of, ignored = _first_channels(image_of, label_of)
    listed = read_list(root, (images, labels, HOSTS))
    _refuse_unlisted(image_of, listed)
    rows = [
        _pair(name, image_of.get(name, []), label_of.get(name, []), listed, ignored[name])
        for name in sorted({*image_of, *label_of, *listed})
    ]
    refuse_alike([row["patient"] for row in rows if not row["reason"]], bool(listed))
    return _as_folders(rows) if public_names else rows


def images_folder(root: Path) -> str:
    """The folder of images below ``root`` by its name; empty where neither layout is there."""
    return next((name for name in IMAGES if _files(root, name)), "")


def _layout(root: Path) -> tuple[str, str]:
    """The folders of images and labels. Raises InputError if both layouts are there: one would be passed over."""
    plain, nnunet = bool(_files(root, "images")), bool(_files(root, "imagesTr"))
    if plain and nnunet:
        raise InputError("both images/ and imagesTr/ hold images: only one can be read; move the other away")
    return ("imagesTr", "labelsTr") if nnunet else ("images", "labels")


def _files(root: Path, folder: str) -> dict[str, list[str]]:
    """Files and folders in a folder, without texts, tables and the like: name without suffix -> paths relative to the
    root; those of folders end in /."""
    found = defaultdict(list)
    for path in sorted((root / folder).iterdir()) if (root / folder).is_dir() else ():
        is_folder = path.is_dir()
        if not path.name.startswith(".") and (is_folder or not NO_IMAGE.fullmatch(path.name)):
            found[_name_of(path.name, is_folder)].append(str(path.relative_to(root)) + "/" * is_folder)
    return dict(found)


def _name_of(file: str, is_folder: bool = False) -> str:
    """A file's name without its suffix."""
    match = IMAGE_FILE.fullmatch(file) or (None if is_folder else ANY_FILE.fullmatch(file))
    return readable(match[1] if match else file)


def is_nifti(path: str) -> bool:
    return path.lower().endswith((".nii", ".nii.gz"))


def _first_channels(image_of: dict, label_of: dict) -> tuple[dict[str, list[str]], Counter]:
    """Images by the name of their case, and how many of other channels each case has. nnU-Net's are numbered by channel
    (``x_0000``), its labels are not (``x``); an image whose label has the same name is one of a case with a number.
    Other channels than the first are no CT."""
    channels = {name: re.fullmatch(r"(?s)(.+)_(\d{4})", name) for name in image_of if name not in label_of}
    of_channels = {match[1] for match in channels.values() if match and match[1] not in image_of}
    cases, ignored = {}, Counter()
    if not of_channels & label_of.keys():
        return image_of, ignored
    for name, paths in image_of.items():
        match = channels.get(name)
        if not match or match[1] not in of_channels:
            cases[name] = paths
        elif match[2] == CHANNEL_ZERO:
            cases[match[1]] = paths
        else:
            cases.setdefault(match[1], [])
            ignored[match[1]] += 1
    return cases, ignored


def _refuse_unlisted(image_of: dict, listed: dict) -> None:
    """Raise InputError if there is a list and an image is not in it: a patient's cases would count as patients, and
    straddle the splits."""
    unlisted = sorted(name for name in image_of.keys() - listed.keys() if any(map(is_nifti, image_of[name])))
    if listed and unlisted:
        unknown = sorted(listed.keys() - image_of.keys())
        also = f"; and there is no image for its case {unknown[0]!r}" if unknown else ""
        raise InputError(
            f"cases.tsv does not list {len(unlisted)} of the images: list every case by the name of its label, without "
            ".nii.gz; cohort.exclude leaves cases out",
            detail=f"image {unlisted[0]!r} is not listed{also}",
        )


def _pair(name: str, images: list[str], labels: list[str], listed: dict, ignored: int) -> dict:
    image, no_image = _one_file(images, "image")
    label, no_label = _one_file(labels, "label")
    is_host = listed.get(name, {}).get("role") == HOST or any(map(_in_hosts, images))
    warnings = [] if listed else [NO_LIST]
    if is_host:
        warnings += [LABEL_OF_HOST] if labels else []
        labels, label, no_label = [], "", ""
    if ignored:
        warnings.append(f"{ignored} {'image' if ignored == 1 else 'images'} of other channels than the first: ignored")
    if (image and len(images) > 1) or (label and len(labels) > 1):
        warnings.append("beside its .nii or .nii.gz lies another file of its name: ignored")
    return {
        "case": name,
        "patient": listed.get(name, {}).get("patient") or name,
        "split": listed.get(name, {}).get("split") or "",
        "role": HOST if is_host else "",
        "source": image,
        "annotation": label,
        "reason": no_image or no_label,
        "warnings": warnings,
        "detail": ", ".join([*images, *labels]) if no_image or no_label else "",
    }


def _one_file(paths: list[str], what: str) -> tuple[str, str]:
    """The one NIfTI file among those of a name, or why there is none."""
    usable = [path for path in paths if is_nifti(path)]
    if len(usable) == 1:
        return usable[0], ""
    if len({_in_hosts(path) for path in usable}) > 1:
        return "", f"two files for one {what}: one of them in {HOSTS}/; keep one"
    if usable:
        return "", f"two files for one {what}: keep one of .nii and .nii.gz"
    if paths and all(path.endswith("/") for path in paths):
        return "", f"folder in place of the {what}: put the file itself there"
    if paths:
        return "", f"not NIfTI: convert the {what} to .nii.gz"
    return "", NO_LABEL.replace("label", what)


def _in_hosts(path: str) -> bool:
    return Path(path).parts[0] == HOSTS


def _as_folders(rows: list[dict]) -> list[dict]:
    """``rows`` with cases named as folders. Raises InputError if two of them would have one."""
    named = [row | {"case": as_folder(row["case"])} for row in rows]
    case, count = Counter(row["case"] for row in named).most_common(1)[0]
    if count > 1:
        raise InputError("a case comes from two files: rename one; only [A-Za-z0-9_+-] count", detail=f"case {case}")
    return named


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


def further_files(root: Path, image: str, label: str, names: Sequence[str]) -> dict[str, str]:
    """Where the further labels ``names`` of a case lie whose nodules' is ``label`` ("": a host's): {name: path}, all
    below the root. Raises InputError where one is missing."""
    folder = Path(label).parent.name if label else _layout(root)[1]
    case = _name_of(Path(label or image).name)
    if not label and folder == "labelsTr":  # whose names have no channel
        case = case.removesuffix(f"_{CHANNEL_ZERO}")
    found = {}
    for name in names:
        found[name], missing = _one_file(_files(root, f"{folder}_{name}").get(case, []), f"label {name}")
        if missing:
            raise InputError(missing, detail=f"{folder}_{name}/ of {label or image}")
    return found


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
