"""MAISI's files: what is not as it was released ends in a sentence, and a model knows those that it was made with."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from lungsyn.errors import InputError
from lungsyn.generators.maisi import Settings
from lungsyn.models import load_generator
from lungsyn.provenance import file_digest
from lungsyn.seams import Run
from lungsyn.settings.synthesis import Synthesis
from tests.generators.maisi import CPU, FAMILY, NOISE, configuration, fitted, paths, release, settings_for


@pytest.fixture
def released(tmp_path) -> Path:
    return release(tmp_path / "released")


def without(path: Path, key: str, change) -> None:
    found = torch.load(path, weights_only=True)
    change(found[key] if key else found)
    torch.save(found, path)


def damage(what: str, there: dict[str, Path], elsewhere: Path) -> None:
    """Do to the files what a user may."""
    config, unet, control = configuration("rflow-ct"), there["unet"], there["control"]
    some = "conv_in.conv.weight"
    acts = {
        "missing": lambda: unet.unlink(),
        "torn": lambda: unet.write_bytes(unet.read_bytes()[:5000]),
        "no torch": lambda: unet.write_bytes(b"<html>not found</html>"),
        "code": lambda: control.write_bytes(pickle.dumps({"controlnet_state_dict": Settings}, protocol=2)),
        "a list": lambda: torch.save([1], control),
        "another key": lambda: torch.save({"state_dict": {}}, control),
        "no factor": lambda: without(unet, "", lambda found: found.pop("scale_factor")),
        "lacks": lambda: without(control, "controlnet_state_dict", lambda found: found.pop(some)),
        "unknown": lambda: without(unet, "unet_state_dict", lambda found: found.update(more=torch.ones(1))),
        "shape": lambda: without(
            there["autoencoder"], "", lambda found: found.update({next(iter(found)): torch.ones(2)})
        ),
        "version": lambda: shutil.copy(paths(release(elsewhere / "ddpm", "ddpm-ct"), "ddpm-ct")["unet"], unet),
        "no json": lambda: there["configuration"].write_text("{"),
        "a class": lambda: config["autoencoder_def"].update(_target_="os.system"),
        "an expression": lambda: config["controlnet_def"].update(num_channels="$__import__('os').getcwd()"),
        "an argument": lambda: config["diffusion_unet_def"].update(width=3),
        "no reference": lambda: config.pop("latent_channels"),
        "noise": lambda: config.update(noise_scheduler=NOISE["ddpm-ct"]),
        "splits": lambda: config["autoencoder_def"].update(num_splits=4),
    }
    acts[what]()
    if config != configuration("rflow-ct"):
        there["configuration"].write_text(json.dumps(config))


FAULTS = {
    "missing": r"released lacks models/diff_unet_3d_rflow-ct\.pt, which version rflow-ct",
    "torn": r"diff_unet_3d_rflow-ct\.pt: damaged, or it holds more than tensors",
    "no torch": r"diff_unet_3d_rflow-ct\.pt: damaged, or it holds more than tensors",
    "code": r"controlnet_3d_rflow-ct\.pt: damaged, or it holds more than tensors",
    "a list": r"controlnet_3d_rflow-ct\.pt: holds no tensors by name",
    "another key": r"controlnet_3d_rflow-ct\.pt: holds no controlnet_state_dict",
    "no factor": r"diff_unet_3d_rflow-ct\.pt: holds no scale_factor",
    "lacks": r"lacks 1 of the tensors of rflow-ct's ControlNetMaisi, such as conv_in\.conv\.weight: it is of another",
    "unknown": r"has unknown 1 of the tensors of rflow-ct's DiffusionModelUNetMaisi, such as more",
    "shape": r"autoencoder_v1\.pt: has of another shape 1 of the tensors of rflow-ct's AutoencoderKlMaisi",
    "version": r"lacks \d+ of the tensors of rflow-ct's DiffusionModelUNetMaisi, such as class_embedding\.weight",
    "no json": r"config_network_rflow\.json: not a configuration of MAISI",
    "a class": r"autoencoder_def describes no AutoencoderKlMaisi that MONAI has here \(KeyError\('system'\)\)",
    "an expression": r"controlnet_def describes no ControlNetMaisi that MONAI has here",
    "an argument": r"diffusion_unet_def describes no DiffusionModelUNetMaisi .*unexpected keyword argument 'width'",
    "no reference": r"autoencoder_def describes no AutoencoderKlMaisi .*KeyError\('latent_channels'\)",
    "noise": r"noise_scheduler describes no RFlowScheduler",
    "splits": r"multiple_voxels of a maisi is 16: for the networks of .* it must be a multiple of 64",
}


@pytest.mark.parametrize("what", FAULTS)
def test_files_that_are_not_the_released_ones_end_in_a_sentence(what, released, case_folders, tmp_path):
    damage(what, paths(released, "rflow-ct"), tmp_path)
    with pytest.raises(InputError, match=FAULTS[what]):
        FAMILY.fit(case_folders[:1], settings_for(released), Run(0, CPU, tmp_path))


def test_the_tutorials_name_of_the_configuration_will_do(released):
    path = paths(released, "rflow-ct")["configuration"]
    path.rename(path.with_name("config_maisi3d-rflow.json"))
    assert settings_for(released).files()[0].name == "config_maisi3d-rflow.json"
    path.with_name("config_maisi3d-rflow.json").unlink()
    with pytest.raises(InputError, match=r"lacks configs/config_network_rflow\.json, which"):
        settings_for(released).files()


def test_a_model_knows_the_released_files_that_it_was_made_with(released, case_folders, tmp_path):
    """Other weights: another digest of the model, and one that was made with those before is refused."""
    settings = settings_for(released)
    model = fitted(case_folders[:1], settings, tmp_path)
    before = file_digest(model)
    assert load_generator(model, CPU).needs == {"nodules", "lungs", "body"}
    without(settings.files()[3], "controlnet_state_dict", lambda found: found["conv_in.conv.weight"].mul_(2))
    with pytest.raises(InputError, match=r"controlnet_3d_rflow-ct\.pt: not the released file that .*model\.safe"):
        FAMILY.load(model, settings, CPU, Synthesis())
    assert file_digest(fitted(case_folders[:1], settings, tmp_path)) != before
