"""The network: a 3-D U-Net on patches whose full-resolution level costs nothing.

A lossless step to half resolution (2x2x2 voxels become 8 channels, by the orthonormal Haar transform) stands before the
first convolution and is undone after the last, so the costly level has 8 times fewer voxels. Coordinates and the coarse
view of the surroundings enter at half resolution: they are smooth.

Each of the eight bands is scaled by itself (Karras et al. 2022, Table 1), and the network only has to correct a good
guess: the Wiener filter for the width that each band has near each voxel (``bands.local_variance``). It does so in two
ways: it adds something to each band, and it says by how much the width was underestimated. The guess works on single
voxels, since it is a filter over all places that blocks could have, while the network works on blocks; and it looks
into the halo around the patch, which the network does not see.

Each voxel's channels are normalised by themselves (LayerNorm). Group or instance normalisation would average over the
patch: the same voxel would then come out differently in two overlapping patches, and a seam would show.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lungsyn.generators.core.bands import (
    HALO,
    band_sd,
    expected_blocks,
    from_bands,
    inner,
    local_variance,
    shares,
    tissue_means,
    to_bands,
    to_half,
)
from lungsyn.generators.core.learning import DiffusionLearning, Learning
from lungsyn.generators.core.prediction import from_v, precondition, skip_of_variance
from lungsyn.generators.patch_ddpm import Settings


class Block(nn.Module):
    """Residual block: two convolutions, each after a per-voxel norm; the first is modulated by the embedding."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.first = nn.Conv3d(channels, channels, 3, padding=1)
        self.second = nn.Conv3d(channels, channels, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding).to(x.dtype).chunk(2, dim=1)  # [b c] each
        h = self.first(F.silu(channel_norm(x, 1 + scale, shift)))
        return x + self.second(F.silu(channel_norm(h)))


def channel_norm(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Normalise the channels of each voxel, in the dtype of ``x``; ``scale`` and ``shift`` are ``[b c]``."""
    with torch.autocast(x.device.type, enabled=False):
        y = F.layer_norm(x.movedim(1, -1), x.shape[1:2])  # [b x y z c], a view when channels last
        if scale is not None:
            y = torch.addcmul(shift[:, None, None, None], y, scale[:, None, None, None])
    return y.movedim(-1, 1)


class PatchUNet(nn.Module):
    """(x_t, masks, coarse, t, spacing, kind of scan if it is told) -> prediction. Additive skips; no attention."""

    def __init__(self, learning: Learning):
        super().__init__()
        settings = learning.settings
        channels, embedding = settings.channels, 4 * settings.channels[0]
        inputs = 8 * (1 + len(settings.labels)) + coarse_channels(learning)
        self.checkpointing = settings.activation_checkpointing
        self.prediction = learning.prediction
        self.embed = Embedding(embedding, learning.timesteps, learning.source_numbers)
        self.stem = nn.Conv3d(inputs, channels[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in itertools.pairwise(channels))
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in itertools.pairwise(channels))
        self.encode = nn.ModuleList(_level(c, settings.blocks, embedding) for c in channels)
        self.decode = nn.ModuleList(_level(c, settings.blocks, embedding) for c in channels[:-1])
        self.head = nn.Conv3d(channels[0], 2 * 8, 3, padding=1)
        self.register_buffer("abar", learning.abar.float(), persistent=False)
        self.register_buffer("means", tissue_means(settings.window_hu), persistent=False)
        self.register_buffer("band_sd", band_sd(), persistent=False)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor, *source) -> Tensor:
        """``[b 1 x y z]`` of ``x`` ``[b 1 ...]`` and ``masks`` ``[b labels ...]``, both with their halo, ``coarse``
        at half resolution without, the rest ``[b]``; ``source``: ``[b 2]``, or nothing."""
        embedding = self.embed(t, spacing_mm, *source)
        abar = self.abar[t][:, None, None, None, None]
        usual = self.band_sd[:, None, None, None]
        c_in, _, c_out = precondition(abar, usual)  # [b 8 1 1 1] each
        with torch.autocast(x.device.type, enabled=False):
            mean, coarse = self.expected(masks, coarse)
            rest = x - abar.sqrt() * mean
            parts = shares(rest)
            variance = inner(local_variance(parts, abar, usual.square()), HALO // 2)  # per block of two voxels
            x, masks, mean, rest, parts = (inner(tensor) for tensor in (x, masks, mean, rest, parts))
            fine = torch.cat([c_in * to_bands(rest), to_half(masks.to(x.dtype))], dim=1)
        correction, wider = self.outputs(torch.cat([fine, coarse.to(x.dtype)], dim=1), embedding).chunk(2, dim=1)
        with torch.autocast(x.device.type, enabled=False):
            skip = F.interpolate(skip_of_variance(abar, variance, wider), scale_factor=2.0)
            v = (skip * parts).sum(dim=1, keepdim=True) + from_bands(c_out * correction) - (1 - abar).sqrt() * mean
        return from_v(self.prediction, v, x, abar)

    def expected(self, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """What is said of x_0 before anything is learned, with its halo, and the inputs at half resolution."""
        return expected_blocks(masks, self.means), coarse

    def outputs(self, inputs: Tensor, embedding: Tensor) -> Tensor:
        """Two numbers for each band, ``[b 16 x y z]``, of ``inputs`` ``[b 8(1+labels)+coarse x y z]``, float32."""
        h = self.stem(inputs.contiguous(memory_format=torch.channels_last_3d))
        skips = []
        for i, level in enumerate(self.encode):
            h = self._run(level, self.down[i - 1](h) if i else h, embedding)
            skips.append(h)
        for i in reversed(range(len(self.decode))):
            h = self._run(self.decode[i], self.up[i](h) + skips[i], embedding)
        return self.head(F.silu(channel_norm(h))).float()

    def _run(self, level: nn.ModuleList, h: Tensor, embedding: Tensor) -> Tensor:
        for block in level:
            if self.checkpointing and self.training:
                h = checkpoint(block, h, embedding, use_reentrant=False, preserve_rng_state=False)  # none is used
            else:
                h = block(h, embedding)
        return h


def _level(channels: int, blocks: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(Block(channels, embedding) for _ in range(blocks))


def coarse_channels(learning: Learning) -> int:
    """Channels that enter at half resolution: three coordinates, one coarse view."""
    return 3 * learning.position + (learning.context_factor > 0) + learning.condition_channels


class Embedding(nn.Module):
    """Timestep (sinusoidal), voxel spacing (log mm) and ``further`` numbers to one vector per patch."""

    def __init__(self, width: int, timesteps: int, further: int = 0):
        super().__init__()
        self.timesteps = timesteps
        self.register_buffer("frequency", torch.exp(torch.linspace(0, math.log(1000), 16)), persistent=False)
        self.layers = nn.Sequential(nn.Linear(33 + further, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor, spacing_mm: Tensor, *further: Tensor) -> Tensor:
        phase = t[:, None].float() / self.timesteps * self.frequency * (math.pi / 2)
        return self.layers(torch.cat([phase.sin(), phase.cos(), spacing_mm[:, None].float().log(), *further], dim=1))


class Denoising(DiffusionLearning):
    """The patch U-Net as a denoiser."""

    def __init__(self, settings: Settings):
        super().__init__(settings, context_factor=settings.context_factor, position=settings.position)

    def build(self) -> nn.Module:
        return PatchUNet(self).to(memory_format=torch.channels_last_3d)
