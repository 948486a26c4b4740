"""The networks of a GAN from noise: a generator that doubles its voxels level by level, and a critic that halves them.

Both can be used up to a *level* only (0: 4 blocks along an edge), into which the level before fades with ``alpha``, so
that they can grow. Volumes are ``[b 2 x y z]``: CT and nodule mask, both -1 to 1. Blocks are of 2x2x2 voxels: both
networks work on Haar bands, each scaled to its width (SWAGAN, Gal et al. 2021, arXiv 2102.06108), so that the costly
last level is left out. Written from the papers that `generators.style_gan` names.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungsyn.generators.core.joint import IMAGES, bands_of, bands_sd, from_bands_of, means
from lungsyn.generators.style_gan import SMALLEST, Settings

BANDS = 8 * IMAGES
SLOPE = 0.2  # of the leaky rectifier
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the mean square of normal numbers
TAPS, BEYOND = 12, 2.0  # of the low-pass filter, in voxels of half the spacing; Kaiser's beta


def activated(x: Tensor) -> Tensor:
    """The leaky rectifier; normal numbers keep their mean square."""
    return F.leaky_relu(x, SLOPE) * GAIN


def low_pass() -> Tensor:
    """Half-band filter ``[taps]`` of sum 1: a sinc in Kaiser's window."""
    at = torch.arange(TAPS) - (TAPS - 1) / 2
    line = torch.sinc(at / 2) * torch.kaiser_window(TAPS, periodic=False, beta=BEYOND)
    return line / line.sum()


def refiltered(x: Tensor, taps: Tensor, finer: bool) -> Tensor:
    """``[b c x y z]`` at half the spacing (``finer``), or at twice, low-pass filtered; zero beyond the volume."""
    resample = F.conv_transpose3d if finer else F.conv3d
    y = x.flatten(0, 1)[:, None]
    for axis in range(3):
        shape, stride, pad = [1, 1, 1], [1, 1, 1], [0, 0, 0]
        shape[axis], stride[axis], pad[axis] = len(taps), 2, (len(taps) - 2) // 2
        line = (taps * (2 if finer else 1)).to(y.dtype).reshape(1, 1, *shape)
        y = resample(y, line, stride=stride, padding=pad)
    return y[:, 0].unflatten(0, x.shape[:2])


def filtered_activation(x: Tensor, taps: Tensor) -> Tensor:
    """`activated` at half the spacing, so that the corners that it makes are no finer than voxels can show."""
    return refiltered(activated(refiltered(x, taps, True)), taps, False)


def normed(x: Tensor) -> Tensor:
    """Mean square 1 over the channels: the pixel norm of the progressive GAN."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="trilinear")


def each_voxel(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers of channels ``[... c]`` for every voxel of ``like`` ``[b c x y z]``, in its dtype."""
    return numbers[..., None, None, None].to(like.dtype)


class Convolution(nn.Module):
    """A convolution whose input channels are scaled by a style ``[b i]``. ``demodulated``: each output channel then has
    unit variance for inputs of unit variance, whatever the style (StyleGAN2, Eq. 3)."""

    def __init__(self, inputs: int, outputs: int, size: int, latent: int, demodulated: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[size] * 3) / math.sqrt(inputs * size**3))
        self.style = nn.Linear(latent, inputs)
        self.demodulated = demodulated
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w)
        y = F.conv3d(x * each_voxel(style, x), self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulated:
            energy = style.float().square() @ self.weight.float().square().sum(dim=(2, 3, 4)).T  # [b o]
            y = y * each_voxel((energy + 1e-8).rsqrt(), y)
        return y


class Layer(nn.Module):
    """One convolution of the generator with its noise, non-linearity and norm."""

    def __init__(self, inputs: int, outputs: int, settings: Settings):
        super().__init__()
        self.kind, self.filtered = settings.style, settings.filtered
        if self.kind == "modulated":
            self.convolve = Convolution(inputs, outputs, 3, settings.latent)
        else:
            self.convolve = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        if self.kind != "plain":
            self.noise = nn.Parameter(torch.zeros(outputs))
        if self.kind == "adain":
            self.style = nn.Linear(settings.latent, 2 * outputs)
        self.register_buffer("taps", low_pass(), persistent=False)

    def forward(self, x: Tensor, w: Tensor, rng: torch.Generator) -> Tensor:
        y = self.convolve(x, w) if self.kind == "modulated" else self.convolve(x)
        y = y + each_voxel(self.bias, y)
        if self.kind != "plain":
            drawn = torch.randn(len(y), 1, *y.shape[2:], generator=rng).to(y)
            y = y + each_voxel(self.noise, y) * drawn
        y = filtered_activation(y, self.taps) if self.filtered else activated(y)
        if self.kind == "plain":
            return normed(y)
        if self.kind == "adain":
            scale, shift = each_voxel(self.style(w), y).chunk(2, dim=1)
            return F.instance_norm(y) * (1 + scale) + shift
        return y


class Generator(nn.Module):
    """(random numbers ``[b latent]``, source of noise) -> volumes. With ``modulated`` each level adds to what the ones
    before said (StyleGAN2's skips); else the last one says it all."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.adds, plain, latent = settings.style == "modulated", settings.style == "plain", settings.latent
        first, channels = settings.channels[0], settings.channels
        width = [nn.Linear(latent, latent) for _ in range(0 if plain else settings.mapping_layers)]
        self.mapping = nn.ModuleList(width)
        cube = (SMALLEST,) * 3
        self.start = nn.Linear(latent, first * SMALLEST**3) if plain else nn.Parameter(torch.randn(1, first, *cube))
        self.plain = plain
        pairs = list(zip([first, *channels], channels, strict=False))
        self.first = nn.ModuleList(Layer(a, b, settings) for a, b in pairs)
        self.second = nn.ModuleList(Layer(b, b, settings) for _, b in pairs[1:])
        say = (lambda c: Convolution(c, BANDS, 1, latent, False)) if self.adds else (lambda c: nn.Conv3d(c, BANDS, 1))
        self.say = nn.ModuleList(say(c) for c in channels)
        self.register_buffer("sd", bands_sd(), persistent=False)
        self.register_buffer("means", means(), persistent=False)

    def forward(self, z: Tensor, rng: torch.Generator, level: int | None = None, alpha: float = 1.0) -> Tensor:
        w = normed(z)
        for layer in self.mapping:
            w = activated(layer(w))
        if self.plain:
            h = normed(self.start(w).reshape(len(z), -1, *(SMALLEST,) * 3))
        else:
            h = self.start.expand(len(z), -1, -1, -1, -1)
        said, last = None, len(self.first) - 1 if level is None else level
        for i in range(last + 1):
            if i:
                h = doubled(h)
            h = self.first[i](h, w, rng)
            if i:
                h = self.second[i - 1](h, w, rng)
            if not self.adds and i < last - (alpha < 1):  # nobody hears it
                continue
            bands = (self.say[i](h, w) if self.adds else self.say[i](h)).float()
            new, share = from_bands_of(bands, self.sd), alpha if i == last else 1.0
            if said is None:
                said = new
            elif self.adds:
                said = doubled(said) + share * new
            else:
                said = torch.lerp(doubled(said), new, share)
        return said + self.means


class Critic(nn.Module):
    """Volumes -> a score each: the higher, the more real. Residual blocks; at the end the spread of the batch."""

    def __init__(self, settings: Settings):
        super().__init__()
        channels = settings.channels
        self.hear = nn.ModuleList(nn.Conv3d(BANDS, c, 1) for c in channels)
        self.same = nn.ModuleList(nn.Conv3d(c, c, 3, padding=1) for c in channels[1:])
        down = list(zip(channels[1:], channels, strict=False))
        self.less = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1) for a, b in down)
        self.past = nn.ModuleList(nn.Conv3d(a, b, 1, bias=False) for a, b in down)
        self.last = nn.Conv3d(channels[0] + 1, channels[0], 3, padding=1)
        self.full = nn.Linear(channels[0] * SMALLEST**3, channels[0])
        self.score = nn.Linear(channels[0], 1)
        self.register_buffer("sd", bands_sd(), persistent=False)
        self.register_buffer("means", means(), persistent=False)

    def forward(self, x: Tensor, level: int | None = None, alpha: float = 1.0) -> Tensor:
        last, x = len(self.hear) - 1 if level is None else level, x - self.means
        h = self.heard(x, last)
        for i in range(last, 0, -1):
            y = activated(self.less[i - 1](activated(self.same[i - 1](h))))
            h = (F.avg_pool3d(y, 2) + F.avg_pool3d(self.past[i - 1](h), 2)) * math.sqrt(0.5)
            if i == last and alpha < 1:
                before = self.heard(F.avg_pool3d(x, 2), i - 1)
                h = before + alpha * (h.to(before.dtype) - before)
        h = activated(self.last(torch.cat([h, spread(h)], dim=1)))
        return self.score(activated(self.full(h.flatten(1))))[:, 0].float()

    def heard(self, x: Tensor, level: int) -> Tensor:
        bands = bands_of(x, self.sd).contiguous(memory_format=torch.channels_last_3d)
        return activated(self.hear[level](bands))


def spread(h: Tensor) -> Tensor:
    """How much the volumes of a batch differ: the mean standard deviation, ``[b 1 x y z]`` (progressive GAN)."""
    mean = (h.float().var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return mean.to(h.dtype).expand(len(h), 1, *h.shape[2:])
