"""How the two networks of a GAN from noise learn against each other, and how a volume is made.

Augmentation (Karras et al. 2020, arXiv 2006.06676): what the critic sees, real and made, is mirrored, turned, shifted
and scaled in brightness with a probability that rises while the critic is too sure of the real ones, as it is once it
knows them by heart, and falls otherwise. CT and nodule mask go together.

All random numbers of a step derive from its first volume's number, so that a training that was stopped goes on bit for
bit; how far it has grown, and how much is augmented, is part of the learner's state.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from lungsyn.errors import InputError
from lungsyn.generators.core.generator import Ready
from lungsyn.generators.core.joint import labelled
from lungsyn.generators.core.learning import Learning, update_average
from lungsyn.generators.core.patches import Example
from lungsyn.generators.networks.adversaries import squared_slope
from lungsyn.generators.networks.style import Critic, Generator, doubled
from lungsyn.generators.style_gan import SMALLEST, Settings
from lungsyn.optimizer import without_momentum
from lungsyn.processes import ALONE, Team
from lungsyn.random import seed_of, stream
from lungsyn.seams import Sampled, Scene
from lungsyn.steps import Steps
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.intensity import to_model_range

FURTHEST = 1 / 8  # of the edge: how far augmentation shifts along each axis
BRIGHTER = 0.15  # standard deviation of the logarithm of the factor on the CT
MOST = 0.85  # probability of augmentation: more, and the made ones look augmented
MEMORY = 0.9  # of how sure the critic was in the steps before


def whole_field(case: Case, edge: int, window_hu: tuple[float, float]) -> np.ndarray:
    """CT and nodule mask in the middle of a cube of ``edge`` voxels, mirrored beyond their ends: ``[2 e e e]``, both -1
    to 1. Raises InputError for a case that is larger."""
    check_room(case.ct.shape, edge)
    nodule = np.where(np.asarray(case.nodules) > 0, np.float32(1), np.float32(-1))
    both = np.stack([to_model_range(np.asarray(case.ct), window_hu), nodule])
    spare = [edge - n for n in case.ct.shape]
    return np.pad(both, [(0, 0), *((a // 2, a - a // 2) for a in spare)], mode="symmetric")


def check_room(shape, edge: int) -> None:
    """Raises InputError where a volume does not fit into what is made."""
    if max(shape) > edge:
        raise InputError(
            f"a volume of {' x '.join(map(str, shape))} voxels does not fit into the {edge} that a style_gan makes: "
            "raise generators.*.field_voxels, or cohort.preprocess.spacing_mm"
        )


class WholeFields(Dataset):
    """Volume number i of a training, drawn from (seed, i) alone."""

    def __init__(self, folders, settings: Settings, seed: int):
        if not folders:
            raise InputError("no case to train on: the cohort's train split is empty")
        self.settings, self.seed = settings, seed
        self.cases = [open_case(folder) for folder in folders]
        for case in self.cases:
            check_room(case.ct.shape, settings.field_voxels)

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, i: int) -> Example:
        s, rng = self.settings, stream(self.seed, "field", i)
        number = int(rng.integers(len(self.cases)))
        field = torch.from_numpy(whole_field(self.cases[number], s.field_voxels, s.window_hu))
        field = field.flip([1 + axis for axis in range(3) if s.flips and rng.random() < 0.5])
        nothing = torch.zeros(0)
        return Example(
            field, None, nothing, nothing, torch.tensor(seed_of(self.seed, "step", i)), nothing, None, number
        )


def augmented(volumes: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """``[b 2 e e e]``, each mirrored, turned by 90 degrees in the plane, shifted by whole voxels and scaled in the CT's
    brightness (air stays air), each of the four with this ``probability``. Beyond an end its voxels are repeated."""

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=rng))

    def wanted() -> bool:
        return float(torch.rand((), generator=rng)) < probability

    result, reach = [], round(FURTHEST * volumes.shape[-1])
    for volume in volumes:
        if wanted():
            volume = volume.flip([1 + axis for axis in range(3) if draw(2)])
        if wanted():
            volume = volume.rot90(draw(4), (1, 2))
        if wanted():
            for axis in (1, 2, 3):
                places = torch.arange(volume.shape[axis]) + draw(2 * reach + 1) - reach
                volume = volume.index_select(axis, places.clamp(0, volume.shape[axis] - 1).to(volume.device))
        if wanted():
            factor = float(torch.exp(BRIGHTER * torch.randn((), generator=rng)))
            volume = torch.cat([(volume[:1] + 1) * factor - 1, volume[1:]])
        result.append(volume)
    return torch.stack(result)


class Players(nn.Module):
    """Both networks, how many volumes they have seen, how sure the critic was, and how likely augmentation is: what one
    optimiser steps and one checkpoint holds."""

    def __init__(self, generator: Generator, critic: Critic):
        super().__init__()
        self.generator, self.critic = generator, critic
        for name in ("seen", "sure", "probability"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def stage(self, settings: Settings) -> tuple[int, float]:
        """The level that is learned now, and how far it has faded in."""
        last = len(settings.channels) - 1
        if not settings.growing:
            return last, 1.0
        grown = (float(self.seen) - settings.growing_images / 2) / settings.growing_images  # doublings begun
        level = min(max(int(np.floor(grown)) + 1, 0), last)
        return level, float(np.clip(2 * (grown - level + 1), 0, 1)) if level else 1.0

    def steer(self, of_real: Tensor, middle: Tensor | float, settings: Settings) -> None:
        """More augmentation if the critic is too sure of real volumes, less if not. How sure: the mean sign of its
        score less the ``middle``."""
        count = len(of_real)
        self.seen += count
        if settings.augment_target:
            self.sure.lerp_((of_real - middle).sign().mean().double().to(self.sure.device), 1 - MEMORY)
            step = torch.sign(self.sure - settings.augment_target) * count / settings.augment_images
            self.probability.add_(step).clamp_(0, MOST)


class Playing(Learning):
    """The game: relativistic (Jolicoeur-Martineau 2019, arXiv 1807.00734; with both slopes Huang et al. 2024, arXiv
    2501.05441) or non-saturating with the slope at real volumes (Mescheder et al. 2018, arXiv 1801.04406)."""

    keeps_last = True
    alone = True
    examples = WholeFields

    def build(self) -> nn.Module:
        return Generator(self.settings).to(memory_format=torch.channels_last_3d)

    def learner(self, network, device):
        both = Players(network, Critic(self.settings).to(device, memory_format=torch.channels_last_3d)).to(device)
        return both, without_momentum(both.parameters(), self.settings.learning_rate, fused=device.type != "mps")

    def steps(self, forward, learner, optimizer, average, keep, precision, team: Team = ALONE) -> Steps:
        """They return the critic's loss, and the gradient norm of the two together. ``forward`` is not used: it cannot
        be recorded, since what is learned changes from step to step."""
        s = self.settings
        networks = [list(network.parameters()) for network in (learner.generator, learner.critic)]

        def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            rng = torch.Generator().manual_seed(int(batch["t"][0]))
            (level, alpha), probability = learner.stage(s), float(learner.probability)
            real, device = shrunk(batch["x_t"], s, level, alpha), batch["x_t"].device
            z = torch.randn(len(real), s.latent, generator=rng).to(device)
            with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
                made = augmented(learner.generator(z, rng, level, alpha), probability, rng)
                seen = [augmented(real, probability, rng), made.detach()]
                seen = [volumes.requires_grad_() for volumes in seen]
                of_real, of_made = (learner.critic(volumes, level, alpha) for volumes in seen)
                fooled = learner.critic(made, level, alpha)
            critic_loss, generator_loss = losses(of_real, of_made, fooled, s.loss)
            if s.loss == "relativistic":
                penalty = squared_slope(torch.cat([of_real, of_made]), *seen)
            else:
                penalty = squared_slope(of_real, seen[0]) / 2
            optimizer.zero_grad(set_to_none=True)
            total = critic_loss + s.slope_weight * penalty
            for loss, weights in zip((generator_loss, total), networks, strict=True):
                loss.backward(inputs=weights)
            norms = [nn.utils.clip_grad_norm_(weights, s.gradient_norm) for weights in networks]
            optimizer.step()
            update_average(average, learner.generator, keep)
            middle = (of_real.mean() + of_made.mean()).detach() / 2 if s.loss == "relativistic" else 0.0
            learner.steer(of_real.detach(), middle, s)
            return critic_loss.detach(), torch.stack(norms).norm()

        return Steps(step, keep.device, record=False)


def losses(of_real: Tensor, of_made: Tensor, fooled: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The critic's loss and the generator's, of scores ``[b]``."""
    if kind == "relativistic":
        return F.softplus(of_made - of_real).mean(), F.softplus(of_real.detach() - fooled).mean()
    return (F.softplus(of_made) + F.softplus(-of_real)).mean(), F.softplus(-fooled).mean()


def shrunk(volumes: Tensor, settings: Settings, level: int, alpha: float) -> Tensor:
    """Real volumes as a level of this ``alpha`` could make them."""
    factor = settings.field_voxels // (2 * SMALLEST * 2**level)
    volumes = F.avg_pool3d(volumes, factor) if factor > 1 else volumes
    return volumes if alpha == 1 else torch.lerp(doubled(F.avg_pool3d(volumes, 2)), volumes, alpha)


@dataclass(frozen=True, eq=False)
class StyleGenerator(Ready):
    """Makes CT and label map at once. ``real``: of `joint.about_real`."""

    settings: Settings
    real: dict

    @torch.no_grad()
    def sample(self, scene: Scene, seed: int, on_step=lambda step: None) -> Sampled:
        """A volume on the grid of ``scene``, the middle of what the network makes, with its own label map."""
        s, shape = self.settings, scene.labels.shape
        check_room(shape, s.field_voxels)
        rng = torch.Generator().manual_seed(seed_of(seed, "noise"))
        z = torch.randn(1, s.latent, generator=rng).to(self.device)
        with self.fast():
            made = self.network(z, rng)[0].float().clamp(-1, 1)
        start = [(s.field_voxels - n) // 2 for n in shape]
        inside = (slice(None), *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))
        on_step(1)
        return labelled(made[inside].cpu().numpy(), scene.affine, s.window_hu, self.real)
