"""The kind ``command``: a segmenter of the user's, which is two command lines. They read and write NIfTI.

A command is one line of bash. It finds what it needs in variables; a name that does not exist ends it.

==========  =================================================================================================
train       ``$DATA`` an nnU-Net raw dataset, ``$MODEL`` the folder for what it learns, ``$SEED``, ``$SHARE``
predict     ``$IMAGES`` a folder of ``{name}_0000.nii``, ``$MODEL``, ``$OUT`` the folder for ``{name}.nii``
both        ``$DEVICE`` (``cuda``, ``mps`` or ``cpu``), ``$THREADS``
==========  =================================================================================================
"""

import io
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from lungsyn.errors import InputError
from lungsyn.seams import Run, Segmenter, SegmenterFamily, Trained
from lungsyn.segmenters.core.raw import ENDING, write_dataset, write_image
from lungsyn.settings.arms import Use
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import Section
from lungsyn.volume.files import Case, data_digests, read_volume, whole_case

if TYPE_CHECKING:
    from torch import Tensor

POLL_SECONDS = 0.2
ON_ONE_GRID_MM = 1e-3  # in which affines may differ


class Settings(Section):
    """How it is trained."""

    train: str = Field(min_length=1, description="Command line that trains: reads $DATA, writes into $MODEL")


class Inference(Section):
    """How it predicts."""

    predict: str = Field(min_length=1, description="Command line that predicts: reads $IMAGES and $MODEL, writes $OUT")


class Family(SegmenterFamily):
    """Whatever a command line can start."""

    Settings = Settings
    Inference = Inference

    def fit(self, real: Sequence[Path], synthetic: Sequence[Path], use: Use, settings: Settings, run: Run) -> Trained:
        from lungsyn.checkpoint import digest

        share = use.synthetic_share
        data = data_digests(real), data_digests(synthetic), share
        folder = run.checkpoints / f"command-{digest(settings.train, run.seed, data)}"
        model = folder / "model"
        model.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            write_dataset(Path(place), real, synthetic)
            said = "" if share is None else f"{share:g}"
            call("train", settings.train, run.compute, DATA=place, MODEL=model, SEED=run.seed, SHARE=said)
        return Trained({"files": pack(model)})

    def load(self, model: Path, compute: Compute, inference: Inference) -> Segmenter:
        from lungsyn import checkpoint

        tensors, _, _ = checkpoint.load_model(model, "segmenter", Settings)
        return Commanded(tensors["files"], inference.predict, compute)


@dataclass(frozen=True, eq=False)
class Commanded(Segmenter):
    """A segmenter that is files of the user's and a command line."""

    files: "Tensor"
    command: str
    compute: Compute

    def predict(self, case: Case) -> np.ndarray:
        return next(self._predicted([(case.about["case"], case)]))

    def predict_each(self, folders: Sequence[Path]) -> Iterator[np.ndarray]:
        return self._predicted([(folder.name, whole_case(folder)) for folder in folders])

    def _predicted(self, cases: list[tuple[str, Case]]) -> Iterator[np.ndarray]:
        """All cases by one call."""
        with tempfile.TemporaryDirectory() as place:
            model, images, out = (Path(place, part) for part in ("model", "images", "out"))
            for folder in (images, out):
                folder.mkdir()
            unpack(self.files, model)
            for name, case in cases:
                write_image(images, name, case)
            call("predict", self.command, self.compute, IMAGES=images, MODEL=model, OUT=out)
            for name, case in cases:
                yield percent_of(out, name, case)


def call(what: str, command: str, compute: Compute, **values: Path | str | int) -> None:
    """Run a command line of the user's, with variables; what it prints goes to the job's log. A signal to this process
    is handed on. Raises InputError where it fails."""
    from lungsyn.checkpoint import StopRequest
    from lungsyn.compute import choose_device

    values |= {"DEVICE": choose_device(compute).type, "THREADS": compute.segmenter_threads}
    stop = StopRequest()
    child = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command],
        env=os.environ | {key: os.path.abspath(v) if isinstance(v, Path) else str(v) for key, v in values.items()},
        start_new_session=True,
    )
    while child.poll() is None:
        if stop.received is not None:
            os.killpg(child.pid, stop.received)
            child.wait()
            stop.leave(f"so was the {what} command")
        time.sleep(POLL_SECONDS)
    if child.returncode:
        first = command.strip().splitlines()[0]
        raise InputError(
            f"segmenters.*.{what} ended with status {child.returncode}, {first!r}; what it printed is above"
        )


def pack(folder: Path) -> "Tensor":
    """All files of a folder as bytes: uint8 ``[n]``. Files of the same names and content are the same bytes. Raises
    InputError if there is none."""
    import torch

    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise InputError("segmenters.*.train wrote no file into $MODEL: what it learned has to be there")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in paths:
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size = path.stat().st_size
            with open(path, "rb") as file:
                archive.addfile(entry, file)
    return torch.frombuffer(packed.getbuffer(), dtype=torch.uint8).clone()


def unpack(files: "Tensor", folder: Path) -> None:
    """The inverse of ``pack``."""
    with tarfile.open(fileobj=io.BytesIO(files.numpy().tobytes())) as archive:
        archive.extractall(folder, filter="data")


def percent_of(out: Path, name: str, case: Case) -> np.ndarray:
    """What the command wrote of a case: a mask (whole numbers, nodule above 0) or probabilities (0 to 1),
    in whole percent. Raises InputError where it is missing, on another grid, or no probability."""
    path = next((path for path in (out / f"{name}{ENDING}", out / f"{name}.nii.gz") if path.is_file()), None)
    if path is None:
        raise InputError(f"segmenters.*.predict wrote neither {name}{ENDING} nor {name}.nii.gz into $OUT")
    volume = read_volume(path)
    if volume.data.shape != case.ct.shape or not np.allclose(volume.affine, case.affine, atol=ON_ONE_GRID_MM):
        raise InputError(
            f"segmenters.*.predict: {path.name} has shape {volume.data.shape} or an affine that is not that "
            f"of the image, of shape {case.ct.shape}: write it on the image's grid"
        )
    if np.issubdtype(volume.data.dtype, np.integer):
        return np.where(volume.data > 0, np.uint8(100), np.uint8(0))
    if not (volume.data.min() >= 0 and volume.data.max() <= 1):
        raise InputError(f"segmenters.*.predict: {path.name} has values that are not 0 to 1, as probabilities are")
    return (100 * volume.data).astype(np.uint8)
