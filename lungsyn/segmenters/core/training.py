"""Training of a segmenter: one loop for every arm, its clock is optimiser steps, its restart is exact."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lungsyn import checkpoint
from lungsyn.compute import choose_device, choose_precision, compiled, describe, name_of, peak_memory_mb, set_up
from lungsyn.optimizer import Muon
from lungsyn.processes import reading_ahead
from lungsyn.progress import Progress
from lungsyn.random import seed_of
from lungsyn.seams import Run, Trained
from lungsyn.segmenters.core.patches import TrainingPatches
from lungsyn.segmenters.core.settings import PatchTraining
from lungsyn.settings.arms import Use
from lungsyn.steps import Steps
from lungsyn.volume.files import data_digests

RECORDS = 20  # points on the loss curve


def train(
    build: Callable[[], nn.Module], real: Sequence[Path], synthetic: Sequence[Path], use: Use,
    settings: PatchTraining, run: Run,
) -> Trained:  # fmt: skip
    """Train the network that ``build`` gives, on the cases in the folders ``real`` and ``synthetic`` (used as
    `TrainingPatches` says). Continues from ``run.checkpoints`` if the same training was stopped there."""
    compute, seed = run.compute, run.seed
    device = choose_device(compute)
    set_up(compute.segmenter_threads, device, one_shape=True)

    torch.manual_seed(seed_of(seed, "weights"))
    network = build().to(device, memory_format=torch.channels_last_3d)
    optimizer = Muon(network.parameters(), settings.learning_rate, fused=device.type != "mps")
    loss_of = DiceCELoss(sigmoid=True, batch=True)  # batch: patches without nodule still have a Dice
    data = data_digests(real), data_digests(synthetic), use.model_dump(mode="json", exclude_defaults=True)
    key = checkpoint.digest(settings.model_dump(mode="json"), seed, data)
    restart = checkpoint.Restart(
        run.checkpoints / f"segmenter-{key}",
        network,
        optimizer,
        {},
        {"steps": 0, "recent": []},
        compute.checkpoint_seconds,
    )
    about = restart.about
    precision = choose_precision(compute, device, about.get("precision"))
    about["precision"] = name_of(precision)
    ran_on = describe(device, precision)
    print(f"segmenter training on {ran_on}, from {about['steps']} of {settings.steps} steps", flush=True)

    batches = DataLoader(
        TrainingPatches(real, synthetic, use, settings, seed),
        batch_size=settings.batch_patches,
        sampler=range(about["steps"] * settings.batch_patches, settings.steps * settings.batch_patches),
        **reading_ahead(compute, device),
    )
    forward = compiled(network, compute, device)

    def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        images = batch["images"].contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            logits = forward(images)
        loss = loss_of(logits.float(), batch["nodules"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        return loss.detach(), norm

    take = Steps(step, device)
    network.train()
    progress = Progress("segmenter", settings.steps, "steps", about["steps"])
    for images, nodules in batches:
        fall = (1 - about["steps"] / settings.steps) ** 0.9  # nnU-Net's decay
        optimizer.set_learning_rate(settings.learning_rate * fall)
        loss, gradient = take({"images": images, "nodules": nodules})
        # Only now: reading waits for the GPU, which by now has all of this step to do.
        value, norm = float(loss), float(gradient)
        if not np.isfinite([value, norm]).all():  # an infinite norm would make the weights no numbers, unseen
            raise FloatingPointError(
                f"loss {value}, gradient {norm} at step {about['steps']}: lower segmenters.*.learning_rate"
            )
        about["steps"] += 1
        about["recent"].append(value)
        progress.update(about["steps"], loss=float(np.mean(about["recent"][-20:])))
        if about["steps"] % max(settings.steps // RECORDS, 1) == 0 or about["steps"] == settings.steps:
            about["records"].append(
                {
                    "images_seen": about["steps"] * settings.batch_patches,
                    "seconds": round(restart.seconds(), 1),
                    "loss": float(np.mean(about["recent"])),
                }
            )
            about["recent"] = []
        restart.between_steps(f"{about['steps']} of {settings.steps} steps")
    restart.save()
    cost = {"seconds": round(restart.seconds(), 1), **peak_memory_mb(device)}
    facts = {"steps": about["steps"], "precision": about["precision"], "cost": cost, "ran_on": ran_on}
    return Trained(network.state_dict(), facts, about["records"])
