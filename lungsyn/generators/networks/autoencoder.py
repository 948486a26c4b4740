"""The autoencoder of latent diffusion: CT patches to *latents*, few channels at a fraction of the resolution, and back.

Its networks only correct a transform that needs no learning (as in Chen et al. 2024, arXiv 2410.10733). Of a cube of
2^n voxels along an edge the Haar transform, applied n times, keeps the mean and its seven coarsest differences, each
scaled to its usual width: these are the first eight latents. The encoder adds to each what is no larger than that
width, the decoder adds what is finer. They see Haar bands of the patch, so that their costly first level is at half the
resolution.

*Likelihood* (the usual loss): what the grain of a scan is in detail latents do not say. The decoder says how wide each
Haar band of it is, and it is drawn (Rybkin et al. 2021, arXiv 2006.13202). The decoder learns from latents with a
little noise. Bounds and noise stand for the usual penalty (KL): latents can neither grow nor hide what a small error
destroys. It needs no critic; with that of the GAN the decoder learned a chessboard.

*L1*, and what may be added to either loss, is MAISI's recipe (Guo et al. 2024, arXiv 2409.11169): the decoder says
voxels. The encoder says how sure it is of each latent, latents are drawn, and their KL to a standard normal is
penalised. A critic judges neighbourhoods of what is made (MONAI's; least squares: Mao et al. 2017, arXiv 1611.04076).
Features of slices are compared: MAISI's are of a downloaded network, these are scattering's, averaged over quarters of
a slice, so that texture has to be alike and need not be in the same place.
"""

import math

import torch
import torch.nn.functional as F
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from monai.networks.nets.autoencoderkl import Decoder, Encoder
from torch import Tensor, nn

from lungsyn.generators.core.bands import band_sd, from_bands, inner, to_bands, to_half
from lungsyn.generators.core.learning import Learning, update_average
from lungsyn.generators.latent_ddpm import Autoencoder
from lungsyn.generators.networks.adversaries import Adversaries
from lungsyn.optimizer import without_momentum
from lungsyn.processes import ALONE, Team
from lungsyn.steps import Steps
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.scattering import scatter

# Standard deviation of the bands of the Haar transform applied once, twice, three times, within the body in the model
# range, by the number of axes along which they take a difference; the phantom at 3 mm and cut-outs of CT at 1 mm differ
# by a third.
COARSE_SD = ((1.6, 0.2, 0.09, 0.05), (4.4, 0.75, 0.3, 0.17), (11.0, 2.7, 1.1, 0.6))
BANDS = 8
LOG_VARIANCE = (-6.0, 2.0)  # of a band within its usual width: an even patch is no reason to be ever more sure
LATENT_NOISE = 0.03  # standard deviation of what is added to latents, theirs being about 1, when the decoder learns
LATENT_LOG_VARIANCE = (-20.0, 4.0)  # where it is said by the encoder: beyond, nothing changes but overflows
MOST_GROUPS = 8  # of channels that are normalised together
SLICE_EVERY = 5  # of a patch, along each axis: those whose features are compared
LEAST_WEIGHT = 1e-3  # of what is not made: a quarter of a slice with nothing else has features, which do not count


class PatchAutoencoder(nn.Module):
    """CT patches to latents and back."""

    def __init__(self, settings: Autoencoder):
        super().__init__()
        levels, latents = len(settings.channels), settings.latent_channels
        self.levels, self.latents = levels, latents
        self.kl_weight, self.says_widths = settings.kl_weight, settings.loss == "likelihood"
        shared = {
            "spatial_dims": 3, "channels": settings.channels, "num_res_blocks": [settings.blocks] * levels,
            "norm_num_groups": math.gcd(*settings.channels, MOST_GROUPS), "norm_eps": 1e-6,
            "attention_levels": [False] * levels, "with_nonlocal_attn": False,
        }  # fmt: skip
        encoded, decoded = latents * (2 if self.kl_weight else 1), BANDS * (2 if self.says_widths else 1)
        self.encoder = Encoder(in_channels=BANDS, out_channels=encoded, **shared)
        self.decoder = Decoder(in_channels=latents, out_channels=decoded, **shared)
        self.air = float(to_model_range(AIR_HU, settings.window_hu))
        coarse_sd = [COARSE_SD[levels - 1][i.bit_count()] for i in range(BANDS)]
        self.register_buffer("band_sd", band_sd(), persistent=False)
        self.register_buffer("coarse_sd", torch.tensor(coarse_sd), persistent=False)
        for network in (self.encoder, self.decoder):
            nn.init.zeros_(network.blocks[-1].conv.weight)
            nn.init.zeros_(network.blocks[-1].conv.bias)
        if self.kl_weight:  # as sure at first as where no one asks
            nn.init.constant_(self.encoder.blocks[-1].conv.bias[latents:], 2 * math.log(LATENT_NOISE))

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """What it gets wrong of x_0, the first channel of ``x`` ``[b 2 ...]``; the second is noise:
        ``[b 8 P/2 P/2 P/2]``.

        Both come with their halo, as ``masks`` ``[b 3 ...]`` do; the rest is there for the other networks' sake."""
        return self.tried(x, masks)[0]

    def tried(self, x: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What it gets wrong, for each block of 2x2x2: of a likelihood for each band the negative logarithm of its
        density, up to a constant; of L1 the difference of each voxel. And the patch ``[b 1 P P P]`` as it makes it, and
        as it is."""
        x0, noise = inner(x).split(1, dim=1)
        masks = inner(masks)
        real = self.within(x0, masks)
        z, log_variance = self.encoded(x0, masks)
        scale = LATENT_NOISE if log_variance is None else (log_variance / 2).exp()
        mean, widths = self.expected_bands(z + scale * latent_noise(noise, z) if self.training else z)
        # its own voxels' numbers went into the latents
        made = self.drawn(mean, widths, to_half(noise.roll([n // 2 for n in noise.shape[2:]], dims=(2, 3, 4))))
        if widths is None:
            error = to_half((made - real).abs())
        else:
            off = self.scaled_bands(x0, masks) - mean
            error = (off.square() * (-widths).exp() + widths) / 2
        if log_variance is not None:
            divergence = (z.square() + log_variance.exp() - 1 - log_variance).sum(dim=1, keepdim=True) / 2
            a_voxel = divergence / 2 ** (3 * self.levels)
            error = error + self.kl_weight * F.interpolate(a_voxel, size=error.shape[2:])
        return error, self.within(made, masks), real

    def within(self, x: Tensor, masks: Tensor) -> Tensor:
        """``x``, and air outside the masks, where nothing is made."""
        return torch.where(masks.amax(dim=1, keepdim=True) > 0, x, self.air)

    def scaled_bands(self, x0: Tensor, masks: Tensor) -> Tensor:
        """Haar bands ``[b 8 P/2 P/2 P/2]`` over their usual width; outside the masks is air."""
        return to_bands(self.within(x0, masks)) / _per_channel(self.band_sd)

    def encode(self, x0: Tensor, masks: Tensor) -> Tensor:
        """``[b 1 P P P]`` in the model range to latents ``[b c P/f P/f P/f]``; those that are drawn: their means."""
        return self.encoded(x0, masks)[0]

    def encoded(self, x0: Tensor, masks: Tensor) -> tuple[Tensor, Tensor | None]:
        """The mean of each latent and, where latents are drawn, the logarithm of its variance."""
        scaled = self.scaled_bands(x0, masks)
        said = self.encoder(scaled.contiguous(memory_format=torch.channels_last_3d)).float()
        bands = scaled * _per_channel(self.band_sd)
        for _ in range(self.levels - 1):
            bands = to_bands(bands[:, :1])
        coarse = bands / _per_channel(self.coarse_sd)
        mean = said[:, : self.latents].tanh() + F.pad(coarse, [0] * 6 + [0, self.latents - BANDS])
        return mean, said[:, self.latents :].clamp(*LATENT_LOG_VARIANCE) if self.kl_weight else None

    def decode(self, z: Tensor, noise: Tensor) -> Tensor:
        """Latents to ``[b 1 P P P]`` in the model range, with grain drawn by white noise ``[b 8 P/2 P/2 P/2]``; of L1
        without."""
        return self.drawn(*self.expected_bands(z), noise)

    def drawn(self, mean: Tensor, log_variance: Tensor | None, noise: Tensor) -> Tensor:
        """The patch of scaled bands, with grain of their widths where they are said."""
        bands = mean if log_variance is None else mean + (log_variance / 2).exp() * noise
        return from_bands(bands * _per_channel(self.band_sd))

    def expected_bands(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """What latents say of the scaled bands: their mean and, of a likelihood, the logarithm of their variance."""
        bands = z[:, :BANDS].float() * _per_channel(self.coarse_sd)
        for _ in range(self.levels - 1):
            mean = from_bands(bands)
            bands = torch.cat([mean, mean.new_zeros(len(mean), BANDS - 1, *mean.shape[2:])], dim=1)
        said = self.decoder(z).float()
        mean = bands / _per_channel(self.band_sd) + said[:, :BANDS]
        return mean, said[:, BANDS:].clamp(*LOG_VARIANCE) if self.says_widths else None


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def latent_noise(noise: Tensor, z: Tensor) -> Tensor:
    """White noise of the shape of the latents ``z``, taken from that of their voxels ``[b 1 P P P]``.

    So it follows from a patch's number, as all that is random in a training does."""
    while noise.shape[-1] > z.shape[-1]:
        noise = to_half(noise)
    return noise[:, : z.shape[1]]


def slices_of(x: Tensor) -> Tensor:
    """Every ``SLICE_EVERY``-th slice of patches ``[b c P P P]`` along each axis: ``[n c P P]``."""
    return torch.cat([x[:, :, SLICE_EVERY // 2 :: SLICE_EVERY].transpose(1, 2).flatten(0, 1)
                      for x in (x, x.movedim(3, 2), x.movedim(4, 2))])  # fmt: skip


def texture_distance(made: Tensor, real: Tensor, masks: Tensor, window_hu: tuple[float, float]) -> Tensor:
    """Mean difference of the scattering features of quarters of slices, of patches ``[b 1 P P P]`` in the model range;
    what lies outside the ``masks`` ``[b n P P P]`` does not count. Features are logarithms: it is a relative one."""
    low, high = window_hu
    quarters = torch.eye(4, device=made.device).reshape(4, 2, 2)
    inside = slices_of((masks.amax(dim=1, keepdim=True) > 0).float())
    places = F.interpolate(quarters[None], size=inside.shape[2:])
    pools = inside.clamp(min=LEAST_WEIGHT) * places
    features = [scatter(slices_of(low + (x.float() + 1) * (high - low) / 2)[:, 0], pools) for x in (made, real)]
    share = (inside * places).sum(dim=(2, 3))
    return (share * (features[0] - features[1]).abs().mean(dim=2)).sum() / share.sum().clamp(min=1)


class Compressing(Learning):
    """The autoencoder's training."""

    what = kind = "autoencoder"

    def __init__(self, settings: Autoencoder):
        super().__init__(settings, prediction=None)
        self.alone = settings.is_judged
        self.keeps_last = settings.critic_weight > 0  # the least error is that of the smoothest patch

    def build(self) -> nn.Module:
        return PatchAutoencoder(self.settings).to(memory_format=torch.channels_last_3d)

    def weight(self, masks: Tensor) -> Tensor:
        """Of the bands: the mean over their voxels."""
        return F.avg_pool3d(super().weight(masks), 2)

    def learner(self, network, device):
        """With a critic: both networks learn, and without momentum."""
        s = self.settings
        if not s.critic_weight:
            return super().learner(network, device)
        critic = PatchDiscriminator(
            spatial_dims=3, in_channels=1, channels=s.critic_channels, num_layers_d=s.critic_levels, norm="INSTANCE"
        )
        both = Adversaries(network, critic.to(device))
        return both, without_momentum(both.parameters(), s.learning_rate, fused=device.type != "mps")

    def steps(self, forward, learner, optimizer, average, keep, precision, team: Team = ALONE) -> Steps:
        """With a critic or features: they return the error without them, which all autoencoders have."""
        if not self.settings.is_judged:
            return super().steps(forward, learner, optimizer, average, keep, precision, team)
        s, criticised = self.settings, self.settings.critic_weight > 0
        network, critic = (learner.generator, learner.critic) if criticised else (learner, None)
        judged = PatchAdversarialLoss(criterion="least_squares")
        networks = [list(part.parameters()) for part in (network, critic) if part is not None]

        def scores(x: Tensor) -> Tensor:
            return critic(x)[-1].float()

        def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            with torch.autocast(keep.device.type, dtype=precision, enabled=precision != torch.float32):
                error, made, real = network.tried(batch["x_t"], batch["masks"])
                of_made, of_real, fooled = (
                    (scores(made.detach()), scores(real), scores(made)) if criticised else [None] * 3
                )
            error = self.mean_in_body(error.float().mean(dim=1, keepdim=True), batch["masks"])
            losses = [error]
            if s.feature_weight:
                losses[0] = error + s.feature_weight * texture_distance(made, real, inner(batch["masks"]), s.window_hu)
            if criticised:
                losses[0] = losses[0] + s.critic_weight * judged(fooled, True, for_discriminator=False)
                losses.append((judged(of_made, False, True) + judged(of_real, True, True)) / 2)
            optimizer.zero_grad(set_to_none=True)
            for loss, weights in zip(losses, networks, strict=True):
                loss.backward(inputs=weights)
            norms = [nn.utils.clip_grad_norm_(weights, s.gradient_norm) for weights in networks]
            optimizer.step()
            update_average(average, network, keep)
            return error.detach(), torch.stack(norms).norm()

        return Steps(step, keep.device, record=False)  # MONAI's loss makes tensors on the CPU
