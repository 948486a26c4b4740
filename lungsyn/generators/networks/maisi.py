"""MAISI at work: a label map in its classes, latents led by it, and its ControlNet trained further on cases.

Conditions are those of NVIDIA's own programme (NV-Generate-CTMR): the bits of the class numbers, spacing and regions of
the body times 100, CT as the modality. Volumes are [-1000, 1000] HU, which the autoencoder has as [0, 1]. The state is
``z_t`` ``[b c x y z]``, and the sampler is the one of the other diffusion models: it asks for ``z_0`` only.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiDownsample
from monai.inferers import sliding_window_inference
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor, nn

from lungsyn import checkpoint
from lungsyn.compute import choose_device, choose_precision, describe, name_of, peak_memory_mb, set_up
from lungsyn.errors import InputError
from lungsyn.generators.core.prediction import diffuse, to_x0, training_target
from lungsyn.generators.core.samplers import Step, noise_adder, plan, sample
from lungsyn.generators.core.schedule import sampling_timesteps
from lungsyn.generators.maisi import Settings
from lungsyn.generators.networks.released import digests, networks
from lungsyn.progress import Progress
from lungsyn.random import seed_of, stream
from lungsyn.seams import Generator, Run, Sampled, Scene, Trained
from lungsyn.settings.compute import Compute
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import data_digests, open_case
from lungsyn.volume.intensity import AIR_HU, to_hu, to_model_range
from lungsyn.volume.labels import ALWAYS, LabelMap
from lungsyn.volume.resample import resample, resample_mask
from lungsyn.volume.space import Space, Volume

WINDOW_HU = (-1000, 1000)
SPACING_MM = (0.5, 3.0)  # that MAISI knows in plane; along z it knows 5 mm, too
# MAISI's classes. Its lungs are lobes: 28 and 29 left, 30 to 32 right. A whole lung goes by its upper one.
BODY, RIGHT_LUNG, LEFT_LUNG, LUNG_TUMOUR = 200, 30, 28, 23
# Regions of the body, by the classes that show them: head and neck, chest, abdomen, pelvis and legs.
REGIONS = ((22, 120), (28, 29, 30, 31, 32), (1, 2, 3, 4, 5, 14), (93, 94))
CHEST = 1
CLASS_BITS, CT, HUNDRED = 8, 1, 100.0
NOT_LEARNED_BY = {"folder", "steps"}  # what a training does not depend on
POINTS = 50  # of a training's curve


def frame(grid: Space, multiple: int) -> Space:
    """The grid on which a volume of ``grid`` is made: of a spacing that MAISI knows, padded to whole multiples."""
    if not all(SPACING_MM[0] <= mm <= SPACING_MM[1] for mm in grid.spacing_mm.round(6)):
        grid = grid.isotropic(float(np.clip(grid.spacing_mm.mean(), *SPACING_MM)))
    more = -np.array(grid.shape) % multiple
    return grid.crop(-(more // 2), grid.shape + more - more // 2)


def class_map(labels: LabelMap, affine: np.ndarray, space: Space, classes: dict[str, int]) -> np.ndarray:
    """MAISI's class of each voxel of ``space``, 0 being air: uint8 ``[x y z]``. Nodules lie on top."""
    lungs = np.asarray(labels["lungs"])
    layers = [(labels["body"], BODY), (lungs == 1, RIGHT_LUNG), (lungs == 2, LEFT_LUNG)]
    layers += [(labels[name], number) for name, number in classes.items()] + [(labels["nodules"], LUNG_TUMOUR)]
    painted = np.zeros(space.shape, np.uint8)
    for layer, number in layers:
        painted[resample_mask(Volume(np.asarray(layer) > 0, affine), space)] = number
    return painted


def regions_of(classes: np.ndarray) -> tuple[int, int]:
    """The highest and the lowest region of the body that a class map shows; the chest where it shows none."""
    there = set(np.unique(classes).tolist())
    shown = [i for i, own in enumerate(REGIONS) if there & set(own)] or [CHEST]
    return shown[0], shown[-1]


@dataclass(frozen=True, eq=False)
class Conditions:
    """What leads a volume: bits of its classes ``[1 8 X Y Z]``, its spacing and regions, each times 100."""

    bits: Tensor
    spacing: Tensor  # [1 3]
    top: Tensor  # [1 4]
    bottom: Tensor  # [1 4]

    @classmethod
    def of(cls, classes: np.ndarray, space: Space, device: torch.device) -> "Conditions":
        places = torch.arange(CLASS_BITS, dtype=torch.uint8, device=device)[:, None, None, None]
        bits = torch.from_numpy(classes).to(device)[None] >> places & 1
        spacing = torch.tensor(space.spacing_mm[None], dtype=torch.float32, device=device)
        top, bottom = (torch.eye(len(REGIONS), device=device)[i : i + 1] for i in regions_of(classes))
        return cls(bits.float()[None], HUNDRED * spacing, HUNDRED * top, HUNDRED * bottom)


class Flow:
    """Rectified flow (Liu et al. 2023, arXiv 2209.03003): z_t = (1 - t/T) z_0 + t/T noise, and z_0 - noise is said."""

    def __init__(self, noise: RFlowScheduler):
        self.noise, self.timesteps = noise, noise.num_train_timesteps

    def plan(self, steps: int, shape: tuple[int, ...], synthesis: Synthesis) -> tuple[list, list[Step]]:
        """Euler's steps, at the times that fit latents of this ``shape``. From z_t and z_0 they are exact."""
        self.noise.set_timesteps(steps, input_img_size_numel=math.prod(shape))
        times = [*map(float, self.noise.timesteps), 0.0]
        return times, [Step(s / t, 1 - s / t) for t, s in itertools.pairwise(times)]

    def told(self, t: float) -> float:
        return t

    def z0(self, said: Tensor, z_t: Tensor, t: float) -> Tensor:
        return z_t + t / self.timesteps * said

    def draw(self, z0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z_t, its time ``[1]`` and what is to be said of it, by torch's random numbers."""
        noise, t = torch.randn_like(z0), self.noise.sample_timesteps(z0)
        return self.noise.add_noise(z0, noise, t), t, z0 - noise


class Diffusion:
    """DDPM's noise, by MONAI's table; timestep t of this project is its t - 1."""

    def __init__(self, noise):
        self.timesteps = noise.num_train_timesteps
        self.abar = torch.cat([torch.ones(1), noise.alphas_cumprod]).double()
        self.prediction = str(noise.prediction_type).removesuffix("_prediction")

    def plan(self, steps: int, shape: tuple[int, ...], synthesis: Synthesis) -> tuple[list, list[Step]]:
        times = sampling_timesteps(self.timesteps, steps)
        return times, plan(synthesis.sampler, self.abar, times, synthesis.eta)

    def told(self, t: float) -> float:
        return t - 1

    def z0(self, said: Tensor, z_t: Tensor, t: int) -> Tensor:
        return to_x0(self.prediction, said, z_t, self.abar[t].float())

    def draw(self, z0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        noise, t = torch.randn_like(z0), torch.randint(1, self.timesteps + 1, (1,))
        abar = self.abar[t].float()
        return diffuse(z0, noise, abar), t - 1, training_target(self.prediction, z0, noise, abar)


class Maisi(nn.Module):
    """The three networks on their device, and how noise is added and taken away."""

    def __init__(self, files: list[Path], settings: Settings, device: torch.device, precision: torch.dtype):
        super().__init__()
        found = networks(files, settings.version, device, precision)
        self.autoencoder, self.unet, self.control, self.scale_factor, noise = found
        self.noise = Flow(noise) if isinstance(noise, RFlowScheduler) else Diffusion(noise)
        self.settings, self.device, self.precision = settings, device, precision
        halved = sum(isinstance(own, MaisiDownsample) for own in self.autoencoder.modules())
        self.factor = 2**halved  # voxels along the edge of a latent
        self.channels = self.unet.in_channels
        self._check_multiple(files[0])
        self.requires_grad_(False).to(device).eval()

    def _check_multiple(self, configuration: Path) -> None:
        """The deepest level needs whole voxels; the autoencoder cuts its volume in as many parts as it is told to."""
        splits = max(own.num_splits for own in self.autoencoder.modules() if hasattr(own, "num_splits"))
        needed = self.factor * math.lcm(2 ** (len(self.unet.block_out_channels) - 1), 4 * splits if splits > 1 else 1)
        if self.settings.multiple_voxels % needed:
            raise InputError(
                f"multiple_voxels of a maisi is {self.settings.multiple_voxels}: for the networks of {configuration} "
                f"it must be a multiple of {needed}"
            )

    def facts(self) -> dict[str, str]:
        """How it computes, for provenance."""
        return {"precision": name_of(self.precision), "ran_on": describe(self.device, self.precision)}

    def fast(self):
        """The context in which its networks compute."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)

    def forward(self, z_t: Tensor, told: Tensor, conditions: Conditions) -> Tensor:
        """What it says of ``z_t`` ``[1 c x y z]`` at the time ``told`` ``[1]``."""
        told = told.to(z_t.device, torch.float32)
        further, regions = {}, {}
        if self.unet.num_class_embeds is not None:
            further["class_labels"] = torch.full((1,), CT, device=z_t.device)
        if self.unet.include_top_region_index_input:
            regions["top_region_index_tensor"] = conditions.top
        if self.unet.include_bottom_region_index_input:
            regions["bottom_region_index_tensor"] = conditions.bottom
        with self.fast():
            down, middle = self.control(x=z_t, timesteps=told, controlnet_cond=conditions.bits, **further)
            return self.unet(
                x=z_t, timesteps=told, spacing_tensor=conditions.spacing, **regions, **further,
                down_block_additional_residuals=down, mid_block_additional_residual=middle,
            ).float()  # fmt: skip

    @torch.no_grad()
    def encode(self, volume: np.ndarray, seed: int) -> Tensor:
        """HU ``[X Y Z]`` to latents ``[1 c x y z]`` as the diffusion model has them, drawn as MAISI draws them."""
        x = torch.from_numpy((to_model_range(volume, WINDOW_HU) + 1) / 2)[None, None].to(self.device)
        said = self.in_windows(x, self.factor, lambda part: torch.cat(self.autoencoder.encode(part), dim=1))
        mean, sd = said.float().chunk(2, dim=1)
        drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
        return ((mean + sd * drawn.to(mean)) * self.scale_factor).to(self.device)

    @torch.no_grad()
    def decode(self, z: Tensor) -> np.ndarray:
        """Latents ``[1 c x y z]`` to HU, int16 ``[X Y Z]``."""
        x = self.in_windows(z / self.scale_factor, 1, self.autoencoder.decode)
        return to_hu(2 * x[0, 0].float().cpu().numpy() - 1, WINDOW_HU)

    def in_windows(self, x: Tensor, voxels_per_latent: int, network: Callable[[Tensor], Tensor]) -> Tensor:
        """``network`` on windows of ``x`` ``[1 c x y z]`` that overlap, blended on the CPU, where there is room."""
        edge = self.settings.window_latents * voxels_per_latent
        with self.fast():
            return sliding_window_inference(
                x, [min(edge, n) for n in x.shape[2:]], 1, lambda part: network(part).float(), mode="gaussian",
                overlap=self.settings.window_overlap, sw_device=self.device, device="cpu",
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class MaisiGenerator(Generator):
    """MAISI, ready to make volumes."""

    network: Maisi
    synthesis: Synthesis

    @property
    def needs(self) -> frozenset[str]:
        return frozenset([*ALWAYS, *self.network.settings.classes])

    @property
    def ran_on(self) -> str:
        return self.network.facts()["ran_on"]

    def memory_mb(self) -> dict[str, int]:
        return peak_memory_mb(self.network.device)

    @torch.no_grad()
    def sample(self, scene: Scene, seed: int, on_step=lambda step: None) -> Sampled:
        """The volume of ``scene``. Of a CT that is known, the latents are known where it is kept, in every step."""
        settings, network, device = self.network.settings, self.network, self.network.device
        grid = Space(scene.labels.shape, scene.affine)
        space = frame(grid, settings.multiple_voxels)
        classes = class_map(scene.labels, scene.affine, space, settings.classes)
        conditions = Conditions.of(classes, space, device)
        shape = tuple(n // network.factor for n in space.shape)
        times, steps = network.noise.plan(settings.steps, shape, self.synthesis)
        known, made = self._known(scene, space, seed)

        def denoiser(z_t: Tensor, t) -> Tensor:
            said = network(z_t, torch.tensor([network.noise.told(t)]), conditions)
            z0 = network.noise.z0(said, z_t, t)
            return z0 if known is None else torch.lerp(known, z0, made)

        def after_step(i: int, _: Tensor) -> None:
            on_step((i + 1) * self.synthesis.steps // settings.steps)  # of which the progress is told

        z = torch.zeros(1, network.channels, *shape, device=device)
        add_noise = noise_adder(torch.Generator(device).manual_seed(seed_of(seed, "noise")))
        add_noise(z, 1.0)
        hu = network.decode(sample(denoiser, z, times, steps, add_noise, after_step))
        hu[classes == 0] = AIR_HU
        values = resample(Volume(hu, space.affine), grid, AIR_HU)
        values[~np.logical_or.reduce([np.asarray(scene.labels[name]) > 0 for name in self.needs])] = AIR_HU
        if known is not None:
            values = scene.made * values + (1 - scene.made) * np.asarray(scene.known.ct)
        return Sampled(np.rint(values).astype(np.int16))

    def _known(self, scene: Scene, space: Space, seed: int) -> tuple[Tensor | None, Tensor | None]:
        """The latents of a known CT, and how much of them is made anew ``[1 1 x y z]``; None where nothing is known."""
        if scene.known is None or scene.made is None:
            return None, None
        hu = resample(Volume(np.asarray(scene.known.ct), scene.affine), space, AIR_HU)
        made = torch.from_numpy(resample(Volume(scene.made, scene.affine), space, 0.0).copy())[None, None]
        known = self.network.encode(hu, seed_of(seed, "known"))
        return known, F.max_pool3d(made, self.network.factor).to(known)


def fine_tune(folders: list[Path], settings: Settings, run: Run) -> Trained:
    """Train the ControlNet further on these cases, the rest being frozen: L1, nodules weighted, as NVIDIA does.

    The model that comes out has the digests of the released files, and the ControlNet's weights where it was trained.
    Continues from ``run.checkpoints`` if the same training was stopped there."""
    files = settings.files()
    released, device = digests(files), choose_device(run.compute)
    set_up(run.compute.generator_threads, device)
    network = Maisi(files, settings, device, choose_precision(run.compute, device))
    if not settings.images:
        return Trained({"released": released}, network.facts() | {"cases": [], "inputs": {}})  # it learned from none
    chosen = settings.model_dump(mode="json", exclude=NOT_LEARNED_BY)
    key = checkpoint.digest(chosen, run.seed, data_digests(folders), released.tolist())
    restart = learn(network, folders, run, run.checkpoints / f"generator-{key}")
    learned = {f"control.{name}": tensor for name, tensor in network.control.state_dict().items()}
    cost = {"seconds": round(restart.seconds(), 1), **peak_memory_mb(device)}
    facts = network.facts() | {"images_seen": settings.images, "cost": cost}
    return Trained({"released": released, **learned}, facts, restart.about["records"])


def learn(network: Maisi, folders: list[Path], run: Run, kept: Path) -> checkpoint.Restart:
    """Train the ControlNet in place, its state being ``kept`` in a folder. What is random follows from a case's number
    in the order of training, so that a stopped training ends as one that was not."""
    settings = network.settings
    control = network.control.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(control.parameters(), settings.learning_rate)
    begin = {"images_seen": 0, "recent": []}
    restart = checkpoint.Restart(kept, control, optimizer, {}, begin, run.compute.checkpoint_seconds)
    about, total = restart.about, settings.images
    network.precision = choose_precision(run.compute, network.device, about.get("precision"))
    about |= network.facts()
    print(f"ControlNet training on {about['ran_on']}, from {about['images_seen']} of {total} cases seen", flush=True)
    every = max(total // POINTS, 1)
    numbers = range(about["images_seen"], total)
    latents = [encoded(folder, network, seed_of(run.seed, "latents", folder.name)) for folder in folders if numbers]
    progress = Progress("ControlNet", total, "cases", about["images_seen"])
    for i in numbers:
        turn, place = divmod(i, len(folders))
        k = int(stream(run.seed, "order of cases", turn).permutation(len(folders))[place])
        torch.manual_seed(seed_of(run.seed, "noise of a case", i))  # whose random numbers MONAI's noise takes
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - i / total) ** 2
        loss = case_loss(network, latents[k], *conditions_of(folders[k], network))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not math.isfinite(value := float(loss.detach())):
            raise FloatingPointError(
                f"loss {value} after {i} cases seen, of case {folders[k].name}. Look at it, or lower "
                "generators.*.learning_rate"
            )
        optimizer.step()
        about["images_seen"] = i + 1
        about["recent"].append(value)
        mean = float(np.mean(about["recent"]))
        progress.update(i + 1, loss=mean)
        if (i + 1) % every == 0 or i + 1 == total:
            about["records"].append({"images_seen": i + 1, "seconds": round(restart.seconds(), 1), "loss": mean})
            about["recent"] = []
        restart.between_steps(f"{i + 1} of {total} cases seen")
    restart.save()
    return restart


def encoded(folder: Path, network: Maisi, seed: int) -> Tensor:
    """The latents of a case ``[1 c x y z]``, on the CPU. Air is made outside the labels, and so it is here."""
    case = open_case(folder)
    space = frame(case.space, network.settings.multiple_voxels)
    hu = resample(Volume(np.asarray(case.ct), case.affine), space, AIR_HU)
    hu[class_map(case.labels, case.affine, space, network.settings.classes) == 0] = AIR_HU
    return network.encode(hu, seed).cpu()


def conditions_of(folder: Path, network: Maisi) -> tuple[Conditions, Tensor]:
    """What leads a case's volume, and which voxels are nodule: ``[1 1 X Y Z]``."""
    case, settings = open_case(folder), network.settings
    space = frame(case.space, settings.multiple_voxels)
    classes = class_map(case.labels, case.affine, space, settings.classes)
    nodules = torch.from_numpy(classes == LUNG_TUMOUR)[None, None].float()
    return Conditions.of(classes, space, network.device), nodules


def case_loss(network: Maisi, z0: Tensor, conditions: Conditions, nodules: Tensor) -> Tensor:
    """L1 of what it says of a case's latents at a random time; latents with a nodule's voxel have a weight."""
    z_t, told, target = network.noise.draw(z0)
    weight = 1 + (network.settings.nodule_weight - 1) * F.max_pool3d(nodules, network.factor)
    error = (network(z_t.to(network.device), told, conditions) - target.to(network.device)).abs()
    return (weight.to(network.device) * error).mean()


def load(model: Path, settings: Settings, compute: Compute, synthesis: Synthesis) -> MaisiGenerator:
    """The generator of a model file and of the released files that it was made with. Raises InputError if they are
    others now."""
    tensors, _, about = checkpoint.load_model(model, "generator", Settings)
    files, device = settings.files(), choose_device(compute)
    same = (tensors["released"] == digests(files)).all(dim=1)
    if not same.all():
        other = ", ".join(str(path) for path, unchanged in zip(files, same, strict=True) if not unchanged)
        raise InputError(
            f"{other}: not the released file that {model} was made with: put that back, or delete {model} and give the "
            "same command again"
        )
    set_up(compute.generator_threads, device)
    network = Maisi(files, settings, device, choose_precision(compute, device, about.get("precision")))
    learned = {name.removeprefix("control."): tensor for name, tensor in tensors.items() if name != "released"}
    if learned:
        network.control.load_state_dict(learned)
    return MaisiGenerator(network, synthesis)
