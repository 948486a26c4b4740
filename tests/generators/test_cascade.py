"""Coarse to fine: the coarse grid, what patches get of it, what the coarse model learns from, and whole volumes."""

import dataclasses
import json
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from lungsyn import checkpoint
from lungsyn.generators import cascade_ddpm
from lungsyn.generators.core import training
from lungsyn.generators.core.bands import HALO, expected, inner, tissue_means
from lungsyn.generators.core.canvas import Background, How, make_canvas
from lungsyn.generators.core.patches import TrainingPatches, with_halo
from lungsyn.generators.core.settings import PatchSettings
from lungsyn.generators.core.synthesis import denoised_volume, synthesise
from lungsyn.generators.networks import cascade
from lungsyn.live import watcher
from lungsyn.masks.core.rows import untargeted
from lungsyn.seams import Run
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import as_json, part
from lungsyn.volume.files import open_case
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.patches import Patch, padded_shape
from tests.conftest import killed_at, loaded, made_case, network_of, without_zeros

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
FLOAT, DEVICE = torch.float32, torch.device("cpu")


@pytest.fixture(scope="module")
def settings(generator_settings) -> cascade_ddpm.Settings:
    """A cascade that runs in a second: 16^3 patches, coarse voxels of 4."""
    whole = {"factor": 4, "channels": [16, 16], "images": 12, "batch_patches": 2, "warmup_images": 2, "steps": 3}
    shared = part(generator_settings, PatchSettings).model_dump()
    return cascade_ddpm.Settings(**shared, timesteps=50, nodule_dropout=0.2, whole=whole)


@pytest.fixture(scope="module")
def network(settings):
    torch.manual_seed(1)
    return without_zeros(network_of(settings), 0.1)


@pytest.fixture
def synthesis(study):
    return study.synthesis.model_copy(update={"steps": 3, "mode": "shifted", "fused_steps": 1})


def canvas_of(shape, settings, background=None):
    rng = np.random.default_rng(0)
    masks = np.stack([rng.random(shape) < 0.02, rng.random(shape) < 0.5, np.ones(shape, bool)]).astype(np.uint8)
    masks[:, :4] = 0  # some air
    return make_canvas(masks, 2.0, settings, DEVICE, background)


class Exact(torch.nn.Module):
    """The denoiser of data that are one constant."""

    def __init__(self, learning, value):
        super().__init__()
        self.abar, self.value = learning.abar.float(), value

    def forward(self, x, masks, coarse, t, spacing_mm):
        abar = self.abar[t][:, None, None, None, None]
        return (abar.sqrt() * x - self.value) / (1 - abar).sqrt()


def test_cubes_become_their_means_and_the_last_are_filled():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 12, 4), dtype=np.float32))
    torch.testing.assert_close(cascade.pooled(x, 4, 0.0), F.avg_pool3d(x[None], 4)[0])
    line = cascade.pooled(torch.ones(5, 4, 4), 4, -1.0)[:, 0, 0]
    torch.testing.assert_close(line, torch.tensor([1.0, -0.5]))  # one voxel of four is there


@pytest.mark.parametrize("factor", [2, 4, 6, 8])
def test_a_ramp_is_interpolated_exactly_between_the_outermost_centres(factor):
    coarse, length = 6, 6 * factor
    line = cascade.interpolation(length, coarse, factor)
    centres = factor * (torch.arange(coarse) + 0.5)  # in voxels of the case
    voxels = torch.arange(-HALO, length + HALO) + 0.5
    torch.testing.assert_close(line @ centres, voxels.clamp(centres[0], centres[-1]))
    torch.testing.assert_close(line.sum(dim=1), torch.ones(length + 2 * HALO))


def test_a_patch_s_condition_is_the_crop_of_the_volume_s():
    rng = np.random.default_rng(0)
    coarse, padded = torch.from_numpy(rng.standard_normal((9, 7, 11), dtype=np.float32)), (36, 28, 44)
    condition = cascade.Condition(coarse, padded, 4, 0.03)
    whole = inner(cascade.magnified(coarse, condition.lines))
    assert whole.shape == padded
    for patch in [Patch((0, 0, 0), (16, 16, 16)), Patch((2, 12, 28), (16, 16, 16)), Patch((20, 6, 14), (10, 4, 30))]:
        found, level = condition.of_patch(patch)
        torch.testing.assert_close(found, with_halo(whole, *patch))  # at the borders the outermost are repeated
        torch.testing.assert_close(level, torch.full_like(level, 0.3))


def test_training_and_synthesis_see_the_same_condition(settings, case_folders):
    """A patch is led by what the canvas of its case would give it, its own CT being the coarse one."""
    case = open_case(case_folders[0])
    padded = padded_shape(case.ct.shape, settings.patch_voxels, settings.grid_multiple)
    start = (4, 14, 2)
    found = settings.learning().seen(case, padded, start, np.random.default_rng(3))
    values = to_model_range(case.ct, settings.window_hu)
    canvas = make_canvas(case.labels.stack(settings.labels), 2.0, settings, DEVICE, Background(values, 0 * values))
    whole = settings.whole_training.learning()
    chest = cascade.whole_chest(Exact(whole, 0.0), canvas, whole, 5, FLOAT)  # all of it is known
    coarse, again = cascade.beyond_masks(chest, settings.window_hu), np.random.default_rng(3)
    noise_sd = cascade.MOST_NOISE * again.random()
    coarse = coarse + noise_sd * torch.from_numpy(again.standard_normal(coarse.shape, dtype=np.float32))
    condition = cascade.Condition(coarse, canvas.padded, settings.whole.factor, noise_sd)
    (wanted,) = condition.of_patches([Patch(start, (16, 16, 16))])
    torch.testing.assert_close(found, wanted)


def test_what_is_known_of_the_mean_is_no_longer_to_be_learned(settings):
    """A fresh network's guess from noise: what masks and coarse CT say."""
    fresh, abar = network_of(settings).fine, settings.learning().abar[50].float()
    masks = torch.ones(1, 3, 20, 20, 20)
    masks[:, 0] = 0
    condition = torch.zeros(1, 2, 20, 20, 20)
    condition[:, 0] = 0.3
    x = torch.zeros(1, 1, 20, 20, 20) + abar.sqrt() * (fresh.means[2] + 0.3)
    v = fresh(x, masks, condition, torch.tensor([50]), torch.tensor([2.0]))
    x0 = abar.sqrt() * inner(x) - (1 - abar).sqrt() * v
    torch.testing.assert_close(x0, torch.full_like(x0, float(fresh.means[2]) + 0.3), atol=1e-4, rtol=0)


def test_a_chest_that_is_not_varied_comes_out_as_it_was(monkeypatch):
    for name, value in (("TURN_DEGREES", 0.0), ("STRETCH", 1.0), ("STRETCH_ALIKE", 1.0), ("BEND_MM", 0.0)):
        monkeypatch.setattr(cascade, name, value)
    chest = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 16, 12, 20), dtype=np.float32))
    made = cascade.varied(chest, -1.0, (8, 6, 10), 4.0, np.random.default_rng(1))
    torch.testing.assert_close(made, F.avg_pool3d(chest, 2), atol=1e-4, rtol=0)


def test_a_varied_chest_keeps_its_hu_and_is_surrounded_by_air():
    chest = torch.ones(4, 16, 12, 20) * 0.3
    made = cascade.varied(chest, -1.0, (16, 16, 16), 4.0, np.random.default_rng(1))
    assert made.shape == (4, 16, 16, 16)
    middle = made[:, 8:9, 8:9, 8:9].flatten()
    torch.testing.assert_close(middle, torch.full((4,), 0.3))
    assert float(made[0].min()) == -1 and float(made[1:].min()) == 0
    assert 0.3 < float((made[3] > 0.15).float().mean() * 16**3 / (8 * 6 * 10)) < 2.5


def test_whole_masks_tell_the_mean_that_they_tell_of_patches():
    masks = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2, 3, 4, 4, 4))).float()
    masks[:, 1:] = torch.maximum(masks[:, 1:], masks[:, :1])  # nodules are in the lungs, which are in the body
    masks[:, 2] = torch.maximum(masks[:, 2], masks[:, 1])
    means = tissue_means((-1000, 400))
    torch.testing.assert_close(cascade.expected_mean(masks, means), expected(masks, means))


def test_an_untrained_coarse_network_takes_noise_off_even_tissue_and_leaves_edges(settings):
    """Its first guess is as wide as the noisy chest shows near each voxel, up to the chest's ends."""
    learning = settings.whole_training.learning()
    torch.manual_seed(1)
    fresh, t = learning.build(), torch.tensor([1])
    abar = learning.abar[1].float()
    masks = torch.ones(1, 3, 16, 16, 32)
    masks[:, :2] = 0
    x0 = fresh.means[1] + torch.zeros(1, 1, 16, 16, 32)
    x0[..., 16:] += 0.5 * (torch.arange(16) // 2 % 2)  # bones, two voxels wide
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(x0.shape, dtype=np.float32))
    with torch.no_grad():
        v = fresh(abar.sqrt() * x0 + (1 - abar).sqrt() * noise, masks, masks, t, torch.tensor([8.0]))
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
    error = (abar.sqrt() * x_t - (1 - abar).sqrt() * v - x0).square()
    added = float((1 - abar) / abar)
    assert error[..., :12].mean() < 0.25 * added  # as wide everywhere it would be 0.63
    assert error[..., :2, :12].mean() < 0.25 * added  # at an end: 0.55
    assert error[..., 18:].mean() < 0.5 * added  # at edges: 0.64


def test_a_constant_chest_comes_out_within_the_body(settings, synthesis):
    canvas = canvas_of((21, 34, 18), settings)
    learning = settings.whole_training.learning()
    coarse = cascade.whole_chest(Exact(learning, 0.25), canvas, learning, 5, FLOAT)[0]
    assert coarse.shape == (6, 9, 5)  # of 22 x 34 x 18 padded voxels
    body = cascade.pooled(canvas.masks[2], 4, 0.0) > 0
    torch.testing.assert_close(coarse[body], torch.full_like(coarse[body], 0.25), atol=1e-4, rtol=0)
    assert (coarse[~body] == canvas.air).all()
    again = cascade.whole_chest(Exact(learning, 0.25), canvas, learning, 5, FLOAT)[0]
    assert torch.equal(coarse, again)


def test_what_is_known_leads_the_patches_too(settings):
    shape = (32, 40, 24)
    values = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    weight = np.zeros(shape, np.float32)
    weight[8:16, 8:16, 8:16] = 1
    canvas = canvas_of(shape, settings, Background(values, weight))
    learning = settings.whole_training.learning()
    coarse = cascade.whole_chest(Exact(learning, 0.25), canvas, learning, 5, FLOAT)[0]
    known = F.avg_pool3d(torch.from_numpy(values)[None], 4)[0]
    made = F.avg_pool3d(torch.from_numpy(weight)[None], 4)[0] > 0
    torch.testing.assert_close(coarse[~made], known[~made])
    torch.testing.assert_close(coarse[made], torch.full_like(coarse[made], 0.25), atol=1e-4, rtol=0)


def test_patches_are_led_by_the_whole_chest(network, settings, synthesis):
    """Another whole chest makes another volume of the same noise; the patches' network is given what it was made."""
    canvas = canvas_of((20, 20, 20), settings)

    def led_by(value):
        coarse = torch.full([n // 4 for n in canvas.padded], value)
        condition = cascade.Condition(coarse, canvas.padded, 4, 0.0)
        return denoised_volume(network, canvas, cascade.LearningDetail(settings, condition), synthesis, 1, How(4))

    a, b = led_by(-0.5), led_by(0.5)
    assert (a - b).abs().mean() > 0.01


def test_the_batch_of_patches_changes_nothing(network, settings, synthesis):
    canvas = canvas_of((33, 34, 18), settings)
    one, many = (synthesise(network, canvas, settings, synthesis, 5, How(n)) for n in (1, 7))
    torch.testing.assert_close(one, many, atol=1e-5, rtol=0)


def test_inpainting_keeps_the_background(network, settings, synthesis):
    shape = (32, 30, 20)
    values = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    weight = np.zeros(shape, np.float32)
    weight[8:20, 8:20, 8:16] = 1
    canvas = canvas_of(shape, settings, Background(values, weight))
    made = synthesise(network, canvas, settings, synthesis, 5, How(4)).numpy()
    kept = (weight == 0) | ~canvas.generated().numpy()[tuple(slice(n) for n in shape)]
    np.testing.assert_array_equal(made[kept], values[kept])
    assert np.abs(made - values)[~kept].mean() > 0.05


def test_a_volume_takes_no_memory_that_grows_with_its_patches(settings):
    """The coarse grid is a share of the volume: what is held beside it is a fifth of a byte per voxel."""
    canvas = canvas_of((64, 64, 64), settings)
    coarse = torch.zeros(16, 16, 16)
    held = cascade.Condition(coarse, canvas.padded, 4, 0.0)
    kept = coarse.numel() * 4 + sum(line.numel() * 4 for line in held.lines)
    assert kept < canvas.masks[0].numel() * 0.2


def test_chests_of_a_training_depend_on_their_number_only(settings, case_folders):
    one, other = (cascade.WholeChests(case_folders, settings.whole_training, 3) for _ in range(2))
    other[5]
    for a, b in zip(dataclasses.astuple(one[7]), dataclasses.astuple(other[7]), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert not torch.equal(one[7].masks, one[8].masks)
    assert all(n % 4 == 0 for n in one.shape)


def test_a_watched_chest_is_the_case_itself(settings, case_folders):
    watched = cascade.WholeChests(case_folders[:1], settings.whole_training, 3, stratified=4)
    case = open_case(case_folders[0])
    share = cascade.pooled(torch.from_numpy(np.asarray(case.body) > 0), 4, 0.0)
    found = watched[2].masks[2][tuple(slice(n) for n in share.shape)]
    torch.testing.assert_close(found, share, atol=1e-3, rtol=0)  # float16
    assert [int(watched[i].t) for i in range(4)] == [7, 19, 32, 44]


@pytest.mark.parametrize("where", ["WholeChests", "TrainingPatches"])
def test_a_killed_training_ends_bit_equal(settings, case_folders, tmp_path, monkeypatch, where):
    short = settings.model_copy(update={"images": 12})
    uninterrupted, facts, _ = training.train(case_folders, short, Run(7, CPU, tmp_path / "whole"))
    of = {"WholeChests": (cascade.LearningWhole, "examples"), "TrainingPatches": (training, where)}[where]
    with monkeypatch.context() as patched:
        patched.setattr(*of, killed_at(getattr(*of), 6, signal.SIGTERM))
        with pytest.raises(SystemExit):
            training.train(case_folders, short, Run(7, CPU, tmp_path / "killed"))
    resumed, facts_again, _ = training.train(case_folders, short, Run(7, CPU, tmp_path / "killed"))
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)
    assert facts["best_loss"] == facts_again["best_loss"]
    assert facts["cost"]["seconds"] >= facts["whole"]["cost"]["seconds"]


@pytest.fixture(scope="module")
def model(settings, case_folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("cascade")
    weights, facts, _ = training.train(
        case_folders, settings, Run(7, CPU, root / "checkpoints"),
        watch=watcher(case_folders, settings, CPU, 7, root / "live.png", "test"),
    )  # fmt: skip
    checkpoint.save(root / "model.safetensors", weights, {"generator": json.loads(as_json(settings))} | facts)
    return root / "model.safetensors"


def test_a_model_makes_cases_of_its_scenes_and_is_watched(model, case_folders, synthesis, capsys):
    assert (model.parent / "live.png").exists()
    generator = loaded(model, CPU, synthesis)
    folders = {folder.name: folder for folder in case_folders}
    (row,) = untargeted([*folders], 1, 5)
    case = made_case(generator, row, synthesis, lambda name: open_case(folders[name]))
    assert case.ct.shape == open_case(folders[row["body_case"]]).ct.shape
    assert (case.ct[np.asarray(case.body) == 0] == -1000).all()


def test_its_loss_on_a_case_can_be_asked_for(model, case_folders):
    generator = loaded(model, CPU)
    assert np.isfinite(generator.log_loss(case_folders[0], 3))
    assert generator.log_loss(case_folders[0], 3) == generator.log_loss(case_folders[0], 3)


@pytest.mark.parametrize("whole", [{"factor": 3}, {"channels": []}, {"noise_sd": 0.2}])
def test_settings_that_cannot_be_are_refused(settings, whole):
    with pytest.raises(ValidationError):
        cascade_ddpm.Settings(whole=whole)


def test_the_conditions_of_a_training_patch_go_with_it_when_it_is_mirrored(settings, case_folders, monkeypatch):
    monkeypatch.setattr(cascade, "MOST_NOISE", 0.0)
    flipping = settings.model_copy(update={"flips": True, "nodule_dropout": 0.0})
    there, means = TrainingPatches(case_folders, flipping, 3), tissue_means(settings.window_hu)
    example = next(e for e in (there[i] for i in range(40)) if int(e.t) < 10 and e.masks[1].any())
    mean = expected(example.masks[None], means)[0] + example.coarse[:1]
    without = expected(example.masks[None], means)[0]
    assert (example.x_t - mean).square().mean() < (example.x_t - without).square().mean()
