"""NIfTI in and out: the only reader and writer of volumes, and the layout of a case's folder.

A *case* is a folder with ``ct.nii`` (int16 HU), ``nodules.nii.gz`` (uint8: 0, or the nodule's index), ``lungs.nii.gz``
(uint8: 0, 1 right, 2 left), ``body.nii.gz`` (uint8: 1 inside the skin) and ``case.json`` (where it came from), all on
one grid. Where it has further labels, ``labels`` in ``case.json`` names them, and each has a file of its name. Real and
synthetic cases have the same layout. A patch of the CT, which is not compressed, is read by memory map, that of a label
by `Blocks`.
"""

import errno
import glob
import gzip
import hashlib
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Iterable
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from lungsyn.errors import InputError
from lungsyn.volume.blocks import Blocks, packed
from lungsyn.volume.labels import ALWAYS, LabelMap, check_names
from lungsyn.volume.space import Space, Volume

# What damaged files make nibabel, gzip and json raise.
OF_NIBABEL = (ImageFileError, ImageDataError, HeaderDataError, HeaderTypeError, WrapStructError)
OF_PYTHON = (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, RecursionError)
UNREADABLE: tuple[type[Exception], ...] = (*OF_PYTHON, *OF_NIBABEL, zlib.error, struct.error)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
VOLUMES = ("ct", *ALWAYS)
FILE_OF = {"ct": "ct.nii"} | {name: f"{name}.nii.gz" for name in ALWAYS}
CASE_FILES = (*FILE_OF.values(), "case.json")
# A header may claim anything: more is not asked of the memory. 2,000 slices of 1,024 x 1,024 are less than either.
LARGEST_VOXELS, LARGEST_BYTES = 2**31, 2**32
FOUND_WHOLE = ".found_whole"  # in a case's folder: in which state its files had the voxels that case.json tells of
REMAKE = "delete the folder and give the same command again"
VOXELS = "lungsyn, voxels "  # and their digest: what a header says of a volume that this package wrote
GZIP = b"\x1f\x8b"


def read_volume(path: Path) -> Volume:
    """The whole volume of `read_image`."""
    return read_image(path)[0]


def read_image(path: Path) -> tuple[Volume, nib.Nifti1Header]:
    """The whole volume, values scaled as its header says, and that header; plain or in gzip, whatever its suffix.

    The file is read to its end, where gzip has its checksum. Raises InputError naming the file for one that is damaged,
    longer or shorter than its header says, or too large for any memory.
    """
    with refused(path, "not a readable NIfTI volume", "write it again or remove the case"), opened(path) as stream:
        image = image_in(stream)
        data = np.asanyarray(image.dataobj)
        if stream.read(1):
            raise ValueError("it goes on after the voxels that its header tells of")
        return Volume(data, np.asarray(image.affine, dtype=np.float64)), image.header


@contextmanager
def refused(path: Path, what: str, way_out: str, *errors: type[Exception]):
    """Whatever a damaged file raises within (``errors`` as well) becomes an InputError that names the file, ``what`` is
    wrong with it, why, and the way out.

    That the system opens no more files says nothing of this one: it is left to the command line."""
    try:
        yield
    except UNREADABLE + errors as error:
        if system_error(error) in TOO_MANY_FILES:
            raise
        reason = "more memory is needed than there is" if isinstance(error, MemoryError) else error
        raise InputError(f"{path}: {what} ({reason}): {way_out}") from error


@contextmanager
def opened(path: Path):
    """A file's content as a stream, unpacked if it begins as gzip does; a pipe is refused: it would be waited for."""
    if not Path(path).is_file():
        raise FileNotFoundError("it is no file, or a link to nothing")
    with open(path, "rb") as file:
        packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if packed else nullcontext(file) as stream:
            yield stream


def image_in(stream) -> nib.Nifti1Image:
    """The NIfTI-1 or NIfTI-2 image of a stream, of which only the header is read. Raises ValueError for anything else
    and for one too large, else what nibabel raises."""
    begin = stream.read(nib.Nifti2Header.sizeof_hdr)
    kinds = [kind for kind in (nib.Nifti1Image, nib.Nifti2Image) if kind.header_class.may_contain_header(begin)]
    if not kinds:
        raise ValueError("it does not begin as NIfTI, plain or in gzip")
    image = kinds[0].from_file_map(kinds[0].make_file_map({"image": stream}), mmap=False)
    voxels = math.prod(image.shape)
    if voxels > LARGEST_VOXELS or voxels * image.get_data_dtype().itemsize > LARGEST_BYTES:
        raise ValueError(f"its header tells of {' x '.join(map(str, image.shape))} voxels, more than any chest has")
    if voxels < 1:
        raise ValueError("it holds no voxels")
    return image


def map_volume(path: Path) -> Volume:
    """The same without reading it, of a file of this project's: ``data`` is a read-only memory map, or `Blocks` where
    the name ends in ``.gz``. Raises InputError naming the file."""
    with refused(path, "not a whole volume", "delete it and give the command again that made it"):
        if Path(path).suffix == ".gz":
            blocks: Any = Blocks(path)  # stands for an array
            return Volume(blocks, blocks.affine)
        image: Any = nib.load(path, mmap="r")  # whose type says nothing of its data
        values = image.dataobj.get_unscaled()
        if Path(path).stat().st_size != image.dataobj.offset + values.nbytes:
            raise ValueError("it goes on after the voxels that its header tells of")
        return Volume(np.asarray(values), np.asarray(image.affine, dtype=np.float64))


def read_written(path: Path) -> Volume:
    """A volume that `write_volume` wrote, by the digest in its header. Raises InputError if it is not as it was."""
    volume, header = read_image(path)
    with refused(path, "not as it was written", "delete it and give the command again that made it"):
        written, found = header["descrip"].item().decode(), voxels_digest(volume.affine, volume.data)
        if written != VOXELS + found:
            raise ValueError(f"its header says {written!r}, its voxels have the digest {found}")
    return volume


def voxels_digest(affine: np.ndarray, *volumes: np.ndarray) -> str:
    """Twelve hex digits over the shape, the affine and every voxel of volumes on one grid, in the precision and order
    in which NIfTI keeps them: of a memory map nothing is copied."""
    found = hashlib.sha256(np.array(volumes[0].shape, dtype="<i8").tobytes())
    found.update(np.asarray(affine, dtype="<f4").tobytes())
    for data in volumes:
        found.update(np.asfortranarray(data).T.data)
    return found.hexdigest()[:12]


def write_volume(path: Path, volume: Volume) -> None:
    """Write ``volume`` as NIfTI-1 in its own dtype (int16 or uint8), whole or not at all; in blocks of gzip (`Blocks`)
    where the name ends in ``.gz``."""
    data = np.asarray(volume.data)
    image = nib.Nifti1Image(data, volume.affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    image.header["descrip"] = VOXELS + voxels_digest(volume.affine, data)
    with whole_file(path) as temporary:
        if temporary.suffix == ".gz":
            temporary.write_bytes(packed(image.to_bytes()))
        else:
            nib.save(image, temporary)


CANNOT_WRITE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "your quota of disk space is used up: free some space",
    errno.EROFS: "the file system is read-only: make it writable, or start from a folder that is",
    errno.ENOTDIR: "a file stands where a folder is needed: name another place",
    errno.EEXIST: "a file stands where a folder is needed: name another place",
    errno.EISDIR: "a folder of that name stands there: name another place",
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
        reason = CANNOT_WRITE.get(system_error(error) or 0)
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
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]  # an array may not be called allow_pickle


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
    with refused(path, "not a readable JSON file", "delete it and give the command again that made it"):
        return json.loads(Path(path).read_text(encoding="utf-8"))


@dataclass(frozen=True, eq=False)
class Case:
    """One case, real or synthetic: int16 HU ``[x y z]``, its label map on the same grid, and its ``about``. The label
    map has at least the names that every case has (``labels.ALWAYS``).

    >>> case = lungsyn.open_case("cases/one")
    >>> case.labels.names, case.space.spacing_mm.tolist()
    (('nodules', 'lungs', 'body'), [2.0, 2.0, 2.0])
    """

    ct: np.ndarray
    labels: LabelMap
    affine: np.ndarray
    about: dict

    @property
    def nodules(self) -> np.ndarray:
        """uint8 ``[x y z]``: 0, or the nodule's index."""
        return self.labels["nodules"]

    @property
    def lungs(self) -> np.ndarray:
        """uint8 ``[x y z]``: 0, 1 right, 2 left."""
        return self.labels["lungs"]

    @property
    def body(self) -> np.ndarray:
        """uint8 ``[x y z]``: 1 inside the skin."""
        return self.labels["body"]

    @property
    def space(self) -> Space:
        return Space(self.ct.shape, self.affine)

    @property
    def digest(self) -> str:
        """Twelve hex digits over every voxel, the shape and the affine."""
        return voxels_digest(self.affine, self.ct, *(self.labels[name] for name in (*ALWAYS, *self.labels.further)))

    def with_labels(self, **layers: np.ndarray) -> "Case":
        """The same case with other, or further, layers in its label map."""
        return replace(self, labels=self.labels.replaced(**layers))


def write_case(folder: str | Path, case: Case) -> None:
    """Write a case's folder; ``case.json`` last, so its presence says that the case is whole.

    >>> lungsyn.write_case("copies/one", lungsyn.open_case("cases/one"))
    >>> lungsyn.open_case("copies/one").digest == lungsyn.open_case("cases/one").digest
    True
    """
    folder, further = Path(folder), list(case.labels.further)
    if case.labels.shape != case.ct.shape:
        raise ValueError(f"{folder}: the labels have shape {case.labels.shape}, the CT {case.ct.shape}")
    write_volume(folder / "ct.nii", Volume(case.ct.astype(np.int16, copy=False), case.affine))
    for name in (*ALWAYS, *further):
        data = np.asarray(case.labels[name]).astype(np.uint8, copy=False)
        write_volume(folder / f"{name}.nii.gz", Volume(data, case.affine))
        _remove_older_form(folder, name)
    about = {key: value for key, value in case.about.items() if key != "labels"}
    write_json(folder / "case.json", about | ({"labels": further} if further else {}) | {"digest": case.digest})


def write_left_out(folder: Path, about: dict) -> None:
    """The folder of a case that cannot be used: ``case.json`` says why, its volumes are empty files."""
    for name in VOLUMES:
        with whole_file(Path(folder) / FILE_OF[name]) as temporary:
            temporary.touch()
        _remove_older_form(folder, name)
    write_json(Path(folder) / "case.json", about)


def _remove_older_form(folder: Path, name: str) -> None:
    """A mask that this package wrote until November 2026, not compressed, would be left beside the new one."""
    if name != "ct":
        (Path(folder) / f"{name}.nii").unlink(missing_ok=True)


def volume_file(folder: Path, name: str) -> Path:
    """Where a case has a volume: compressed, or as it was until November 2026."""
    path, older = Path(folder) / FILE_OF.get(name, f"{name}.nii.gz"), Path(folder) / f"{name}.nii"
    return older if older.is_file() and not path.is_file() else path


def data_digests(folders: Iterable[Path]) -> list[list[str]]:
    """Name and voxels' digest of each case, as its ``case.json`` has them: what a training that goes on must find
    unchanged. Models and synthetic cases keep it and may be shared, so a real case has a keyed one for that, its
    ``token`` (see ``cohort.private``)."""
    abouts = [(Path(folder), read_json(Path(folder) / "case.json")) for folder in folders]
    digests = [written_digest(folder, about) for folder, about in abouts]
    return [[folder.name, about.get("token", digest)] for (folder, about), digest in zip(abouts, digests, strict=True)]


def written_digest(folder: Path, about: dict) -> str:
    """The digest of a case's voxels that its ``case.json`` has. Raises InputError where it has none."""
    if not isinstance(about, dict) or not isinstance(about.get("digest"), str):
        raise InputError(f"{folder}: case.json has no digest of the voxels: {REMAKE}")
    return about["digest"]


def open_case(folder: str | Path) -> Case:
    """A case whose CT is a memory map and whose labels are `Blocks`: a patch costs its own voxels, not the whole.
    Raises InputError that names the folder.

    >>> lungsyn.open_case("cases/one").ct.shape
    (16, 16, 16)
    """
    folder = Path(folder)
    with refused(folder, "not a case", f"it needs {', '.join(CASE_FILES)}, all whole"):
        about = read_json(folder / "case.json")
        ct = map_volume(folder / "ct.nii")
        layers = {name: map_volume(volume_file(folder, name)).data for name in (*ALWAYS, *_further(about))}
        if shapes := {name: layer.shape for name, layer in layers.items() if layer.shape != ct.data.shape}:
            raise ValueError(f"the CT has shape {ct.data.shape}, other than {shapes}")
        return Case(ct.data, LabelMap(layers), ct.affine, about)


def _further(about: dict) -> list[str]:
    """The labels that ``case.json`` names, beyond those of every case. Raises ValueError for what is no name."""
    return check_names(about.get("labels", [])) if isinstance(about, dict) else []


def whole_case(folder: Path) -> Case:
    """`open_case`, every voxel of which was read since it was last changed, and found as it was written: a study asks
    for the same cases in each of its trainings. Raises InputError otherwise."""
    folder, case = Path(folder), open_case(folder)
    written = written_digest(folder, case.about)
    state = json.dumps([written, *(_state(volume_file(folder, name)) for name in ("ct", *case.labels.names))])
    if (note := folder / FOUND_WHOLE).is_file() and note.read_text(encoding="utf-8") == state:
        return case
    if written != (found := case.digest):
        raise InputError(f"{folder}: not the voxels that case.json tells of ({found}, not {written}): {REMAKE}")
    with suppress(OSError, InputError):  # a folder that only can be read: the next one reads all again
        write_text(note, state)
    return case


def _state(path: Path) -> list[int]:
    """What differs when a file was changed or replaced, also by an older one: the system's own time cannot be set."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def whole(folders: Iterable[Path]) -> list[Path]:
    """The same folders, once each of their cases was found whole: what is computed from many cases asks it at its
    start. Raises InputError naming the first that is not."""
    folders = list(folders)
    for folder in folders:
        whole_case(folder)
    return folders
