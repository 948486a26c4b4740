import dataclasses
import signal

import numpy as np
import pytest
import torch

from lungsyn import checkpoint
from lungsyn.cli.segmentation import replicate_seed
from lungsyn.errors import InputError
from lungsyn.registry import family
from lungsyn.seams import Run
from lungsyn.segmenters.core import prediction, training
from lungsyn.segmenters.core.patches import TrainingPatches, augment, blur, change_grey_values
from lungsyn.segmenters.core.settings import SlidingWindow
from lungsyn.segmenters.networks import monai as networks
from lungsyn.settings.arms import Use
from lungsyn.settings.compute import Compute
from lungsyn.settings.segmenters import settings_of
from lungsyn.volume.files import open_case, write_case
from lungsyn.volume.near import near_lungs, outside_share, told_of_predictions
from tests.conftest import killed_at, make_case

CPU = Compute(device="cpu", precision="float32", segmenter_threads=1, checkpoint_seconds=3600)
INFERENCE = SlidingWindow(overlap=0.25)


def trained(folders, settings, seed, checkpoints):
    """A training on the CPU, as any arm's."""
    return family("segmenters", "monai").fit(folders, [], Use(), settings, Run(seed, CPU, checkpoints))


def untrained(network, settings, inference=INFERENCE):
    """A segmenter of this network."""
    return prediction.PatchSegmenter(network, settings, inference, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def settings(study):
    return settings_of(study.segmenters["unet"]).model_copy(
        update={"channels": [4, 8, 8], "patch_voxels": 16, "batch_patches": 2, "steps": 12}
    )


@pytest.mark.parametrize(
    ("network", "channels", "patch"),
    [("unet", [4, 8], 16), ("dynunet", [4, 8, 8], 16), ("swin_unetr", [12], 32), ("swin_unetr", [12], 64)],
)
def test_every_network_starts_from_the_prior_and_learns(settings, network, channels, patch):
    chosen = settings.model_copy(update={"network": network, "channels": channels, "patch_voxels": patch})
    torch.manual_seed(0)
    built = networks.build(chosen).train()
    logits = built(torch.randn(1, 1, patch, patch, patch))
    assert logits.shape == (1, 1, patch, patch, patch)
    assert torch.sigmoid(logits).mean() < 0.1
    logits.mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in built.parameters())


def test_a_killed_training_ends_bit_equal(case_folders, settings, tmp_path, monkeypatch):
    whole = trained(case_folders, settings, 3, tmp_path / "whole")

    with monkeypatch.context() as patched:
        patched.setattr(training, "TrainingPatches", killed_at(TrainingPatches, 10, signal.SIGUSR1))
        with pytest.raises(SystemExit):
            trained(case_folders, settings, 3, tmp_path / "killed")
    saved = next((tmp_path / "killed").glob("*/checkpoint.safetensors"))
    assert 0 < checkpoint.load(saved)[1]["steps"] < settings.steps
    resumed = trained(case_folders, settings, 3, tmp_path / "killed")
    assert [record["loss"] for record in resumed.records] == [record["loss"] for record in whole.records]
    assert resumed.facts["steps"] == settings.steps
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)


@pytest.mark.slow
def test_it_learns_what_a_nodule_is(case_folders, settings, tmp_path):
    """Bright balls in dark lungs: a short training must find them in a case that it has not seen."""
    long = settings.model_copy(
        update={"steps": 150, "channels": [8, 16, 16], "batch_patches": 4, "learning_rate": 0.01}
    )
    found = trained(case_folders[:4], long, 0, tmp_path)
    checkpoint.save(tmp_path / "model.safetensors", found.tensors, {"segmenter": long.model_dump(mode="json")})
    segmenter = family("segmenters", "monai").load(tmp_path / "model.safetensors", CPU, INFERENCE)
    case = open_case(case_folders[4])
    mask = (segmenter.predict(case) >= 50) & near_lungs(case)
    truth = np.asarray(case.nodules) > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.7
    assert found.records[-1]["loss"] < found.records[0]["loss"]
    assert found.facts["cost"]["host_mb"] > 0


def test_a_network_without_numbers_is_no_case_without_nodules(case_folders, settings):
    class Broken(torch.nn.Module):
        def forward(self, x):
            return x * float("nan")

    with pytest.raises(FloatingPointError, match="no number"):
        untrained(Broken(), settings).predict(open_case(case_folders[0]))


def test_a_thin_case_is_padded_with_air_in_any_window(settings):
    """As in training; the window's lower end is darker than air."""
    seen = []

    class Watching(torch.nn.Module):
        def forward(self, x):
            seen.append(x.unique())
            return x

    case = make_case((20, 20, 6))
    case.ct[:] = -1000
    wide = settings.model_copy(update={"window_hu": (-1350.0, 150.0)})
    untrained(Watching(), wide).predict(case)
    assert all(len(values) == 1 for values in seen)


def test_arms_share_seeds_and_the_control_does_not():
    assert replicate_seed(1, 0, False) == replicate_seed(1, 0, False)
    seeds = {replicate_seed(s, r, c) for s in (1, 2) for r in (0, 1) for c in (False, True)}
    assert len(seeds) == 8


def test_patches_hold_nodules_as_often_as_asked(case_folders, settings):
    often = TrainingPatches(case_folders, [], Use(), settings.model_copy(update={"nodule_patches": 1.0}), seed=0)
    assert np.mean([float(often[i][1].sum() > 0) for i in range(30)]) > 0.95
    assert torch.equal(often[4][0], TrainingPatches(case_folders, [], Use(), often.settings, seed=0)[4][0])


def test_augmentation_moves_image_and_nodule_together():
    """The nodule is where the image is bright, before and after."""
    bright = torch.zeros(2, 16, 16, 16)
    bright[:, 3:9, 5:12, 6:10] = 1
    for seed in range(40):
        image, nodule = augment(bright.clone(), np.random.default_rng(seed))
        assert set(nodule.unique().tolist()) == {0.0, 1.0}
        assert image[nodule > 0].mean() - image[nodule == 0].mean() > 0.4


def test_no_cases_is_an_error_in_words(settings):
    with pytest.raises(InputError, match="neither real cases nor a synthetic set"):
        TrainingPatches([], [], Use(), settings, seed=0)


class Constant(torch.nn.Module):
    """A network that is as sure everywhere as it was told: the logit of ``probability``."""

    def __init__(self, probability):
        super().__init__()
        self.logit = torch.logit(torch.tensor(probability, dtype=torch.float64)).item()

    def forward(self, patches):
        return torch.full_like(patches, self.logit)


@pytest.mark.parametrize(("probability", "percent"), [(0.5, 50), (0.499, 49), (0.129, 12), (0.0, 0), (1.0, 100)])
def test_predictions_are_whole_percent_rounded_down(case_folders, settings, probability, percent):
    case = open_case(case_folders[0])
    found = untrained(Constant(probability), settings).predict(case)
    assert found.dtype == np.uint8 and found.shape == case.ct.shape
    assert (found == percent).all()


class Looks(torch.nn.Module):
    """A network that looks one way: each voxel's logit is its neighbour's grey value on one side."""

    def forward(self, patches):
        return patches.roll((1, 1, 1), dims=(2, 3, 4))


def test_mirrored_predictions_have_no_side(settings):
    """What is predicted on a mirrored case is the mirrored prediction; without the average it is not."""
    case = make_case((20, 20, 20), seed=0, name="a")  # the windows' places are symmetric
    mirrored = dataclasses.replace(case, ct=np.ascontiguousarray(case.ct[::-1]))
    for average in (True, False):
        segmenter = untrained(Looks(), settings, SlidingWindow(overlap=0.25, mirrored=average))
        one, other = (segmenter.predict(c).astype(int) for c in (case, mirrored))
        assert (np.abs(one - other[::-1]).max() <= 1) == average  # whole percent, rounded down


def test_predictions_stay_near_the_lungs(case_folders):
    case = open_case(case_folders[0])
    near = near_lungs(case)
    assert near[(np.asarray(case.lungs) > 0) & (np.asarray(case.ct) < -400)].all()
    assert near[np.asarray(case.nodules) > 0].all()  # solid, but in the lung
    assert not near.all()


def test_where_predictions_stay_knows_nothing_of_the_marks():
    """A mark in the body's wall is in the mask of the lungs by rule. It must not keep a prediction there."""
    case = make_case((40, 40, 20), seed=0, name="a", spacing_mm=4.0)
    wall = np.zeros(case.ct.shape, bool)
    wall[19:22, 2:5, 9:11] = True
    assert (case.body[wall] > 0).all() and (case.ct[wall] > -400).all()
    marked = case.with_labels(
        nodules=np.where(wall, 3, case.nodules), lungs=np.where(wall, 1, case.lungs).astype(np.uint8)
    )
    near = near_lungs(marked)
    assert np.array_equal(near, near_lungs(case))
    assert not near[wall].any()


def test_without_aerated_lung_predictions_count_everywhere():
    """One such case must not stop the others, nor lose its nodules in every arm."""
    case = make_case((20, 20, 20), seed=0, name="a")
    solid = dataclasses.replace(case, ct=np.zeros_like(case.ct))
    assert near_lungs(solid).all()
    assert outside_share(solid) == [0.0, 0.0]


@pytest.mark.parametrize("filled", [1, 2])
def test_predictions_count_in_a_lung_that_is_filled(filled):
    """Effusion or collapse: where the other lung's mirror image lies. Of two aerated lungs nothing is mirrored."""
    case = make_case((60, 40, 30), seed=0, name="a", spacing_mm=4.0)
    white = (case.lungs == filled) & (np.arange(30) < 26)
    left = np.where(white & (case.nodules == 0), 0, case.lungs).astype(np.uint8)
    sick = dataclasses.replace(case, ct=np.where(white, 15, case.ct).astype(np.int16)).with_labels(lungs=left)
    assert near_lungs(sick)[white].mean() > 0.95
    assert max(outside_share(sick)) < 0.02
    assert not near_lungs(sick)[case.body == 0].any() or near_lungs(case)[case.body == 0].any()
    assert near_lungs(sick).mean() < 1.15 * near_lungs(case).mean()


def test_a_nodule_out_of_reach_is_told_with_its_share():
    case = make_case((40, 40, 20), seed=0, name="a", spacing_mm=4.0)
    wall = np.zeros(case.ct.shape, bool)
    wall[19:22, 2:5, 9:11] = True
    marked = case.with_labels(nodules=np.where(wall, 3, case.nodules))
    assert outside_share(marked) == [0.0, 0.0, 1.0]
    told = "a nodule lies where no prediction counts (segmenters.*.keep_lungs): 100% of nodule 3"
    assert told_of_predictions(marked) == [told]


@pytest.mark.parametrize("spacing_mm", [0.8, 1.0, 3.0])
def test_the_share_out_of_reach_is_that_of_near_lungs(spacing_mm):
    case = make_case((41, 37, 29), seed=1, name="a", spacing_mm=spacing_mm)
    rolled = case.with_labels(nodules=np.roll(case.nodules, 9, axis=1))
    near = near_lungs(rolled)
    assert outside_share(rolled) == [(~near[rolled.nodules == n]).mean() for n in (1, 2)]


def test_changed_data_under_the_same_names_start_afresh(settings, tmp_path):
    """Synthetic cases made again keep their names: an old checkpoint must not be taken for theirs."""
    folder = tmp_path / "cases" / "a"
    weights = []
    for seed in (0, 1):
        write_case(folder, make_case((20, 20, 20), seed=seed, name="a"))
        weights.append(trained([folder], settings, 0, tmp_path / "checkpoints").tensors)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_patches_are_mixed_as_the_arm_says(case_folders, settings, tmp_path):
    """A synthetic case is told from real ones by its brightness here."""

    def share_of_synthetic(share):
        patches = TrainingPatches(case_folders[:4], [bright], Use(synthetic_share=share), settings, seed=0)
        return np.mean([float(patches[i][0].mean()) > 0.4 for i in range(200)])

    case = make_case(seed=9)
    bright = tmp_path / "bright"
    write_case(bright, dataclasses.replace(case, ct=case.ct + 3000))
    assert share_of_synthetic(0.0) == 0 and share_of_synthetic(1.0) == 1
    assert 0.35 < share_of_synthetic(0.5) < 0.65
    assert 0.1 < share_of_synthetic(None) < 0.3  # one of five cases


def test_grey_values_change_without_moving_anything():
    """A step edge stays where it is, whatever is drawn; the same draw gives the same patch."""
    step = torch.full((1, 16, 16, 16), -0.8)
    step[:, 8:] = 0.2
    for seed in range(40):
        changed = change_grey_values(step, np.random.default_rng(seed))
        assert changed.shape == step.shape and torch.isfinite(changed).all()
        assert changed[:, 10:].mean() - changed[:, :6].mean() > 0.5
        profile = changed.mean(dim=(0, 2, 3))
        assert abs(int((profile[1:] - profile[:-1]).argmax()) - 7) <= 1  # coarse voxels shift it by one at most
        assert torch.equal(changed, change_grey_values(step, np.random.default_rng(seed)))


def test_a_blur_keeps_the_mean_of_a_constant():
    assert torch.allclose(blur(torch.full((1, 6, 6, 6), 0.3), 0.8), torch.full((1, 6, 6, 6), 0.3), atol=1e-6)
