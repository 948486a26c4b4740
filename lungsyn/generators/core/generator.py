"""A trained patch generator, ready on its device: it makes volumes, and its loss can be asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lungsyn import checkpoint
from lungsyn.compute import choose_device, choose_precision, compiled, describe, patches_at_once, peak_memory_mb, set_up
from lungsyn.generators.core.canvas import Background, How, make_canvas
from lungsyn.generators.core.patches import TrainingPatches, collate
from lungsyn.generators.core.settings import PatchSettings, grid_of
from lungsyn.generators.core.synthesis import synthesise
from lungsyn.generators.core.training import hold_out
from lungsyn.seams import Attackable, Generator, Sampled, Scene
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import Section
from lungsyn.settings.synthesis import Grid, Synthesis
from lungsyn.volume.intensity import to_hu, to_model_range
from lungsyn.volume.patches import batches

PATCHES_PER_CASE = 32  # whose loss is asked for, each at a noise level of its own, evenly spaced


@dataclass(frozen=True, eq=False)
class Ready(Generator):
    """The network of a model file, ready on its device, as `load_network` gives it."""

    network: Callable
    settings: Any
    device: torch.device
    precision: torch.dtype

    @property
    def ran_on(self) -> str:
        return describe(self.device, self.precision)

    def memory_mb(self) -> dict[str, int]:
        return peak_memory_mb(self.device)

    def fast(self) -> torch.autocast:
        """The context in which the network computes."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)


@dataclass(frozen=True, eq=False)
class PatchGenerator(Ready, Attackable):
    """The network of a family, its settings, and how it samples."""

    settings: PatchSettings
    patches_per_batch: int
    synthesis: Synthesis

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.settings.labels)

    @property
    def grid(self) -> Grid:
        return grid_of(self.settings, self.synthesis)

    def sample(self, scene: Scene, seed: int, on_step=lambda step: None) -> Sampled:
        """The volume of ``scene``. What is known and kept is kept to the unit, also beyond the model's window."""
        window_hu, known = self.settings.window_hu, scene.known
        background = None if known is None else Background(to_model_range(known.ct, window_hu), scene.made)
        masks = scene.labels.stack(self.settings.labels)
        spacing_mm = float(scene.spacing_mm.mean())
        canvas = make_canvas(masks, spacing_mm, self.settings, self.device, background, scene.source)
        how = How(self.patches_per_batch, self.precision, on_step)
        volume = synthesise(self.network, canvas, self.settings, self.synthesis, seed, how)
        hu = to_hu(volume.cpu().numpy(), window_hu)
        if background is not None:
            clipped = known.ct - to_hu(background.values, window_hu)
            hu = np.rint(hu + (1 - background.weight) * clipped).astype(np.int16)
        return Sampled(hu)

    @torch.no_grad()
    def log_loss(self, folder: Path, seed: int) -> float:
        """Mean over a case's patches of the logarithm of their training loss: so every noise level counts alike."""
        learning = self.settings.learning()
        near = self.settings.model_copy(update={"nodule_patches": 1.0})
        patches, losses = TrainingPatches([folder], near, seed, stratified=PATCHES_PER_CASE), []
        for numbers in batches(list(range(PATCHES_PER_CASE)), self.patches_per_batch):
            batch = collate([patches[i] for i in numbers])
            error = learning.loss_map(self.network, batch, self.device, self.precision).cpu()
            weight = learning.weight(batch["masks"])
            total = weight.sum(dim=(1, 2, 3, 4))
            some = total > 0  # a patch of nothing but air has no loss
            losses += ((weight * error).sum(dim=(1, 2, 3, 4))[some] / total[some]).double().log().tolist()
        return float(np.mean(losses)) if losses else float("nan")

    def learned_from(self, folders: Sequence[Path], seed: int) -> list[Path]:
        """The train cases that only watched the training gave no gradient, but the best weights were chosen by them."""
        return hold_out(list(folders), self.settings, seed)[0]


def load_generator(path: Path, compute: Compute, synthesis: Synthesis, settings_of: type[Section]) -> PatchGenerator:
    """Load a model file; its own settings travel with it."""
    network, settings, device, precision, _ = load_network(path, compute, settings_of)
    at_once = patches_at_once(compute, device, settings.patch_voxels)
    return PatchGenerator(network, settings, device, precision, at_once, synthesis)


def load_network(path: Path, compute: Compute, settings_of: type[Section]) -> tuple:
    """The network of a model file, ready on its device; its settings, device, precision, and the file's facts."""
    device = choose_device(compute)
    set_up(compute.generator_threads, device)
    weights, settings, about = checkpoint.load_model(path, "generator", settings_of)
    precision = choose_precision(compute, device, about.get("precision"))
    network = settings.learning().build()
    network.load_state_dict(weights)
    return compiled(network.to(device).eval(), compute, device), settings, device, precision, about
