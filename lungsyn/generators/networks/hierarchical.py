"""HA-GAN: volumes from noise, whole at low resolution and slab by slab at full (Sun et al. 2022, arXiv 2008.01910).

*Features* have a voxel for each cube of ``COARSE`` voxels of the volume. The common block makes them from the latent
vector; everything that decides where something lies happens here. The low branch makes the whole volume at their
spacing. The high branch makes the volume itself, in a training step only a random *slab* of it along z. In a volume
that is wanted it makes all.

The high branch has two convolutions at half the volume's spacing, whose output are Haar bands (`core.joint`), and
nothing else in it looks at neighbours. So a voxel of the volume depends on its own voxel of features and on the one
beside it: with a *margin* of one voxel on either side a slab comes out as in the whole volume, to its very ends. Each
voxel's channels are normalised by themselves, for the same reason. (Both are ours: a slab is small here, and what is
learned at its ends would be most of it.)

*Two critics* judge the slab, told where it lies, and the whole at low resolution. *Two encoders* take the way back:
slab to features, and the features of all slabs to the latent vector. What they find is decoded again, and its error is
learned by the encoder and by what decodes, which keeps the generator from making few volumes only.

Volumes have two channels, both from -1 to 1: CT in the model range, and whether a voxel is nodule.

Ours as well: the critics' loss is the relativistic one of `networks.critic` with small slopes, since volumes are few,
and a slab's critic and encoder see Haar bands, each in its own width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungsyn.generators.core.joint import IMAGES, bands_of, bands_sd, from_bands_of, means
from lungsyn.generators.ha_gan import COARSE, Settings
from lungsyn.generators.networks.adversaries import Scores
from lungsyn.generators.networks.patch_unet import channel_norm

MARGIN = 1  # voxels of features beside a slab that its voxels depend on


# ------------------------------------------------------------------------------------------------------ whole and slab


def low_resolution(volume: Tensor) -> Tensor:
    """Means of cubes of ``COARSE`` voxels: ``[b c x y z] -> [b c x/4 y/4 z/4]``."""
    return F.avg_pool3d(volume, COARSE)


@dataclass(frozen=True)
class Slab:
    """Where a slab lies along z, in voxels of features, and how many of these there are in all."""

    start: int
    size: int
    length: int

    @property
    def reach(self) -> tuple[int, int]:
        """First and last voxel of features that it depends on: its own and the margin, as far as there is one."""
        return max(self.start - MARGIN, 0), min(self.start + self.size + MARGIN, self.length)

    def of_features(self, features: Tensor) -> Tensor:
        """What of them it depends on."""
        low, high = self.reach
        return features[..., low:high]

    def of_volume(self, volume: Tensor) -> Tensor:
        """The slab itself."""
        return volume[..., COARSE * self.start : COARSE * (self.start + self.size)]

    def with_margin(self, volume: Tensor) -> Tensor:
        """What of the volume lies where ``of_features`` does."""
        low, high = self.reach
        return volume[..., COARSE * low : COARSE * high]

    def without_margin(self, made: Tensor) -> Tensor:
        """The slab of what was made of ``of_features``."""
        begin = COARSE * (self.start - self.reach[0])
        return made[..., begin : begin + COARSE * self.size]

    def places(self, like: Tensor) -> Tensor:
        """What its critic is told: the place along z of each pair of its slices, -1 to 1 from end to end: ``[z/2]``."""
        centres = torch.arange(COARSE // 2 * self.size, device=like.device, dtype=like.dtype) + 0.5
        return (centres + COARSE // 2 * self.start) * (2 / (COARSE // 2 * self.length)) - 1


def slabs(settings: Settings) -> list[Slab]:
    """Slabs of the training's size, the last perhaps thinner, that make the whole volume together."""
    size, length = settings.slab_voxels // COARSE, settings.features[2]
    return [Slab(start, min(size, length - start), length) for start in range(0, length, size)]


# --------------------------------------------------------------------------------------------------------- the networks


class Residual(nn.Module):
    """Two convolutions, each after a per-voxel norm; with ``rise`` at twice the resolution."""

    def __init__(self, channels: int, rise: bool = False):
        super().__init__()
        self.rise = rise
        self.first = nn.Conv3d(channels, channels, 3, padding=1)
        self.second = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0) if self.rise else x
        return x + self.second(active(self.first(active(x))))


def active(x: Tensor) -> Tensor:
    """A per-voxel norm, and a rectifier."""
    return F.silu(channel_norm(x))


def to_seen(volume: Tensor) -> Tensor:
    """Volumes as a slab's networks see them, Haar bands of unit width: ``[b 2 x y z] -> [b 16 x/2 y/2 z/2]``."""
    return bands_of(volume - means().to(volume.device), bands_sd().to(volume.device))


def from_seen(seen: Tensor) -> Tensor:
    """The inverse."""
    return means().to(seen.device) + from_bands_of(seen, bands_sd().to(seen.device))


class Equal(nn.Linear):
    """A linear layer whose weights are learned as multiples of their first width (equalised learning rate, Karras et
    al. 2018, arXiv 1710.10196). With ten thousand inputs a step of plain weights turns all latent vectors alike."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.in_features**-0.5, self.bias)


class Generator(nn.Module):
    """Latent vector -> features (G^A of the paper) -> whole at low resolution (G^L), slab or whole at full (G^H)."""

    def __init__(self, settings: Settings):
        super().__init__()
        s, c = settings, settings.channels
        self.start = tuple(n // 2**s.halvings for n in s.features)
        self.first = Equal(s.latent, c * math.prod(self.start))
        sizes = range(s.halvings + 1)
        self.common = nn.ModuleList(Residual(c, rise=size > 0 == k) for size in sizes for k in range(s.blocks))
        self.low = nn.Conv3d(c, IMAGES, 3, padding=1)
        self.mix = nn.Conv3d(c, c, 1)
        self.at_half = nn.Conv3d(c, c, 3, padding=1)
        self.out = nn.Conv3d(c, 8 * IMAGES, 3, padding=1)

    def features(self, latent: Tensor) -> Tensor:
        """``[b latent] -> [b c x/4 y/4 z/4]``. Only the direction of the latent vector counts, so that what an encoder
        finds and what is drawn at random are alike."""
        h = self.first(F.normalize(latent) * latent.shape[1] ** 0.5).unflatten(1, (-1, *self.start))
        h = h.contiguous(memory_format=torch.channels_last_3d)
        for block in self.common:
            h = block(h)
        return h

    def whole(self, features: Tensor) -> Tensor:
        """The volume at low resolution: ``[b 2 x/4 y/4 z/4]``."""
        return torch.tanh(self.low(active(features)).float())

    def fine(self, features: Tensor) -> Tensor:
        """The volume that any features, a slab's or all, stand for: ``[b 2 x y z]``."""
        h = self.mix(active(features))
        h = self.at_half(F.interpolate(active(h), scale_factor=2.0))
        return torch.tanh(from_seen(self.out(active(h)).float()))

    def slab(self, features: Tensor, where: Slab) -> Tensor:
        """The slab of the volume: ``[b 2 x y slab]``."""
        return where.without_margin(self.fine(where.of_features(features)))


class Encoders(nn.Module):
    """Volume -> features (E^H), features of the whole -> latent vector (E^G).

    The first sees each cube by itself, so that the features of slabs side by side are those of the whole."""

    def __init__(self, settings: Settings):
        super().__init__()
        s, c = settings, settings.channels
        self.pairs = nn.Conv3d(8 * IMAGES, c, 1)
        self.quads = nn.Conv3d(c, c, 2, stride=2)
        self.mix = nn.Conv3d(c, c, 1)
        self.fall = nn.ModuleList(nn.Conv3d(c, c, 2, stride=2) for _ in range(s.halvings))
        self.same = nn.ModuleList(Residual(c) for _ in range(s.halvings + 1))
        self.last = Equal(c * math.prod(n // 2**s.halvings for n in s.features), s.latent)

    def features(self, volume: Tensor) -> Tensor:
        """``[b 2 x y z] -> [b c x/4 y/4 z/4]``, of any part of a volume."""
        h = self.pairs(to_seen(volume).contiguous(memory_format=torch.channels_last_3d))
        return self.mix(active(self.quads(active(h))))

    def latent(self, features: Tensor) -> Tensor:
        """``[b c x/4 y/4 z/4] -> [b latent]``."""
        h = self.same[0](features)
        for fall, same in zip(self.fall, self.same[1:], strict=True):
            h = same(fall(active(h)))
        return self.last(channel_norm(h).flatten(1))


def told(slab: Tensor, where: Slab) -> Tensor:
    """What a slab's critic sees: its bands, and where it lies; ``[b 2 x y z] -> [b 17 x/2 y/2 z/2]``."""
    seen = to_seen(slab)
    place = where.places(seen).expand(len(seen), 1, *seen.shape[2:])
    return torch.cat([seen, place], dim=1)


def error(made: Tensor, real: Tensor) -> Tensor:
    """The mean absolute error of CT and mask ``[b 2 x y z]``. In that of the mask what is nodule and what is not count
    alike: where one voxel in a hundred is nodule, nothing would be the best guess everywhere."""
    ct, mask = (made - real).abs().unbind(dim=1)
    inside = (real[:, 1] + 1) / 2  # a share, at low resolution
    parts = [(mask * share).sum() / share.sum().clamp(min=1) for share in (inside, 1 - inside)]
    return (ct.mean() + torch.stack(parts).mean()) / 2


class Networks(nn.Module):
    """What a model file holds: the generator, and the encoders, by which its loss on a case can be asked for."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.slabs = slabs(settings)
        self.generator, self.encoders = Generator(settings), Encoders(settings)

    def encoded(self, volume: Tensor) -> Tensor:
        """The latent vectors of volumes: ``[b latent]``. Slab by slab, and the slabs' encoder does not learn from it:
        so memory is that of one."""
        with torch.no_grad():
            parts = [self.encoders.features(where.of_volume(volume)) for where in self.slabs]
        return self.encoders.latent(torch.cat(parts, dim=-1))

    def error_of_slab(self, volume: Tensor, where: Slab) -> Tensor:
        """Error of a slab that is encoded to features and made again."""
        features = self.encoders.features(where.with_margin(volume))
        again = where.without_margin(self.generator.fine(features))
        return error(again, where.of_volume(volume))

    def error_of_whole(self, volume: Tensor, where: Slab) -> Tensor:
        """That of the whole at low resolution, and of a slab, of a volume that is encoded to a latent vector."""
        features = self.generator.features(self.encoded(volume))
        low, slab = self.generator.whole(features), self.generator.slab(features, where)
        return error(low, low_resolution(volume)) + error(slab, where.of_volume(volume))

    def forward(self, latent: Tensor) -> Tensor:
        """Whole volumes ``[b 2 x y z]`` of latent vectors ``[b latent]``, slab after slab."""
        features = self.generator.features(latent)
        return torch.cat([self.generator.slab(features, where) for where in self.slabs], dim=-1)


class Contest(nn.Module):
    """All networks, so that one optimiser steps and one checkpoint holds them."""

    def __init__(self, networks: Networks, settings: Settings):
        super().__init__()
        self.networks = networks
        self.of_slab = Scores(8 * IMAGES + 1, settings.critic_channels)
        self.of_whole = Scores(IMAGES, settings.critic_channels)

    def judged(
        self, generator: Generator, latent: Tensor, real: Tensor, where: Slab
    ) -> Iterator[tuple[Scores, Tensor, Tensor]]:
        """Each critic with what it sees of the ``real`` volumes and of those of the ``latent`` vectors."""
        features = generator.features(latent)
        yield self.of_slab, told(where.of_volume(real), where), told(generator.slab(features, where), where)
        yield self.of_whole, low_resolution(real), generator.whole(features)
