"""From a row of conditions to a synthetic case in the layout of a real one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lungsyn import checkpoint
from lungsyn.compute import choose_device, choose_precision, describe, peak_memory_mb, set_up
from lungsyn.config import Compute, Generator, Synthesis
from lungsyn.generation.conditions import make_masks, region_to_make
from lungsyn.generation.network import build
from lungsyn.generation.synthesis import Background, make_canvas, synthesise
from lungsyn.progress import Progress
from lungsyn.volume.files import Case
from lungsyn.volume.intensity import to_hu, to_model_range
from lungsyn.volume.nodules import nodule_facts


@dataclass(frozen=True, eq=False)
class LoadedGenerator:
    """A trained generator, ready on its device."""

    network: torch.nn.Module
    settings: Generator
    device: torch.device
    precision: torch.dtype
    patches_per_batch: int


def load_generator(path: Path, compute: Compute) -> LoadedGenerator:
    """Load a model file; its own settings travel with it."""
    device = choose_device(compute)
    precision = choose_precision(compute, device)
    set_up(compute.generator_threads, device)
    weights, about = checkpoint.load(path)
    settings = Generator.model_validate(about["generator"])
    network = build(settings)
    network.load_state_dict(weights)
    print(f"synthesis on {describe(device, precision)}", flush=True)
    return LoadedGenerator(network.to(device).eval(), settings, device, precision, compute.patches_per_batch)


def synthetic_case(
    generator: LoadedGenerator, row: dict, synthesis: Synthesis, open_source: Callable[[str], Case]
) -> Case:
    """Make the volume that ``row`` of the conditions describes; the caller names it."""
    started = time.monotonic()
    masks, body = make_masks(row, open_source)
    window_hu = generator.settings.window_hu
    background = None
    if row["why"] == "inpainted":
        background = Background(to_model_range(body.ct, window_hu), region_to_make(masks[0], body))
    spacing_mm = float(body.space.spacing_mm.mean())
    canvas = make_canvas(masks, spacing_mm, generator.settings, generator.device, background)
    progress = Progress(f"volume {row['volume']}", synthesis.steps, "steps")
    volume = synthesise(
        generator.network, canvas, generator.settings, synthesis, int(row["seed"]), generator.patches_per_batch,
        generator.precision, progress.update,
    )  # fmt: skip
    nodules, lungs, inside = masks
    about = {
        "patient": "synthetic",
        "dataset": "synthetic",
        "nodules": nodule_facts(nodules, lungs, body.space),
        "cost": {"seconds": round(time.monotonic() - started, 2), **peak_memory_mb(generator.device)},
    }
    hu = to_hu(volume.cpu().numpy(), window_hu)
    if background is not None:
        hu = np.where(background.weight > 0, hu, body.ct)  # the window does not clip what is kept
    return Case(hu, nodules, lungs, inside, body.affine, about)
