"""Training of a patch generator: one loop, its clock is patches seen, its restart is exact.

What is learned, and how a step does so, the settings' ``learning`` says (`core.learning`).

The learning rate falls over the last fifth. What comes before does not depend on the training's length, and its last
state is kept: a training that is made longer goes on from there and ends as if it had been that long at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lungsyn import checkpoint
from lungsyn.compute import choose_device, choose_precision, compiled, describe, name_of, peak_memory_mb, set_up
from lungsyn.generators.core.learning import Learning
from lungsyn.generators.core.patches import TrainingPatches, collate
from lungsyn.generators.core.settings import PatchSettings
from lungsyn.hosts import is_host
from lungsyn.processes import ALONE, Team, reading_ahead
from lungsyn.progress import Progress
from lungsyn.provenance import model_facts
from lungsyn.random import seed_of, stream
from lungsyn.seams import Run
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import data_digests, read_json
from lungsyn.volume.patches import batches

FALL = 0.2  # of a training's length, over which its learning rate falls to zero
NOISE_BINS = 4  # the held-out loss is reported per quarter of the timesteps
# (the network with its averaged weights, precision, records of the curve): to look on, and to change nothing
Watch = Callable[[nn.Module, torch.dtype, list[dict]], None]


def train(
    folders: list[Path],
    settings: PatchSettings,
    run: Run,
    team: Team = ALONE,
    watch: Watch | None = None,
) -> tuple[dict[str, Tensor], dict, list[dict]]:
    """Train on the cases in ``folders`` (train split only). Returns the best averaged weights, what made them, and the
    records of the curve. Continues from ``run.checkpoints`` if the same training was stopped there, or a shorter one
    made.

    Each process of the ``team`` calls it alike, takes its share of every batch, and returns the same; the leader calls
    ``watch`` after each check."""
    learning, compute, seed, checkpoints = settings.learning(), run.compute, run.seed, run.checkpoints
    learning.check_team(team)
    device = choose_device(compute)
    set_up(compute.generator_threads, device, one_shape=True)
    before = learning.first(lambda earlier: train(folders, earlier, run, team))

    torch.manual_seed(seed_of(seed, "weights", learning.kind))
    network = learning.build().to(device)
    learner, optimizer = learning.learner(network, device)
    average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    best = {name: tensor.clone() for name, tensor in average.items()}
    averages = {"average": average, "best": best}

    learned, held_out = hold_out(folders, settings, seed)
    patches = (learning.examples or TrainingPatches)(learned, settings, seed)
    watched = list(held_out_batches(held_out, settings, seed, team)) if held_out else []
    chosen, data = settings.model_dump(mode="json"), data_digests(folders)
    key, any_length = (checkpoint.digest(made_by, seed, data) for made_by in (chosen, chosen | {"images": None}))
    before_fall = checkpoints / f"generator-{any_length}" / "before_fall.safetensors"
    kept = images_kept(before_fall)
    restart = checkpoint.Restart(
        checkpoints / f"generator-{key}", learner, optimizer, averages,
        {"images_seen": 0, "best_loss": None, "checks_without_gain": 0, "recent": []}, compute.checkpoint_seconds, team,
        begin_with=before_fall if 0 < kept <= fall_begins(settings) else None,
    )  # fmt: skip
    about = restart.about
    precision = choose_precision(compute, device, about.get("precision"))
    about["precision"] = name_of(precision)
    ran_on = describe(device, precision) + (f", {team.size} processes" if team.size > 1 else "")
    if team.leads:
        seen = f"{about['images_seen']} of {settings.images} patches"
        print(f"{learning.what} training on {ran_on}, from {seen}", flush=True)

    forward = team.parallel(network)
    forward = compiled(forward, compute, device)
    keep = torch.zeros((), device=device)
    take = learning.steps(forward, learner, optimizer, average, keep, precision, team)
    progress = Progress(learning.what, settings.images, "patches", about["images_seen"])
    numbers = batches(range(about["images_seen"], settings.images), settings.batch_patches)
    for batch in loader(patches, map(team.share, numbers), compute, device):
        if learning.early_stop_checks and about["checks_without_gain"] >= learning.early_stop_checks:
            print(f"stopped early: {learning.early_stop_checks} checks without improvement", flush=True)
            break
        network.train()
        seen = min(settings.batch_patches, settings.images - about["images_seen"])  # by all processes
        optimizer.set_learning_rate(learning_rate(settings, about["images_seen"]))
        about["images_seen"] += seen
        keep.fill_(kept_of_average(settings, about["images_seen"], seen))
        cases = batch.pop("cases")
        loss, norm = take(batch)

        value = float(team.total(loss)) / team.size  # waits for the GPU, which by now has all of this step to do
        if not np.isfinite(value) or not torch.isfinite(norm):
            names = sorted({learned[i].name for i in cases})
            raise FloatingPointError(
                f"loss {value}, gradient {float(norm)} after {about['images_seen'] - seen} patches; the batch's cases: "
                f"{', '.join(names)}. Look at them, or lower generators.*.learning_rate"
            )
        about["recent"].append(value)
        if team.leads:
            progress.update(about["images_seen"], loss=float(np.mean(about["recent"][-50:])))
        if due(about["images_seen"], seen, settings):
            restart.seconds()  # of learning: the check's own come after
            with averaged(network, average):
                losses = held_out_losses(network, watched, learning, device, precision, team)
                record(about, losses, average, best, learning)
                if watch and team.leads:
                    watch(network, precision, about["records"])
        if kept < about["images_seen"] <= fall_begins(settings) < about["images_seen"] + settings.batch_patches:
            restart.keep(before_fall)
        restart.between_steps(f"{about['images_seen']} of {settings.images} patches")
    restart.save()
    seconds = restart.seconds() + sum(facts["cost"]["seconds"] for facts in before.values())
    cost = {"seconds": round(seconds, 1), **peak_memory_mb(device)}
    facts = {key: about[key] for key in ("images_seen", "best_loss", "precision")}
    return best, facts | {"cost": cost, "ran_on": ran_on} | before, about["records"]


def hold_out(folders: list[Path], settings: PatchSettings, seed: int) -> tuple[list[Path], list[Path]]:
    """Split the train cases, by patient, into those learned from (at least one patient) and those that only watch.

    Patients who have hosts only are split by themselves: they are neither all that watch, nor all that teach."""
    about = {folder: read_json(folder / "case.json") for folder in folders}
    patient_of = {folder: found["patient"] for folder, found in about.items()}
    marked = dict.fromkeys(found["patient"] for found in about.values() if not is_host(found))
    hosts = dict.fromkeys(patient for patient in patient_of.values() if patient not in marked)
    watching = _watching(list(marked), "patients", settings, seed) | _watching(list(hosts), "hosts", settings, seed)
    learned = [folder for folder in folders if patient_of[folder] not in watching]
    return learned, [folder for folder in folders if patient_of[folder] in watching]


def _watching(patients: list[str], who: str, settings: PatchSettings, seed: int) -> set[str]:
    """Those of the patients who only watch, never all."""
    count = min(round(settings.held_out * len(patients)), len(patients) - 1)
    order = stream(seed, f"watching {who}").permutation(len(patients))
    return {patients[i] for i in order[: max(count, 0)]}


def loader(
    patches: TrainingPatches, numbers: Iterable[Sequence[int]], compute: Compute, device: torch.device
) -> DataLoader:
    """Batches of the patches with these numbers, in order; read ahead by processes and into pinned memory on CUDA."""
    return DataLoader(patches, batch_sampler=numbers, collate_fn=collate, **reading_ahead(compute, device))


def learning_rate(settings: PatchSettings, images_seen: int) -> float:
    """Linear warm-up, constant, then a linear fall to zero."""
    warm = min(1.0, (images_seen + settings.batch_patches) / max(settings.warmup_images, 1))
    fall = min(1.0, (settings.images - images_seen) / (FALL * settings.images))
    return settings.learning_rate * warm * fall


def fall_begins(settings: PatchSettings) -> int:
    """Up to so many patches seen, the learning rate does not depend on the length of the training."""
    return int((1 - FALL) * settings.images)


def images_kept(before_fall: Path) -> int:
    """Patches seen by the state of an earlier training in this file; 0 if there is none."""
    return model_facts(before_fall)["images_seen"] if before_fall.exists() else 0


def kept_of_average(settings: PatchSettings, images_seen: int, batch: int) -> float:
    """What a step of ``batch`` patches leaves of the exponential average, whose half-life is ``ema_images``, shorter at
    the start (Karras et al. 2024, ramp-up of 5 %)."""
    return 0.5 ** (batch / min(settings.ema_images, max(0.05 * images_seen, 1)))


def due(images_seen: int, batch: int, settings: PatchSettings) -> bool:
    """Whether this step crossed a multiple of the check interval, or ended the training."""
    every = settings.validation_every_images
    return images_seen // every > (images_seen - batch) // every or images_seen >= settings.images


def held_out_batches(folders: list[Path], settings: PatchSettings, seed: int, team: Team = ALONE) -> Iterator[dict]:
    """The same patches, noise and evenly spaced timesteps at every check; no flips, no dropout."""
    examples = settings.learning().examples or TrainingPatches
    patches = examples(folders, settings, seed, stratified=settings.validation_patches)
    for numbers in batches(team.share(range(settings.validation_patches)), settings.batch_patches):
        yield collate([patches[i] for i in numbers])


@contextmanager
def averaged(network: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """For a while ``network`` has the averaged weights and does not learn; the memory of its weights stays its own."""
    current = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(average)
    network.eval()
    yield
    network.load_state_dict(current)


@torch.no_grad()
def held_out_losses(
    network: nn.Module, watched: list[dict], learning: Learning, device, precision, team: Team
) -> list[float]:
    """The loss on the held-out patches, per quarter of the timesteps from clean to noisy."""
    sums = torch.zeros(2, NOISE_BINS, dtype=torch.float64)
    for batch in watched:
        error = learning.loss_map(network, batch, device, precision).cpu()
        weight = learning.weight(batch["masks"])
        bins = ((batch["t"] - 1) * NOISE_BINS) // learning.timesteps
        sums[0].index_add_(0, bins, (weight * error).sum(dim=(1, 2, 3, 4)).double())
        sums[1].index_add_(0, bins, weight.sum(dim=(1, 2, 3, 4)).double())
    return [float(s / w) for s, w in team.total(sums).T if w > 0]


def record(about: dict, losses: list[float], average: dict, best: dict, learning: Learning) -> None:
    """Note a check in the curve, and keep the averaged weights if they are the best so far, or if the last are."""
    mean = float(np.mean(losses)) if losses else None
    about["records"].append(
        {
            "images_seen": about["images_seen"],
            "seconds": round(about["seconds"], 1),
            "loss": float(np.mean(about["recent"])),
            "validation": mean,
            "validation_per_noise": [round(x, 6) for x in losses],
        }
    )
    about["recent"] = []
    last_is_best = learning.keeps_last or mean is None
    better = last_is_best or about["best_loss"] is None or mean < about["best_loss"]
    about["checks_without_gain"] = 0 if better else about["checks_without_gain"] + 1
    if better:
        about["best_loss"] = mean
        for name, tensor in average.items():
            best[name].copy_(tensor)
