"""A ControlNet on a model of latents that learned without masks, and what asks it to heed them."""

import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from lungsyn.errors import InputError
from lungsyn.generators.core import training
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.learning import predict
from lungsyn.generators.networks.latent import region_contrast
from lungsyn.seams import Run
from lungsyn.settings.checking import check
from lungsyn.settings.compute import Compute
from tests.conftest import first_batch, network_of, without_zeros
from tests.generators.test_training import end_bit_equal

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
FLOAT, DEVICE = torch.float32, torch.device("cpu")


@pytest.fixture(scope="module")
def settings(latent_settings):
    autoencoder = latent_settings.autoencoder.model_copy(update={"images": 6})
    return latent_settings.model_copy(
        update={"autoencoder": autoencoder, "unconditional_images": 12, "images": 12, "nodule_dropout": 0.2}
    )


def test_the_model_without_masks_learns_first_and_no_more_afterwards(case_folders, settings, tmp_path):
    run = Run(7, CPU, tmp_path)
    weights, facts, _ = training.train(case_folders, settings, run)
    unled, alone, _ = training.train(case_folders, settings.unconditional_training, run)  # only read
    assert facts["unconditional"]["best_loss"] == alone["best_loss"]
    assert {name.split(".")[0] for name in unled} == {"autoencoder", "unet"}
    assert all(torch.equal(weights[name], unled[name]) for name in unled)
    fresh = network_of(settings.unconditional_training).state_dict()
    assert any(not torch.equal(fresh[name], unled[name]) for name in unled if name.startswith("unet."))
    control = {name.removeprefix("control."): w for name, w in weights.items() if name.startswith("control.")}
    learned = [
        name for name in control if f"unet.{name}" in unled and not torch.equal(control[name], unled[f"unet.{name}"])
    ]
    assert learned  # it began as the model's copy


def test_before_the_control_net_learns_masks_change_nothing(case_folders, settings):
    learning = settings.learning()
    unled = network_of(settings.unconditional_training)
    learning.unled = without_zeros(unled, 0.1).state_dict()
    network, batch = learning.build().eval(), first_batch(case_folders, settings)
    z, masks = torch.randn(3, 10, 4, 4, 4), inner(batch["masks"])
    with torch.no_grad():
        expected = unled.predict(z, masks, batch["t"])
        torch.testing.assert_close(network.predict(z, masks, batch["t"]), expected)
        torch.testing.assert_close(network.predict(z, 1 - masks, batch["t"]), expected)
    assert not any(weight.requires_grad for weight in network.unet.parameters())
    _, optimizer = learning.learner(network, DEVICE)
    learns = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert learns >= {id(weight) for weight in network.control.parameters()}
    assert not learns & {id(weight) for part in (network.unet, network.autoencoder) for weight in part.parameters()}


def test_it_does_not_see_masks_and_hosts_teach_it_as_any_case(case_folders, settings):
    """Where no voxel changes from air to body, other masks give the same loss."""
    unled = settings.unconditional_training
    network, batch = without_zeros(network_of(unled), 0.1), first_batch(case_folders, unled)
    other = batch | {"masks": batch["masks"].clone()}
    other["masks"][:, :2] = 0  # no nodule, no lungs: as those of a host with its lungs lost
    other["masks"][:, 2] = batch["masks"].amax(dim=1)
    losses = [unled.learning().loss(network, each, DEVICE, FLOAT) for each in (batch, other)]
    torch.testing.assert_close(*losses)


def test_what_is_about_masks_does_not_train_it_again(settings):
    changed = {"nodule_weight": 9, "contrastive_weight": 0.1, "images": 50, "source_conditions": True}
    assert settings.model_copy(update=changed).unconditional_training == settings.unconditional_training
    assert (
        settings.unconditional_training.model_dump()
        != settings.model_copy(update={"unconditional_images": 0, "nodule_weight": 1, "nodule_dropout": 0}).model_dump()
    )  # or one would go on from the other's checkpoint


def test_a_killed_training_ends_bit_equal(case_folders, settings, tmp_path, monkeypatch):
    """Killed in that without masks."""
    longer = settings.model_copy(update={"unconditional_images": 24, "contrastive_weight": 0.01})
    end_bit_equal(case_folders, longer, tmp_path, monkeypatch)


def test_the_contrast_of_regions_is_that_of_the_paper():
    """By hand: -min(mean |difference| in the nodule, 2) + its mean beyond the dilated nodule."""
    rng = np.random.default_rng(0)
    nodule, differs = np.zeros((2, 1, 32, 32, 32)), rng.random((2, 1, 8, 8, 8))
    nodule[0, 0, 5:14, 8:12, 9], nodule[1, 0, 30:, 0, 17:19] = 1, 1
    there = nodule.reshape(2, 1, 8, 4, 8, 4, 8, 4).max(axis=(3, 5, 7)) > 0
    beyond = ~np.stack([ndimage.binary_dilation(one[0], np.ones((3, 3, 3)))[None] for one in there])
    for factor in (1, 10):
        expected = -min(factor * differs[there].mean(), 2) + factor * differs[beyond].mean()
        found = region_contrast(factor * torch.from_numpy(differs), torch.from_numpy(nodule), 4)
        assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(region_contrast(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 16, 16, 16), 4)) == 0


def test_the_contrast_is_added_in_training_only(case_folders, settings):
    contrasting = settings.model_copy(update={"contrastive_weight": 0.5, "nodule_patches": 1.0, "nodule_dropout": 0.0})
    network, batch = without_zeros(network_of(contrasting), 0.1), first_batch(case_folders, contrasting)
    learning, factor = contrasting.learning(), contrasting.factor
    error = predict(network, batch, DEVICE, FLOAT)
    assert error.shape[1] == 10  # held out
    network.train()
    output = predict(network, batch, DEVICE, FLOAT)
    torch.testing.assert_close(output[:, :10], error)
    masks = inner(batch["masks"])
    assert masks[:, 0].any()
    plain = learning.mean_in_body(error.mean(1, True), batch["masks"])
    expected = plain + 0.5 * region_contrast(output[:, 10:], masks[:, :1], factor)
    torch.testing.assert_close(learning.loss(network, batch, DEVICE, FLOAT), expected)
    nothing = batch | {"masks": torch.cat([0 * batch["masks"][:, :1], batch["masks"][:, 1:]], dim=1)}
    assert not predict(network, nothing, DEVICE, FLOAT)[:, 10:].any()


def test_the_contrast_needs_one_process(settings, study):
    raw = json.loads(study.model_dump_json())
    raw["generators"]["latent"] = settings.model_copy(update={"contrastive_weight": 0.01}).model_dump(mode="json")
    check(raw)
    raw["compute"]["gpus"] = 2
    with pytest.raises(InputError, match=r"latent\.contrastive_weight is 0\.01, with which one GPU trains it"):
        check(raw)
