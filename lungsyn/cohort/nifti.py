"""Any cohort in NIfTI files: which image goes with which label, and what is wrong with a pair.

Layouts, told apart by the folders below the root (``.nii`` or ``.nii.gz``; names that start with a dot are ignored):

    images/{case}            labels/{case}       cases.tsv (optional: case, patient, [split, anything else])
    imagesTr/{case}          labelsTr/{case}     dataset.json               Medical Segmentation Decathlon
    imagesTr/{case}_0000     labelsTr/{case}     dataset.json               nnU-Net raw; channel 0 is the CT

Without ``cases.tsv`` every case is its own patient. A nodule is a 26-connected component of the voxels
whose label is one of ``cohort.lesion_labels``; its diameter is that of the sphere with its volume.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
from scipy import ndimage

from lungsyn.cohort.workers import mapping
from lungsyn.config import Listing, Reading
from lungsyn.errors import InputError
from lungsyn.volume.files import read_volume
from lungsyn.volume.nodules import diameter_mm
from lungsyn.volume.space import Volume
from lungsyn.volume.tables import read_table

GEOMETRY_TOLERANCE_MM = 0.05  # headers hold float32; a real mismatch is a voxel
CHANNEL_ZERO = "0000"
PADDING_HU = -1100  # below there is no tissue and no air: outside the scanner's field of view
LUNG_HU, TISSUE_HU = -500, -200  # below: lung or air; above: tissue


def index(root: Path, settings: Listing, workers: int = 1) -> list[dict]:
    """One row per case: see ``cohort.table``. Reads every voxel once. Raises InputError if no layout fits."""
    pairs = find_pairs(Path(root))
    with mapping(workers) as map_over:
        return list(map_over(_row_of, [(pair, Path(root), settings) for pair in pairs]))


def find_pairs(root: Path) -> list[dict]:
    """Every case of ``root``: case, patient, split, source and annotation (paths relative to the root, or empty)."""
    nnunet = (root / "imagesTr").is_dir()
    images, labels = ("imagesTr", "labelsTr") if nnunet else ("images", "labels")
    image_of, label_of = _files(root, images), _files(root, labels)
    if not image_of:
        raise InputError(f"{root}: no .nii or .nii.gz in images/ (with labels/) or imagesTr/ (with labelsTr/)")
    image_of = _first_channels(image_of, label_of)
    for misplaced in (root / images / "cases.tsv", root / labels / "cases.tsv"):
        if misplaced.exists():
            raise InputError(f"{misplaced}: it belongs beside the folders, in {root}: move it there")
    listed = _listed(root / "cases.tsv")
    unlisted = sorted(image_of.keys() - listed.keys())
    if listed and unlisted:  # a patient's cases would count as patients, and straddle the splits
        unknown = sorted(listed.keys() - image_of.keys())
        also = f", and there is no image for its case {unknown[0]!r}" if unknown else ""
        raise InputError(
            f"{root / 'cases.tsv'}: image {unlisted[0]!r} is not listed{also}: list every case by the name of its "
            "label, without .nii.gz; cohort.exclude leaves cases out"
        )
    pairs = [
        {
            "case": as_folder(name),
            "patient": listed.get(name, {}).get("patient") or name,
            "split": listed.get(name, {}).get("split") or "",
            "source": image_of.get(name, ""),
            "annotation": label_of.get(name, ""),
        }
        for name in sorted({*image_of, *listed})
    ]
    twice = [case for case, count in Counter(pair["case"] for pair in pairs).items() if count > 1]
    if twice:
        raise InputError(f"{root}: case {twice[0]} comes from two files: rename one; only [A-Za-z0-9_+-] count")
    return pairs


def as_folder(name: str) -> str:
    """The case's name, which becomes a folder, from that of its file."""
    return re.sub(r"[^\w+-]", "-", name, flags=re.ASCII)


def _first_channels(image_of: dict[str, str], label_of: dict[str, str]) -> dict[str, str]:
    """Images by the name of their case. nnU-Net's are numbered by channel (``x_0000``), its labels are not (``x``); an
    image whose label has the same name is one of a case with a number. Other channels than the first are no CT."""
    channels = {name: re.fullmatch(r"(.+)_(\d{4})", name) for name in image_of if name not in label_of}
    of_channels = {match[1] for match in channels.values() if match and match[1] not in image_of}
    if not of_channels & label_of.keys():
        return image_of
    cases = {}
    for name, path in image_of.items():
        match = channels.get(name)
        if not match or match[1] not in of_channels:
            cases[name] = path
        elif match[2] == CHANNEL_ZERO:
            cases[match[1]] = path
    return cases


def _files(root: Path, folder: str) -> dict[str, str]:
    """NIfTI files of a folder: name without suffix -> path relative to the root."""
    paths = sorted((root / folder).glob("*.nii*")) if (root / folder).is_dir() else []
    named = [(re.fullmatch(r"([^.].*?)\.nii(\.gz)?", path.name), path) for path in paths]
    return {match[1]: str(path.relative_to(root)) for match, path in named if match}


def _listed(path: Path) -> dict[str, dict]:
    """``cases.tsv`` by case; empty if there is none. Raises InputError for a missing column or a case listed twice."""
    if not path.exists():
        return {}
    rows = [{key: (cell or "").strip() for key, cell in row.items() if key} for row in read_table(path)]
    for column in ("case", "patient"):
        if rows and column not in rows[0]:
            raise InputError(f"{path}: no column {column!r}; its columns are {', '.join(rows[0])}")
    listed = {row["case"]: row for row in rows}
    if nameless := [row["case"] for row in rows if not row["patient"]]:
        raise InputError(
            f"{path}: case {nameless[0]} has no patient; without one it would count as a patient of its own"
        )
    if len(listed) < len(rows):
        twice = Counter(row["case"] for row in rows).most_common(1)[0][0]
        raise InputError(f"{path}: case {twice} is listed more than once")
    return listed


def _row_of(job: tuple[dict, Path, Listing]) -> dict:
    pair, root, settings = job
    row = pair | {"n_nodules": None, "spacing_mm": None, "status": "excluded"}
    try:
        ct, nodules = read_case(root, pair["source"], pair["annotation"], settings)
    except InputError as error:
        return row | {"reason": str(error)}
    spacing = "x".join(f"{value:.4g}" for value in ct.space.spacing_mm)
    return row | {"status": "included", "reason": "", "n_nodules": len(nodules), "spacing_mm": spacing}


def read_case(root: Path, image: str, label: str, settings: Reading) -> tuple[Volume, list[Volume]]:
    """The CT (HU ``[x y z]``) and its nodules' masks (bool, tight boxes). Raises InputError with the reason."""
    if not image or not label:
        raise InputError("missing image" if not image else "missing label: none has the image's name")
    ct, mask = _read(root, image), _read(root, label)
    if abs(np.linalg.det(ct.affine)) < 1e-9:
        raise InputError(f"affine without a volume: {image}; write the file with a valid sform")
    if not ct.space.same_as(mask.space, GEOMETRY_TOLERANCE_MM):
        raise InputError(
            f"geometry mismatch: image {ct.data.shape}, label {mask.data.shape}"
            + (" with other affines" if ct.data.shape == mask.data.shape else "")
        )
    _check_hu(ct.data, image)
    lesion = np.isin(np.rint(mask.data) if mask.data.dtype.kind == "f" else mask.data, settings.lesion_labels)
    if not lesion.any():
        raise InputError(f"empty label: no voxel of {label} is one of {settings.lesion_labels} (cohort.lesion_labels)")
    nodules = components(Volume(lesion, ct.affine), settings.nodules.min_diameter_mm)
    if not nodules:
        raise InputError(f"no nodule left: none of at least {settings.nodules.min_diameter_mm:g} mm")
    return ct, nodules


def _read(root: Path, name: str) -> Volume:
    """A file's volume without trailing axes of one; anything else than three axes is refused."""
    try:
        volume = read_volume(root / name)
    except InputError:
        raise InputError(f"unreadable file: {name} is not a whole NIfTI volume; get it again") from None
    if volume.data.dtype.kind not in "iuf":
        raise InputError(f"no number per voxel: {name} holds {volume.data.dtype}; write HU, or labels")
    shape = volume.data.shape
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise InputError(f"not three axes: {name} has {len(shape)} axes {shape}")
    return Volume(volume.data.reshape(shape[:3]), volume.affine)


def _check_hu(values: np.ndarray, name: str) -> None:
    """Refuse values that cannot be HU of a chest: there is lung or air, and tissue, and nothing exceeds int16.

    Of each some voxels in a thousand, so that neither padding nor a few odd voxels pass for them."""
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and not np.isfinite([low, high]).all():
        raise InputError(f"non-finite values: {name}; replace them by -1024 or leave the case out")
    if low < -32768 or high > 32767:
        raise InputError(f"values are not HU: {name} from {low:g} to {high:g}, beyond 16 bits")
    some = values[::2, ::2, ::2]
    some = some[some >= PADDING_HU]
    if not some.size or np.mean(some < LUNG_HU) < 0.005 or np.mean(some > TISSUE_HU) < 0.005:
        raise InputError(
            f"values are not HU of a chest: {name} from {low:g} to {high:g}; air is -1000, soft tissue about 40: undo "
            "the normalisation or offset"
        )


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
