"""The network: a 3-D U-Net on patches whose full-resolution level costs nothing.

A lossless step to half resolution (2x2x2 voxels become 8 channels, by the orthonormal Haar transform) stands before the
first convolution and is undone after the last, so the costly level has 8 times fewer voxels. Coordinates and the coarse
view of the surroundings enter at half resolution: they are smooth.

Each of the eight bands is scaled by itself (Karras et al. 2022, Table 1): the differences of neighbouring voxels are
ten times smaller in CT than their mean, so noise hides them long before it hides the mean, and the best linear guess,
which the network only has to correct, keeps the mean and drops the differences. With one scale for all, the network
would have to learn that filter, and short trainings leave noise in every volume.

What is known of the mean is taken off first: lungs, nodules and other tissue have HU of their own, and the masks say
where they are. What is left of the mean band is a third as wide, so that the same error of the network is less HU.

Each voxel's channels are normalised by themselves (LayerNorm). Group or instance normalisation would average over the
patch: the same voxel would then come out differently in two overlapping patches, and a seam would show.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lungsyn.config import Generator
from lungsyn.generation.prediction import from_v, precondition
from lungsyn.generation.schedule import SCHEDULES
from lungsyn.volume.intensity import AIR_HU, to_model_range

MASKS = 3  # nodules, lungs, body: uint8 on disk, 0/1 here

# Mean in cut-outs of CT at 1 mm and in the phantom at 3 mm, HU: nodules -330 and -140, lungs -790 and -800, other
# tissue 50 and 20.
NODULE_HU, LUNG_HU, TISSUE_HU = -200.0, -800.0, 30.0
# Standard deviation of the Haar bands within the body about these means, in the model range, by the number of axes
# (0 to 3) along which they take a difference. In both: 0.5-0.6 (without the means 1.6-1.7), 0.13-0.25, 0.05-0.10,
# 0.03-0.05.
HAAR_SD = (0.55, 0.2, 0.075, 0.04)


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
    """(x_t, masks, coarse, t, spacing) -> prediction. Additive skips; no attention."""

    def __init__(self, settings: Generator):
        super().__init__()
        channels, embedding = settings.channels, 4 * settings.channels[0]
        self.checkpointing = settings.activation_checkpointing
        self.embed = Embedding(embedding, settings.timesteps)
        self.stem = nn.Conv3d(8 * (1 + MASKS) + coarse_channels(settings), channels[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in itertools.pairwise(channels))
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in itertools.pairwise(channels))
        self.encode = nn.ModuleList(_level(c, settings.blocks, embedding) for c in channels)
        self.decode = nn.ModuleList(_level(c, settings.blocks, embedding) for c in channels[:-1])
        self.head = nn.Conv3d(channels[0], 8, 3, padding=1)
        self.prediction = settings.prediction
        self.register_buffer("abar", SCHEDULES[settings.schedule](settings.timesteps).float(), persistent=False)
        self.register_buffer("band_sd", band_sd(), persistent=False)
        self.register_buffer("means", tissue_means(settings.window_hu), persistent=False)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """``x`` ``[b 1 x y z]``, ``masks`` ``[b 3 x y z]``, ``coarse`` at half resolution, the rest ``[b]``."""
        embedding = self.embed(t, spacing_mm)
        abar = self.abar[t][:, None, None, None, None]
        c_in, c_skip, c_out = precondition(abar, self.band_sd[:, None, None, None])  # [b 8 1 1 1] each
        with torch.autocast(x.device.type, enabled=False):
            mean = expected_bands(masks, self.means)
            bands = to_bands(x) - abar.sqrt() * mean
            fine = torch.cat([c_in * bands, to_half(masks.to(x.dtype))], dim=1)
        h = self.stem(torch.cat([fine, coarse.to(x.dtype)], dim=1).contiguous(memory_format=torch.channels_last_3d))
        skips = []
        for i, level in enumerate(self.encode):
            h = self._run(level, self.down[i - 1](h) if i else h, embedding)
            skips.append(h)
        for i in reversed(range(len(self.decode))):
            h = self._run(self.decode[i], self.up[i](h) + skips[i], embedding)
        correction = self.head(F.silu(channel_norm(h))).float()
        with torch.autocast(x.device.type, enabled=False):
            v = from_bands(c_skip * bands + c_out * correction - (1 - abar).sqrt() * mean)
        return from_v(self.prediction, v, x, abar)

    def _run(self, level: nn.ModuleList, h: Tensor, embedding: Tensor) -> Tensor:
        for block in level:
            if self.checkpointing and self.training:
                h = checkpoint(block, h, embedding, use_reentrant=False, preserve_rng_state=False)  # none is used
            else:
                h = block(h, embedding)
        return h


def tissue_means(window_hu: tuple[float, float]) -> Tensor:
    """The mean of air, other tissue, lungs and nodules in the model range: ``[4]``."""
    return torch.from_numpy(to_model_range((AIR_HU, TISSUE_HU, LUNG_HU, NODULE_HU), window_hu))


def expected_bands(masks: Tensor, means: Tensor) -> Tensor:
    """What the masks say of x_0, as bands ``[b 8 x/2 y/2 z/2]``: of the mean of eight voxels alone, since CT has soft
    edges."""
    mean = to_bands(expected(masks, means))
    return torch.cat([mean[:, :1], torch.zeros_like(mean[:, 1:])], dim=1)


def expected(masks: Tensor, means: Tensor) -> Tensor:
    """The mean of each voxel's tissue: ``[b 1 x y z]`` of masks ``[b 3 x y z]`` and the means of air, other tissue,
    lungs and nodules."""
    nodule, lung, body = masks.bool().split(1, dim=1)
    air, tissue, lungs, nodules = means
    return torch.where(nodule, nodules, torch.where(lung, lungs, torch.where(body, tissue, air)))


def _level(channels: int, blocks: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(Block(channels, embedding) for _ in range(blocks))


def band_sd() -> Tensor:
    """The standard deviation of each of the eight bands of ``to_bands``: ``[8]``."""
    return torch.tensor([HAAR_SD[i.bit_count()] for i in range(8)])


def coarse_channels(settings: Generator) -> int:
    """Channels that enter at half resolution: three coordinates, one coarse view."""
    return 3 * settings.position + (settings.context_factor > 0)


class Embedding(nn.Module):
    """Timestep (sinusoidal) and voxel spacing (log mm) to one vector per patch."""

    def __init__(self, width: int, timesteps: int):
        super().__init__()
        self.timesteps = timesteps
        self.register_buffer("frequency", torch.exp(torch.linspace(0, math.log(1000), 16)), persistent=False)
        self.layers = nn.Sequential(nn.Linear(33, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor, spacing_mm: Tensor) -> Tensor:
        phase = t[:, None].float() / self.timesteps * self.frequency * (math.pi / 2)
        return self.layers(torch.cat([phase.sin(), phase.cos(), spacing_mm[:, None].float().log()], dim=1))


def to_half(x: Tensor) -> Tensor:
    """``[b c 2x 2y 2z] -> [b 8c x y z]``: the voxels of each block of 2x2x2 side by side."""
    return rearrange(x, "b c (x i) (y j) (z k) -> b (i j k c) x y z", i=2, j=2, k=2)


def to_bands(x: Tensor) -> Tensor:
    """``[b 1 2x 2y 2z] -> [b 8 x y z]``: the orthonormal Haar transform of each block, lossless."""
    return torch.einsum("op,bpxyz->boxyz", _haar(x), to_half(x))


def from_bands(bands: Tensor) -> Tensor:
    """The inverse of ``to_bands``."""
    x = torch.einsum("po,bpxyz->boxyz", _haar(bands), bands)
    return rearrange(x, "b (i j k) x y z -> b 1 (x i) (y j) (z k)", i=2, j=2, k=2)


def _haar(like: Tensor) -> Tensor:
    """The orthonormal 2x2x2 Haar transform as a symmetric 8x8 matrix."""
    h = torch.full((2, 2), 0.5**0.5, dtype=like.dtype, device=like.device)
    h[1, 1] *= -1  # made where it is needed: a copy to a GPU would wait for it
    return torch.kron(torch.kron(h, h), h)


class MonaiUNet(nn.Module):
    """MONAI's DiffusionModelUNet behind the same call, for comparison: all conditions at full resolution."""

    def __init__(self, settings: Generator):
        super().__init__()
        from monai.networks.nets import DiffusionModelUNet

        levels = len(settings.channels)
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=1 + MASKS + coarse_channels(settings),
            out_channels=1,
            channels=settings.channels,
            num_res_blocks=settings.blocks,
            attention_levels=[False] * levels,
            norm_num_groups=math.gcd(*settings.channels, 32),
        )

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """As ``PatchUNet.forward``; the spacing is not used."""
        inputs = [x, masks.to(x.dtype)]
        if coarse.shape[1]:
            inputs.append(F.interpolate(coarse.to(x.dtype), scale_factor=2, mode="trilinear"))
        return self.unet(torch.cat(inputs, dim=1), timesteps=t)


def build(settings: Generator) -> nn.Module:
    """The network that the settings name, in channels-last memory."""
    network = MonaiUNet(settings) if settings.network == "monai" else PatchUNet(settings)
    return network.to(memory_format=torch.channels_last_3d)
