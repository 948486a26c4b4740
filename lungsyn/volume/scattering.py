"""Scattering: what a slice of CT looks like, as numbers, by a fixed network that needs no download and no training.

*Scattering* (Bruna & Mallat 2013, "Invariant Scattering Convolution Networks"): wavelet filters, modulus, wavelet
filters again, modulus, average. Its filters are a formula, so the extractor is pinned by its code. The scales are
levels of a pyramid (each level is the one before at half the resolution), so one set of 7 x 7 filters does for all.
Beside the wavelets, which do not see the mean, stands a soft histogram of HU, fine and coarse.

Axes: ``images`` ``[n h w]`` in HU; ``pools`` ``[n p h w]``, the weights of ``p`` averages over each image (the body; a
nodule and its surroundings). What has no weight does not count, but filters do see it as the neighbour of what has.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_HU = (-1000.0, 400.0)  # values beyond are clipped: what lies there, metal and dense bone, is not the question
LEVELS = 4  # scales 1, 2, 4, 8 voxels
ORIENTATIONS = 4
BIN_HU = 100.0
LEAST_HU = 1.0  # a response below it is rounding
LEAST_FRACTION = 0.01  # likewise for a bin of the histogram


def wavelets() -> np.ndarray:
    """Complex Morlet wavelets ``[orientation 7 7]`` of zero mean and unit energy: Bruna & Mallat 2013, Sec. 2.1, with
    their frequency of 3 pi / 4 and width of 0.8 voxels at the finest scale."""
    y, x = np.mgrid[-3:4, -3:4]
    envelope = np.exp(-(x**2 + y**2) / (2 * 0.8**2))
    angles = np.pi * np.arange(ORIENTATIONS)[:, None, None] / ORIENTATIONS
    wave = np.exp(0.75j * np.pi * (x * np.cos(angles) + y * np.sin(angles)))
    mean = (envelope * wave).sum((1, 2), keepdims=True) / envelope.sum()
    filters = envelope * (wave - mean)
    return filters / np.sqrt((np.abs(filters) ** 2).sum((1, 2), keepdims=True))


def scatter(images: Tensor, pools: Tensor) -> Tensor:
    """Features ``[n p 86]``, float64: 2 x 15 of the histogram, 16 + 16 of first and 24 of second order per pool.

    All are logarithms: of fractions, of mean responses, of their unevenness (mean square by squared mean), and of
    second-order by first-order responses. They have gradients; a pool without weight is no number."""
    hu = images.clamp(*WINDOW_HU).float()[:, None]  # [n 1 h w]
    weights = _weights_per_level(pools.float())
    features = []
    for level in range(LEVELS):
        if level in (0, 2):
            features.append((_average(_soft_histogram(hu), weights[level]) + LEAST_FRACTION).log())
        response = _respond(hu)[:, 0]  # [n o h w]
        first = _average(response, weights[level]) + LEAST_HU  # [n p o]
        uneven = (_average(response.square(), weights[level]) + LEAST_HU**2) / first.square()
        features += [first.log(), uneven.log()]
        for coarser in range(level + 1, LEVELS):
            response = _halve(response)
            second = _average(_respond(response).flatten(1, 2), weights[coarser]).unflatten(2, (ORIENTATIONS, -1))
            features.append(((_by_angle_between(second) + LEAST_HU) / first.mean(2, keepdim=True)).log())
        hu = _halve(hu)
    return torch.cat(features, dim=2)


def _respond(maps: Tensor) -> Tensor:
    """Modulus of every map ``[n c h w]`` filtered by every wavelet: ``[n c o h w]``."""
    n, c, h, w = maps.shape
    out = F.conv2d(F.pad(maps.reshape(n * c, 1, h, w), [3] * 4, mode="replicate"), _filters().to(maps.device))
    modulus = torch.complex(*out.chunk(2, dim=1)).abs()  # not hypot: its slope at zero is no number
    return modulus.reshape(n, c, ORIENTATIONS, h, w)


@cache
def _filters() -> Tensor:
    return torch.from_numpy(np.concatenate([wavelets().real, wavelets().imag])[:, None]).float()  # [2o 1 7 7]


def _halve(maps: Tensor) -> Tensor:
    """Half the resolution, after the binomial filter 1 4 6 4 1 along both axes."""
    n, c, h, w = maps.shape
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=maps.device) / 16
    padded = F.pad(maps.reshape(n * c, 1, h, w), [2] * 4, mode="replicate")
    out = F.conv2d(F.conv2d(padded, line[None, None, :, None], stride=(2, 1)), line[None, None, None], stride=(1, 2))
    return out.reshape(n, c, *out.shape[2:])


def _weights_per_level(pools: Tensor) -> list[Tensor]:
    levels = [pools]
    for _ in range(LEVELS - 1):
        levels.append(_halve(levels[-1]))
    return [level / level.sum((2, 3), keepdim=True) for level in levels]


def _average(maps: Tensor, weights: Tensor) -> Tensor:
    """Weighted averages of ``[n c h w]`` with each of the weights ``[n p h w]``: ``[n p c]``, float64."""
    return (weights.flatten(2) @ maps.flatten(2).transpose(1, 2)).double()


def _soft_histogram(hu: Tensor) -> Tensor:
    """Linear membership of each voxel in bins 100 HU apart: ``[n bins h w]``; the bins of a voxel sum to 1."""
    centres = torch.arange(WINDOW_HU[0], WINDOW_HU[1] + 1, BIN_HU, device=hu.device)[:, None, None]
    return ((hu - centres).abs() * (-1 / BIN_HU) + 1).clamp(min=0)


def _by_angle_between(second: Tensor) -> Tensor:
    """``[n p o o]`` over the first and second filter's orientation to ``[n p o]`` over the angle between them."""
    return torch.stack([torch.diagonal(second.roll(-k, 3), dim1=2, dim2=3).mean(2) for k in range(ORIENTATIONS)], 2)
