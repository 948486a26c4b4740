"""Latent diffusion (Rombach et al. 2022, arXiv 2112.10752; for CT MAISI, Guo et al. 2024, arXiv 2409.11169).

An autoencoder (`networks.autoencoder`) turns a patch into latents; a diffusion model makes latents; the decoder turns
them into CT. Masks enter through a ControlNet (Zhang et al. 2023, arXiv 2302.05543), which learns together with the
diffusion model, or after it has learned without masks and learns no more. The parts are MONAI's.

A volume is made of patches that overlap, in every step in latents and at last in voxels: the networks normalise over
what they are given, so they are given what they have learned on, a patch.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from monai.networks.nets import ControlNet, DiffusionModelUNet
from torch import Tensor, nn

from lungsyn.generators.core.bands import inner, to_half
from lungsyn.generators.core.canvas import Canvas, How, blend, set_known
from lungsyn.generators.core.learning import DiffusionLearning, predict
from lungsyn.generators.core.patches import source_numbers
from lungsyn.generators.core.prediction import diffuse, guided, to_x0, training_target
from lungsyn.generators.core.samplers import noise_adder, plan, sample
from lungsyn.generators.core.schedule import sampling_timesteps
from lungsyn.generators.core.synthesis import fused_grid
from lungsyn.generators.latent_ddpm import Settings
from lungsyn.generators.networks.autoencoder import BANDS, MOST_GROUPS, PatchAutoencoder, latent_noise
from lungsyn.processes import ALONE, Team
from lungsyn.random import seed_of
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.patches import Patch, box

MOST_DIFFERENT = 2.0  # that a nodule's mask is asked to make: MAISI-v2's bound


class LatentUNet(nn.Module):
    """A denoiser of latents, led by the masks, with the autoencoder that they come from: that does not learn here.

    Not ``led``: without a ControlNet, and without masks."""

    def __init__(self, learning: "DenoisingLatents", led: bool = True):
        super().__init__()
        settings = learning.settings
        channels, latents = settings.channels, settings.autoencoder.latent_channels
        shared = {
            "spatial_dims": 3, "in_channels": latents, "channels": channels, "num_res_blocks": settings.blocks,
            "attention_levels": [False] * len(channels), "norm_num_groups": math.gcd(*channels, MOST_GROUPS),
        }  # fmt: skip
        self.autoencoder = PatchAutoencoder(settings.autoencoder_training).requires_grad_(False)
        self.unet = DiffusionModelUNet(out_channels=latents, **shared)
        self.control = None
        if led:
            self.control = ControlNet(
                conditioning_embedding_in_channels=BANDS * len(settings.labels) + learning.source_numbers,
                conditioning_embedding_num_channels=settings.autoencoder.channels,
                **shared,
            )
        self.contrasts = settings.contrastive_weight > 0
        self.prediction = settings.target
        self.register_buffer("abar", learning.abar.float(), persistent=False)

    def train(self, mode: bool = True) -> "LatentUNet":
        super().train(mode)
        self.autoencoder.eval()
        return self

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor, *source) -> Tensor:
        """The squared error of what it predicts of latents, ``[b c P/f P/f P/f]``; inputs as the autoencoder's, and
        ``source`` ``[b 2]`` or nothing. In a training that contrasts, one more channel: by how much the prediction
        differs from that without nodules.

        Not the prediction: what is to be predicted is known here only."""
        x0, noise = inner(x).split(1, dim=1)
        masks, abar = inner(masks), self.abar[t][:, None, None, None, None]
        with torch.no_grad():
            z0 = self.autoencoder.encode(x0, masks)
            noise = latent_noise(noise, z0)
        z_t = diffuse(z0, noise, abar)
        predicted = self.predict(z_t, masks, t, *source)
        error = (predicted - training_target(self.prediction, z0, noise, abar)).square()
        if not (self.contrasts and self.training):
            return error
        without = torch.cat([torch.zeros_like(masks[:, :1]), masks[:, 1:]], dim=1)
        differs = (predicted - self.predict(z_t, without, t, *source)).abs()
        return torch.cat([error, differs.mean(dim=1, keepdim=True)], dim=1)

    def predict(self, z_t: Tensor, masks: Tensor, t: Tensor, *source: Tensor) -> Tensor:
        """``[b c P/f P/f P/f]`` of as many latents, their ``masks`` ``[b 3 P P P]``, timesteps ``[b]`` and, if it is
        told, kinds of scan ``[b 2]``."""
        if self.control is None:
            return self.unet(z_t, t).float()
        led_by = to_half(masks.to(z_t.dtype))
        everywhere = [told.to(z_t)[:, :, None, None, None].expand(-1, -1, *led_by.shape[2:]) for told in source]
        down, middle = self.control(z_t, t, torch.cat([led_by, *everywhere], dim=1))
        additions = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.unet(z_t, t, **additions).float()


class DenoisingLatents(DiffusionLearning):
    """The diffusion model's training, once that of its autoencoder has ended, and how it makes volumes."""

    def __init__(self, settings: Settings):
        super().__init__(settings, prediction=None)
        self.alone = settings.contrastive_weight > 0  # its bound is one of the whole batch
        self.autoencoder: dict[str, Tensor] | None = None
        self.unled: dict[str, Tensor] | None = None  # weights of the model without masks, once it has learned

    def first(self, train):
        if self.settings.unconditional_images:
            self.unled, facts, _ = train(self.settings.unconditional_training)
            return {"unconditional": facts}
        self.autoencoder, facts, _ = train(self.settings.autoencoder_training)
        return {"autoencoder": facts}

    def build(self) -> nn.Module:
        network = LatentUNet(self)
        if self.autoencoder is not None:
            network.autoencoder.load_state_dict(self.autoencoder)
        if self.unled is not None:  # the ControlNet begins as its copy
            network.load_state_dict(self.unled, strict=False)
            network.control.load_state_dict(network.unet.state_dict(), strict=False)
        if self.settings.unconditional_images:
            network.unet.requires_grad_(False)
        return network.to(memory_format=torch.channels_last_3d)

    def loss(self, network, batch, device, precision, team: Team = ALONE) -> Tensor:
        if not self.settings.contrastive_weight:
            return super().loss(network, batch, device, precision, team)
        output, masks = predict(network, batch, device, precision), batch["masks"].to(device)
        error, differs = output[:, :-1], output[:, -1:]
        contrast = region_contrast(differs, inner(masks)[:, :1], self.settings.factor)
        return self.mean_in_body(error.mean(dim=1, keepdim=True), masks) + self.settings.contrastive_weight * contrast

    def weight(self, masks: Tensor) -> Tensor:
        """Latents of air are made as all others are: outside the body they count as 1."""
        return F.avg_pool3d(1 + self.more(inner(masks)[:, :1].float()), self.settings.factor)

    def volume(self, network, canvas, synthesis, seed, how) -> Tensor:
        return synthesise_latent(network, canvas, self, synthesis, seed, how)


class DenoisingUnled(DenoisingLatents):
    """The diffusion model's training without masks. They only tell where a patch is air, which latents do not see."""

    what = "unconditional model"

    def build(self) -> nn.Module:
        network = LatentUNet(self, led=False)
        if self.autoencoder is not None:
            network.autoencoder.load_state_dict(self.autoencoder)
        return network.to(memory_format=torch.channels_last_3d)


def region_contrast(differs: Tensor, nodule: Tensor, factor: int) -> Tensor:
    """MAISI-v2's region-specific contrastive loss (Zhao et al. 2025, arXiv 2508.05772) of ``differs`` ``[b 1 x y z]``,
    how much a prediction of latents differs from that without the mask ``nodule`` ``[b 1 fx fy fz]``.

    Where nodules are it should differ, up to ``MOST_DIFFERENT``; beyond the latents next to them it should not.
    There it is weighted by 0.01, later by 0.001."""
    there = F.max_pool3d(nodule.float(), factor)
    beyond = 1 - F.max_pool3d(there, 3, stride=1, padding=1)
    inside = (differs * there).sum() / there.sum().clamp(min=1)
    return (differs * beyond).sum() / beyond.sum().clamp(min=1) - inside.clamp(max=MOST_DIFFERENT)


@torch.no_grad()
def synthesise_latent(
    network: LatentUNet, canvas: Canvas, learning: DenoisingLatents, synthesis: Synthesis, seed: int, how: How
) -> Tensor:
    """As ``synthesis.synthesise``, but the whole padded volume. All steps are fused; of a background the latents are
    known, too."""
    settings, abar = learning.settings, learning.abar
    grid = how.grid or fused_grid(canvas, settings, synthesis)
    timesteps = sampling_timesteps(settings.timesteps, synthesis.steps)
    steps = plan(synthesis.sampler, abar, timesteps, synthesis.eta)
    told = [source_numbers(canvas.source).to(canvas.masks.device)] if learning.source_numbers else []
    device, patch, factor = canvas.masks.device, settings.patch_voxels, settings.factor
    latent_grid = [[(start // factor, size // factor) for start, size in spans] for spans in grid]
    latents = torch.zeros(settings.autoencoder.latent_channels, *(n // factor for n in canvas.padded), device=device)

    def patches(volume: Tensor, wanted: list[Patch], unit: int) -> Tensor:
        """Those whose starts are counted in ``unit`` voxels, of a volume at whatever resolution."""
        edge = canvas.padded[0] // volume.shape[-3]  # of its own voxels
        return torch.stack([volume[(..., *box([a * unit // edge for a in p.start], patch // edge))] for p in wanted])

    def blended(evaluate: Callable[[list[Patch]], Tensor]) -> Tensor:
        return blend(torch.zeros_like(latents), latent_grid, how.patches_per_batch, evaluate)

    def denoiser(z: Tensor, t: int) -> Tensor:
        def x0_of(starts: list[Patch]) -> Tensor:
            z_t, times = patches(z, starts, factor), torch.full((len(starts),), t, device=device)

            def led_by(masks: Tensor) -> Tensor:
                said = network.predict(z_t, masks, times, *(each.expand(len(starts), -1) for each in told))
                return to_x0(settings.target, said, z_t, abar[t].float())

            return guided(led_by, patches(canvas.masks, starts, factor), synthesis.guidance_scale)

        return torch.lerp(known, blended(x0_of), weight) if known is not None else blended(x0_of)

    def encoded(starts: list[Patch]) -> Tensor:
        x0, masks = (patches(volume, starts, factor) for volume in (canvas.background[None], canvas.masks))
        return network.autoencoder.encode(x0, masks)

    def decoded(starts: list[Patch]) -> Tensor:
        z, drawn = (patches(volume, starts, 1) for volume in (made, grain))
        return network.autoencoder.decode(z, drawn).clamp_(-1, 1)[:, 0]

    with torch.autocast(device.type, dtype=how.precision, enabled=how.precision != torch.float32):
        known = weight = None
        if canvas.background is not None:
            known, weight = blended(encoded), F.avg_pool3d(canvas.weight[None], factor)
        add_noise = noise_adder(torch.Generator(device).manual_seed(seed_of(seed, "noise")))
        add_noise(latents, 1.0)
        grain = torch.zeros(BANDS, *(n // 2 for n in canvas.padded), device=device)
        add_noise(grain, 1.0)  # one for the volume: where patches overlap they draw the same
        made = sample(denoiser, latents, timesteps, steps, add_noise, lambda i, _: how.progress(i + 1))
        x = blend(torch.zeros(canvas.padded, device=device), grid, how.patches_per_batch, decoded)
    set_known(x, canvas)
    return x
