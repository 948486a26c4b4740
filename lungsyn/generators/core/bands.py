"""A patch as the network sees it, and what can be said of it before anything is learned.

*Haar bands.* The eight voxels of a block become its mean and seven differences (the orthonormal Haar transform:
lossless). Each band has a width of its own: the differences of neighbouring voxels are ten times smaller in CT than
their mean, so noise hides them long before it hides the mean.

*The mean that the masks tell.* Lungs, nodules and other tissue have HU of their own, and the masks say where they are.
What is left of the mean band is a third as wide, so that the same error of the network is less HU.

*How much of it is noise.* How wide a band is differs from scanner to scanner and from vessel to lung. Where little
noise was added, the noisy patch itself tells: what its energy near a voxel exceeds the noise's is the image's own
(Lee 1980; for wavelets Mihcak et al. 1999). Near means across the patch's end too: patches come with a *halo*, or at
their ends they would measure something else than their neighbours do there, and a seam would show.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lungsyn.volume.intensity import AIR_HU, to_model_range

HALO = 2  # voxels beyond a patch on each side that come with it: a block, as far as ``local_variance`` looks

# Mean in cut-outs of CT at 1 mm and in the phantom at 3 mm, HU: nodules -330 and -140, lungs -790 and -800, other
# tissue 50 and 20.
NODULE_HU, LUNG_HU, TISSUE_HU = -200.0, -800.0, 30.0
# Standard deviation of the Haar bands within the body about these means, in the model range, by the number of axes
# (0 to 3) along which they take a difference. In both: 0.5-0.6 (without the means 1.6-1.7), 0.13-0.25, 0.05-0.10,
# 0.03-0.05.
HAAR_SD = (0.55, 0.2, 0.075, 0.04)

SHARE_ENERGY = 0.375**3  # mean square of a share of white noise: (1 + 4 + 1) / 16 along each axis
MOST_TRUST = 0.97  # in a variance that is measured: some of the usual one is left where a patch is quite even
FAINTEST = 0.2  # of the noise's variance: of an image with less, what is measured is mostly chance


def inner(x: Tensor, halo: int = HALO) -> Tensor:
    """A patch ``[... x y z]`` without its halo."""
    return x[(..., *[slice(halo, -halo)] * 3)]


def tissue_means(window_hu: tuple[float, float]) -> Tensor:
    """The mean of air, other tissue, lungs and nodules in the model range: ``[4]``."""
    return torch.from_numpy(to_model_range((AIR_HU, TISSUE_HU, LUNG_HU, NODULE_HU), window_hu))


def expected_blocks(masks: Tensor, means: Tensor) -> Tensor:
    """What the masks say of x_0: ``[b 1 x y z]``, of each block of 2x2x2 its mean alone, since CT has soft edges."""
    return F.interpolate(F.avg_pool3d(expected(masks, means), 2), scale_factor=2.0)


def expected(masks: Tensor, means: Tensor) -> Tensor:
    """The mean of each voxel's tissue: ``[b 1 x y z]`` of masks ``[b n x y z]``, the first three nodules, lungs and
    body, and the means of air, other tissue, lungs and nodules."""
    nodule, lung, body = masks[:, :3].bool().split(1, dim=1)
    air, tissue, lungs, nodules = means
    return torch.where(nodule, nodules, torch.where(lung, lungs, torch.where(body, tissue, air)))


def band_sd() -> Tensor:
    """The standard deviation of each of the eight bands of ``to_bands``: ``[8]``."""
    return torch.tensor([HAAR_SD[i.bit_count()] for i in range(8)])


def to_half(x: Tensor) -> Tensor:
    """``[b c 2x 2y 2z] -> [b 8c x y z]``: the voxels of each block of 2x2x2 side by side."""
    return rearrange(x, "b c (x i) (y j) (z k) -> b (i j k c) x y z", i=2, j=2, k=2)


def to_bands(x: Tensor) -> Tensor:
    """``[b 1 2x 2y 2z] -> [b 8 x y z]``: the orthonormal Haar transform of each block, lossless."""
    with torch.autocast(x.device.type, enabled=False):  # neighbours differ by less than bfloat16 can tell
        return torch.einsum("op,bpxyz->boxyz", _haar(x), to_half(x))


def from_bands(bands: Tensor) -> Tensor:
    """The inverse of ``to_bands``."""
    with torch.autocast(bands.device.type, enabled=False):
        x = torch.einsum("po,bpxyz->boxyz", _haar(bands), bands)
    return rearrange(x, "b (i j k) x y z -> b 1 (x i) (y j) (z k)", i=2, j=2, k=2)


def _haar(like: Tensor) -> Tensor:
    """The orthonormal 2x2x2 Haar transform as a symmetric 8x8 matrix."""
    h = torch.full((2, 2), 0.5**0.5, dtype=like.dtype, device=like.device)
    h[1, 1] *= -1  # made where it is needed: a copy to a GPU would wait for it
    return torch.kron(torch.kron(h, h), h)


def shares(x: Tensor) -> Tensor:
    """What each band adds to the image, ``[b 1 x y z] -> [b 8 x y z]``; together they are ``x``.

    Blocks of 2x2x2 could begin at eight places. Averaged over all of them (cycle spinning, Coifman & Donoho 1995) what
    a band adds is a filter of three voxels along each axis, and no voxel is at the edge of a block. Beyond the patch
    its outermost voxels are repeated."""
    with torch.autocast(x.device.type, enabled=False):
        return F.conv3d(F.pad(x, [1] * 6, mode="replicate"), _filters(x))


def smoothed(x: Tensor) -> Tensor:
    """A quarter, a half, a quarter of neighbouring voxels along each axis of ``[b c x y z]``."""
    channels = x.shape[1]
    with torch.autocast(x.device.type, enabled=False):
        low = _filters(x)[:1].expand(channels, -1, -1, -1, -1)
        return F.conv3d(F.pad(x, [1] * 6, mode="replicate"), low, groups=channels)


def _filters(like: Tensor) -> Tensor:
    """Low and high along each axis, the product over three axes: ``[8 1 3 3 3]``, the low of all first."""
    lines = torch.tensor([[1.0, 2.0, 1.0], [-1.0, 2.0, -1.0]], dtype=like.dtype, device=like.device) / 4
    return torch.einsum("ax,by,cz->abcxyz", lines, lines, lines).reshape(8, 1, 3, 3, 3)


def local_variance(parts: Tensor, abar: Tensor, usual: Tensor) -> Tensor:
    """The variance of x_0's bands near each block, from the ``shares`` of x_t less its mean: ``[b 8 x/2 y/2 z/2]``.

    The more noise, the less is it measured, and the more is it the ``usual`` one; both broadcast against the result."""
    energy = F.avg_pool3d(parts.square(), 2) / SHARE_ENERGY
    energy = smoothed(energy)
    noise, signal = 1 - abar, abar * usual
    trust = MOST_TRUST * signal.square() / (signal.square() + (FAINTEST * noise).square())
    measured = (energy - noise).clamp(min=0)
    return (1 - trust) * usual + trust / abar.clamp(min=1e-12) * measured  # of pure noise nothing is trusted
