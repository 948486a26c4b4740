"""Which files of a NIfTI cohort belong together: image, label and further labels of each case, by names and folders.

Layouts, told apart by the folders below the root (``.nii`` or ``.nii.gz``; names that start with a dot are ignored):

    images/{case}            labels/{case}       cases.tsv (optional: case, patient, [split, role, anything else])
    imagesTr/{case}          labelsTr/{case}     dataset.json               Medical Segmentation Decathlon
    imagesTr/{case}_0000     labelsTr/{case}     dataset.json               nnU-Net raw; channel 0 is the CT

Without ``cases.tsv`` every case is its own patient. A *host*, which only teaches the generator, is an image in
``hosts/`` beside these folders, one whose role in ``cases.tsv`` is host, or, if ``cohort.unmarked`` says so, one in
which nothing is marked; its label, if any, is not looked at. A further label of ``cohort.labels``, such as ``airway``,
lies in ``labels_airway/{case}`` or ``labelsTr_airway/{case}``. Nothing is read here but the list of patients.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from lungsyn.cohort.names import as_folder, readable
from lungsyn.cohort.patients import NO_LIST, read_list, refuse_alike
from lungsyn.cohort.readers.nifti import HOSTS, IMAGES
from lungsyn.errors import InputError
from lungsyn.hosts import HOST

CHANNEL_ZERO = "0000"
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
