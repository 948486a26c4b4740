"""From a folder of data to the overlay of a study: what to write, why, and what to type next (`lungsyn init`).

An overlay is a list of choices, each a key of the config, its value, and the reason. Lengths of trainings and sizes of
networks are read from the studies in workflow/experiments, of cut-outs and whole chests, for a CPU and for a GPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from lungsyn.cohort.recognised import CUT_OUT_MM
from lungsyn.cohort.survey import LOOK, Survey, lesion_labels
from lungsyn.settings.checking import read

EXPERIMENTS = Path("workflow/experiments")
FINEST_MM, LAPTOP_MM, ROUND_MM = 1.0, 2.0, 0.5  # spacings; a chest has eight times the voxels at 1 mm that it has at 2
SMALLEST_MM, SMALLEST_VOXELS = 3, 3  # nodules
COARSE_MM = 8  # voxels that tell spine from airway
LESION_LABELS = "cohort.lesion_labels"
WORST = 0.25  # of the validation cases
PATCHES = (32, 24, 16)
MOST_PADDED = 2.0  # voxels of a padded cut-out for each of its own
UNSEEN_MIDDLE = 0.8  # of a cut-out's edge, at most the segmenter's patch
FEW_PATIENTS = 20  # below so many test patients there is no interval over patients


class Choice(NamedTuple):
    """A key (names parted by dots), its value, and why."""

    key: str
    value: Any
    why: str


class Prepared(NamedTuple):
    """What the choices on trainings depend on: edges of the prepared cases in voxels ``[case 3]``, cases per split."""

    shapes: np.ndarray
    cases: dict[str, int]


def field_of_view(found: Survey) -> str:
    """``part`` where most images are too narrow for a chest, of a newborn too."""
    return "part" if len(found.sizes_mm) and np.median(found.sizes_mm[:, 0]) < CUT_OUT_MM else "chest"


def of_cohort(found: Survey, root: Path, view: str, gpu: bool) -> list[Choice]:
    """Where the cases are and how they are prepared."""
    native_mm = float(np.median(np.cbrt(found.spacings_mm.prod(axis=1)))) if len(found.spacings_mm) else FINEST_MM
    spacing_mm = max(round(native_mm / ROUND_MM) * ROUND_MM, FINEST_MM if gpu or view == "part" else LAPTOP_MM)
    smallest_mm = max(SMALLEST_MM, SMALLEST_VOXELS * spacing_mm)
    labels, why_labels = lesion_labels(found) if found.values else ([1], "")
    why_spacing = f"isotropic; the images' voxels have the volume of cubes of {native_mm:.2g} mm"
    if view == "chest" and not gpu and native_mm < spacing_mm:
        why_spacing += ", too many for a CPU"
    whole = view == "chest"
    return [
        Choice("cohort.dataset", found.dataset, found.layout),
        Choice("cohort.root", str(root), "the raw data; they are only read"),
        Choice(LESION_LABELS, labels, why_labels),
        Choice("cohort.nodules.min_diameter_mm", smallest_mm, f"smaller ones are less than {SMALLEST_VOXELS} voxels"
               if smallest_mm > SMALLEST_MM else "LIDC-IDRI's limit; smaller ones are left out"),
        Choice("cohort.preprocess.spacing_mm", spacing_mm, why_spacing),
        Choice("cohort.preprocess.margin_mm", 10 if whole else 0, "around the lungs" if whole else "kept whole"),
        Choice("cohort.preprocess.field_of_view", view, f"the skin is {'' if whole else 'not '}in the image"),
    ]  # fmt: skip


def of_trainings(view: str, gpu: bool, spacing_mm: float, prepared: Prepared) -> list[Choice]:
    """How long what is trained, and what is made."""
    volumes = max(min(prepared.cases["train"], 100 if gpu else 52 if view == "part" else 10), 1)
    name = "patch_ddpm" if view == "part" else "cascade_ddpm"
    sets = [
        Choice(f"sets.{kind}", {"generator": name, "volumes": volumes}, f"{prepared.cases['train']} train cases")
        for kind in ("untargeted", "targeted")
    ]
    worst = max(round(prepared.cases["validation"] * WORST), 1)
    made = _of_cut_outs(gpu, prepared.shapes) if view == "part" else _of_chests(gpu, spacing_mm, prepared)
    return [
        Choice("benchmark.worst_cases", worst, f"a quarter of {prepared.cases['validation']} validation cases"),
        *made,
        *sets,
        Choice("replicates", 5 if gpu and view == "chest" else 3, "trainings per arm: what other seeds do"),
    ]


def of_study(name: str, *keys: str) -> dict[str, Any]:
    """A section of a study in workflow/experiments."""
    section = read([EXPERIMENTS / f"{name}.yaml"])
    for key in keys:
        section = section[key]
    return section


def _of_cut_outs(gpu: bool, shapes: np.ndarray) -> list[Choice]:
    shape = np.median(shapes, axis=0)
    padded = {edge: float(np.maximum(shape, edge).prod() / shape.prod()) for edge in PATCHES}
    patch = next((edge for edge in PATCHES if padded[edge] <= MOST_PADDED), PATCHES[-1])
    edge = float(np.sort(shape)[1:].mean())
    seen = next((p for p in PATCHES if p <= UNSEEN_MIDDLE * edge), PATCHES[-1])
    told = " x ".join(f"{n:.0f}" for n in shape)
    name, of = ("cubes_gpu", "as cubes_gpu.yaml") if gpu else ("cubes", "as cubes.yaml: a laptop")
    generator, unet = of_study(name, "generators", "patch_ddpm"), of_study(name, "segmenters", "unet")
    why = {"flips": "a cut-out has no left and right", "mirrored": "fewer false positives"}
    return [
        Choice("generators.patch_ddpm.patch_voxels", patch, f"fits cut-outs of {told} voxels (median)"),
        *(Choice(f"generators.patch_ddpm.{key}", value, why.get(key, of)) for key, value in generator.items()),
        Choice("synthesis.mode", "fused", "few patches cover a cut-out: nothing to save by shifting"),
        Choice("synthesis.volumes_per_job", 26, "a second a volume"),
        *(Choice(f"segmenters.unet.{key}", value, why.get(key, of)) for key, value in unet.items()
          if key != "patch_voxels"),
        Choice("segmenters.unet.patch_voxels", seen, "not the whole cut-out, whose middle is always nodule"),
    ]  # fmt: skip


def _of_chests(gpu: bool, spacing_mm: float, prepared: Prepared) -> list[Choice]:
    coarse = max(2 * round(COARSE_MM / spacing_mm / 2), 2)
    whole = {"factor": coarse, "images": 20000 if gpu else 2400}
    of = "as msd_lung.yaml: one GPU" if gpu else "as chests.yaml: a CPU"
    length, trial = {"images": of_study("chests", "generators", "cascade_ddpm")["images"]}, {}
    if gpu:
        length, trial = of_study("msd_lung", "generators", "patch_ddpm"), of_study("msd_lung", "segmenters", "unet")
        length |= {"patch_voxels": length["patch_voxels"] if spacing_mm <= LAPTOP_MM else PATCHES[0]}
    held_out = 0 if prepared.cases["train"] < 10 else 0.1
    name = "generators.cascade_ddpm"
    return [
        Choice(f"{name}.kind", "cascade_ddpm", "spine, heart and airway are decided once, for the whole chest"),
        *(Choice(f"{name}.{key}", value, of) for key, value in length.items() if key != "held_out"),
        Choice(f"{name}.nodule_patches", 0.3, "the rest anywhere: anatomy is everywhere"),
        Choice(f"{name}.held_out", held_out, "share of the train cases that only watch"),
        Choice(f"{name}.whole", whole, f"voxels of {coarse * spacing_mm:g} mm tell spine from airway"),
        Choice("synthesis.volumes_per_job", 10 if gpu else 4, "of one job"),
        Choice("synthesis.steps", 50 if gpu else 10, of),
        Choice("quality.tries", 3 if gpu else 0, "a rejected chest is made again with other noise"),
        *(Choice(f"segmenters.unet.{key}", value, of) for key, value in trial.items()),
    ]  # fmt: skip


def differing(choices: Sequence[Choice], base: dict) -> list[Choice]:
    """The choices whose value is not that of the config ``base``; of dicts those keys that are others. Which values are
    nodule is said in any case: it is a fact of the data."""
    found = []
    for choice in choices:
        before: Any = base
        for part in choice.key.split("."):
            before = before.get(part) if isinstance(before, dict) else None
        if isinstance(choice.value, dict) and isinstance(before, dict):
            choice = choice._replace(value={k: v for k, v in choice.value.items() if before.get(k) != v})
        if choice.value not in (before, {}) or (choice.key == LESION_LABELS and choice.why):
            found.append(choice)
    return found


def as_yaml(choices: Sequence[Choice], head: Sequence[str]) -> str:
    """The overlay's text: ``head`` as comments, then each key with its reason."""
    nested: dict = {}
    for choice in choices:
        *parents, last = choice.key.split(".")
        place = nested
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = choice
    return "\n".join([*(f"# {line}".rstrip() for line in head), *_lines(nested, 0)]) + "\n"


def _lines(nested: dict, depth: int) -> list[str]:
    lines = []
    for key, value in nested.items():
        if isinstance(value, Choice):
            said = f"{'  ' * depth}{key}: {_flow(value.value)}"
            lines.append(f"{said:<44}  # {value.why}" if value.why else said)
        else:
            lines += [f"{'  ' * depth}{key}:", *_lines(value, depth + 1)]
    return lines


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True).strip()
    return text.removesuffix("...").strip()


def caution(choices: Sequence[Choice], cases: dict[str, int], patients: dict[str, int]) -> list[str]:
    """What is to be looked at, and what so few cases cannot show."""
    told = [choice.why for choice in choices if choice.key == LESION_LABELS and choice.why.startswith(LOOK)]
    if patients["test"] < FEW_PATIENTS:
        told.append(
            f"there is an interval over patients from {FEW_PATIENTS} test patients on, and here are {patients['test']}"
        )
    if min(cases.values()) < 2:
        told.append("a split of one case shows that the study runs, nothing else")
    return told
