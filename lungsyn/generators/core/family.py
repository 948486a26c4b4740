"""What families have in common that learn by one loop: how one is checked, trained and loaded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lungsyn.generators.core.settings import grid_of
from lungsyn.hosts import is_host
from lungsyn.seams import GeneratorFamily, Run, Trained
from lungsyn.volume.files import read_json

LARGEST_PATCH_MM = 250.0  # a chest is not deeper


class LearningFamily(GeneratorFamily):
    """A family is its ``Settings``, whose ``learning`` says what is learned."""

    def fit(self, cases, settings, run: Run) -> Trained | None:
        from lungsyn.compute import choose_device
        from lungsyn.generators.core.training import train
        from lungsyn.processes import team

        with team(choose_device(run.compute)) as processes:
            watch = run.watch(cases, settings, run.compute, run.seed) if run.watch else None
            found = train(list(cases), settings, run, processes, watch)
        return Trained(*found) if processes.leads else None


class JointFamily(LearningFamily):
    """A family that is led by no mask, and makes CT and nodule mask together (`core.joint`).

    It does not learn from hosts: their nodules are not marked, and it would learn to mark none. Its model file has the
    fact ``real``, which `joint.labelled` asks for. There is no live picture of its training."""

    makes_masks = True

    def fit(self, cases, settings, run: Run) -> Trained | None:
        from lungsyn.generators.core.joint import about_real

        marked = [folder for folder in cases if not is_host(read_json(folder / "case.json"))]
        self.check_cases(marked, settings)
        found = super().fit(marked, settings, replace(run, watch=None))
        return found and replace(found, facts=found.facts | {"real": about_real(marked)})

    def check_cases(self, cases: Sequence[Path], settings: Any) -> None:
        """The family's own checks of what it learns from. Raises InputError."""
        return


class PatchFamily(LearningFamily):
    """A family that learns from patches."""

    attackable = True

    def check(self, name, settings, study):
        preprocess = study.cohort.preprocess
        edge_mm = settings.patch_voxels * preprocess.spacing_mm
        if preprocess.field_of_view == "chest" and edge_mm > LARGEST_PATCH_MM:
            raise ValueError(
                f"generators.{name}.patch_voxels is {settings.patch_voxels}: at {preprocess.spacing_mm:g} mm that is "
                f"{edge_mm:g} mm, more than a chest is deep ({LARGEST_PATCH_MM:g} mm): lower it"
            )

    def load(self, model, settings, compute, synthesis):
        from lungsyn.generators.core.generator import load_generator

        return load_generator(model, compute, synthesis, self.Settings)

    def patch_grid(self, settings, synthesis):
        return grid_of(settings, synthesis)


class DiffusionFamily(PatchFamily):
    """A patch family of several noise levels, that may be led away from what is without nodules."""

    def check(self, name, settings, study):
        super().check(name, settings, study)
        check_steps(name, settings, study)
        synthesis = study.synthesis
        if synthesis.guidance_scale > 1 and not settings.nodule_dropout:
            raise ValueError(
                f"synthesis.guidance_scale is {synthesis.guidance_scale:g}, but generators.{name} never learns without "
                "masks: give it a nodule_dropout, such as 0.1, or set guidance_scale to 1"
            )


def check_steps(name: str, settings, study) -> None:
    """Raises ValueError where a volume is to be sampled in more steps than there are noise levels."""
    if study.synthesis.steps > settings.timesteps:
        raise ValueError(
            f"synthesis.steps is {study.synthesis.steps}, more than the {settings.timesteps} of "
            f"generators.{name}.timesteps: lower it"
        )


def check_cut_outs(name: str, settings, study) -> None:
    """Raises ValueError where a generator of cut-outs alone is to make whole chests."""
    if study.cohort.preprocess.field_of_view != "part":
        raise ValueError(
            f"generators.{name} is a {settings.kind}, which makes cut-outs only, and cohort.preprocess.field_of_view "
            "is chest: set that to part, or choose another kind"
        )
