"""A generator that is told what kind of scan it makes: it learns so, and makes the kind that is asked for."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lungsyn import checkpoint
from lungsyn.cli.generation import _asked
from lungsyn.cohort import table
from lungsyn.errors import InputError
from lungsyn.generators.cascade_ddpm import Settings as CascadeSettings
from lungsyn.generators.core.generator import PatchGenerator
from lungsyn.generators.core.patches import TrainingPatches, collate, source_numbers
from lungsyn.generators.core.training import train
from lungsyn.masks import inpainted, made, untargeted
from lungsyn.seams import Run, Scene
from lungsyn.settings.checking import check
from lungsyn.settings.compute import Compute
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import open_case, write_case
from lungsyn.volume.source import Source
from tests.conftest import loaded, make_case, network_of, without_zeros

SHARP, SOFT = Source(1.0, 60.0), Source(5.0, 4.0)
CPU = Compute(device="cpu", precision="float32", generator_threads=1)


def write(folder: Path, source: Source | None, seed: int) -> Path:
    """A case of that kind of scan. So that little training shows it, tissue of the soft ones is darker, too."""
    case = make_case((24, 32, 22), seed=seed, name=folder.name)
    if source is not None:
        rng, body = np.random.default_rng(seed), case.body > 0
        hu = np.where(case.lungs > 0, -800.0, 200.0 if source == SHARP else -200.0) + rng.normal(
            0, source.noise_hu, case.ct.shape
        )
        case.ct[body & (case.nodules == 0)] = hu[body & (case.nodules == 0)]
        case.about["source"] = source._asdict()
    write_case(folder, case)
    return folder


@pytest.fixture
def told(generator_settings):
    return generator_settings.model_copy(update={"source_conditions": True, "held_out": 0.0})


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    return [write(tmp_path / f"case-{i}", (SHARP, SOFT)[i % 2], i) for i in range(4)]


def test_numbers_are_multiples_of_what_is_usual_and_unknown_ones_usual():
    assert source_numbers(None).tolist() == source_numbers(Source()).tolist() == [0, 0]
    assert source_numbers(Source(2.0, 20.0)).tolist() == [0, 0]
    assert source_numbers(Source(4.0, None)).tolist() == pytest.approx([np.log(2), 0])
    assert source_numbers(Source(None, 0.0)).tolist() == pytest.approx([0, np.log(1 / 20)])  # no noise: as little


def test_patches_carry_their_case_s_numbers_only_if_they_are_asked_for(folders, told, generator_settings):
    batch = collate([TrainingPatches(folders, told, 0)[i] for i in range(12)])
    expected = [source_numbers((SHARP, SOFT)[case % 2]) for case in batch["cases"]]
    assert torch.equal(batch["source"], torch.stack(expected))
    without = collate([TrainingPatches(folders, generator_settings, 0)[i] for i in range(12)])
    assert "source" not in without
    assert all(torch.equal(without[key], batch[key]) for key in without.keys() - {"cases"})


def test_a_case_that_does_not_say_so_is_told(tmp_path, told):
    with pytest.raises(InputError, match=r"case-9 does not say what kind of scan it is.*delete its folder"):
        TrainingPatches([write(tmp_path / "case-9", None, 9)], told, 0)[0]


def test_a_model_of_latents_is_told_through_its_control_net(folders, latent_settings):
    settings = latent_settings.model_copy(update={"source_conditions": True, "held_out": 0.0})
    network = without_zeros(network_of(settings), 0.3)
    batch = collate([TrainingPatches(folders, settings, 0)[i] for i in range(3)])
    inputs = [batch[key] for key in ("x_t", "masks", "coarse", "t", "spacing_mm")]
    with torch.no_grad():
        sharp, soft = (network(*inputs, source_numbers(source).expand(3, -1)) for source in (SHARP, SOFT))
    assert (sharp - soft).abs().mean() > 1e-3
    settings.learning().loss(network, batch, torch.device("cpu"), torch.float32).backward()
    seen = network.control.controlnet_cond_embedding.conv_in.conv.weight
    assert (seen.grad[:, -2:].abs().sum(dim=(0, 2, 3, 4)) > 0).all()
    assert network_of(latent_settings).control.controlnet_cond_embedding.conv_in.conv.weight.shape[1] == 24
    generator = PatchGenerator(network, settings, torch.device("cpu"), torch.float32, 4, Synthesis(steps=2))
    case = open_case(folders[0])
    made = [generator.sample(Scene(case.labels, case.affine, source=source), seed=1).hu for source in (SHARP, SOFT)]
    assert (made[0] != made[1]).any()


@pytest.mark.parametrize("kind", ["patch_ddpm", "cascade_ddpm"])
def test_the_output_depends_on_the_kind_and_gradients_reach_it(folders, told, kind):
    settings = told
    if kind == "cascade_ddpm":
        whole = {"channels": [8, 16], "images": 4, "factor": 2}
        settings = CascadeSettings(
            patch_voxels=16, channels=[8, 16], timesteps=50, source_conditions=True, held_out=0, whole=whole
        )
    network = without_zeros(network_of(settings), 0.3)
    batch = collate([TrainingPatches(folders, settings, 0)[i] for i in range(3)])
    inputs = [batch[key] for key in ("x_t", "masks", "coarse", "t", "spacing_mm")]
    with torch.no_grad():
        outputs = [network(*inputs, source_numbers(source).expand(3, -1)) for source in (SHARP, SOFT)]
    assert (outputs[0] - outputs[1]).abs().mean() > 1e-3
    settings.learning().loss(network, batch, torch.device("cpu"), torch.float32).backward()
    embed = network.fine.embed if kind == "cascade_ddpm" else network.embed
    assert (embed.layers[0].weight.grad[:, -2:].abs().sum(dim=0) > 0).all()


def test_without_the_setting_the_network_is_what_it_was(generator_settings, told):
    torch.manual_seed(0)
    before = network_of(generator_settings)
    assert before.embed.layers[0].weight.shape[1] == 33
    assert network_of(told).embed.layers[0].weight.shape[1] == 35


def test_a_generator_makes_the_kind_that_it_is_asked_for(folders, told, tmp_path):
    """It learned of sharp and of soft cases. The same masks and seed, asked for either kind, and for none."""
    changes = {"images": 160, "learning_rate": 5e-3, "ema_images": 40, "context_factor": 0}
    tensors, facts, _ = train(folders, told.model_copy(update=changes), Run(0, CPU, tmp_path / "checkpoints"))
    about = {"generator": told.model_copy(update=changes).model_dump(mode="json")}
    checkpoint.save(tmp_path / "model.safetensors", tensors, about | facts)
    generator = loaded(tmp_path / "model.safetensors", CPU, Synthesis(steps=6))
    case = open_case(folders[0])
    tissue = (case.body > 0) & (case.lungs == 0)

    def made_hu(source):
        return generator.sample(Scene(case.labels, case.affine, source=source), seed=1).hu[tissue].mean()

    assert made_hu(SHARP) > made_hu(None) + 50 > made_hu(SOFT) + 100
    assert made_hu(Source()) == made_hu(None)


@pytest.mark.parametrize("source", [untargeted, inpainted])
def test_a_volume_is_of_the_kind_of_the_case_whose_body_it_has(folders, source):
    masks = source.Family()
    for row in masks.rows(folders, 4, 0, source.Settings()):
        scene = masks.scene({k: str(v) for k, v in row.items()}, lambda name: open_case(folders[0].parent / name))
        assert scene.source == (SHARP, SOFT)[int(row["body_case"][-1]) % 2]


def test_a_made_chest_is_of_the_kind_of_the_case_that_gives_most(case_folders, tmp_path):
    cases = [tmp_path / folder.name for folder in case_folders]
    for i, folder in enumerate(case_folders):
        case = open_case(folder)
        case.about["source"] = Source(1.0 + i, 20.0)._asdict()
        write_case(cases[i], case)
    masks = made.Family()
    (row,) = masks.rows(cases, 1, 0, made.Settings(patients=5))
    scene = masks.scene({k: str(v) for k, v in row.items()}, lambda name: open_case(tmp_path / name))
    most = row["cases"].split()[int(np.argmax([float(w) for w in row["weights"].split()]))]
    assert scene.source == Source(1.0 + int(most[-1]), 20.0)


# ------------------------------------------------------------------------------------------------- what a set asks for


def with_source(study, source, told: bool = True):
    found = study.model_dump(mode="json")
    found["generators"]["patch_ddpm"]["source_conditions"] = told
    found["sets"]["untargeted"]["source"] = source
    return check(found)


@pytest.mark.parametrize(
    ("source", "told", "message"),
    [
        ({"slice_mm": 1.0}, True, "has both slice_mm and noise_hu"),
        ({"like": "a", "noise_hu": 3}, True, "is either like a case"),
        ({}, True, "has both slice_mm and noise_hu"),
        ({"slice_mm": 1.0, "noise_hu": 20}, False, "generators.patch_ddpm is not told of any"),
    ],
)
def test_a_kind_that_cannot_be_meant_is_told(study, source, told, message):
    with pytest.raises(InputError, match=message):
        with_source(study, source, told)


def test_a_kind_is_that_of_a_case_or_of_numbers(study, folders):
    kinds = [with_source(study, s).sets["untargeted"].source for s in ({"like": "case-1"}, SHARP._asdict())]
    like, numbers = (SimpleNamespace(source=kind, like=folders[1] / "case.json") for kind in kinds)
    assert (_asked(like), _asked(numbers), _asked(SimpleNamespace(source=None))) == (SOFT, SHARP, None)
    (folders[1] / "case.json").write_text(json.dumps({"left_out": "damaged"}))
    with pytest.raises(InputError, match="case case-1 does not say what kind of scan it is"):
        _asked(like)


def test_the_table_of_cases_says_what_kind_each_is():
    row = {"status": "included", "split": "train", "warnings": "", "train_rank": "1", "slice_mm": "", "noise_hu": ""}
    listing = [row | {"case": c, "patient": c} for c in "ab"]
    rows = table.settled(listing, {"a": {"nodules": [], "source": SOFT._asdict()}, "b": {"nodules": []}})
    assert [(r["slice_mm"], r["noise_hu"]) for r in rows] == [(5.0, 4.0), ("", "")]
