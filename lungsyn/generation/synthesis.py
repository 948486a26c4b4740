"""Whole volumes from a patch model.

``fused``: at every step all patches' x_0 are blended into one volume, then the whole volume takes one step with one
noise field. (Averaging finished samples, each with noise of its own, blurs where they overlap.) ``shifted``: the
patches of a step do not overlap, but lie elsewhere at every step, so the seams of one step heal in the next; the last
few steps, after which nothing heals, are fused. ``stitched``: every patch is sampled alone and the results are
blended: the naive way, kept to measure against.

Outside the body is air: its x_0 is known, and patches that hold nothing else are never evaluated. *Inpainting* is the
same with a real CT as what is known: where nothing is to be made the blended x_0 **is** the background, so that at
every step the state there is the background at exactly the state's own noise level, and the edge is feathered in x_0,
where a weighted mean has no noise to lose.

The state and every sum are float32; memory is the state, the blended x_0 and the masks, whatever the number of patches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungsyn.config import Generator, Synthesis
from lungsyn.generation.bands import HALO, inner
from lungsyn.generation.patches import coarse_windows, grid_multiple, with_halo
from lungsyn.generation.prediction import Denoiser, guide, to_x0
from lungsyn.generation.samplers import noise_adder, plan, sample
from lungsyn.generation.schedule import SCHEDULES, sampling_timesteps
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.patches import (
    all_starts,
    axis_starts,
    batches,
    box,
    importance_vector,
    padded_shape,
    patch_stride,
    shifted_starts,
    total_weight,
)

Start = tuple[int, int, int]
# (x_t [b 1 P+2h P+2h P+2h] with its halo, starts, coarse views [b P/2 P/2 P/2] or None, t) -> x_0 [b P P P]
PatchDenoiser = Callable[[Tensor, list[Start], Tensor | None, int], Tensor]


@dataclass(frozen=True, eq=False)
class Background:
    """What is known: ``values`` (model range), and how much of them is replaced: ``weight`` (0 to 1); ``[x y z]``."""

    values: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Canvas:
    """The conditions of one volume, padded; tensors ``[x y z]`` but for the masks."""

    masks: Tensor  # uint8 0/1 [3 x y z]: nodules, lungs, body
    generated: Tensor  # bool: voxels that need the network
    occupied: np.ndarray  # bool: cubes with such voxels, on the grid on which patches begin and end
    shape: tuple[int, int, int]  # of the case itself
    spacing_mm: float
    air: float  # AIR_HU in the model range
    background: Tensor | None = None  # float32, model range; None: air
    weight: Tensor | None = None  # float32 0 ... 1

    @property
    def padded(self) -> tuple[int, int, int]:
        return tuple(self.masks.shape[1:])


def make_canvas(
    masks: np.ndarray,
    spacing_mm: float,
    settings: Generator,
    device: torch.device,
    background: Background | None = None,
) -> Canvas:
    """Pad ``masks`` ``[3 x y z]`` at their far ends to a shape that holds whole patches on the coarse grid."""
    shape = masks.shape[1:]
    padded = padded_shape(shape, settings.patch_voxels, grid_multiple(settings))
    pads = [(0, b - a) for a, b in zip(shape, padded, strict=True)]

    def on_device(array: np.ndarray, fill: float = 0) -> Tensor:
        return torch.from_numpy(np.pad(array, pads, constant_values=fill)).to(device)

    conditions = torch.stack([on_device((mask > 0).astype(np.uint8)) for mask in masks])
    generated = conditions.amax(dim=0) > 0
    air = float(to_model_range(AIR_HU, settings.window_hu))
    values = weight = None
    if background is not None:
        values, weight = on_device(background.values, air), on_device(background.weight)
        generated &= weight > 0
    occupied = reduce_by(generated, grid_multiple(settings)).cpu().numpy()
    return Canvas(conditions, generated, occupied, shape, spacing_mm, air, values, weight)


def reduce_by(mask: Tensor, edge: int) -> Tensor:
    """Whether any voxel of each cube of ``edge`` voxels is true; the shape is divided by it."""
    for axis in range(3):
        mask = mask.unflatten(axis, (-1, edge)).any(dim=axis + 1)
    return mask


def synthesise(
    network: torch.nn.Module,
    canvas: Canvas,
    settings: Generator,
    synthesis: Synthesis,
    seed: int,
    patches_per_batch: int,
    precision: torch.dtype = torch.float32,
    progress: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """One synthetic volume in the model range: float32 ``[x y z]`` of the case's own shape, on the canvas' device."""
    abar = SCHEDULES[settings.schedule](settings.timesteps)
    timesteps = sampling_timesteps(settings.timesteps, synthesis.steps)
    steps = plan(synthesis.sampler, abar, timesteps, synthesis.eta)
    denoise = network_denoiser(network, canvas, settings, abar, synthesis.guidance_scale, precision)
    device = canvas.masks.device
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.zeros(canvas.padded, device=device)
    add_noise = noise_adder(generator)
    add_noise(x, 1.0)
    if synthesis.mode == "stitched":
        x = stitched(denoise, x, canvas, settings, synthesis, timesteps, steps, seed, patches_per_batch)
    else:
        grids = step_grids(canvas, settings, synthesis, np.random.default_rng(seed))
        by_timestep = dict(zip(timesteps, grids, strict=False))
        volume_denoiser = blended(denoise, canvas, settings, by_timestep.__getitem__, patches_per_batch)
        x = sample(volume_denoiser, x, timesteps, steps, add_noise, lambda i, _: progress(i + 1))
    return x[tuple(slice(n) for n in canvas.shape)]


def step_grids(canvas: Canvas, settings: Generator, synthesis: Synthesis, rng) -> list[list[list[int]]]:
    """For each step the patches' starts per axis; all are multiples of the coarse grid."""
    patch, multiple = settings.patch_voxels, grid_multiple(settings)
    fused = [axis_starts(n, patch, stride_voxels(settings, synthesis)) for n in canvas.padded]
    grids = []
    for i in range(synthesis.steps):
        if synthesis.mode == "fused" or i >= synthesis.steps - synthesis.fused_steps:
            grids.append(fused)
        else:
            offsets = rng.integers(patch // multiple, size=3) * multiple
            grids.append([shifted_starts(n, patch, int(o)) for n, o in zip(canvas.padded, offsets, strict=True)])
    return grids


def blended(
    denoise: PatchDenoiser, canvas: Canvas, settings: Generator, grid_at: Callable, patches_per_batch: int
) -> Denoiser:
    """The denoiser of a whole volume: patches' x_0 weighted, summed, divided by the weights; the known where known."""
    patch, device = settings.patch_voxels, canvas.masks.device
    multiple = grid_multiple(settings)
    vector = importance_vector(patch)
    v = torch.from_numpy(vector).to(device)
    importance = v[:, None, None] * v[:, None] * v  # [P P P]

    @torch.no_grad()
    def denoiser(x: Tensor, t: int) -> Tensor:
        per_axis = grid_at(t)
        view = coarse_view(x, settings)
        total = torch.zeros_like(x)
        starts = [
            s for s in all_starts(per_axis) if canvas.occupied[box([a // multiple for a in s], patch // multiple)].any()
        ]
        for group in batches(starts, patches_per_batch):
            x_t = torch.stack([with_halo(x, s, patch) for s in group])[:, None]
            views = crop_views(view, group, settings) if view is not None else None
            for start, x0 in zip(group, denoise(x_t, group, views, t) * importance, strict=True):
                total[box(start, patch)].add_(x0)
        for axis, (length, along) in enumerate(zip(canvas.padded, per_axis, strict=True)):
            weight = torch.from_numpy(total_weight(length, along, vector)).float().to(device)
            total /= weight.reshape([-1 if k == axis else 1 for k in range(3)])
        set_known(total, canvas)
        return total

    return denoiser


def set_known(x0: Tensor, canvas: Canvas) -> None:
    """Write what is known into ``x0``, in place: air where nothing is generated, or the background, feathered."""
    for i in range(0, len(x0), 8):  # slab by slab: no second volume
        slab, generated = x0[i : i + 8], canvas.generated[i : i + 8]
        if canvas.background is None:
            slab.masked_fill_(~generated, canvas.air)
        else:
            made = torch.lerp(canvas.background[i : i + 8], slab, canvas.weight[i : i + 8])
            slab.copy_(torch.where(generated, made, canvas.background[i : i + 8]))


def coarse_view(x: Tensor, settings: Generator) -> Tensor | None:
    """The averaged volume, zero-padded so that every patch's surroundings are a plain crop; None without context."""
    if not settings.context_factor:
        return None
    pool = 2 * settings.context_factor
    return F.pad(F.avg_pool3d(x[None], pool)[0], [coarse_margin(settings)] * 6)


def coarse_margin(settings: Generator) -> int:
    """Width of the surroundings beyond a patch, in voxels of the coarse view."""
    return (settings.context_factor - 1) * settings.patch_voxels // 2 // (2 * settings.context_factor)


def crop_views(view: Tensor, starts: list[Start], settings: Generator) -> Tensor:
    """Each patch's part of the padded coarse view: ``[b P/2 P/2 P/2]``."""
    pool, half = 2 * settings.context_factor, settings.patch_voxels // 2
    return torch.stack([view[box([a // pool for a in start], half)] for start in starts])


def network_denoiser(
    network: torch.nn.Module, canvas: Canvas, settings: Generator, abar: Tensor, guidance_scale: float, precision
) -> PatchDenoiser:
    """The network as a denoiser of patches: gathers their conditions, converts its prediction to x_0, guides."""
    device = canvas.masks.device

    def output(x_t: Tensor, masks: Tensor, coarse: Tensor, t: int) -> Tensor:
        times = torch.full((len(x_t),), t, device=device)
        spacing = torch.full((len(x_t),), canvas.spacing_mm, device=device)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            prediction = network(x_t, masks, coarse, times, spacing)
        return to_x0(settings.prediction, prediction.float(), inner(x_t), abar[t].float()).clamp_(-1, 1)[:, 0]

    def denoise(x_t: Tensor, starts: list[Start], views: Tensor | None, t: int) -> Tensor:
        masks = torch.stack([with_halo(canvas.masks, s, settings.patch_voxels) for s in starts])
        coarse = coarse_windows(settings, starts, canvas.shape, views, device)
        x0 = output(x_t, masks, coarse, t)
        if guidance_scale != 1:
            without = masks.clone()
            without[:, 0] = 0
            x0 = guide(x0, output(x_t, without, coarse, t), guidance_scale).clamp_(-1, 1)
        return x0

    return denoise


def stitched(
    denoise: PatchDenoiser, x: Tensor, canvas: Canvas, settings: Generator, synthesis: Synthesis, timesteps, steps,
    seed: int, patches_per_batch: int,
) -> Tensor:  # fmt: skip
    """Each patch is sampled to the end by itself, its surroundings unknown, then all are blended.

    A patch's noise follows from ``seed`` and its place, whichever patches share its batch."""
    grid = [axis_starts(n, settings.patch_voxels, stride_voxels(settings, synthesis)) for n in canvas.padded]

    def alone(x_t: Tensor, starts: list[Start], _views: Tensor | None, _t: int) -> Tensor:
        def one(patches: Tensor, t: int) -> Tensor:
            views = None
            if settings.context_factor:
                pooled = F.avg_pool3d(patches[:, None], 2 * settings.context_factor)[:, 0]
                views = F.pad(pooled, [coarse_margin(settings)] * 6)
            return denoise(F.pad(patches[:, None], [HALO] * 6, mode="replicate"), starts, views, t)

        adders = [noise_adder(torch.Generator(x.device).manual_seed(hash((seed, *start)))) for start in starts]

        def add_noise(patches: Tensor, scale: float) -> None:
            for patch, add in zip(patches, adders, strict=True):
                add(patch, scale)

        return sample(one, inner(x_t[:, 0]).clone(), timesteps, steps, add_noise)

    return blended(alone, canvas, settings, lambda t: grid, patches_per_batch)(x, timesteps[0])


def stride_voxels(settings: Generator, synthesis: Synthesis) -> int:
    """Distance of neighbouring patches: the overlap rounded up so that it is a multiple of the coarse grid."""
    return patch_stride(settings.patch_voxels, synthesis.overlap, grid_multiple(settings))
