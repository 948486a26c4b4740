"""nnU-Net's own planner, trainer and predictor, on the arms of a study.

It wants three folders, which are in the training's checkpoint folder: ``raw`` (the arm), ``preprocessed``, ``results``.
The first two are deleted once it is trained.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiments,
    preprocess_dataset,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from lungsyn import checkpoint
from lungsyn.checkpoint import StopRequest
from lungsyn.compute import choose_device, describe, loader_processes, peak_memory_mb, set_up
from lungsyn.processes import STOP_SIGNALS
from lungsyn.progress import Progress
from lungsyn.random import seed_of
from lungsyn.seams import Run, Segmenter, Trained
from lungsyn.segmenters.core.raw import drawn_from, write_dataset
from lungsyn.segmenters.nnunet import Inference, Settings
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import Case, data_digests, read_json, whole_file, write_json

NUMBER, DATASET, CONFIGURATION = 1, "Dataset001_nodules", "3d_fullres"
FINAL = "checkpoint_final.pth"
NEVER = 2**62
MIRRORED_AXES = (0, 1, 2)


class Trainer(nnUNetTrainer):
    """nnU-Net's trainer, on the cases and for the time of an arm. Each epoch has random numbers of its own, so that one
    that goes on from a checkpoint is the same where nothing runs beside it (on a CPU).

    ``run`` and ``share`` are set after it is made: nnU-Net looks at the arguments of ``__init__``."""

    run: Run
    share: float | None

    def do_split(self) -> tuple[list[str], list[str]]:
        """All cases train; the same ones watch, since the arm's validation patients are not its own to look at."""
        folder = Path(self.preprocessed_dataset_folder_base, "gt_segmentations")
        names = sorted(path.name.removesuffix(self.dataset_json["file_ending"]) for path in folder.iterdir())
        return drawn_from(names, self.share), names

    def on_train_start(self) -> None:
        super().on_train_start()
        self.stop, self.saved = StopRequest(), time.monotonic()  # only now: its loaders are to end when they are told
        self.progress = Progress("nnunet", self.num_epochs, "epochs", self.current_epoch)

    def on_train_epoch_start(self) -> None:
        seed_all(seed_of(self.run.seed, "epoch", self.current_epoch))
        super().on_train_epoch_start()

    def train_step(self, batch: dict) -> dict:
        if self.stop.received is not None:
            self.stop.leave(f"in epoch {self.current_epoch} of {self.num_epochs}; whole epochs are saved")
        return super().train_step(batch)

    def on_epoch_end(self) -> None:
        due = time.monotonic() - self.saved > self.run.compute.checkpoint_seconds
        self.save_every = 1 if due else NEVER
        super().on_epoch_end()
        self.progress.update(self.current_epoch, loss=self.logger.get_value("train_losses", step=-1))

    def save_checkpoint(self, filename: str) -> None:
        """Whole or not at all. The one that is best on the train cases is not kept: nobody asks for it."""
        if Path(filename).name != "checkpoint_best.pth":
            with whole_file(Path(filename)) as temporary:
                super().save_checkpoint(str(temporary))
            self.saved = time.monotonic()

    def plot_network_architecture(self) -> None:
        """Not drawn: it needs a package that few have."""

    def _save_debug_information(self) -> None:
        """Not written: provenance is the model's."""


def train(
    real: Sequence[Path], synthetic: Sequence[Path], share: float | None, settings: Settings, run: Run
) -> Trained:
    """Plan, preprocess and train on the cases in these folders; a stopped training goes on from its last checkpoint."""
    device = choose_device(run.compute)
    set_up(run.compute.segmenter_threads, device)
    data = data_digests(real), data_digests(synthetic), share
    folder = run.checkpoints / f"nnunet-{checkpoint.digest(settings.model_dump(mode='json'), run.seed, data)}"
    tell_folders(folder, run.compute, device)
    with usual_signals():
        if not (folder / "planned.json").exists():
            write_json(folder / "planned.json", plan(folder, real, synthetic, settings))
        planned = read_json(folder / "planned.json")
        if not (final := next(folder.rglob(FINAL), None)):
            final = trained(planned, share, settings, run, device)
    for part in ("raw", "preprocessed"):
        shutil.rmtree(folder / part, ignore_errors=True)
    state = torch.load(final, map_location="cpu", weights_only=False)
    batch = planned["plans"]["configurations"][CONFIGURATION]["batch_size"]
    records = curve(state["logging"], settings.epoch_steps * batch)
    precision = torch.float16 if device.type == "cuda" else torch.float32
    facts = planned | {
        "nnunet": version("nnunetv2"), "steps": settings.epochs * settings.epoch_steps,
        "ran_on": describe(device, precision),
        "cost": {"seconds": records[-1]["seconds"], **peak_memory_mb(device)},
    }  # fmt: skip
    return Trained(state["network_weights"], facts, records)


@contextmanager
def usual_signals() -> Iterator[None]:
    """Signals end a process, as they do by default: nnU-Net ends its own processes by them, and those would take over
    whatever this one does instead."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell_folders(folder: Path, compute: Compute, device: torch.device) -> None:
    """Tell nnU-Net, which reads it from the environment, where its folders are and what it may use."""
    for part in ("raw", "preprocessed", "results"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{part}"] = str((folder / part).absolute())
    # Its planner takes the number of loaders for one of threads: there it must not be 0.
    may = {"nnUNet_n_proc_DA": "1", "nnUNet_compile": str(compute.compile).lower()}
    os.environ.update(may)


def plan(folder: Path, real: Sequence[Path], synthetic: Sequence[Path], settings: Settings) -> dict:
    """Write the arm out, and let nnU-Net plan and preprocess it. Returns its ``plans`` and its ``dataset``."""
    write_dataset(folder / "raw" / DATASET, real, synthetic)
    extract_fingerprint_dataset(NUMBER, num_processes=1, show_progress_bar=False)
    name = plan_experiments([NUMBER], settings.planner, settings.plan_for_gb)
    preprocess_dataset(NUMBER, name, [CONFIGURATION], [1], show_progress_bar=False)
    plans = read_json(folder / "preprocessed" / DATASET / f"{name}.json")
    return {"plans": plans, "dataset": read_json(folder / "raw" / DATASET / "dataset.json")}


def trained(planned: dict, share: float | None, settings: Settings, run: Run, device: torch.device) -> Path:
    """Run the training to its end. Returns nnU-Net's last checkpoint."""
    os.environ.update(nnUNet_n_proc_DA=str(loader_processes(run.compute, device)))
    seed_all(seed_of(run.seed, "weights"))
    trainer = Trainer(planned["plans"] | {"continue_training": True}, CONFIGURATION, 0, planned["dataset"], device)
    trainer.run, trainer.share = run, share
    trainer.num_epochs, trainer.num_iterations_per_epoch = settings.epochs, settings.epoch_steps
    trainer.num_val_iterations_per_epoch = 1  # of train cases: it has to be at least one
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    trainer.run_training()
    return Path(trainer.output_folder, FINAL)


def seed_all(seed: int) -> None:
    """Seed all that nnU-Net draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  nnU-Net's loaders draw from it
    torch.manual_seed(seed)


def curve(logged: dict, images: int) -> list[dict]:
    """A record of each epoch, in which ``images`` patches are seen."""
    spent = np.subtract(logged["epoch_end_timestamps"], logged["epoch_start_timestamps"]).cumsum()
    return [
        {"images_seen": (i + 1) * images, "seconds": round(float(seconds), 1), "loss": float(loss)}
        for i, (seconds, loss) in enumerate(zip(spent, logged["train_losses"], strict=True))
    ]


@dataclass(frozen=True, eq=False)
class NnUnet(Segmenter):
    """A trained nnU-Net."""

    predictor: nnUNetPredictor

    def predict(self, case: Case) -> np.ndarray:
        image = np.asarray(case.ct, dtype=np.float32).transpose(2, 1, 0)[None]  # [1 z y x], as its reader gives it
        spacing_mm = case.space.spacing_mm[::-1].tolist()
        _, probability = self.predictor.predict_single_npy_array(
            image, {"spacing": spacing_mm}, save_or_return_probabilities=True
        )
        if not np.isfinite(probability).all():
            raise FloatingPointError("the network's output is no number: it would pass for a case without nodules")
        return (100 * probability[1]).astype(np.uint8).transpose(2, 1, 0)


def load(path: Path, compute: Compute, inference: Inference) -> NnUnet:
    """The segmenter of a model file. Raises InputError naming the file."""
    device = choose_device(compute)
    set_up(compute.segmenter_threads, device)
    weights, _, about = checkpoint.load_model(path, "segmenter", Settings)
    plans = PlansManager(about["plans"])
    configuration = plans.get_configuration(CONFIGURATION)
    labels = plans.get_label_manager(about["dataset"])
    network = nnUNetTrainer.build_network_architecture(
        plans, configuration, 1, labels.num_segmentation_heads, enable_deep_supervision=False
    )
    predictor = nnUNetPredictor(
        1 - inference.overlap, use_mirroring=inference.mirrored, device=device, allow_tqdm=False
    )
    predictor.manual_initialization(
        network, plans, configuration, [weights], about["dataset"], nnUNetTrainer.__name__, MIRRORED_AXES
    )
    print(f"{path} on {describe(device, torch.float32)}", flush=True)
    return NnUnet(predictor)
