"""What the network predicts (epsilon, v, the sample itself or the velocity of a flow), how that becomes x_0, and how it
is made easy.

A rectified flow moves along ``z_t = (1 - t) x_0 + t noise`` with the velocity ``noise - x_0``. Here its state is scaled
to unit variance, as that of a diffusion model is: x_t = z_t / sqrt((1 - t)^2 + t^2), sqrt(abar) and sqrt(1 - abar)
being 1 - t and t scaled alike. So all else, networks and known background included, is the same for both.
"""

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
    if kind == "velocity":
        return noise - x0
    raise ValueError(f"prediction {kind!r} must be epsilon, v, sample or velocity")


def to_x0(kind: str, output: Tensor, x_t: Tensor, abar: Tensor) -> Tensor:
    """x_0 from the network's output; the inverse of ``training_target`` given x_t."""
    if kind == "epsilon":
        return (x_t - (1 - abar).sqrt() * output) / abar.sqrt()
    if kind == "v":
        return abar.sqrt() * x_t - (1 - abar).sqrt() * output
    if kind == "sample":
        return output
    if kind == "velocity":  # x_t = sqrt(abar) x_0 + sqrt(1 - abar) (x_0 + output)
        return (x_t - (1 - abar).sqrt() * output) / (abar.sqrt() + (1 - abar).sqrt())
    raise ValueError(f"prediction {kind!r} must be epsilon, v, sample or velocity")


def from_v(kind: str, v: Tensor, x_t: Tensor, abar: Tensor) -> Tensor:
    """The prediction of this type that says the same as ``v``."""
    return v if kind == "v" else training_target(kind, to_x0("v", v, x_t, abar), to_epsilon(v, x_t, abar), abar)


def to_epsilon(v: Tensor, x_t: Tensor, abar: Tensor) -> Tensor:
    """The noise from v (Salimans & Ho 2022, Appendix D)."""
    return (1 - abar).sqrt() * x_t + abar.sqrt() * v


def precondition(abar: Tensor, sd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(c_in, c_skip, c_out)`` with ``v = c_skip x_t + c_out F(c_in x_t)`` for data of standard deviation ``sd``.

    Karras et al. 2022, Table 1, written for v and a noise schedule: ``c_in x_t`` has unit variance, ``c_skip x_t`` is
    the best linear guess of v, and F is left with a target of unit variance at every noise level.
    """
    c_in = (abar * sd**2 + 1 - abar).rsqrt()
    return c_in, (abar * (1 - abar)).sqrt() * (1 - sd**2) * c_in**2, sd * c_in


def skip_of_variance(abar: Tensor, variance: Tensor, wider: Tensor) -> Tensor:
    """``c_skip`` for data whose variance is ``1 + wider`` times ``variance``, to first order: however wrong ``wider``
    is, what is skipped grows no faster than it."""
    c_in, c_skip, c_out = precondition(abar, variance.sqrt())
    return c_skip - (abar * (1 - abar)).sqrt() * (c_in * c_out).square() * wider


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, Eq. 6) on x_0: ``scale`` 1 is the conditional alone."""
    return torch.lerp(unconditional, conditional, scale)


def guided(x0_of: Callable[[Tensor], Tensor], masks: Tensor, scale: float) -> Tensor:
    """x_0 of ``masks`` ``[b labels x y z]``; at a ``scale`` other than 1 led away from that without their nodules."""
    x0 = x0_of(masks)
    if scale == 1 or not masks[:, 0].any():  # the same would come out
        return x0
    without = masks.clone()
    without[:, 0] = 0
    return guide(x0, x0_of(without), scale)
