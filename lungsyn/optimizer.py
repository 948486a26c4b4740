"""The optimiser of nearly every training: Muon for the hidden convolutions, AdamW for the rest.

A laptop has few steps, and Muon learns more per step (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon;
Liu et al. 2025, arXiv 2502.16982): it makes the momentum of a weight matrix orthogonal, so that a step moves all its
directions alike and not only the few in which most gradients lie.

Why not ``torch.optim.Muon``: it takes no convolutions, and its products are bfloat16, which a CPU without such units
computes more than ten times slower than float32.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.9  # short trainings: 0.95 learned less in the first thousand patches
CHANNELS = 16  # with fewer on one side a matrix has few directions


class AdamW(torch.optim.AdamW):
    """AdamW, its steps on CUDA such that they can be recorded: what changes from step to step is in its memory."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, fused: bool = False,
        betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.01,
    ):  # fmt: skip
        parameters = list(parameters)
        device = parameters[0].device
        on_cuda = device.type == "cuda"
        rate = torch.tensor(learning_rate, device=device) if on_cuda else learning_rate
        super().__init__(parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=fused, capturable=on_cuda)

    def set_learning_rate(self, value: float) -> None:
        """From the next step on."""
        for group in self.param_groups:
            group["lr"] = group["lr"].fill_(value) if isinstance(group["lr"], Tensor) else value


def without_momentum(parameters: Iterable[nn.Parameter], learning_rate: float, fused: bool = False) -> AdamW:
    """For two networks that learn against each other: without momentum, which makes them overshoot one after the other
    (by Muon the generator of cut-outs had learned a chessboard after 300 steps)."""
    return AdamW(parameters, learning_rate, fused, betas=(0.0, 0.99), weight_decay=0.0)


class Muon(AdamW):
    """Muon for convolutions between ``CHANNELS`` channels or more, AdamW for all else. Muon's steps are as long as
    AdamW's (Liu et al., Eq. 4).

    State of the former: ``momentum``, of the weight's shape.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, fused: bool = False):
        parameters, alike = list(parameters), defaultdict(list)
        for p in parameters:
            if p.ndim > 2 and min(p.shape[:2]) >= CHANNELS:
                alike[p.flatten(1).shape].append(p)
        self.alike = list(alike.values())  # together: fewer kernels
        super().__init__(parameters, learning_rate, fused)

    @torch.no_grad()
    def step(self) -> None:
        learning_rate = self.param_groups[0]["lr"]
        for alike in self.alike:
            moved = [weight for weight in alike if weight.grad is not None]
            if not moved:
                continue
            directions = orthogonal(torch.stack([self._direction(weight).flatten(1) for weight in moved]))
            size = 0.2 * max(directions.shape[1:]) ** 0.5
            for weight, direction in zip(moved, directions.mul_(learning_rate * size), strict=True):
                weight.sub_(direction.view(weight.shape))
                weight.grad = None  # AdamW passes over it
        super().step()

    def _direction(self, weight: nn.Parameter) -> Tensor:
        """Nesterov's: gradient and momentum, which is updated."""
        state = self.state[weight]
        if not state:
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(weight)}  # AdamW asks each for its step
        momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(momentum, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Of each matrix roughly U V^T of the singular value decomposition U S V^T: singular values from 0.7 to 1.2, less
    where S is below a few hundredths of its largest. ``[b m n]``.

    Five Newton-Schulz iterations with Jordan's coefficients, in the matrices' dtype."""
    turned = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if turned else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if turned else x
