"""Whole volumes from a patch model.

``fused``: at every step all patches' x_0 are blended into one volume, then the whole volume takes one step with one
noise field. (Averaging finished samples, each with noise of its own, blurs where they overlap.) ``shifted``: the
patches of a step do not overlap, but lie elsewhere at every step, so the seams of one step heal in the next; the last
few steps, after which nothing heals, are fused.

Outside the body is air: its x_0 is known, and patches that hold nothing else are never evaluated. *Inpainting* is the
same with a real CT as what is known: where nothing is to be made the blended x_0 **is** the background, so that at
every step the state there is the background at exactly the state's own noise level, and the edge is feathered in x_0,
where a weighted mean has no noise to lose.

The state and every sum are float32; memory is the state, the blended x_0, for a sampler of second order the one before,
and the masks, whatever the number of patches.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.canvas import Canvas, Grid, How, blend, set_known
from lungsyn.generators.core.learning import Learning
from lungsyn.generators.core.patches import coarse_windows, source_numbers, with_halo
from lungsyn.generators.core.prediction import Denoiser, guided, to_x0
from lungsyn.generators.core.samplers import noise_adder, plan, sample
from lungsyn.generators.core.schedule import sampling_timesteps
from lungsyn.generators.core.settings import PatchSettings
from lungsyn.random import seed_of, stream
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.patches import Patch, axis_starts, box, patch_stride, shifted_spans, spans_of

# (x_t [b 1 X+2h Y+2h Z+2h] with its halo, patches, their surroundings [b c ...] or None, t) -> x_0 [b X Y Z]
PatchDenoiser = Callable[[Tensor, list[Patch], Tensor | None, int], Tensor]


def synthesise(
    network: torch.nn.Module,
    canvas: Canvas,
    settings: PatchSettings,
    synthesis: Synthesis,
    seed: int,
    how: How,
) -> Tensor:
    """One synthetic volume in the model range: float32 ``[x y z]`` of the case's own shape, on the canvas' device."""
    learning = settings.learning()
    x = learning.volume(network, canvas, learning.sampling(synthesis), seed, how)
    return x[tuple(slice(n) for n in canvas.shape)]


def denoised_volume(
    network: torch.nn.Module, canvas: Canvas, learning: Learning, synthesis: Synthesis, seed: int, how: How
) -> Tensor:
    """The padded volume of a denoiser of patches."""
    settings, abar = learning.settings, learning.abar
    timesteps = sampling_timesteps(learning.timesteps, synthesis.steps)
    steps = plan(synthesis.sampler, abar, timesteps, synthesis.eta)
    denoise = network_denoiser(network, canvas, learning, synthesis.guidance_scale, how.precision)
    device = canvas.masks.device
    x = torch.zeros(canvas.padded, device=device)
    add_noise = noise_adder(torch.Generator(device).manual_seed(seed_of(seed, "noise")))
    add_noise(x, 1.0)
    grids = [how.grid] * synthesis.steps
    if how.grid is None:
        grids = step_grids(canvas, settings, synthesis, stream(seed, "grids"))
    by_timestep = dict(zip(timesteps, grids, strict=False))
    denoiser = blended(denoise, canvas, learning, by_timestep.__getitem__, how.patches_per_batch)
    return sample(denoiser, x, timesteps, steps, add_noise, lambda i, _: how.progress(i + 1))


def fused_grid(canvas: Canvas, settings: PatchSettings, synthesis: Synthesis) -> Grid:
    """The patches of a step that is fused: all of the training's size, and overlapping."""
    patch, stride = settings.patch_voxels, stride_voxels(settings, synthesis)
    return [spans_of(axis_starts(n, patch, stride), patch) for n in canvas.padded]


def step_grids(canvas: Canvas, settings: PatchSettings, synthesis: Synthesis, rng) -> list[Grid]:
    """For each step its patches along each axis; all begin and end on the coarse grid, and shifted ones where the
    network can halve them."""
    patch, unit = settings.patch_voxels, max(2 * settings.grid_multiple, 2 ** len(settings.channels))
    fused, grids = fused_grid(canvas, settings, synthesis), []
    for i in range(synthesis.steps):
        if synthesis.mode == "fused" or i >= synthesis.steps - synthesis.fused_steps:
            grids.append(fused)
        else:
            offsets = rng.integers(patch // unit, size=3) * unit
            grids.append([shifted_spans(n, patch, int(o), unit) for n, o in zip(canvas.padded, offsets, strict=True)])
    return grids


def blended(
    denoise: PatchDenoiser, canvas: Canvas, learning: Learning, grid_at: Callable, patches_per_batch: int
) -> Denoiser:
    """The denoiser of a whole volume: patches' x_0 weighted, summed, divided by the weights; the known where known.

    What it returns is overwritten by the call after the next: two volumes are all that a sampler needs, and memory that
    is freed and asked for again may not be found in one piece."""
    made: list[Tensor] = []
    multiple = learning.settings.grid_multiple

    def occupied(patch: Patch) -> bool:
        return canvas.occupied[box([a // multiple for a in patch.start], [n // multiple for n in patch.size])].any()

    @torch.no_grad()
    def denoiser(x: Tensor, t: int) -> Tensor:
        surroundings = learning.surroundings(x)

        def x0_of(patches: list[Patch]) -> Tensor:
            x_t = torch.stack([with_halo(x, *patch) for patch in patches])[:, None]
            return denoise(x_t, patches, surroundings(patches) if surroundings else None, t)

        made.append(made.pop(0).zero_() if len(made) == 2 else torch.zeros_like(x))
        x0 = blend(made[-1], grid_at(t), patches_per_batch, x0_of, occupied)
        set_known(x0, canvas)
        return x0

    return denoiser


def coarse_view(x: Tensor, learning: Learning) -> Tensor | None:
    """The averaged volume, zero-padded so that every patch's surroundings are a plain crop; None without context."""
    if not learning.context_factor:
        return None
    margin = coarse_margin(learning.settings.patch_voxels, learning)
    return F.pad(F.avg_pool3d(x[None], 2 * learning.context_factor)[0], [margin] * 6)


def coarse_margin(size: int, learning: Learning) -> int:
    """Width of the surroundings beyond a patch of ``size`` voxels, in voxels of the coarse view, rounded down."""
    factor = learning.context_factor
    return (factor - 1) * size // 2 // (2 * factor)


def crop_views(view: Tensor, patches: list[Patch], learning: Learning) -> Tensor:
    """Each patch's part of the padded coarse view: ``[b X/2 Y/2 Z/2]``."""
    pool, widest = 2 * learning.context_factor, coarse_margin(learning.settings.patch_voxels, learning)

    def crop(patch: Patch) -> Tensor:
        start = [a // pool + widest - coarse_margin(n, learning) for a, n in zip(*patch, strict=True)]
        return view[box(start, [n // 2 for n in patch.size])]

    return torch.stack([crop(patch) for patch in patches])


def network_denoiser(
    network: torch.nn.Module, canvas: Canvas, learning: Learning, guidance_scale: float, precision
) -> PatchDenoiser:
    """The network as a denoiser of patches: gathers their conditions, converts its prediction to x_0, guides."""
    device = canvas.masks.device
    told = [source_numbers(canvas.source).to(device)] if learning.source_numbers else []

    def output(x_t: Tensor, masks: Tensor, coarse: Tensor, t: int) -> Tensor:
        times = torch.full((len(x_t),), t, device=device)
        spacing = torch.full((len(x_t),), canvas.spacing_mm, device=device)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            prediction = network(x_t, masks, coarse, times, spacing, *(each.expand(len(x_t), -1) for each in told))
        return to_x0(learning.prediction, prediction.float(), inner(x_t), learning.abar[t].float()).clamp_(-1, 1)[:, 0]

    def denoise(x_t: Tensor, patches: list[Patch], views: Tensor | None, t: int) -> Tensor:
        masks = torch.stack([with_halo(canvas.masks, *patch) for patch in patches])
        starts, size = [patch.start for patch in patches], patches[0].size
        coarse = coarse_windows(learning, starts, size, canvas.shape, views, device)
        return guided(lambda masks: output(x_t, masks, coarse, t), masks, guidance_scale).clamp_(-1, 1)

    return denoise


def stride_voxels(settings: PatchSettings, synthesis: Synthesis) -> int:
    """Distance of neighbouring patches: the overlap rounded up, to a multiple of the coarse grid."""
    return patch_stride(settings.patch_voxels, synthesis.overlap, settings.grid_multiple)
