"""What GANs have in common: a critic's network, and both networks held together."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky rectifier


class Scores(nn.Module):
    """``[b inputs x y z]`` -> a score per neighbourhood, ``[b 1 x/d y/d z/d]``, d = 2^(levels - 1)."""

    def __init__(self, inputs: int, channels: Sequence[int]):
        super().__init__()
        self.first = nn.Conv3d(inputs, channels[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in itertools.pairwise(channels))
        self.same = nn.ModuleList(nn.Conv3d(c, c, 3, padding=1) for c in channels)
        self.score = nn.Conv3d(channels[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.contiguous(memory_format=torch.channels_last_3d))
        for i, same in enumerate(self.same):
            h = self.down[i - 1](h) if i else h
            h = same(F.leaky_relu(h, SLOPE))
        return self.score(F.leaky_relu(h, SLOPE))


def squared_slope(scores: Tensor, *seen: Tensor) -> Tensor:
    """Mean over the ``scores`` of the critic's squared slope at what it has ``seen``; it has gradients."""
    slopes = torch.autograd.grad(scores.sum(), seen, create_graph=True)
    return torch.stack([slope.float().square().sum() for slope in slopes]).sum() / scores.numel()


class Adversaries(nn.Module):
    """Both networks of a GAN, so that one optimiser steps and one checkpoint holds them."""

    def __init__(self, generator: nn.Module, critic: nn.Module):
        super().__init__()
        self.generator, self.critic = generator, critic.to(memory_format=torch.channels_last_3d)
