"""Latent diffusion (Rombach et al. 2022, arXiv 2112.10752; for CT MAISI, Guo et al. 2024, arXiv 2409.11169).

An autoencoder turns a patch into *latents*, a few channels at a fraction of the resolution; a diffusion model makes
latents; the decoder turns them into CT. What the noise of a scan is in detail the latents do not say: the decoder
learns against the critic of a GAN, so that it makes some up that looks real. Masks enter through a ControlNet (Zhang
et al. 2023, arXiv 2302.05543), which learns together with the diffusion model: there is no larger collection of CT
without masks on which the latter could have learned before. The parts are MONAI's.

The autoencoder sees Haar bands, each scaled to its usual width, so its costly first level is at half the resolution.
Latents have a mean square of 1 at each place, and the decoder learns from them with a little noise. That stands for
the usual penalty (KL), whose weight would have to be tuned: they can neither grow without bounds nor hide what a small
error destroys.

A volume is made of patches that overlap, in every step in latents and at last in voxels: the networks normalise over
what they are given, so they are given what they have learned on, a patch.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungsyn.config import Autoencoder, LatentDiffusion, Synthesis
from lungsyn.generation.bands import MASKS, band_sd, from_bands, inner, to_bands, to_half
from lungsyn.generation.canvas import Canvas, Grid, Start, blend, set_known
from lungsyn.generation.prediction import diffuse, guided, to_x0, training_target
from lungsyn.generation.samplers import noise_adder, plan, sample
from lungsyn.generation.schedule import SCHEDULES, sampling_timesteps
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.patches import box

LATENT_NOISE = 0.1  # added to latents, whose mean square is 1, when the decoder learns
MOST_GROUPS = 8  # of channels that are normalised together


class PatchAutoencoder(nn.Module):
    """CT patches to latents and back."""

    def __init__(self, settings: Autoencoder):
        super().__init__()
        from monai.networks.nets.autoencoderkl import Decoder, Encoder

        levels = len(settings.channels)
        shared = {
            "spatial_dims": 3, "channels": settings.channels, "num_res_blocks": [settings.blocks] * levels,
            "norm_num_groups": math.gcd(*settings.channels, MOST_GROUPS), "norm_eps": 1e-6,
            "attention_levels": [False] * levels, "with_nonlocal_attn": False,
        }  # fmt: skip
        self.encoder = Encoder(in_channels=8, out_channels=settings.latent_channels, **shared)
        self.decoder = Decoder(in_channels=settings.latent_channels, out_channels=8, **shared)
        self.air = float(to_model_range(AIR_HU, settings.window_hu))
        self.register_buffer("band_sd", band_sd(), persistent=False)

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """The reconstruction ``[b 1 P P P]`` of x_0, the first channel of ``x`` ``[b 2 ...]``; the second is noise.

        Both come with their halo, as ``masks`` ``[b 3 ...]`` do; the rest is there for the other networks' sake."""
        x0, noise = inner(x).split(1, dim=1)
        z = self.encode(x0, inner(masks))
        return self.decode(z + LATENT_NOISE * latent_noise(noise, z) if self.training else z)

    def encode(self, x0: Tensor, masks: Tensor) -> Tensor:
        """``[b 1 P P P]`` in the model range to latents. Outside the masks nothing is made: there it sees air."""
        x0 = torch.where(masks.amax(dim=1, keepdim=True) > 0, x0, self.air)
        bands = (to_bands(x0) / self.band_sd[:, None, None, None]).contiguous(memory_format=torch.channels_last_3d)
        return of_unit_size(self.encoder(bands).float())

    def decode(self, z: Tensor) -> Tensor:
        """Latents, of any size, to ``[b 1 P P P]`` in the model range."""
        return from_bands(self.decoder(of_unit_size(z)).float() * self.band_sd[:, None, None, None])


def of_unit_size(z: Tensor) -> Tensor:
    """Latents whose mean square over the channels is 1 at each place: ``[b c x y z]``."""
    return z * z.square().mean(dim=1, keepdim=True).clamp(min=1e-12).rsqrt()


def latent_noise(noise: Tensor, z: Tensor) -> Tensor:
    """White noise of the shape of the latents ``z``, taken from that of their voxels ``[b 1 P P P]``.

    So it follows from a patch's number, as all that is random in a training does."""
    while noise.shape[-1] > z.shape[-1]:
        noise = to_half(noise)
    return noise[:, : z.shape[1]]


class LatentUNet(nn.Module):
    """A denoiser of latents, led by the masks, with the autoencoder that they come from: that does not learn here."""

    def __init__(self, settings: LatentDiffusion):
        super().__init__()
        from monai.networks.nets import ControlNet, DiffusionModelUNet

        channels, latents = settings.channels, settings.autoencoder.latent_channels
        shared = {
            "spatial_dims": 3, "in_channels": latents, "channels": channels, "num_res_blocks": settings.blocks,
            "attention_levels": [False] * len(channels), "norm_num_groups": math.gcd(*channels, MOST_GROUPS),
        }  # fmt: skip
        self.autoencoder = PatchAutoencoder(settings.autoencoder_training).requires_grad_(False)
        self.unet = DiffusionModelUNet(out_channels=latents, **shared)
        self.control = ControlNet(
            conditioning_embedding_in_channels=8 * MASKS,
            conditioning_embedding_num_channels=settings.autoencoder.channels,
            **shared,
        )
        self.prediction = settings.prediction
        self.register_buffer("abar", SCHEDULES[settings.schedule](settings.timesteps).float(), persistent=False)

    def train(self, mode: bool = True) -> "LatentUNet":
        super().train(mode)
        self.autoencoder.eval()
        return self

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """What it gets wrong of the latents' training target, ``[b c P/f P/f P/f]``; inputs as the autoencoder's.

        The error, not the prediction: what is to be predicted is known here only."""
        x0, noise = inner(x).split(1, dim=1)
        masks, abar = inner(masks), self.abar[t][:, None, None, None, None]
        with torch.no_grad():
            z0 = self.autoencoder.encode(x0, masks)
            noise = latent_noise(noise, z0)
        predicted = self.predict(diffuse(z0, noise, abar), masks, t)
        return predicted - training_target(self.prediction, z0, noise, abar)

    def predict(self, z_t: Tensor, masks: Tensor, t: Tensor) -> Tensor:
        """``[b c P/f P/f P/f]`` of as many latents, their ``masks`` ``[b 3 P P P]`` and timesteps ``[b]``."""
        down, middle = self.control(z_t, t, to_half(masks.to(z_t.dtype)))
        additions = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.unet(z_t, t, **additions).float()


@torch.no_grad()
def synthesise_latent(
    network: LatentUNet, canvas: Canvas, settings: LatentDiffusion, synthesis: Synthesis, seed: int,
    patches_per_batch: int, precision: torch.dtype, progress: Callable[[int], None], grid: Grid,
) -> Tensor:  # fmt: skip
    """As ``synthesis.synthesise``, but the whole padded volume. All steps are fused; of a background the latents are
    known, too."""
    abar = SCHEDULES[settings.schedule](settings.timesteps)
    timesteps = sampling_timesteps(settings.timesteps, synthesis.steps)
    steps = plan(synthesis.sampler, abar, timesteps, synthesis.eta)
    device, patch, factor = canvas.masks.device, settings.patch_voxels, settings.factor
    latent_patch, latent_grid = patch // factor, [[a // factor for a in starts] for starts in grid]
    latents = torch.zeros(settings.autoencoder.latent_channels, *(n // factor for n in canvas.padded), device=device)

    def patches(volume: Tensor, starts: list[Start], size: int) -> Tensor:
        return torch.stack([volume[(..., *box(start, size))] for start in starts])

    def masks_of(starts: list[Start]) -> Tensor:
        return patches(canvas.masks, [[a * factor for a in start] for start in starts], patch)

    def blended(evaluate: Callable[[list[Start]], Tensor]) -> Tensor:
        return blend(torch.zeros_like(latents), latent_grid, latent_patch, patches_per_batch, evaluate)

    def denoiser(z: Tensor, t: int) -> Tensor:
        def x0_of(starts: list[Start]) -> Tensor:
            z_t, times = patches(z, starts, latent_patch), torch.full((len(starts),), t, device=device)

            def led_by(masks: Tensor) -> Tensor:
                return to_x0(settings.prediction, network.predict(z_t, masks, times), z_t, abar[t].float())

            return guided(led_by, masks_of(starts), synthesis.guidance_scale)

        return torch.lerp(known, blended(x0_of), weight) if known is not None else blended(x0_of)

    def encoded(starts: list[Start]) -> Tensor:
        x0 = patches(canvas.background, [[a * factor for a in start] for start in starts], patch)
        return network.autoencoder.encode(x0[:, None], masks_of(starts))

    def decoded(starts: list[Start]) -> Tensor:
        z = patches(made, [[a // factor for a in start] for start in starts], latent_patch)
        return network.autoencoder.decode(z).clamp_(-1, 1)[:, 0]

    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        known = weight = None
        if canvas.background is not None:
            known, weight = blended(encoded), F.avg_pool3d(canvas.weight[None], factor)
        add_noise = noise_adder(torch.Generator(device).manual_seed(seed))
        add_noise(latents, 1.0)
        made = sample(denoiser, latents, timesteps, steps, add_noise, lambda i, _: progress(i + 1))
        x = blend(torch.zeros(canvas.padded, device=device), grid, patch, patches_per_batch, decoded)
    set_known(x, canvas)
    return x
