"""HA-GAN: what it learns from, how, and how it makes volumes; the networks are in `networks.hierarchical`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from lungsyn.errors import InputError
from lungsyn.generators.core.generator import Ready, load_network
from lungsyn.generators.core.joint import labelled
from lungsyn.generators.core.learning import Learning, update_average
from lungsyn.generators.core.patches import Example
from lungsyn.generators.core.training import hold_out
from lungsyn.generators.ha_gan import COARSE, Settings
from lungsyn.generators.networks.adversaries import Scores, squared_slope
from lungsyn.generators.networks.hierarchical import Contest, Networks, Slab
from lungsyn.optimizer import without_momentum
from lungsyn.random import seed_of, stream
from lungsyn.seams import Attackable, Sampled, Scene
from lungsyn.settings.compute import Compute
from lungsyn.steps import Steps
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.intensity import AIR_HU, to_model_range

# ---------------------------------------------------------------------------------------------------------- the volumes


def in_field(volume: Tensor, shape, rng: np.random.Generator | None = None) -> Tensor:
    """``volume`` ``[c x y z]`` in the middle of zeros of this ``shape``; where it is larger the middle of it, or, with
    ``rng``, any part."""
    pads: list[int] = []
    for axis, (n, wanted) in enumerate(zip(volume.shape[1:], shape, strict=True), start=1):
        more, missing = max(n - wanted, 0), max(wanted - n, 0)
        begin = int(rng.integers(more + 1)) if rng else more // 2
        volume = volume.narrow(axis, begin, min(n, wanted))
        pads = [missing // 2, missing - missing // 2, *pads]
    return F.pad(volume, pads)


class WholeFields(Dataset):
    """Volume number i of a training. Everything random about it derives from (seed, i).

    Of the `Example` that the loop asks for, ``x_t`` is a latent vector ``[latent]``, ``target`` the real volume
    ``[2 x y z]``, ``masks`` what of it is the case ``[1 x y z]``, ``coarse`` where its slab begins, in voxels of
    features."""

    def __init__(self, folders: list[Path], settings: Settings, seed: int, stratified: int = 0):
        """``stratified``: if not 0, volumes are neither mirrored nor cut anywhere but from the middle (validation)."""
        if not folders:
            raise InputError("no case to train on: the cohort's train split is empty")
        self.settings, self.seed, self.watched = settings, seed, bool(stratified)
        self.cases = [open_case(folder) for folder in folders]

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, i: int) -> Example:
        s, rng = self.settings, stream(self.seed, "watched volume" if self.watched else "whole volume", i)
        number = i % len(self.cases) if self.watched else int(rng.integers(len(self.cases)))
        case = self.cases[number]
        starts = (s.field_voxels[2] - s.slab_voxels) // COARSE + 1
        start, latent = int(rng.integers(starts)), rng.standard_normal(s.latent, dtype=np.float32)
        volume, within = volume_of(case, s, None if self.watched else rng)
        if s.flips and not self.watched:
            flipped = [1 + axis for axis in range(3) if rng.random() < 0.5]
            volume, within = volume.flip(flipped), within.flip(flipped)
        spacing = torch.tensor(case.space.spacing_mm.mean(), dtype=torch.float32)
        return Example(
            torch.from_numpy(latent), volume, within, torch.tensor(start), torch.tensor(1), spacing, None, number
        )


def volume_of(case: Case, settings: Settings, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
    """A case in the field, in air: CT and nodules ``[2 x y z]`` from -1 to 1, and what of the field is the case
    ``[1 x y z]``, uint8."""
    s = settings
    air = float(to_model_range(AIR_HU, s.window_hu))
    layers = [to_model_range(case.ct, s.window_hu) - air, np.asarray(case.nodules) > 0, np.ones(case.ct.shape)]
    placed = in_field(torch.from_numpy(np.stack(layers).astype(np.float32)), s.field_voxels, rng)
    ct, nodules, within = placed
    return torch.stack([ct + air, 2 * nodules - 1]), within[None].byte()


# ------------------------------------------------------------------------------------------------------ what is learned


class Hierarchical(Learning):
    """A step has four losses, one after the other, and each is forgotten before the next, so that memory is that of one
    slab: generator, critics, the slab's encoder, the encoder of the whole."""

    keeps_last = True  # the least error of the encoders is not the most real volume
    alone = True
    examples = WholeFields

    def __init__(self, settings: Settings):
        super().__init__(settings)

    def build(self) -> Networks:
        return Networks(self.settings).to(memory_format=torch.channels_last_3d)

    def learner(self, network, device):
        both = Contest(network, self.settings).to(device, memory_format=torch.channels_last_3d)
        return both, without_momentum(both.parameters(), self.settings.learning_rate, fused=device.type != "mps")

    def steps(self, forward, learner, optimizer, average, keep, precision, team=None) -> Steps:
        """They return the encoders' mean absolute error, and the gradient norm of all networks together."""
        s, networks = self.settings, learner.networks
        made_by = list(networks.parameters())
        judged_by = [*learner.of_slab.parameters(), *learner.of_whole.parameters()]

        def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            where = Slab(int(batch["coarse"][0]), s.slab_voxels // COARSE, s.features[2])
            real, errors = batch["target"], []
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(keep.device.type, dtype=precision, enabled=precision != torch.float32):
                judged = list(learner.judged(networks.generator, batch["x_t"], real, where))
                fooling_loss(judged).backward(inputs=made_by)
                critic_loss(judged, s.slope_weight).backward(inputs=judged_by)
                for error in (networks.error_of_slab, networks.error_of_whole):
                    errors.append(error(real, where))
                    (s.reconstruction_weight * errors[-1]).backward(inputs=made_by)
            norms = [nn.utils.clip_grad_norm_(weights, s.gradient_norm) for weights in (made_by, judged_by)]
            optimizer.step()
            update_average(average, networks, keep)
            return torch.stack(errors).detach().mean(), torch.stack(norms).norm()

        return Steps(step, keep.device, record=False)  # another slab in each step

    def loss_map(self, network: Networks, batch: dict, device, precision) -> Tensor:
        """The mean absolute error of volumes that are encoded and made again, ``[b 1 x y z]``."""
        real = batch["target"].to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            again = network(network.encoded(real))
        return (again - real).abs().mean(dim=1, keepdim=True)

    def weight(self, masks: Tensor) -> Tensor:
        """Every voxel of the case counts, what was put around it does not."""
        return masks.float()


def fooling_loss(judged: list[tuple[Scores, Tensor, Tensor]]) -> Tensor:
    """The generator's: what it made is to be taken for more real than the real one (`networks.critic.Judged`)."""
    loss = torch.zeros((), device=judged[0][1].device)
    for critic, real, made in judged:
        with torch.no_grad():
            of_real = critic(real).float()
        loss = loss + F.softplus(of_real - critic(made).float()).mean()
    return loss


def critic_loss(judged: list[tuple[Scores, Tensor, Tensor]], slope_weight: float) -> Tensor:
    """The critics': the reverse, and their squared slope at both."""
    loss = torch.zeros((), device=judged[0][1].device)
    for critic, real, made in judged:
        seen = torch.cat([real, made.detach()]).requires_grad_()
        scores = critic(seen).float()
        of_real, of_made = scores.chunk(2)
        loss = loss + F.softplus(of_made - of_real).mean() + slope_weight * squared_slope(scores, seen)
    return loss


# ------------------------------------------------------------------------------------------------------- how it is made


@dataclass(frozen=True, eq=False)
class FieldGenerator(Ready, Attackable):
    """A trained HA-GAN, ready on its device."""

    network: Networks
    settings: Settings
    real: dict  # `core.joint.about_real`

    @torch.no_grad()
    def sample(self, scene: Scene, seed: int, on_step=lambda step: None) -> Sampled:
        """CT and labels on the grid of ``scene``, of which nothing else is asked. Raises InputError where the grid is
        larger than the field."""
        s, shape = self.settings, scene.labels.shape
        check_fits(shape, s.field_voxels)
        rng = torch.Generator().manual_seed(seed_of(seed, "latent vector"))
        latent = torch.randn(1, s.latent, generator=rng).to(self.device)
        with self.fast():
            made = in_field(self.network(latent)[0].cpu(), shape)
        on_step(1)
        return labelled(made.numpy(), scene.affine, s.window_hu, self.real)

    @torch.no_grad()
    def log_loss(self, folder: Path, seed: int) -> float:
        """Logarithm of the mean error of the case encoded and made again, as far as it lies in the field."""
        learning = self.settings.learning()
        volume, within = volume_of(open_case(folder), self.settings)
        error = learning.loss_map(self.network, {"target": volume[None]}, self.device, self.precision).cpu()[0]
        return float(error[within > 0].double().mean().log())

    def learned_from(self, folders: Sequence[Path], seed: int) -> list[Path]:
        return hold_out(list(folders), self.settings, seed)[0]


def check_fits(shape: Sequence[int], field: Sequence[int]) -> None:
    """Raises InputError where a grid of this ``shape`` is not within the ``field``."""
    if not fits(shape, field):
        raise InputError(
            f"a volume of {edges(shape)} voxels was asked for, but this ha_gan makes {edges(field)} at most: raise "
            "generators.*.field_voxels and train again, or ask for a smaller grid"
        )


def check_cases(folders: Sequence[Path], field: Sequence[int]) -> None:
    """Raises InputError where a set of blank masks would ask for more than the ``field``, before it is trained for."""
    usual = (
        np.rint(np.median([open_case(folder).ct.shape for folder in folders] or [field], axis=0)).astype(int).tolist()
    )
    if not fits(usual, field):
        raise InputError(
            f"the train cases have {edges(usual)} voxels (median along each axis), more than the {edges(field)} of "
            "generators.*.field_voxels, so that volumes like them could not be made: raise it"
        )


def fits(shape: Sequence[int], field: Sequence[int]) -> bool:
    return all(n <= most for n, most in zip(shape, field, strict=True))


def edges(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def load_generator(path: Path, compute: Compute) -> FieldGenerator:
    """Load a model file; its own settings travel with it."""
    *ready, about = load_network(path, compute, Settings)
    return FieldGenerator(*ready, about["real"])
