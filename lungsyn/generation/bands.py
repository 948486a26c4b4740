"""A patch as the network sees it: Haar bands at half resolution, less what the masks say of the mean.

The eight voxels of a block become its mean and seven differences (the orthonormal Haar transform: lossless). Each band
has a width of its own: the differences of neighbouring voxels are ten times smaller in CT than their mean, so noise
hides them long before it hides the mean.

What is known of the mean is taken off: lungs, nodules and other tissue have HU of their own, and the masks say where
they are. What is left of the mean band is a third as wide, so that the same error of the network is less HU.
"""

import torch
from einops import rearrange
from torch import Tensor

from lungsyn.volume.intensity import AIR_HU, to_model_range

MASKS = 3  # nodules, lungs, body: uint8 on disk, 0/1 here

# Mean in cut-outs of CT at 1 mm and in the phantom at 3 mm, HU: nodules -330 and -140, lungs -790 and -800, other
# tissue 50 and 20.
NODULE_HU, LUNG_HU, TISSUE_HU = -200.0, -800.0, 30.0
# Standard deviation of the Haar bands within the body about these means, in the model range, by the number of axes
# (0 to 3) along which they take a difference. In both: 0.5-0.6 (without the means 1.6-1.7), 0.13-0.25, 0.05-0.10,
# 0.03-0.05.
HAAR_SD = (0.55, 0.2, 0.075, 0.04)


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


def band_sd() -> Tensor:
    """The standard deviation of each of the eight bands of ``to_bands``: ``[8]``."""
    return torch.tensor([HAAR_SD[i.bit_count()] for i in range(8)])


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
