"""Shared by all tests: a small case on disk, and the settings of the shipped config."""

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lungsyn.anatomy.lungs import part_mask
from lungsyn.generators import latent_ddpm, patch_gan
from lungsyn.generators.copy_paste import Pasting
from lungsyn.generators.core.generator import PatchGenerator, load_generator
from lungsyn.generators.core.patches import TrainingPatches, collate
from lungsyn.generators.core.settings import ContextSettings, PatchSettings
from lungsyn.provenance import model_facts
from lungsyn.quality.attempts import Attempt
from lungsyn.registry import family
from lungsyn.seams import Generator
from lungsyn.sets import checked_attempts, synthetic_case
from lungsyn.settings.checking import check
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import part
from lungsyn.settings.study import Config
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import Case, write_case
from lungsyn.volume.labels import LabelMap
from lungsyn.volume.nodules import nodule_facts
from lungsyn.volume.space import Space, Volume

torch.set_num_threads(1)  # two threads on small tensors only wait for each other
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def study() -> Config:
    """The shipped config.yaml, checked."""
    return check(yaml.safe_load((ROOT / "config.yaml").read_text()))


@pytest.fixture(scope="session")
def generator_settings(study):
    """The shipped generator, small enough to run in a second."""
    return study.generators["patch_ddpm"].model_copy(
        update={
            "patch_voxels": 16, "channels": [8, 16], "images": 40, "batch_patches": 2, "warmup_images": 4,
            "validation_patches": 4, "validation_every_images": 10, "held_out": 0.4, "timesteps": 50,
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def gan_settings(generator_settings) -> patch_gan.Settings:
    """A GAN as small."""
    shared = part(generator_settings, ContextSettings).model_dump()
    return patch_gan.Settings(**shared, critic_channels=[8, 16])


@pytest.fixture(scope="session")
def latent_settings(generator_settings) -> latent_ddpm.Settings:
    """A latent diffusion model as small: patches of 16^3 voxels, 4^3 latents."""
    autoencoder = {
        "channels": [8, 16], "blocks": 1, "latent_channels": 10, "images": 24, "learning_rate": 0.001,
    }  # fmt: skip
    shared = part(generator_settings, PatchSettings).model_dump()
    return latent_ddpm.Settings(**shared, timesteps=50, nodule_dropout=0.0, autoencoder=autoencoder)


def network_of(settings: PatchSettings) -> torch.nn.Module:
    """A fresh network of these settings."""
    return settings.learning().build()


def loaded(path: Path, compute: Compute, synthesis: Synthesis | None = None) -> PatchGenerator:
    """A model file's generator."""
    about = model_facts(path)
    settings = family("generators", about["generator"]["kind"]).Settings
    return load_generator(path, compute, synthesis or Synthesis(), settings)


def made_case(generator: Generator, row: dict, synthesis: Synthesis, open_source, attempt: int = 0) -> Case:
    """The case of a row, as `lungsyn generation synthesise` makes it."""
    scene = family("masks", row["why"]).scene(row, open_source)
    return synthetic_case(sampling(generator, synthesis), scene, row, synthesis.steps, attempt)


def made_attempts(
    generator: Generator, row: dict, synthesis: Synthesis, open_source, reference: dict, tries: int
) -> list[Attempt]:
    """The attempts at a row."""
    scene = family("masks", row["why"]).scene(row, open_source)
    return list(checked_attempts(sampling(generator, synthesis), scene, row, synthesis.steps, reference, tries))


def sampling(generator: Generator, synthesis: Synthesis) -> Generator:
    return generator if isinstance(generator, Pasting) else dataclasses.replace(generator, synthesis=synthesis)


def first_batch(folders: list[Path], settings: PatchSettings) -> dict[str, torch.Tensor]:
    """Three training patches of these cases, as a step gets them."""
    patches = TrainingPatches(folders, settings, seed=3)
    batch = collate([patches[i] for i in range(3)])
    batch.pop("cases")
    return batch


def without_zeros(network: torch.nn.Module, std: float) -> torch.nn.Module:
    """Random weights also where a fresh network has zeros, so that its output depends on all of its input."""
    for weight in network.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=std)
    return network.eval()


def labelled_case(ct, nodules, lungs, body, affine, about) -> Case:
    """A case of the three labels that every case has."""
    return Case(ct, LabelMap({"nodules": nodules, "lungs": lungs, "body": body}), affine, about)


def make_case(shape=(21, 34, 18), seed=0, name="case", spacing_mm=2.0) -> Case:
    """A ball-shaped body of noise with two lungs and a bright nodule in each: every voxel's value tells its place."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    body = x**2 + y**2 < 0.95
    right, left = ((x - s * 0.4) ** 2 / 0.1 + y**2 / 0.5 + z**2 < 0.9 for s in (1, -1))
    lungs = (right + 2 * (left & ~right)).astype(np.uint8)
    nodules = np.zeros(shape, np.uint8)
    for index, side in enumerate((1, -1), start=1):
        nodules[((x - side * 0.4) * shape[0]) ** 2 + (y * shape[1]) ** 2 + (z * shape[2]) ** 2 < 5.0**2] = index
    hu = np.where(body, np.where(lungs > 0, -800, 40), -1000) + np.where(body, rng.normal(0, 20, shape), 0)
    hu[nodules > 0] = 20
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = (10.0, -20.0, 30.0)
    about = {"case": name, "patient": name, "nodules": nodule_facts(nodules, lungs, Space(shape, affine))}
    return labelled_case(hu.astype(np.int16), nodules, lungs, body.astype(np.uint8), affine, about)


def cut_out(seed=0, name="case", edge=24) -> Case:
    """Lung with a ball in the middle and a wall on one side, at 2 mm."""
    rng, affine = np.random.default_rng(seed), np.diag([2.0, 2.0, 2.0, 1.0])
    hu = rng.normal(-800, 20, (edge,) * 3)
    hu[:, : edge // 6] = rng.normal(40, 20, hu[:, : edge // 6].shape)
    near = ((np.indices(hu.shape) - edge // 2) ** 2).sum(axis=0) < (2.2 + seed % 3) ** 2
    hu[near] = rng.normal(20, 10, near.sum())
    hu, nodules, body = hu.astype(np.int16), near.astype(np.uint8), np.ones(hu.shape, np.uint8)
    lungs = part_mask(Volume(hu, affine), near)
    about = {"case": name, "patient": name, "nodules": nodule_facts(nodules, lungs, Space(hu.shape, affine))}
    return labelled_case(hu, nodules, lungs, body, affine, about)


@pytest.fixture(scope="session")
def cut_outs(tmp_path_factory) -> list[Path]:
    """Eight small cut-outs on disk."""
    root = tmp_path_factory.mktemp("cut_outs")
    for i in range(8):
        write_case(root / f"cut-{i}", cut_out(i, f"cut-{i}", 15))
    return sorted(root.iterdir())


def without_lungs(case: Case) -> Case:
    """A case in which no nodule finds a place."""
    return case.with_labels(lungs=np.zeros_like(case.lungs))


def killed_at(patches: type, number: int, by: signal.Signals) -> type:
    """The dataset ``patches``, but when this patch is made the process gets a signal."""

    class Dying(patches):
        def __getitem__(self, i):
            if i == number:
                os.kill(os.getpid(), by)
            return super().__getitem__(i)

    return Dying


@pytest.fixture(scope="session")
def case_folders(tmp_path_factory) -> list[Path]:
    """Five small cases on disk, of different shapes; one is smaller than a patch along z."""
    root = tmp_path_factory.mktemp("cases")
    shapes = [(21, 34, 18), (30, 24, 20), (25, 31, 13), (28, 28, 28), (22, 40, 17)]
    folders = [root / f"case-{i}" for i in range(len(shapes))]
    for i, (folder, shape) in enumerate(zip(folders, shapes, strict=True)):
        write_case(folder, make_case(shape, seed=i, name=folder.name))
    return folders
