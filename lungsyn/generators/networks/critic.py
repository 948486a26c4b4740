"""The critic of a patch GAN: is this patch of CT real, given its masks?

It says so not of the whole patch but of each neighbourhood (PatchGAN, Isola et al. 2017, arXiv 1611.07004), since a
patch is an arbitrary cut of a volume. It sees what the generator makes: Haar bands less what the masks say of the mean,
each scaled to its own width. Texture is in bands that are ten times narrower than the mean, and it would take long to
learn to look at them.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungsyn.generators.core.bands import MASKS, band_sd, expected_blocks, tissue_means, to_bands, to_half
from lungsyn.settings.generators import Adversarial

SLOPE = 0.2  # of the leaky rectifier


class Critic(nn.Module):
    """(bands of a CT patch, masks) -> a score per neighbourhood: the higher, the more real."""

    def __init__(self, settings: Adversarial):
        super().__init__()
        channels = settings.critic_channels
        self.first = nn.Conv3d(8 * (1 + MASKS), channels[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in itertools.pairwise(channels))
        self.same = nn.ModuleList(nn.Conv3d(c, c, 3, padding=1) for c in channels)
        self.score = nn.Conv3d(channels[-1], 1, 3, padding=1)
        self.register_buffer("band_sd", band_sd(), persistent=False)
        self.register_buffer("means", tissue_means(settings.window_hu), persistent=False)

    def bands(self, x: Tensor, masks: Tensor) -> Tensor:
        """What it sees of a patch ``x`` ``[b 1 x y z]`` in the model range: ``[b 8 x/2 y/2 z/2]``.

        Outside body and nodules nothing is generated, and nothing judged: there it sees air."""
        x = torch.where(masks.amax(dim=1, keepdim=True) > 0, x, self.means[0])
        bands = to_bands(x - expected_blocks(masks, self.means))
        return bands / self.band_sd[:, None, None, None]

    def forward(self, bands: Tensor, masks: Tensor) -> Tensor:
        """``bands`` as above, ``masks`` ``[b 3 x y z]`` -> ``[b 1 x/d y/d z/d]``, d = 2^levels."""
        h = torch.cat([bands, to_half(masks.to(bands.dtype))], dim=1)
        h = self.first(h.contiguous(memory_format=torch.channels_last_3d))
        for i, same in enumerate(self.same):
            h = self.down[i - 1](h) if i else h
            h = same(F.leaky_relu(h, SLOPE))
        return self.score(F.leaky_relu(h, SLOPE))


class Adversaries(nn.Module):
    """Both networks of a GAN, so that one optimiser steps and one checkpoint holds them."""

    def __init__(self, generator: nn.Module, critic: Critic):
        super().__init__()
        self.generator, self.critic = generator, critic.to(memory_format=torch.channels_last_3d)
