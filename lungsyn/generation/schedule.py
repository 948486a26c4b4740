"""Noise schedules: alphas_cumprod as float64 tables. Index 0 is the clean image, T the noisiest."""

import math

import torch
from torch import Tensor

# Ratio of noise to signal where all is drowned, and where it is finer than CT's own noise (14 HU of the usual window).
MOST_NOISE, LAST_NOISE = 80.0, 0.02


def cosine(timesteps: int) -> Tensor:
    """Nichol & Dhariwal 2021, Eq. 17, with s = 0.008 and beta at most 0.999: abar, float64 ``[T + 1]``."""
    s = 0.008
    f = torch.cos((torch.arange(timesteps + 1, dtype=torch.float64) / timesteps + s) / (1 + s) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return _cumulate(beta)


def linear(timesteps: int) -> Tensor:
    """Ho et al. 2020: beta from 1e-4 to 0.02 at T = 1000, rescaled to end equally noisy at any T: abar ``[T + 1]``."""
    beta = torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64) * (1000 / timesteps)
    return _cumulate(beta.clamp(max=0.999))


def pure_noise(timesteps: int) -> Tensor:
    """Nothing of x_0 at any level: what a generator sees that makes it in one step."""
    abar = torch.zeros(timesteps + 1, dtype=torch.float64)
    abar[0] = 1
    return abar


def _cumulate(beta: Tensor) -> Tensor:
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, dim=0)])


SCHEDULES = {"cosine": cosine, "linear": linear, "pure_noise": pure_noise}


def sampling_timesteps(abar: Tensor, steps: int) -> list[int]:
    """``steps + 1`` decreasing timesteps from T to 0. Raises ValueError when the schedule has too few.

    Between them the ratio of noise to signal falls from ``MOST_NOISE`` to ``LAST_NOISE`` in even steps of its seventh
    root (Karras et al. 2022, Eq. 5). What is finer than the noise of the last step is not sampled but averaged, and
    evenly spaced timesteps end at t = T / steps: with ten steps that is 120 HU of noise, and tissue is left smooth."""
    timesteps = len(abar) - 1
    if not 1 <= steps <= timesteps:
        raise ValueError(f"sampling steps {steps} must be between 1 and the schedule's {timesteps} timesteps")
    root = torch.linspace(MOST_NOISE ** (1 / 7), LAST_NOISE ** (1 / 7), steps, dtype=torch.float64)
    wanted = torch.searchsorted(((1 - abar) / abar).sqrt(), root**7).tolist()
    chosen = [timesteps]
    for left, t in zip(range(steps - 1, 0, -1), wanted[1:], strict=True):
        chosen.append(max(min(t, chosen[-1] - 1), left))  # each at most once, and enough for those to come
    return [*chosen, 0]


def log_snr(abar: Tensor) -> Tensor:
    """log(signal / noise) = log abar - log(1 - abar)."""
    return torch.log(abar) - torch.log1p(-abar)
