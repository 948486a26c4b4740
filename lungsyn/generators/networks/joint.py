"""The patch U-Net on CT and nodule mask together: two images in, two out, and no masks beside them.

Each image has its own Haar bands, mean and widths; what is said of them before anything is learned is the same Wiener
filter for both. The mask is -1 outside nodules and 1 inside.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungsyn.compute import patches_at_once
from lungsyn.generators.core.bands import HALO, from_bands, inner, local_variance, shares, to_bands
from lungsyn.generators.core.canvas import Canvas, How, blend, make_canvas, set_known_part
from lungsyn.generators.core.generator import PatchGenerator, load_network
from lungsyn.generators.core.joint import IMAGES, bands_sd, joint_window, labelled, means
from lungsyn.generators.core.learning import DiffusionLearning
from lungsyn.generators.core.patches import coarse_windows, with_halo
from lungsyn.generators.core.prediction import from_v, precondition, skip_of_variance, to_x0
from lungsyn.generators.core.samplers import noise_adder, plan, sample
from lungsyn.generators.core.schedule import sampling_timesteps
from lungsyn.generators.core.synthesis import step_grids
from lungsyn.generators.joint_ddpm import Settings
from lungsyn.generators.networks.patch_unet import PatchUNet, coarse_channels
from lungsyn.random import seed_of, stream
from lungsyn.seams import Sampled, Scene
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import Section
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.patches import Patch


class JointUNet(PatchUNet):
    """(x_t of both, masks that it does not look at, coarse, t, spacing) -> prediction of both."""

    def __init__(self, learning: "DenoisingBoth"):
        super().__init__(learning)
        width = learning.settings.channels[0]
        self.stem = nn.Conv3d(8 * IMAGES + coarse_channels(learning), width, 3, padding=1)
        self.head = nn.Conv3d(width, 2 * 8 * IMAGES, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("both_means", means(), persistent=False)
        self.register_buffer("both_sd", bands_sd(), persistent=False)

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """``[b 2 x y z]`` of ``x`` ``[b 2 ...]`` with its halo and ``coarse`` at half resolution; the rest ``[b]``."""
        batch = len(x)
        embedding = self.embed(t, spacing_mm)
        abar = self.abar[t][:, None, None, None, None]
        each, usual = abar.repeat_interleave(IMAGES, 0), self.both_sd.repeat(batch, 1, 1, 1, 1)  # as one image each
        c_in, _, c_out = precondition(each, usual)
        with torch.autocast(x.device.type, enabled=False):
            rest = (x - abar.sqrt() * self.both_means).flatten(0, 1)[:, None]  # [2b 1 ...]
            parts = shares(rest)
            variance = inner(local_variance(parts, each, usual.square()), HALO // 2)
            x, rest, parts = inner(x), inner(rest), inner(parts)
            bands = (c_in * to_bands(rest)).unflatten(0, (batch, IMAGES)).flatten(1, 2)  # [b 16 ...]
        made = self.outputs(torch.cat([bands, coarse], dim=1), embedding)
        correction, wider = (part.unflatten(1, (IMAGES, 8)).flatten(0, 1) for part in made.chunk(2, dim=1))
        with torch.autocast(x.device.type, enabled=False):
            skip = F.interpolate(skip_of_variance(each, variance, wider), scale_factor=2.0)
            v = (skip * parts).sum(dim=1, keepdim=True) + from_bands(c_out * correction)
            v = v[:, 0].unflatten(0, (batch, IMAGES)) - (1 - abar).sqrt() * self.both_means
        return from_v(self.prediction, v, x, abar)


class DenoisingBoth(DiffusionLearning):
    """What it learns, and how it makes a volume of both images."""

    def __init__(self, settings: Settings):
        super().__init__(settings, position=settings.position)

    def build(self) -> nn.Module:
        return JointUNet(self).to(memory_format=torch.channels_last_3d)

    def image(self, case, start, size):
        return joint_window(case, start, size, self.settings.window_hu)

    @torch.no_grad()
    def volume(self, network, canvas: Canvas, synthesis: Synthesis, seed: int, how: How) -> Tensor:
        """Both images, padded: ``[2 x y z]``. All of the canvas is made, as in `synthesis.denoised_volume`."""
        device = canvas.masks.device
        timesteps = sampling_timesteps(self.timesteps, synthesis.steps)
        steps = plan(synthesis.sampler, self.abar, timesteps, synthesis.eta)
        grids = step_grids(canvas, self.settings, synthesis, stream(seed, "grids"))
        grid_at = dict(zip(timesteps, grids, strict=False))

        def denoiser(x: Tensor, t: int) -> Tensor:
            def x0_of(patches: list[Patch]) -> Tensor:
                x_t = torch.stack([with_halo(x, *patch) for patch in patches])
                starts = [patch.start for patch in patches]
                coarse = coarse_windows(self, starts, patches[0].size, canvas.shape, None, device)
                times = torch.full((len(patches),), t, device=device)
                spacing = torch.full((len(patches),), canvas.spacing_mm, device=device)
                with torch.autocast(device.type, dtype=how.precision, enabled=how.precision != torch.float32):
                    said = network(x_t, None, coarse, times, spacing)
                return to_x0(self.prediction, said.float(), inner(x_t), self.abar[t].float()).clamp_(-1, 1)

            x0 = blend(torch.zeros_like(x), grid_at[t], how.patches_per_batch, x0_of)
            set_known_part(x0, canvas, *[slice(None)] * 3)  # air beyond the volume, and no nodule
            return x0

        x = torch.zeros(IMAGES, *canvas.padded, device=device)
        add_noise = noise_adder(torch.Generator(device).manual_seed(seed_of(seed, "noise")))
        add_noise(x, 1.0)
        return sample(denoiser, x, timesteps, steps, add_noise, lambda i, _: how.progress(i + 1))


@dataclass(frozen=True, eq=False)
class JointPatchGenerator(PatchGenerator):
    """Makes CT and label map. ``real``: of `joint.about_real`."""

    real: dict

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def sample(self, scene: Scene, seed: int, on_step=lambda step: None) -> Sampled:
        """A volume on the grid of ``scene``, and the label map that was made with it."""
        s, everywhere = self.settings, np.ones((3, *scene.labels.shape), np.uint8)
        canvas = make_canvas(everywhere, float(scene.spacing_mm.mean()), s, self.device)
        how = How(self.patches_per_batch, self.precision, on_step)
        made = s.learning().volume(self.network, canvas, self.synthesis, seed, how)
        inside = (..., *(slice(n) for n in scene.labels.shape))
        return labelled(made[inside].cpu().numpy(), scene.affine, s.window_hu, self.real)


def load_joint(path: Path, compute: Compute, synthesis: Synthesis, settings_of: type[Section]) -> JointPatchGenerator:
    """Load a model file; its own settings travel with it."""
    network, settings, device, precision, about = load_network(path, compute, settings_of)
    at_once = patches_at_once(compute, device, settings.patch_voxels)
    return JointPatchGenerator(network, settings, device, precision, at_once, synthesis, about["real"])
