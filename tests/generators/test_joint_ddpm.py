"""Diffusion of CT and nodule mask together: what it sees, that it stops and goes on bit for bit, and what it makes."""

import signal

import numpy as np
import pytest
import torch

from lungsyn.errors import InputError
from lungsyn.generators import joint_ddpm
from lungsyn.generators.core import training
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.canvas import How, make_canvas
from lungsyn.generators.core.joint import joint_window
from lungsyn.generators.core.learning import predict
from lungsyn.generators.core.patches import TrainingPatches, collate
from lungsyn.generators.core.prediction import to_x0
from lungsyn.seams import Run
from lungsyn.settings.checking import check
from lungsyn.settings.compute import Compute
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import open_case
from tests.conftest import first_batch, killed_at, network_of, without_zeros
from tests.generators.joint_sets import ends_in_a_checked_set

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
FLOAT, DEVICE = torch.float32, torch.device("cpu")


@pytest.fixture(scope="module")
def settings():
    return joint_ddpm.Settings(
        patch_voxels=16, channels=[8, 16], images=40, batch_patches=2, warmup_images=4, validation_patches=4,
        validation_every_images=10, held_out=0.4, timesteps=50,
    )  # fmt: skip


def test_an_example_is_both_images_under_one_noise_level(cut_outs, settings):
    patch = TrainingPatches(cut_outs, settings, seed=0)[3]
    learning = settings.learning()
    assert patch.x_t.shape == (2, 20, 20, 20) and patch.target.shape == (2, 16, 16, 16)
    x0 = to_x0("v", patch.target, inner(patch.x_t), learning.abar[patch.t].float())
    case = open_case(cut_outs[patch.case])
    assert set(x0[1].round(decimals=3).unique().tolist()) == {-1, 1}
    assert ((x0[1] > 0) == (inner(patch.masks)[0] > 0)).all()
    whole = torch.from_numpy(joint_window(case, (0, 0, 0), 16, settings.window_hu))
    torch.testing.assert_close(x0, whole, atol=1e-4, rtol=0)  # the cases are smaller than a patch


def test_the_network_does_not_look_at_the_masks(cut_outs, settings):
    torch.manual_seed(0)
    network, batch = without_zeros(network_of(settings), 0.1), first_batch(cut_outs, settings)
    said = predict(network, batch, DEVICE, FLOAT)
    blind = predict(network, batch | {"masks": torch.zeros_like(batch["masks"])}, DEVICE, FLOAT)
    assert said.shape == (3, 2, 16, 16, 16) and torch.equal(said, blind)


def test_each_image_depends_on_the_other(cut_outs, settings):
    """Else the mask that is made would not be that of the nodule that is made."""
    torch.manual_seed(0)
    network, batch = without_zeros(network_of(settings), 0.1), first_batch(cut_outs, settings)
    said = predict(network, batch, DEVICE, FLOAT)
    for image in (0, 1):
        x_t = batch["x_t"].clone()
        x_t[:, image] += 0.5
        other = predict(network, batch | {"x_t": x_t}, DEVICE, FLOAT)
        assert not torch.allclose(other[:, 1 - image], said[:, 1 - image], atol=1e-4)


def test_before_anything_is_learned_it_is_a_filter_of_each_image(cut_outs, settings):
    """With little noise the filter gives the image back; its first weights are zero."""
    torch.manual_seed(0)
    network, learning = network_of(settings), settings.learning()
    patches = TrainingPatches(cut_outs, settings, seed=3, stratified=50)
    batch = collate([patches[0], patches[1]])
    batch.pop("cases")
    abar = learning.abar[batch["t"]].float()[:, None, None, None, None]
    x0, found = (
        to_x0("v", v, inner(batch["x_t"]), abar) for v in (batch["target"], predict(network, batch, DEVICE, FLOAT))
    )
    assert float(abar.min()) > 0.99
    assert (found - x0).square().mean() < 0.2 * x0.var()


def test_a_nodule_weighs_no_more_than_what_is_around_it(cut_outs, settings):
    """A weighted error has its least at a weighted mean: of a mask that is to be made, at one that is too large."""
    weight = settings.learning().weight(first_batch(cut_outs, settings)["masks"])
    assert set(weight.unique().tolist()) <= {0.0, 1.0}


def test_a_killed_training_ends_bit_equal(cut_outs, settings, tmp_path, monkeypatch):
    whole, _, records = training.train(cut_outs, settings, Run(7, CPU, tmp_path / "whole"))
    with monkeypatch.context() as patched:
        patched.setattr(training, "TrainingPatches", killed_at(TrainingPatches, 20, signal.SIGTERM))
        with pytest.raises(SystemExit):
            training.train(cut_outs, settings, Run(7, CPU, tmp_path / "killed"))
    resumed, _, again = training.train(cut_outs, settings, Run(7, CPU, tmp_path / "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [r["validation"] for r in records] == [r["validation"] for r in again]


def test_a_volume_does_not_depend_on_the_batch_of_patches(settings):
    torch.manual_seed(0)
    network = without_zeros(network_of(settings), 0.05)
    canvas = make_canvas(np.ones((3, 26, 20, 15), np.uint8), 2.0, settings, DEVICE)
    synthesis = Synthesis(steps=3, fused_steps=1)
    one, many = (settings.learning().volume(network, canvas, synthesis, 5, How(n)) for n in (1, 7))
    torch.testing.assert_close(one, many, atol=1e-5, rtol=0)
    assert one.shape == (2, 26, 20, 16) and (one[..., 15:] == -1).all()  # beyond the volume: air, no nodule


def test_a_set_of_it_is_checked_audited_and_learned_from(cut_outs, settings, tmp_path):
    ends_in_a_checked_set(cut_outs, settings, CPU, tmp_path, attackable=True)


def test_what_a_joint_model_has_no_use_for_is_refused(study, settings):
    raw = study.model_dump(mode="json")
    raw["generators"] = {"joint": settings.model_dump(mode="json") | {"timesteps": 1000}}
    raw["cohort"]["preprocess"]["field_of_view"] = "part"
    raw["synthesis"]["steps"] = 20
    for one in raw["sets"].values():
        one |= {"generator": "joint", "conditions": "blank"}
    assert check(raw).generators["joint"].kind == "joint_ddpm"
    for change, message in (
        ({"nodule_dropout": 0.1}, r"nodule_dropout is about masks, and no mask leads a joint_ddpm: remove it"),
        ({"labels": ["nodules", "lungs", "body", "airway"]}, r"labels is about masks, and no mask leads a joint_ddpm"),
        ({"nodule_weight": 4}, r"joint\.nodule_weight is 4.*: input should be less than or equal to 1"),
        ({"timesteps": 10}, r"synthesis\.steps is 20, more than the 10 of generators\.joint\.timesteps"),
    ):
        with pytest.raises(InputError, match=message):
            check(raw | {"generators": {"joint": raw["generators"]["joint"] | change}})
    masks = raw["sets"] | {"untargeted": raw["sets"]["untargeted"] | {"conditions": "untargeted"}}
    with pytest.raises(
        InputError, match=r"untargeted\.conditions is 'untargeted', but .* makes the masks itself: it must be"
    ):
        check(raw | {"sets": masks})
    raw["cohort"]["preprocess"]["field_of_view"] = "chest"
    with pytest.raises(InputError, match=r"joint is a joint_ddpm, which makes cut-outs only, and .* is chest"):
        check(raw)
