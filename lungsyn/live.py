"""A picture of a generator's training, drawn again and again while it learns: is it worth waiting for?

On the left the loss so far. On the right patches of held-out cases and what the averaged weights make in their place:
the nodule and all masks are given, the surroundings are the real ones, the noise is the same every time, so that only
what was learned differs from one picture to the next. Weights are only read, random numbers are its own, and a picture
that fails is one line in the log: with and without it the same is learned.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lungsyn.compute import choose_device
from lungsyn.evaluation.figures import COLOURS, INK, loss_against_patches, save
from lungsyn.evaluation.pictures import TRUTH_COLOUR, draw_contour, draw_slice, largest_nodule, widest_slices
from lungsyn.generators.core.canvas import Background, How, make_canvas
from lungsyn.generators.core.settings import PatchSettings
from lungsyn.generators.core.synthesis import synthesise
from lungsyn.generators.core.training import Watch, hold_out
from lungsyn.settings.compute import Compute
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.intensity import to_hu, to_model_range
from lungsyn.volume.patches import box, padded_shape
from lungsyn.volume.source import source_of
from lungsyn.volume.space import bounding_box

CASES, DPI = 3, 100
SAMPLING = Synthesis(
    sampler="dpmpp_2m", steps=12, eta=0, mode="fused", overlap=0, fused_steps=0, guidance_scale=1, volumes_per_job=1
)
LARGEST_SHARE = 0.03  # of a training's time; where a picture takes long, fewer are drawn


def watcher(
    folders: Sequence[Path], settings: PatchSettings, compute: Compute, seed: int, out: Path, study_name: str
) -> Watch:
    """What `training.train` calls after each check; it draws ``out`` when there is time for it, and at the end."""
    learned, held_out = hold_out(list(folders), settings, seed)
    shown = with_nodules(held_out)
    whose = "held-out" if shown else "train"
    shown = shown or with_nodules(learned)
    next_at = 0.0

    def watch(network: Callable, precision: torch.dtype, records: Sequence[dict]) -> None:
        nonlocal next_at
        began = time.monotonic()
        if began < next_at and records[-1]["images_seen"] < settings.images:
            return
        try:
            device = choose_device(compute)
            pairs = {name: real_and_made(network, case, settings, device, precision, seed) for name, case in shown}
            draw(pairs, records, settings, whose, study_name, out)
        except Exception as error:
            print(f"no live picture this time: {error!r}".splitlines()[0], flush=True)
        next_at = time.monotonic() + (time.monotonic() - began) / LARGEST_SHARE

    return watch


def with_nodules(folders: Sequence[Path]) -> list[tuple[str, Case]]:
    """The first ``CASES`` of the cases that have a nodule."""
    cases = ((folder.name, open_case(folder)) for folder in folders)
    return list(itertools.islice(((name, case) for name, case in cases if case.about["nodules"]), CASES))


def patch_start(case: Case, nodule: np.ndarray, settings: PatchSettings) -> tuple[int, int, int]:
    """Where the patch begins that has the nodule in its middle, as far as case and coarse grid allow."""
    multiple, patch = settings.grid_multiple, settings.patch_voxels
    start = (sum(bounding_box(nodule)) - patch) // 2 // multiple * multiple
    last = np.array(padded_shape(case.ct.shape, patch, multiple)) - patch
    return tuple(int(a) for a in np.clip(start, 0, last))


def real_and_made(
    network: Callable, case: Case, settings: PatchSettings, device: torch.device, precision: torch.dtype, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The patch at the largest nodule, as far as it is in the case: real HU, HU made in its place, nodule mask."""
    nodule = largest_nodule(case.nodules)
    start = patch_start(case, nodule, settings)
    patch = box(start, settings.patch_voxels)
    to_make = np.zeros(case.ct.shape, np.float32)
    to_make[patch] = 1
    real = Background(to_model_range(case.ct, settings.window_hu), to_make)
    masks = case.labels.stack(settings.labels)
    canvas = make_canvas(masks, float(case.space.spacing_mm.mean()), settings, device, real, source_of(case))

    plan = SAMPLING.model_copy(update={"steps": min(SAMPLING.steps, settings.learning().timesteps)})
    only = [[(a, settings.patch_voxels)] for a in start]
    made = synthesise(network, canvas, settings, plan, seed, How(1, precision, grid=only))
    real_hu, made_hu = (to_hu(x[patch], settings.window_hu) for x in (real.values, made.cpu().numpy()))
    return real_hu, made_hu, np.asarray(case.nodules[patch]) > 0


def draw(
    pairs: dict[str, tuple], records: Sequence[dict], settings: PatchSettings, whose: str, study_name: str, out: Path
) -> None:
    """The loss on the left; a column per case: the real slice above, the made one below."""

    def layout(figure: Figure) -> None:
        left, right = figure.subfigures(1, 2, width_ratios=[1, 1 + len(pairs) / 2])
        axis = left.subplots()
        for key, label, colour in (("loss", "train", COLOURS[0]), ("validation", "held-out, averaged weights", INK)):
            points = [(record["images_seen"], record[key]) for record in records if record[key] is not None]
            if points:
                axis.plot(*zip(*points, strict=True), "o-", color=colour, ms=3, lw=1.2, label=label, clip_on=False)
        loss_against_patches(axis)
        axis.set_xlim(0, settings.images)
        axis.xaxis.set_major_locator(MaxNLocator(3))  # beside one patch there is not room for more
        axis.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1))  # nowhere within is always free
        axes = right.subplots(2, len(pairs), squeeze=False) if pairs else []
        for column, (name, (real, made, nodule)) in enumerate(pairs.items()):
            index = widest_slices(nodule)[2]
            for row, (what, patch) in enumerate(((f"real, {whose}", real), ("made", made))):
                draw_slice(axes[row][column], patch, 2, index, (1, 1, 1), settings.window_hu)
                draw_contour(axes[row][column], nodule, 2, index, TRUTH_COLOUR, 0.8)
                if column == 0:
                    axes[row][0].set_ylabel(what)
            axes[0][column].set_title(name[-24:], fontsize=8)
        seen = f"{records[-1]['images_seen']:,} of {settings.images:,} patches seen"
        figure.suptitle(f"{seen}\nstudy: {study_name}", fontweight="bold", parse_math=False)

    save(5 + 2.4 * len(pairs), 5.2, DPI, out, layout)
