"""From a row of conditions to a synthetic case in the layout of a real one: generated, or pasted as the baseline."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from lungsyn import checkpoint
from lungsyn.compute import choose_device, choose_precision, compiled, describe, patches_at_once, peak_memory_mb, set_up
from lungsyn.generators.core.canvas import Background, make_canvas
from lungsyn.generators.core.synthesis import synthesise
from lungsyn.generators.networks.patch_unet import build
from lungsyn.masks.core.placing import RIM_VOXELS, Arrangement, Placed, as_it_is, make_masks, region_to_make
from lungsyn.progress import Progress
from lungsyn.quality.attempts import Attempt, attempt_seed, attempts
from lungsyn.quality.measures import measure
from lungsyn.settings.compute import Compute
from lungsyn.settings.generators import Generator, TrainedGenerator
from lungsyn.settings.synthesis import Synthesis, grid_of
from lungsyn.volume.files import Case
from lungsyn.volume.intensity import to_hu, to_model_range
from lungsyn.volume.nodules import nodule_facts


@dataclass(frozen=True, eq=False)
class LoadedGenerator:
    """A trained generator, ready on its device."""

    network: Callable
    settings: Generator
    device: torch.device
    precision: torch.dtype
    patches_per_batch: int


def load_generator(path: Path, compute: Compute) -> LoadedGenerator:
    """Load a model file; its own settings travel with it."""
    device = choose_device(compute)
    set_up(compute.generator_threads, device)
    weights, settings, about = checkpoint.load_model(path, "generator", TrainedGenerator)
    precision = choose_precision(compute, device, about.get("precision"))
    network = build(settings)
    network.load_state_dict(weights)
    print(f"synthesis on {describe(device, precision)}", flush=True)
    at_once = patches_at_once(compute, device, settings.patch_voxels)
    return LoadedGenerator(compiled(network.to(device).eval(), compute, device), settings, device, precision, at_once)


def synthetic_case(
    generator: LoadedGenerator, row: dict, synthesis: Synthesis, open_source: Callable[[str], Case], attempt: int = 0
) -> Case:
    """Make the volume that ``row`` of the conditions describes; the caller names it.

    Another ``attempt`` has the same masks and other noise.
    """
    started = time.monotonic()
    arrangement = make_masks(row, open_source)
    masks, body, _ = arrangement
    window_hu = generator.settings.window_hu
    background = None
    if row["why"] == "inpainted":
        background = Background(to_model_range(body.ct, window_hu), region_to_make(masks[0], body))
    spacing_mm = float(body.space.spacing_mm.mean())
    if generator.settings.kind == "patch_gan":
        synthesis = one_step(synthesis)
    canvas = make_canvas(masks, spacing_mm, generator.settings, generator.device, background)
    progress = Progress(f"volume {row['volume']}", synthesis.steps, "steps")
    volume = synthesise(
        generator.network, canvas, generator.settings, synthesis, attempt_seed(int(row["seed"]), attempt),
        generator.patches_per_batch, generator.precision, progress.update,
    )  # fmt: skip
    hu = to_hu(volume.cpu().numpy(), window_hu)
    if background is not None:  # the window does not clip what is kept
        clipped = body.ct - to_hu(background.values, window_hu)
        hu = np.rint(hu + (1 - background.weight) * clipped).astype(np.int16)
    return _as_case(hu, arrangement, row, started, generator.device)


def one_step(synthesis: Synthesis) -> Synthesis:
    """How a GAN makes a volume: from pure noise to x_0 at once, all patches fused."""
    return synthesis.model_copy(update={"steps": 1, "mode": "fused", "guidance_scale": 1.0})


def pasted_case(row: dict, open_source: Callable[[str], Case]) -> Case:
    """The baseline: the row's nodules with their own HU, varied alike, pasted into the body's CT with a soft edge.

    Where none fits beside the body's own nodules, the case stays as it is: its nodules cannot be taken out.
    """
    started = time.monotonic()
    arrangement = make_masks(row, open_source)
    body = arrangement.body
    if not (arrangement.masks[0] > 0)[np.asarray(body.nodules) > 0].all():
        arrangement = as_it_is(body)
    hu = np.array(body.ct, dtype=np.float32)
    for nodule in arrangement.placed:
        paste(hu, nodule)
    return _as_case(np.rint(hu).astype(np.int16), arrangement, row, started, torch.device("cpu"))


def paste(hu: np.ndarray, nodule: Placed) -> None:
    """Blend a nodule into ``hu``, in place: all of it inside the mask, falling to nothing over ``RIM_VOXELS``."""
    weight = np.clip(2 * ndimage.gaussian_filter(np.pad(nodule.mask, RIM_VOXELS).astype(np.float32), 0.7), 0, 1)
    first = np.array(nodule.start) - RIM_VOXELS
    low, high = np.maximum(first, 0), np.minimum(first + weight.shape, hu.shape)
    there = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    here = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    hu[there] += weight[here] * (nodule.hu[here] - hu[there])


def _as_case(hu: np.ndarray, arrangement: Arrangement, row: dict, started: float, device: torch.device) -> Case:
    (nodules, lungs, inside), body, placed = arrangement
    real = row["why"] == "inpainted"  # but for its nodules
    affine = body.affine if real else np.diag([*body.space.spacing_mm, 1.0])  # where a patient lay is his
    about = {
        "patient": body.about["patient"] if real else "synthetic",  # whose CT it shows
        "dataset": "synthetic",
        "nodules": nodule_facts(nodules, lungs, body.space),
        "new_nodules": len(placed),
        "cost": {"seconds": round(time.monotonic() - started, 2), **peak_memory_mb(device)},
    }
    return Case(hu, nodules, lungs, inside, affine, about)


def attempts_at(
    generator: LoadedGenerator, row: dict, synthesis: Synthesis, open_source: Callable[[str], Case], reference: dict,
    tries: int,
) -> Iterator[Attempt]:  # fmt: skip
    """Make the volume of ``row`` until it lies in the ranges of ``reference``; the last attempt is the one to keep."""
    started = time.monotonic()
    grid = grid_of(generator.settings, synthesis)

    def make(attempt: int) -> Case:
        return synthetic_case(generator, row, synthesis, open_source, attempt)

    def examine(case: Case) -> dict[str, float]:
        if row["why"] != "inpainted":
            return measure(case, grid)
        return measure(case, grid, region_to_make(case.nodules, open_source(row["body_case"])) == 1)

    for attempt in attempts(make, examine, reference, tries):
        attempt.case.about["cost"]["seconds"] = round(time.monotonic() - started, 2)  # of all attempts so far
        for fault in attempt.faults:
            print(f"volume {row['volume']}, attempt {attempt.number}, rejected: {fault['reason']}", flush=True)
        yield attempt
