"""What the network predicts (epsilon, v or the sample itself), and how that becomes x_0."""

from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, int], Tensor]  # (x_t, t) -> x_0


def diffuse(x0: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """x_t from x_0 (Ho et al. 2020, Eq. 4). ``abar`` broadcasts against ``x0``."""
    return abar.sqrt() * x0 + (1 - abar).sqrt() * noise


def training_target(kind: str, x0: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """The tensor that a network of this prediction type learns (v: Salimans & Ho 2022, Appendix D)."""
    if kind == "epsilon":
        return noise
    if kind == "v":
        return abar.sqrt() * noise - (1 - abar).sqrt() * x0
    if kind == "sample":
        return x0
    raise ValueError(f"prediction {kind!r} must be epsilon, v or sample")


def to_x0(kind: str, output: Tensor, x_t: Tensor, abar: Tensor) -> Tensor:
    """x_0 from the network's output; the inverse of ``training_target`` given x_t."""
    if kind == "epsilon":
        return (x_t - (1 - abar).sqrt() * output) / abar.sqrt().clamp(min=1e-4)
    if kind == "v":
        return abar.sqrt() * x_t - (1 - abar).sqrt() * output
    if kind == "sample":
        return output
    raise ValueError(f"prediction {kind!r} must be epsilon, v or sample")


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, Eq. 6) on x_0: ``scale`` 1 is the conditional alone."""
    return torch.lerp(unconditional, conditional, scale)
