"""What whole-volume denoising is compared with: each patch is sampled to the end by itself, then all are blended."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lungsyn.generators.core.bands import HALO, inner
from lungsyn.generators.core.canvas import Canvas, How, set_known_part
from lungsyn.generators.core.learning import Learning
from lungsyn.generators.core.samplers import noise_adder, plan, sample
from lungsyn.generators.core.schedule import sampling_timesteps
from lungsyn.generators.core.settings import ContextSettings
from lungsyn.generators.core.synthesis import blended, coarse_margin, fused_grid, network_denoiser
from lungsyn.random import seed_of
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.patches import Patch, box


def stitched(
    network: torch.nn.Module, canvas: Canvas, settings: ContextSettings, synthesis: Synthesis, seed: int, how: How
) -> Tensor:
    """As ``synthesise``, by patches that know nothing of their surroundings; they lie where fused ones do.

    A patch's noise follows from ``seed`` and its place, whichever patches share its batch."""
    learning, grid = settings.learning(), fused_grid(canvas, settings, synthesis)
    timesteps = sampling_timesteps(learning.timesteps, synthesis.steps)
    steps = plan(synthesis.sampler, learning.abar, timesteps, synthesis.eta)
    denoise = network_denoiser(network, canvas, learning, synthesis.guidance_scale, how.precision)

    def alone(x_t: Tensor, wanted: list[Patch], _views: Tensor | None, _t: int) -> Tensor:
        def x0_of(patches: Tensor, t: int) -> Tensor:
            padded = F.pad(patches[:, None], [HALO] * 6, mode="replicate")
            x0 = denoise(padded, wanted, own_view(patches, learning), t)
            for patch, where in zip(x0, wanted, strict=True):
                set_known_part(patch, canvas, *box(*where))
            return x0

        seeds = [seed_of(seed, "noise of a patch", *patch.start) for patch in wanted]
        adders = [noise_adder(torch.Generator(x_t.device).manual_seed(one)) for one in seeds]

        def add_noise(patches: Tensor, scale: float) -> None:
            for patch, add in zip(patches, adders, strict=True):
                add(patch, scale)

        return sample(x0_of, inner(x_t[:, 0]).clone(), timesteps, steps, add_noise)

    x = torch.zeros(canvas.padded, device=canvas.masks.device)
    noise_adder(torch.Generator(x.device).manual_seed(seed_of(seed, "noise")))(x, 1.0)
    x0 = blended(alone, canvas, learning, lambda t: grid, how.patches_per_batch)(x, timesteps[0])
    return x0[tuple(slice(n) for n in canvas.shape)]


def own_view(patches: Tensor, learning: Learning) -> Tensor | None:
    """The coarse view of patches ``[b P P P]`` with nothing around them; None without context."""
    if not learning.context_factor:
        return None
    pooled = F.avg_pool3d(patches[:, None], 2 * learning.context_factor)  # [b 1 ...]
    return F.pad(pooled, [coarse_margin(learning.settings.patch_voxels, learning)] * 6)
