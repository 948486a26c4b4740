"""Training of a patch generator: one loop, its clock is patches seen, its restart is exact.

A diffusion model learns from the squared error alone; a GAN is one that sees pure noise, and learns from a critic too.
For a latent diffusion model the loop runs twice: first for its autoencoder.

The learning rate falls over the last fifth. What comes before does not depend on the training's length, and its last
state is kept: a training that is made longer goes on from there and ends as if it had been that long at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lungsyn import checkpoint
from lungsyn.compute import choose_device, choose_precision, compiled, describe, name_of, peak_memory_mb, set_up
from lungsyn.errors import InputError
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.patches import TrainingPatches, collate
from lungsyn.generators.networks.critic import Adversaries, Critic
from lungsyn.generators.networks.patch_unet import build
from lungsyn.optimizer import AdamW, Muon, without_momentum
from lungsyn.processes import ALONE, Team, reading_ahead
from lungsyn.progress import Progress
from lungsyn.provenance import model_facts
from lungsyn.random import seed_of, stream
from lungsyn.settings.compute import Compute
from lungsyn.settings.generators import Adversarial, Autoencoder, Generator, LatentDiffusion
from lungsyn.steps import Steps
from lungsyn.volume.files import data_digests, read_json
from lungsyn.volume.patches import batches

FALL = 0.2  # of a training's length, over which its learning rate falls to zero
NOISE_BINS = 4  # the held-out loss is reported per quarter of the timesteps
# (the network with its averaged weights, precision, records of the curve): to look on, and to change nothing
Watch = Callable[[nn.Module, torch.dtype, list[dict]], None]


def train(
    folders: list[Path],
    settings: Generator,
    compute: Compute,
    seed: int,
    checkpoints: Path,
    team: Team = ALONE,
    watch: Watch = lambda network, precision, records: None,
) -> tuple[dict[str, Tensor], dict, list[dict]]:
    """Train on the cases in ``folders`` (train split only). Returns the best averaged weights (of a GAN the last), what
    made them, and the records of the curve. Continues from ``checkpoints`` if the same training was stopped there, or a
    shorter one made.

    Each process of the ``team`` calls it alike, takes its share of every batch, and returns the same; the leader calls
    ``watch`` after each check."""
    check_shares(settings, team)
    device = choose_device(compute)
    set_up(compute.generator_threads, device, one_shape=True)
    before = {}
    if isinstance(settings, LatentDiffusion):
        autoencoder, facts, _ = train(folders, settings.autoencoder_training, compute, seed, checkpoints, team)
        before = {"autoencoder": facts}

    torch.manual_seed(seed_of(seed, "weights", settings.kind))
    network = build(settings).to(device)
    learner, optimizer_of = network, Muon
    if isinstance(settings, Adversarial):
        learner, optimizer_of = Adversaries(network, Critic(settings).to(device)), without_momentum
    if isinstance(settings, LatentDiffusion):
        network.autoencoder.load_state_dict(autoencoder)
    learned_by = [weight for weight in learner.parameters() if weight.requires_grad]
    optimizer = optimizer_of(learned_by, settings.learning_rate, fused=device.type != "mps")
    average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    best = {name: tensor.clone() for name, tensor in average.items()}
    averages = {"average": average, "best": best}

    learned, held_out = hold_out(folders, settings, seed)
    patches = TrainingPatches(learned, settings, seed)
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
    precision = choose_precision(compute, device, about.get("precision"), checkpoints)
    about["precision"] = name_of(precision)
    ran_on = describe(device, precision) + (f", {team.size} processes" if team.size > 1 else "")
    what = "autoencoder" if isinstance(settings, Autoencoder) else "generator"
    if team.leads:
        seen = f"{about['images_seen']} of {settings.images} patches"
        print(f"{what} training on {ran_on}, from {seen}", flush=True)

    forward = team.parallel(network)
    forward = compiled(forward, compute, device)
    keep = torch.zeros((), device=device)
    if learner is network:
        take = steps_of(forward, network, optimizer, average, keep, settings, precision, team)
    else:
        take = adversarial_steps(forward, learner, optimizer, average, keep, settings, precision)
    progress = Progress(what, settings.images, "patches", about["images_seen"])
    numbers = batches(range(about["images_seen"], settings.images), settings.batch_patches)
    for batch in loader(patches, map(team.share, numbers), compute, device):
        if settings.early_stop_checks and about["checks_without_gain"] >= settings.early_stop_checks:
            print(f"stopped early: {settings.early_stop_checks} checks without improvement", flush=True)
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
                losses = held_out_losses(network, watched, settings, device, precision, team)
                record(about, losses, average, best, settings)
                if team.leads:
                    watch(network, precision, about["records"])
        if kept < about["images_seen"] <= fall_begins(settings) < about["images_seen"] + settings.batch_patches:
            restart.keep(before_fall)
        restart.between_steps(f"{about['images_seen']} of {settings.images} patches")
    restart.save()
    seconds = restart.seconds() + sum(facts["cost"]["seconds"] for facts in before.values())
    cost = {"seconds": round(seconds, 1), **peak_memory_mb(device)}
    facts = {key: about[key] for key in ("images_seen", "best_loss", "precision")}
    return best, facts | {"cost": cost, "ran_on": ran_on} | before, about["records"]


def steps_of(
    forward: Callable, network: nn.Module, optimizer: Muon, average: dict[str, Tensor], keep: Tensor,
    settings: Generator, precision: torch.dtype, team: Team = ALONE,
) -> Steps:  # fmt: skip
    """Steps that train ``network``, called as ``forward``, and return loss and gradient norm of a batch.

    ``keep`` is the share of the ``average`` weights that a step leaves as they were; it is read at each step."""

    def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss = weighted_loss(forward, batch, settings, keep.device, precision, team)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_norm)
        optimizer.step()
        update_average(average, network, keep)
        return loss.detach(), norm

    return Steps(step, keep.device, record=team.size == 1)


def adversarial_steps(
    forward: Callable, both: Adversaries, optimizer: AdamW, average: dict[str, Tensor], keep: Tensor,
    settings: Adversarial, precision: torch.dtype,
) -> Steps:  # fmt: skip
    """As ``steps_of``: steps that train a generator, called as ``forward``, and its critic against each other, each by
    the gradient of its own loss. They return the generator's squared error, which both kinds of generators have, and
    the gradient norm of the two together.

    The relativistic loss (Jolicoeur-Martineau 2019, arXiv 1807.00734): a made patch is to be taken for more real than
    the real one of the same masks. It needs none of the usual tricks if the critic's slope is kept small at real and at
    made patches (Huang et al. 2024, arXiv 2501.05441, Eq. 3 and 4)."""
    networks = [list(network.parameters()) for network in (both.generator, both.critic)]

    def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        masks = inner(batch["masks"])
        made = predict(forward, batch, keep.device, precision)
        error = mean_in_body((made - batch["target"]).square(), batch["masks"], settings)
        made_bands = both.critic.bands(made, masks)
        seen = torch.cat([both.critic.bands(batch["target"], masks), made_bands.detach()]).requires_grad_()
        with torch.autocast(keep.device.type, dtype=precision, enabled=precision != torch.float32):
            scores = both.critic(seen, torch.cat([masks, masks])).float()
            fooled = both.critic(made_bands, masks).float()
        of_real, of_made = scores.chunk(2)
        (slope,) = torch.autograd.grad(scores.sum(), seen, create_graph=True)
        penalty = slope.square().sum() / scores.numel()
        critic_loss = F.softplus(of_made - of_real).mean() + settings.slope_weight * penalty
        generator_loss = settings.reconstruction_weight * error + F.softplus(of_real.detach() - fooled).mean()
        optimizer.zero_grad(set_to_none=True)
        for loss, weights in zip((generator_loss, critic_loss), networks, strict=True):
            loss.backward(inputs=weights)
        norms = [nn.utils.clip_grad_norm_(weights, settings.gradient_norm) for weights in networks]
        optimizer.step()
        update_average(average, both.generator, keep)
        return error.detach(), torch.stack(norms).norm()

    return Steps(step, keep.device)


def check_shares(settings: Generator, team: Team) -> None:
    """Every process needs a patch of every batch, and a GAN learns in one alone. Raises InputError."""
    if settings.kind == "patch_gan" and team.size > 1:
        raise InputError(f"a patch_gan is trained by one process, not by {team.size}: set compute.gpus to 1")
    smallest = settings.images % settings.batch_patches or settings.batch_patches
    if smallest < team.size:
        raise InputError(
            f"a batch of {smallest} patches is too small for {team.size} processes: lower compute.gpus to {smallest}, "
            f"or change generators.*.batch_patches ({settings.batch_patches}) or images ({settings.images})"
        )


def hold_out(folders: list[Path], settings: Generator, seed: int) -> tuple[list[Path], list[Path]]:
    """Split the train cases, by patient, into those learned from (at least one patient) and those that only watch."""
    patient_of = {folder: read_json(folder / "case.json")["patient"] for folder in folders}
    patients = list(dict.fromkeys(patient_of.values()))
    count = min(round(settings.held_out * len(patients)), len(patients) - 1)
    order = stream(seed, "watching patients").permutation(len(patients))
    watching = {patients[i] for i in order[:count]}
    learned = [folder for folder in folders if patient_of[folder] not in watching]
    return learned, [folder for folder in folders if patient_of[folder] in watching]


def loader(
    patches: TrainingPatches, numbers: Iterable[Sequence[int]], compute: Compute, device: torch.device
) -> DataLoader:
    """Batches of the patches with these numbers, in order; read ahead by processes and into pinned memory on CUDA."""
    return DataLoader(patches, batch_sampler=numbers, collate_fn=collate, **reading_ahead(compute, device))


def predict(network: nn.Module, batch: dict, device: torch.device, precision: torch.dtype) -> Tensor:
    """The network's output on a batch, float32, computed in ``precision``."""
    inputs = [batch[key].to(device, non_blocking=True) for key in ("x_t", "masks", "coarse", "t", "spacing_mm")]
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        return network(*inputs).float()


def loss_map(network: nn.Module, batch: dict, device: torch.device, precision: torch.dtype) -> Tensor:
    """The squared error of the network's output on a batch; where latents are learned, what the network itself says
    it gets wrong: ``[b 1 x y z]``, the mean over channels."""
    output = predict(network, batch, device, precision)
    if "target" in batch:
        output = (output - batch["target"].to(device, non_blocking=True)).square()
    return output.mean(dim=1, keepdim=True)


def weighted_loss(
    network: nn.Module, batch: dict, settings: Generator, device, precision, team: Team = ALONE
) -> Tensor:
    """Mean squared error over the body's voxels, nodule voxels weighted; air is set analytically and not learned.

    Weights are relative to their sum over the whole batch, of which each process of the ``team`` has a share: the mean
    of the processes' losses is the loss of the batch, and likewise of their gradients."""
    error = loss_map(network, batch, device, precision)
    return mean_in_body(error, batch["masks"].to(device, non_blocking=True), settings, team)


def mean_in_body(error: Tensor, masks: Tensor, settings: Generator, team: Team = ALONE) -> Tensor:
    """The mean of ``error`` ``[b 1 x y z]`` with the weights of ``loss_weight`` for these masks, which have a halo."""
    weight = loss_weight(masks, settings)
    return team.size * (weight * error).sum() / team.total(weight.sum()).clamp(min=1)


def loss_weight(masks: Tensor, settings: Generator) -> Tensor:
    """``[b 1 x y z]``: 0 outside the body, 1 inside, ``nodule_weight`` in nodules; the ``masks`` have a halo.

    Of an autoencoder's bands and of latents the mean over their voxels; of latents those outside count as 1."""
    nodule, _, body = inner(masks).float().split(1, dim=1)
    more = (settings.nodule_weight - 1) * nodule
    if isinstance(settings, LatentDiffusion):  # latents of air are made as all others are
        return F.avg_pool3d(1 + more, settings.factor)
    weight = torch.maximum(body, nodule) + more
    return F.avg_pool3d(weight, 2) if isinstance(settings, Autoencoder) else weight


def learning_rate(settings: Generator, images_seen: int) -> float:
    """Linear warm-up, constant, then a linear fall to zero."""
    warm = min(1.0, (images_seen + settings.batch_patches) / max(settings.warmup_images, 1))
    fall = min(1.0, (settings.images - images_seen) / (FALL * settings.images))
    return settings.learning_rate * warm * fall


def fall_begins(settings: Generator) -> int:
    """Up to so many patches seen, the learning rate does not depend on the length of the training."""
    return int((1 - FALL) * settings.images)


def images_kept(before_fall: Path) -> int:
    """Patches seen by the state of an earlier training in this file; 0 if there is none."""
    return model_facts(before_fall)["images_seen"] if before_fall.exists() else 0


def kept_of_average(settings: Generator, images_seen: int, batch: int) -> float:
    """What a step of ``batch`` patches leaves of the exponential average, whose half-life is ``ema_images``, shorter at
    the start (Karras et al. 2024, ramp-up of 5 %)."""
    return 0.5 ** (batch / min(settings.ema_images, max(0.05 * images_seen, 1)))


@torch.no_grad()
def update_average(average: dict, network: nn.Module, keep: Tensor) -> None:
    """Move the averaged weights towards the network's, in place; the share ``keep`` of them stays."""
    move = 1 - keep
    for name, tensor in network.state_dict().items():
        average[name].lerp_(tensor, move)


def due(images_seen: int, batch: int, settings: Generator) -> bool:
    """Whether this step crossed a multiple of the check interval, or ended the training."""
    every = settings.validation_every_images
    return images_seen // every > (images_seen - batch) // every or images_seen >= settings.images


def held_out_batches(folders: list[Path], settings: Generator, seed: int, team: Team = ALONE) -> Iterator[dict]:
    """The same patches, noise and evenly spaced timesteps at every check; no flips, no dropout."""
    plain = settings.model_copy(update={"flips": False, "nodule_dropout": 0.0})
    patches = TrainingPatches(folders, plain, seed, stratified=settings.validation_patches)
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
    network: nn.Module, watched: list[dict], settings: Generator, device, precision, team: Team
) -> list[float]:
    """The loss on the held-out patches, per quarter of the timesteps from clean to noisy."""
    sums = torch.zeros(2, NOISE_BINS, dtype=torch.float64)
    for batch in watched:
        error = loss_map(network, batch, device, precision).cpu()
        weight = loss_weight(batch["masks"], settings)
        bins = ((batch["t"] - 1) * NOISE_BINS) // settings.timesteps
        sums[0].index_add_(0, bins, (weight * error).sum(dim=(1, 2, 3, 4)).double())
        sums[1].index_add_(0, bins, weight.sum(dim=(1, 2, 3, 4)).double())
    return [float(s / w) for s, w in team.total(sums).T if w > 0]


def record(about: dict, losses: list[float], average: dict, best: dict, settings: Generator) -> None:
    """Note a check in the curve, and keep the averaged weights if they are the best so far; of a GAN always, since
    the least squared error is that of the smoothest image, not of the most real one."""
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
    last_is_best = isinstance(settings, Adversarial) or mean is None
    better = last_is_best or about["best_loss"] is None or mean < about["best_loss"]
    about["checks_without_gain"] = 0 if better else about["checks_without_gain"] + 1
    if better:
        about["best_loss"] = mean
        for name, tensor in average.items():
            best[name].copy_(tensor)
