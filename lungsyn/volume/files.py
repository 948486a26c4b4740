"""NIfTI in and out: the only reader and writer of volumes, and the layout of a case's folder.

A *case* is a folder with ``ct.nii`` (int16 HU), ``nodules.nii`` (uint8: 0, or the nodule's index), ``lungs.nii``
(uint8: 0, 1 right, 2 left), ``body.nii`` (uint8: 1 inside the skin) and ``case.json`` (where it came from), all on one
grid. Real and synthetic cases have the same layout. Files are uncompressed, so that a patch is read by memory map.
"""

import errno
import glob
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from lungsyn.errors import InputError
from lungsyn.volume.space import Space, Volume

# What nibabel lets through from damaged files.
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)
VOLUMES = ("ct", "nodules", "lungs", "body")
CASE_FILES = (*(f"{name}.nii" for name in VOLUMES), "case.json")


def read_volume(path: Path) -> Volume:
    """The whole volume, values scaled as its header says. Raises InputError naming the file."""
    try:
        image = nib.load(path)
        return Volume(np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64))
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable NIfTI volume ({error}): write it again or remove the case") from error


def map_volume(path: Path) -> Volume:
    """The same without reading it: ``data`` is a read-only memory map of the values on disk."""
    image = nib.load(path, mmap="r")
    return Volume(np.asarray(image.dataobj.get_unscaled()), np.asarray(image.affine, dtype=np.float64))


def write_volume(path: Path, volume: Volume) -> None:
    """Write ``volume`` as NIfTI-1 in its own dtype (int16 or uint8), whole or not at all."""
    image = nib.Nifti1Image(np.asarray(volume.data), volume.affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    with whole_file(path) as temporary:
        nib.save(image, temporary)


CANNOT_WRITE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "your quota of disk space is used up: free some space",
    errno.EROFS: "the file system is read-only: make it writable, or start from a folder that is",
    errno.EACCES: "no permission: become the folder's owner, or start from a folder of your own",
}


@contextmanager
def whole_file(path: Path):
    """A temporary path beside ``path`` (same suffix) that replaces it on success and vanishes on failure.

    Removes what killed processes left of the same file. Raises InputError naming the file where the disk is full or
    not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        reason = CANNOT_WRITE.get(system_error(error))
        if not reason:
            raise
        raise InputError(f"{path} cannot be written, {reason}; then give the same command again") from error
    finally:
        with suppress(OSError):  # a read-only disk refuses this, too
            temporary.unlink()


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files of ``path`` whose process this machine no longer has: nothing else would."""
    for leftover in path.parent.glob(f".*.{glob.escape(path.name)}"):
        pid = leftover.name.split(".")[1]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            leftover.unlink(missing_ok=True)
        except (ValueError, PermissionError):
            pass


def system_error(error: Exception) -> int | None:
    """The system's number of an error; safetensors has it in its text only: ``No space left (os error 28)``."""
    in_text = re.search(r"os error (\d+)", str(error))
    return getattr(error, "errno", None) or (int(in_text[1]) if in_text else None)


def write_text(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write small named arrays as a compressed ``.npz``, whole or not at all."""
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The inverse of ``write_arrays``."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_json_lines(path: Path, records: Iterable[dict]) -> None:
    """One record a line, as plots and log readers like it."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def read_json(path: Path) -> dict:
    """What a JSON file holds. Raises InputError naming the file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from error


@dataclass(frozen=True, eq=False)
class Case:
    """One case, real or synthetic: arrays ``[x y z]`` on one grid (int16 HU; uint8 masks) and its ``about``."""

    ct: np.ndarray
    nodules: np.ndarray
    lungs: np.ndarray
    body: np.ndarray
    affine: np.ndarray
    about: dict

    @property
    def space(self) -> Space:
        return Space(self.ct.shape, self.affine)

    @property
    def digest(self) -> str:
        """Twelve hex digits over every voxel and the affine, in the precision in which NIfTI keeps it."""
        found = hashlib.sha256(np.asarray(self.affine, dtype=np.float32).tobytes())
        for data in (self.ct, self.nodules, self.lungs, self.body):
            found.update(np.ascontiguousarray(data))
        return found.hexdigest()[:12]


def write_case(folder: Path, case: Case) -> None:
    """Write a case's folder; ``case.json`` last, so its presence says that the case is whole."""
    for name, data, dtype in (
        ("ct", case.ct, np.int16), ("nodules", case.nodules, np.uint8),
        ("lungs", case.lungs, np.uint8), ("body", case.body, np.uint8),
    ):  # fmt: skip
        if data.shape != case.ct.shape:
            raise ValueError(f"{folder}: {name} has shape {data.shape}, the CT {case.ct.shape}")
        write_volume(Path(folder) / f"{name}.nii", Volume(data.astype(dtype, copy=False), case.affine))
    write_json(Path(folder) / "case.json", case.about | {"digest": case.digest})


def write_left_out(folder: Path, about: dict) -> None:
    """The folder of a case that cannot be used: ``case.json`` says why, its volumes are empty files."""
    for name in VOLUMES:
        with whole_file(Path(folder) / f"{name}.nii") as temporary:
            temporary.touch()
    write_json(Path(folder) / "case.json", about)


def data_digests(folders: list[Path]) -> list[list[str]]:
    """Name and voxels' digest of each case: what a training that goes on must find unchanged. Models and synthetic
    cases keep it and may be shared, so a real case has a keyed one for that, its ``token`` (see ``cohort.private``)."""
    abouts = [(Path(folder).name, read_json(Path(folder) / "case.json")) for folder in folders]
    return [[name, about.get("token", about["digest"])] for name, about in abouts]


def open_case(folder: Path) -> Case:
    """A case whose arrays are memory maps: opening costs four headers, a patch costs its own voxels."""
    folder = Path(folder)
    try:
        volumes = {name: map_volume(folder / f"{name}.nii") for name in VOLUMES}
    except UNREADABLE as error:
        raise InputError(f"{folder}: not a case ({error}): it needs {', '.join(CASE_FILES)}, all whole") from error
    arrays = {name: volume.data for name, volume in volumes.items()}
    return Case(**arrays, affine=volumes["ct"].affine, about=read_json(folder / "case.json"))
