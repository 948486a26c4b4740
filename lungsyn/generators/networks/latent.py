"""Latent diffusion (Rombach et al. 2022, arXiv 2112.10752; for CT MAISI, Guo et al. 2024, arXiv 2409.11169).

An autoencoder turns a patch into *latents*, a few channels at a fraction of the resolution; a diffusion model makes
latents; the decoder turns them into CT. What the grain of a scan is in detail latents do not say: the decoder says how
wide each Haar band of it is, and it is drawn (so the loss is a likelihood; Rybkin et al. 2021, arXiv 2006.13202). No
critic is needed for it; with the GAN's, the decoder learned a chessboard. Masks enter through a ControlNet (Zhang
et al. 2023, arXiv 2302.05543), which learns together with the diffusion model: there is no larger collection of CT
without masks on which the latter could have learned before. The parts are MONAI's.

The autoencoder's networks only correct a transform that needs no learning (as in Chen et al. 2024, arXiv 2410.10733).
Of a cube of 2^n voxels along an edge the Haar transform, applied n times, keeps the mean and its seven coarsest
differences, each scaled to its usual width: these are the first eight latents. The encoder adds to each what is no
larger than that width, the decoder adds what is finer. They see Haar bands of the patch, so that their costly first
level is at half the resolution. And the decoder learns from latents with a little noise. Bounds and noise stand for
the usual penalty (KL), whose weight would have to be tuned: latents can neither grow nor hide what a small error
destroys.

A volume is made of patches that overlap, in every step in latents and at last in voxels: the networks normalise over
what they are given, so they are given what they have learned on, a patch.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungsyn.generators.core.bands import band_sd, from_bands, inner, to_bands, to_half
from lungsyn.generators.core.canvas import Canvas, How, blend, set_known
from lungsyn.generators.core.learning import DiffusionLearning, Learning
from lungsyn.generators.core.prediction import diffuse, guided, to_x0, training_target
from lungsyn.generators.core.samplers import noise_adder, plan, sample
from lungsyn.generators.core.schedule import sampling_timesteps
from lungsyn.generators.core.synthesis import fused_grid
from lungsyn.generators.latent_ddpm import Autoencoder, Settings
from lungsyn.random import seed_of
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.patches import Patch, box

# Standard deviation of the bands of the Haar transform applied once, twice, three times, within the body in the model
# range, by the number of axes along which they take a difference; the phantom at 3 mm and cut-outs of CT at 1 mm differ
# by a third.
COARSE_SD = ((1.6, 0.2, 0.09, 0.05), (4.4, 0.75, 0.3, 0.17), (11.0, 2.7, 1.1, 0.6))
BANDS = 8
LOG_VARIANCE = (-6.0, 2.0)  # of a band within its usual width: an even patch is no reason to be ever more sure
LATENT_NOISE = 0.03  # standard deviation of what is added to latents, theirs being about 1, when the decoder learns
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
        self.encoder = Encoder(in_channels=BANDS, out_channels=settings.latent_channels, **shared)
        self.decoder = Decoder(in_channels=settings.latent_channels, out_channels=2 * BANDS, **shared)
        self.levels = levels
        self.air = float(to_model_range(AIR_HU, settings.window_hu))
        coarse_sd = [COARSE_SD[levels - 1][i.bit_count()] for i in range(BANDS)]
        self.register_buffer("band_sd", band_sd(), persistent=False)
        self.register_buffer("coarse_sd", torch.tensor(coarse_sd), persistent=False)
        for network in (self.encoder, self.decoder):
            nn.init.zeros_(network.blocks[-1].conv.weight)
            nn.init.zeros_(network.blocks[-1].conv.bias)

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """How unlikely the decoder finds each band of x_0, the first channel of ``x`` ``[b 2 ...]``; the second is
        noise: ``[b 8 P/2 P/2 P/2]``, the negative logarithm of the density up to a constant.

        Both come with their halo, as ``masks`` ``[b 3 ...]`` do; the rest is there for the other networks' sake."""
        x0, noise = inner(x).split(1, dim=1)
        masks = inner(masks)
        z = self.encode(x0, masks)
        mean, log_variance = self.expected_bands(z + LATENT_NOISE * latent_noise(noise, z) if self.training else z)
        error = self.scaled_bands(x0, masks) - mean
        return (error.square() * (-log_variance).exp() + log_variance) / 2

    def scaled_bands(self, x0: Tensor, masks: Tensor) -> Tensor:
        """Haar bands ``[b 8 P/2 P/2 P/2]`` over their usual width; outside the masks nothing is made, and is air."""
        return to_bands(torch.where(masks.amax(dim=1, keepdim=True) > 0, x0, self.air)) / _per_channel(self.band_sd)

    def encode(self, x0: Tensor, masks: Tensor) -> Tensor:
        """``[b 1 P P P]`` in the model range to latents ``[b c P/f P/f P/f]``."""
        scaled = self.scaled_bands(x0, masks)
        added = self.encoder(scaled.contiguous(memory_format=torch.channels_last_3d)).float().tanh()
        bands = scaled * _per_channel(self.band_sd)
        for _ in range(self.levels - 1):
            bands = to_bands(bands[:, :1])
        coarse = bands / _per_channel(self.coarse_sd)
        return added + F.pad(coarse, [0] * 6 + [0, added.shape[1] - BANDS])

    def decode(self, z: Tensor, noise: Tensor) -> Tensor:
        """Latents to ``[b 1 P P P]`` in the model range, with grain drawn by white noise ``[b 8 P/2 P/2 P/2]``."""
        mean, log_variance = self.expected_bands(z)
        return from_bands((mean + (log_variance / 2).exp() * noise) * _per_channel(self.band_sd))

    def expected_bands(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What latents say of the scaled bands: their mean and the logarithm of their variance."""
        bands = z[:, :BANDS].float() * _per_channel(self.coarse_sd)
        for _ in range(self.levels - 1):
            mean = from_bands(bands)
            bands = torch.cat([mean, mean.new_zeros(len(mean), BANDS - 1, *mean.shape[2:])], dim=1)
        added, log_variance = self.decoder(z).float().chunk(2, dim=1)
        return bands / _per_channel(self.band_sd) + added, log_variance.clamp(*LOG_VARIANCE)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def latent_noise(noise: Tensor, z: Tensor) -> Tensor:
    """White noise of the shape of the latents ``z``, taken from that of their voxels ``[b 1 P P P]``.

    So it follows from a patch's number, as all that is random in a training does."""
    while noise.shape[-1] > z.shape[-1]:
        noise = to_half(noise)
    return noise[:, : z.shape[1]]


class LatentUNet(nn.Module):
    """A denoiser of latents, led by the masks, with the autoencoder that they come from: that does not learn here."""

    def __init__(self, learning: "DenoisingLatents"):
        super().__init__()
        from monai.networks.nets import ControlNet, DiffusionModelUNet

        settings = learning.settings
        channels, latents = settings.channels, settings.autoencoder.latent_channels
        shared = {
            "spatial_dims": 3, "in_channels": latents, "channels": channels, "num_res_blocks": settings.blocks,
            "attention_levels": [False] * len(channels), "norm_num_groups": math.gcd(*channels, MOST_GROUPS),
        }  # fmt: skip
        self.autoencoder = PatchAutoencoder(settings.autoencoder_training).requires_grad_(False)
        self.unet = DiffusionModelUNet(out_channels=latents, **shared)
        self.control = ControlNet(
            conditioning_embedding_in_channels=BANDS * len(settings.labels),
            conditioning_embedding_num_channels=settings.autoencoder.channels,
            **shared,
        )
        self.prediction = settings.target
        self.register_buffer("abar", learning.abar.float(), persistent=False)

    def train(self, mode: bool = True) -> "LatentUNet":
        super().train(mode)
        self.autoencoder.eval()
        return self

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """The squared error of what it predicts of latents, ``[b c P/f P/f P/f]``; inputs as the autoencoder's.

        Not the prediction: what is to be predicted is known here only."""
        x0, noise = inner(x).split(1, dim=1)
        masks, abar = inner(masks), self.abar[t][:, None, None, None, None]
        with torch.no_grad():
            z0 = self.autoencoder.encode(x0, masks)
            noise = latent_noise(noise, z0)
        predicted = self.predict(diffuse(z0, noise, abar), masks, t)
        return (predicted - training_target(self.prediction, z0, noise, abar)).square()

    def predict(self, z_t: Tensor, masks: Tensor, t: Tensor) -> Tensor:
        """``[b c P/f P/f P/f]`` of as many latents, their ``masks`` ``[b 3 P P P]`` and timesteps ``[b]``."""
        down, middle = self.control(z_t, t, to_half(masks.to(z_t.dtype)))
        additions = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.unet(z_t, t, **additions).float()


class Compressing(Learning):
    """The autoencoder's training."""

    what = kind = "autoencoder"

    def __init__(self, settings: Autoencoder):
        super().__init__(settings, prediction=None)

    def build(self) -> nn.Module:
        return PatchAutoencoder(self.settings).to(memory_format=torch.channels_last_3d)

    def weight(self, masks: Tensor) -> Tensor:
        """Of the bands: the mean over their voxels."""
        return F.avg_pool3d(super().weight(masks), 2)


class DenoisingLatents(DiffusionLearning):
    """The diffusion model's training, once that of its autoencoder has ended, and how it makes volumes."""

    def __init__(self, settings: Settings):
        super().__init__(settings, prediction=None)
        self.autoencoder: dict[str, Tensor] | None = None

    def first(self, train):
        self.autoencoder, facts, _ = train(self.settings.autoencoder_training)
        return {"autoencoder": facts}

    def build(self) -> nn.Module:
        network = LatentUNet(self)
        if self.autoencoder is not None:
            network.autoencoder.load_state_dict(self.autoencoder)
        return network.to(memory_format=torch.channels_last_3d)

    def weight(self, masks: Tensor) -> Tensor:
        """Latents of air are made as all others are: outside the body they count as 1."""
        return F.avg_pool3d(1 + self.more(inner(masks)[:, :1].float()), self.settings.factor)

    def volume(self, network, canvas, synthesis, seed, how) -> Tensor:
        return synthesise_latent(network, canvas, self, synthesis, seed, how)


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
                return to_x0(settings.target, network.predict(z_t, masks, times), z_t, abar[t].float())

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
