"""Noise schedules: alphas_cumprod as float64 tables. Index 0 is the clean image, T the noisiest."""

import math

import numpy as np
import torch
from torch import Tensor


def cosine(timesteps: int) -> Tensor:
    """Nichol & Dhariwal 2021, Eq. 17, with s = 0.008 and beta at most 0.999: abar, float64 ``[T + 1]``."""
    s = 0.008
    f = torch.cos((torch.arange(timesteps + 1, dtype=torch.float64) / timesteps + s) / (1 + s) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return _cumulate(beta)


def linear(timesteps: int) -> Tensor:
    """Ho et al. 2020: beta from 1e-4 to 0.02 at T = 1000, rescaled to end about as noisy at other T, if they are not
    below a hundred: abar ``[T + 1]``."""
    beta = torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64) * (1000 / timesteps)
    return _cumulate(beta.clamp(max=0.999))


def straight(timesteps: int) -> Tensor:
    """Rectified flow (Liu et al. 2022, arXiv 2209.03003): on a straight line from data to noise, at ``t / T`` of it, is
    ``(1 - t / T) x_0 + t / T noise``. Scaled to unit variance that is x_t of this abar, float64 ``[T + 1]``."""
    way = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    return (1 - way) ** 2 / ((1 - way) ** 2 + way**2)


def pure_noise(timesteps: int) -> Tensor:
    """Nothing of x_0 at any level: what a generator sees that makes it in one step."""
    abar = torch.zeros(timesteps + 1, dtype=torch.float64)
    abar[0] = 1
    return abar


def _cumulate(beta: Tensor) -> Tensor:
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, dim=0)])


SCHEDULES = {"cosine": cosine, "linear": linear, "straight": straight, "pure_noise": pure_noise}


def sampling_timesteps(timesteps: int, steps: int) -> list[int]:
    """``steps + 1`` decreasing timesteps from T to 0, evenly spaced. Raises ValueError when there are too few."""
    if not 1 <= steps <= timesteps:
        raise ValueError(f"sampling steps {steps} must be between 1 and the schedule's {timesteps} timesteps")
    return [round(timesteps * (steps - i) / steps) for i in range(steps + 1)]


def drawn_timestep(density: str, timesteps: int, rng: np.random.Generator) -> int:
    """One of 1 ... T to train on: each as likely (``uniform``), or more often those in the middle (``logit_normal``:
    the logistic function of a standard normal number; Esser et al. 2024, arXiv 2403.03206, Section 3.1)."""
    if density == "uniform":
        return 1 + int(rng.integers(timesteps))
    return 1 + min(int(timesteps / (1 + math.exp(-rng.standard_normal()))), timesteps - 1)


def middle_of_part(i: int, parts: int, timesteps: int) -> int:
    """The timestep in the middle of the i-th of so many equal ``parts`` of 1 ... T, over and over again."""
    return 1 + (2 * (i % parts) + 1) * timesteps // (2 * parts)


def log_snr(abar: Tensor) -> Tensor:
    """log(signal / noise) = log abar - log(1 - abar)."""
    return torch.log(abar) - torch.log1p(-abar)
