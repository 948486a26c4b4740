"""What a folder of data is before a study of it is set up: which reader reads it, its labels' values, spacings, sizes.

Nothing is judged here: whether a case can be used is asked of the reader's own index. A folder that no reader reads is
an InputError that says what lies there and how it should lie.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from lungsyn.cohort import nifti, pairs
from lungsyn.cohort.dicom import read_header
from lungsyn.cohort.names import readable
from lungsyn.cohort.readers.nifti import IMAGES
from lungsyn.cohort.workers import mapping
from lungsyn.errors import InputError
from lungsyn.volume.files import UNREADABLE, read_image
from lungsyn.volume.space import Space

LAYOUTS = {
    "images": "images/ and labels/ of NIfTI files",
    "imagesTr": "imagesTr/ and labelsTr/ (Medical Segmentation Decathlon)",
    "nnunet": "imagesTr/ and labelsTr/ of nnU-Net raw data, channels numbered",
}
DICOM = "DICOM; LIDC-IDRI's can be read, since its nodules are known. Convert others to NIfTI, a label each"
HOW = (
    "put (or link) each CT as images/CASE.nii.gz and the mask of its nodules as labels/CASE.nii.gz, or name the folder "
    "of LIDC-IDRI's DICOM"
)
LESION = re.compile(r"(?i)nodule|lesion|tumou?r|cancer|mass|metasta|carcinoma|neoplasm|gtv")
LOOK = "LOOK:"
LOOKED_AT = 200  # files that are asked whether they are DICOM
DEPTH, MOST_FOLDERS = 2, 1000  # in which a layout is looked for that was meant


@dataclass(frozen=True)
class Survey:
    """A folder that can be read. Spacings and sizes (mm, ``[case 3]``, the axes of the patient) and the values of each
    label are of NIfTI files; of DICOM the reader knows more."""

    dataset: str
    layout: str
    spacings_mm: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    sizes_mm: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    values: Sequence[tuple[int, ...]] = ()
    names: dict[int, str] = field(default_factory=dict)
    listed: bool | None = None  # whether there is a list of patients, which DICOM needs not


def survey(root: Path, workers: int = 1) -> Survey:
    """Look at ``root``; reads every label. Raises InputError where nothing is recognised."""
    dataset, layout = recognise(root)
    if dataset != "nifti":
        return Survey(dataset, layout)
    found = [row for row in pairs.find_pairs(root, public_names=False) if not row["reason"]]
    with mapping(workers) as map_over:
        values = list(map_over(label_values, [root / row["annotation"] for row in found if row["annotation"]]))
    grids = [grid for row in found if (grid := _grid(root / row["source"])) is not None]
    spacings, sizes = (np.array([grid[i] for grid in grids]).reshape(-1, 3) for i in range(2))
    names = nifti.label_names(root)
    return Survey(
        dataset, layout, spacings, sizes, [v for v in values if v is not None], names, (root / "cases.tsv").is_file()
    )


def recognise(root: Path) -> tuple[str, str]:
    """(dataset, layout in words). Raises InputError that says what is in the folder, and what would be recognised."""
    if not root.exists():
        raise InputError(f"{root}: no such folder")
    if not root.is_dir():
        raise InputError(f"{root} is a file: name the folder that holds the data")
    if name := _layout(root):
        return "nifti", LAYOUTS[name]
    if root.name in IMAGES and _layout(root.parent):
        raise InputError(f"{root} holds one half of the cases: name the folder above it, {root.parent}")
    if meant := [folder for folder in _folders(root, DEPTH) if _layout(folder)]:
        more = f" (and {len(meant) - 1} more)" if len(meant) > 1 else ""
        raise InputError(f"{root} holds no cases itself, but {meant[0]} does{more}: name that folder")
    files = _files(root)
    images = [path for path in files if pairs.is_nifti(path.name)]
    dicom = any(_is_dicom(path) for path in [path for path in files if path not in set(images)][:LOOKED_AT])
    if dicom and not images:
        return "lidc", DICOM
    way_out = "NIfTI files lie outside images/ and labels/" if images else "A folder of cases is to be named"
    raise InputError(f"{root}: {_contents(files, dicom)}. {way_out}: {HOW}")


def _layout(root: Path) -> str:
    """The key of ``LAYOUTS`` that fits, or nothing."""
    name = pairs.images_folder(root)
    if name != "imagesTr":
        return name
    numbered = any(re.search(r"_\d{4}\.nii", path.name) for path in (root / name).iterdir())
    return "nnunet" if numbered else name


def _folders(root: Path, depth: int) -> list[Path]:
    """Folders below ``root``, at most ``depth`` deep, the nearest first."""
    found, level = [], [root]
    for _ in range(depth):
        level = [sub for folder in level for sub in sorted(_scan(folder)) if sub.is_dir()][:MOST_FOLDERS]
        found += level
    return found


def _scan(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return []


def _files(root: Path) -> list[Path]:
    return [
        Path(folder, name) for folder, _, names in os.walk(root) for name in sorted(names) if not name.startswith(".")
    ]


def _is_dicom(path: Path) -> bool:
    header = read_header(path.parent, path.name)
    return header is not None and not header.flaw.startswith("unreadable")


def _contents(files: Sequence[Path], dicom: bool) -> str:
    """What there is, in words that name no file."""
    if not files:
        return "the folder is empty"
    kinds = Counter("".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]) for path in files)
    told = ", ".join(
        f"{count:,} {kind or 'without a suffix'}"
        for kind, count in sorted(kinds.items(), key=lambda k: (-k[1], k[0]))[:4]
    )
    also = ", DICOM among them" if dicom else ""
    return f"no cases were recognised among {len(files):,} files ({told}{also})"


def label_values(path: Path) -> tuple[int, ...] | None:
    """The values of a label but 0, rising; None for a file that cannot be read, of which the index says more."""
    try:
        data = read_image(path)[0].data
    except InputError:
        return None
    if data.dtype.kind not in "iuf":
        return None
    values = np.unique(data)
    whole = np.rint(values[np.isfinite(values)]) if values.dtype.kind == "f" else values
    return tuple(sorted({int(value) for value in whole} - {0}))


def _grid(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Spacing and size of an image, mm, along the patient's axes; None where its header cannot be read."""
    try:
        image = nib.load(path)
        axis_of = nib.io_orientation(image.affine)[:, 0].argsort()  # the voxel axis along each of the patient's
    except (*UNREADABLE, np.linalg.LinAlgError):
        return None
    if len(image.shape) < 3 or not np.isfinite(image.affine).all():
        return None
    space = Space(tuple(image.shape[axis] for axis in axis_of), np.asarray(image.affine)[:, [*axis_of, 3]])
    return space.spacing_mm, space.spacing_mm * space.shape


def lesion_labels(found: Survey) -> tuple[list[int], str]:
    """Which values of the labels are nodule, most likely, and why."""
    present = sorted({value for values in found.values for value in values})
    named = [value for value, name in found.names.items() if LESION.search(name) and value in present]
    if named:
        return named, "dataset.json calls them " + ", ".join(found.names[value] for value in named)
    if len(present) == 1:
        return present, "the labels have no other value"
    counts = {len(values) for values in found.values}
    if len(counts) > 1 and all(values == tuple(range(1, len(values) + 1)) for values in found.values):
        return present, "values seem to number the nodules of a case"
    told = ", ".join(map(str, present[:8]))
    return [1], f"{LOOK} the labels' values are {told}, and nothing says which of them are nodule"


def told_values(found: Survey) -> str:
    """The values of the labels, and how many cases have each."""
    counts = Counter(value for values in found.values for value in values)
    told = [f"{v}{f' ({readable(found.names[v])})' if v in found.names else ''} in {n:,}" for v, n in counts.items()]
    empty = sum(not values for values in found.values)
    return ", ".join(told[:8] + ["and more"] * (len(told) > 8) + [f"none in {empty:,}"] * bool(empty))
