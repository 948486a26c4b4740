"""What one training learns: all that the loop, the sampler and the audit ask of a family that learns from patches.

`Learning` is a denoiser of the patches themselves; a family overrides what it does otherwise.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lungsyn.errors import InputError
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.canvas import Canvas, How
from lungsyn.generators.core.schedule import SCHEDULES, drawn_timestep
from lungsyn.generators.core.settings import DiffusionSettings, PatchSettings
from lungsyn.optimizer import Muon
from lungsyn.processes import ALONE, Team
from lungsyn.settings.synthesis import Synthesis
from lungsyn.steps import Steps
from lungsyn.volume.files import Case
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.patches import window


class Learning:
    """What is learned from patches, how, and how it makes a volume.

    ``schedule`` and ``timesteps``: the noise levels; ``timestep_density``: how often each. ``prediction``: what the
    network says of a noisy patch; None: it is given x_0 and the noise, and says itself what it gets wrong.
    ``nodule_dropout``: share of patches without nodule mask. ``context_factor``, ``position``: what it sees of a
    patch's surroundings and place. ``source_numbers``: how many numbers tell it what kind of scan it is.
    """

    what = "generator"  # is trained, in the log
    keeps_last = False  # whether the last weights are the best ones, not those of the least held-out loss
    alone = False  # whether it is trained by one process only
    examples = None  # the data set that it learns from; None: `TrainingPatches`
    condition_channels = 0  # of what ``seen`` and ``surroundings`` give, beside coordinates and coarse view

    def __init__(  # nine arguments, but by name: a family says those that it has
        self, settings: PatchSettings, *, schedule: str = "pure_noise", timesteps: int = 1,
        timestep_density: str = "uniform", prediction: str | None = "sample", nodule_dropout: float = 0.0,
        context_factor: int = 0, position: bool = False, early_stop_checks: int = 0,
    ):  # fmt: skip
        self.settings, self.timesteps, self.prediction = settings, timesteps, prediction
        self.abar = SCHEDULES[schedule](timesteps)  # float64 [T + 1]
        self.timestep_density = timestep_density
        self.nodule_dropout, self.early_stop_checks = nodule_dropout, early_stop_checks
        self.context_factor, self.position = context_factor, position
        self.source_numbers = 2 if getattr(settings, "source_conditions", False) else 0

    @property
    def kind(self) -> str:
        """By which its first weights are drawn."""
        return self.settings.kind

    def first(self, train: Callable[[PatchSettings], tuple]) -> dict[str, dict]:
        """What must be learned before, by ``train`` (settings -> weights, facts, records): facts of it, by name."""
        return {}

    def timestep(self, rng: np.random.Generator) -> int:
        """The noise level of a training patch."""
        return drawn_timestep(self.timestep_density, self.timesteps, rng)

    def build(self) -> nn.Module:
        """The network, with fresh weights from torch's random numbers."""
        raise NotImplementedError

    def image(self, case: Case, start, size: int) -> np.ndarray:
        """What is made of a case: its CT in the model range in a cube of ``size`` voxels; ``[c ...]``."""
        return to_model_range(window(case.ct, start, size, AIR_HU), self.settings.window_hu)[None]

    def seen(self, case: Case, padded, start, rng) -> Tensor | None:
        """What a training patch at ``start`` is given of its surroundings, in place of the coarse view: ``[c ...]``."""
        return None

    def surroundings(self, x: Tensor) -> Callable[[list], Tensor] | None:
        """What patches of a noisy volume ``x`` are given of their surroundings: ``[b c ...]``; None: nothing."""
        from lungsyn.generators.core.synthesis import coarse_view, crop_views

        view = coarse_view(x, self)
        return None if view is None else lambda patches: crop_views(view, patches, self)[:, None]

    def learner(self, network: nn.Module, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module of all that learns (the ``network``, or it and others), and the optimiser of its weights."""
        learned = [weight for weight in network.parameters() if weight.requires_grad]
        return network, Muon(learned, self.settings.learning_rate, fused=device.type != "mps")

    def steps(  # seven arguments: all that a step reads or changes, and nothing else is ever done with them together
        self, forward: Callable, learner: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor],
        keep: Tensor, precision: torch.dtype, team: Team = ALONE,
    ) -> Steps:  # fmt: skip
        """Steps that train the network, called as ``forward``, and return loss and gradient norm of a batch.

        ``keep`` is the share of the ``average`` weights that a step leaves as they were; it is read at each step."""

        def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            loss = self.loss(forward, batch, keep.device, precision, team)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(learner.parameters(), self.settings.gradient_norm)
            optimizer.step()
            update_average(average, learner, keep)
            return loss.detach(), norm

        return Steps(step, keep.device, record=team.size == 1)

    def loss(self, network: Callable, batch: dict, device, precision, team: Team = ALONE) -> Tensor:
        """Mean squared error over the body's voxels, nodule voxels weighted; air is set analytically and not learned.

        Weights are relative to their sum over the whole batch, of which each process of the ``team`` has a share: the
        mean of the processes' losses is the loss of the batch, and likewise of their gradients."""
        error = self.loss_map(network, batch, device, precision)
        return self.mean_in_body(error, batch["masks"].to(device, non_blocking=True), team)

    def loss_map(self, network: Callable, batch: dict, device: torch.device, precision: torch.dtype) -> Tensor:
        """The squared error of the network's output on a batch; where there is no target, what the network itself says
        it gets wrong: ``[b 1 x y z]``, the mean over channels."""
        output = predict(network, batch, device, precision)
        if "target" in batch:
            output = (output - batch["target"].to(device, non_blocking=True)).square()
        return output.mean(dim=1, keepdim=True)

    def mean_in_body(self, error: Tensor, masks: Tensor, team: Team = ALONE) -> Tensor:
        """The mean of ``error`` ``[b 1 x y z]`` with the weights of these masks, which have a halo."""
        weight = self.weight(masks)
        return team.size * (weight * error).sum() / team.total(weight.sum()).clamp(min=1)

    def weight(self, masks: Tensor) -> Tensor:
        """``[b 1 x y z]``: 0 outside the body, 1 inside, ``nodule_weight`` in nodules; the ``masks`` have a halo."""
        nodule, _, body = inner(masks).float()[:, :3].split(1, dim=1)
        return torch.maximum(body, nodule) + self.more(nodule)

    def more(self, nodule: Tensor) -> Tensor:
        """What a voxel weighs more where it is ``nodule``."""
        return (self.settings.nodule_weight - 1) * nodule

    def sampling(self, synthesis: Synthesis) -> Synthesis:
        """How it makes a volume, where the config asks for ``synthesis``."""
        return synthesis

    def volume(self, network: Callable, canvas: Canvas, synthesis: Synthesis, seed: int, how: How) -> Tensor:
        """One volume in the model range, padded as the ``canvas``: see `synthesis.synthesise`."""
        from lungsyn.generators.core.synthesis import denoised_volume

        return denoised_volume(network, canvas, self, synthesis, seed, how)

    def check_team(self, team: Team) -> None:
        """Every process needs a patch of every batch. Raises InputError."""
        s = self.settings
        if self.alone and team.size > 1:
            raise InputError(f"a {s.kind} is trained by one process, not by {team.size}: set compute.gpus to 1")
        smallest = s.images % s.batch_patches or s.batch_patches
        if smallest < team.size:
            raise InputError(
                f"a batch of {smallest} patches is too small for {team.size} processes: lower compute.gpus to "
                f"{smallest}, or change generators.*.batch_patches ({s.batch_patches}) or images ({s.images})"
            )


class DiffusionLearning(Learning):
    """What a diffusion model learns: noise levels, prediction and dropout are its settings'; ``others``: keywords of
    `Learning`, also in their place."""

    def __init__(self, settings: DiffusionSettings, **others):
        keys = ("timesteps", "timestep_density", "nodule_dropout", "early_stop_checks")
        same = {key: getattr(settings, key) for key in keys}
        super().__init__(settings, schedule=settings.path, **same | {"prediction": settings.target} | others)


def predict(network: Callable, batch: dict, device: torch.device, precision: torch.dtype) -> Tensor:
    """The network's output on a batch, float32, computed in ``precision``."""
    keys = ("x_t", "masks", "coarse", "t", "spacing_mm", *(["source"] if "source" in batch else []))
    inputs = [batch[key].to(device, non_blocking=True) for key in keys]
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        return network(*inputs).float()


@torch.no_grad()
def update_average(average: dict, network: nn.Module, keep: Tensor) -> None:
    """Move the averaged weights towards the network's, in place; the share ``keep`` of them stays."""
    move = 1 - keep
    for name, tensor in network.state_dict().items():
        average[name].lerp_(tensor, move)
