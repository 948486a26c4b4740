"""Samplers as coefficients. Every sampler here is one linear update,

    x_s = step.x * x_t + step.x0 * x_0 + step.previous * (x_0 of the step before) + step.noise * noise,

so a sampler is a function of two noise levels, and the state is updated in place: a volume needs no second copy. The
stride between t and s is arbitrary, since each formula is written for the pair and not for neighbouring timesteps.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lungsyn.generators.core.prediction import Denoiser
from lungsyn.generators.core.schedule import log_snr


class Step(NamedTuple):
    """Coefficients of one update, plain floats."""

    x: float
    x0: float
    previous: float = 0.0
    noise: float = 0.0


def ddpm_step(abar_t: Tensor, abar_s: Tensor) -> Step:
    """Ancestral sampling from q(x_s | x_t, x_0): Ho et al. 2020, Eq. 7, alpha being the stride's own."""
    alpha = abar_t / abar_s
    x = alpha.sqrt() * (1 - abar_s) / (1 - abar_t)
    x0 = abar_s.sqrt() * (1 - alpha) / (1 - abar_t)
    noise = ((1 - abar_s) / (1 - abar_t) * (1 - alpha)).sqrt()
    return Step(float(x), float(x0), noise=float(noise))


def ddim_step(abar_t: Tensor, abar_s: Tensor, eta: float) -> Step:
    """Song et al. 2021 (DDIM), Eq. 12 and 16: eta 0 is deterministic, eta 1 is ``ddpm_step``."""
    sigma = eta * ((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)).sqrt()
    x = ((1 - abar_s - sigma**2) / (1 - abar_t)).clamp(min=0).sqrt()
    x0 = abar_s.sqrt() - abar_t.sqrt() * x
    return Step(float(x), float(x0), noise=float(sigma))


def dpmpp_2m_step(abar_before: Tensor | None, abar_t: Tensor, abar_s: Tensor) -> Step:
    """DPM-Solver++(2M), Lu et al. 2022, Algorithm 2. The first and the last step are of first order."""
    lam_t, lam_s = (0.5 * log_snr(a) for a in (abar_t, abar_s))
    h = lam_s - lam_t
    x = ((1 - abar_s) / (1 - abar_t)).sqrt()
    x0 = -abar_s.sqrt() * torch.expm1(-h)
    if abar_before is None or abar_s >= 1:
        return Step(float(x), float(x0))
    r = (lam_t - 0.5 * log_snr(abar_before)) / h
    return Step(float(x), float(x0 * (1 + 0.5 / r)), previous=float(-x0 * 0.5 / r))


def euler_step(abar_t: Tensor, abar_s: Tensor) -> Step:
    """Euler's step of a rectified flow (Liu et al. 2022, arXiv 2209.03003): straight on, with the velocity at t.

    Along ``z = (1 - t) x_0 + t noise`` it is ``z_s = z_t + (s - t) (z_t - x_0) / t``; x is z scaled to unit variance.
    It comes out as ``ddim_step`` without noise (Gao et al. 2024, diffusionflow.github.io)."""
    way_t, way_s = ((1 - a).sqrt() / (a.sqrt() + (1 - a).sqrt()) for a in (abar_t, abar_s))  # t and s
    scale_t, scale_s = (1 / (a.sqrt() + (1 - a).sqrt()) for a in (abar_t, abar_s))  # z = scale * x
    return Step(float(way_s / way_t * scale_t / scale_s), float((1 - way_s / way_t) / scale_s))


def plan(sampler: str, abar: Tensor, timesteps: list[int], eta: float = 0.0) -> list[Step]:
    """The coefficients of each update along ``timesteps`` (decreasing, ending at 0)."""
    steps = []
    for i, (t, s) in enumerate(itertools.pairwise(timesteps)):
        if sampler == "ddpm":
            steps.append(ddpm_step(abar[t], abar[s]))
        elif sampler == "ddim":
            steps.append(ddim_step(abar[t], abar[s], eta))
        elif sampler == "euler":
            steps.append(euler_step(abar[t], abar[s]))
        elif sampler == "dpmpp_2m":
            steps.append(dpmpp_2m_step(abar[timesteps[i - 1]] if i else None, abar[t], abar[s]))
        else:
            raise ValueError(f"sampler {sampler!r} must be ddpm, ddim, dpmpp_2m or euler")
    return steps


def sample(
    denoiser: Denoiser,
    x: Tensor,
    timesteps: list[int],
    steps: list[Step],
    add_noise: Callable[[Tensor, float], None],
    after_step: Callable[[int, Tensor], None] = lambda i, x: None,
) -> Tensor:
    """Run ``steps`` on ``x`` (x_T), in place, and return it. ``add_noise(x, scale)`` adds fresh noise in place.

    ``after_step(i, x)`` sees the state at ``timesteps[i + 1]``: progress, or a background put back (inpainting).
    """
    previous = None
    keeps_previous = any(step.previous for step in steps)
    for i, (t, step) in enumerate(zip(timesteps[:-1], steps, strict=True)):
        x0 = denoiser(x, t)
        x.mul_(step.x).add_(x0, alpha=step.x0)
        if step.previous:
            x.add_(previous, alpha=step.previous)
        if step.noise:
            add_noise(x, step.noise)
        previous = x0 if keeps_previous else None
        after_step(i, x)
    return x


def noise_adder(generator: torch.Generator) -> Callable[[Tensor, float], None]:
    """Fresh standard normal noise slab by slab along the first axis: no second volume is ever held."""

    def add(x: Tensor, scale: float) -> None:
        for slab in x.split(8):
            slab.add_(torch.randn(slab.shape, generator=generator, device=x.device), alpha=scale)

    return add
