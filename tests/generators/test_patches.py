import numpy as np
import pytest
import torch

from lungsyn.errors import InputError
from lungsyn.generators.core import patches as patches_module
from lungsyn.generators.core.bands import HALO, inner
from lungsyn.generators.core.patches import TrainingPatches, coarse_windows, collate, with_halo
from lungsyn.generators.core.prediction import to_x0
from lungsyn.generators.core.schedule import cosine
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.patches import padded_shape


def test_a_patch_depends_on_its_number_alone(case_folders, generator_settings):
    first, again = (TrainingPatches(case_folders, generator_settings, seed=3) for _ in range(2))
    again[7]
    for name in ("x_t", "target", "masks", "coarse", "t"):
        assert torch.equal(getattr(first[11], name), getattr(again[11], name))
    assert not torch.equal(first[11].x_t, first[12].x_t)
    assert not torch.equal(first[11].x_t, TrainingPatches(case_folders, generator_settings, seed=4)[11].x_t)


def test_the_target_leads_back_to_the_case(case_folders, generator_settings):
    """x_0 computed from the patch's own target is CT in the model range, with the nodules bright."""
    patches, abar = TrainingPatches(case_folders, generator_settings, seed=0), cosine(50)
    nodule, lung = [], []
    for i in range(60):
        e = patches[i]
        x0, masks = to_x0("v", e.target, inner(e.x_t), abar[int(e.t)].float()), inner(e.masks)
        assert x0.abs().max() < 1 + 1e-3
        nodule.append(x0[masks[:1] > 0])
        lung.append(x0[(masks[1:2] > 0) & (masks[:1] == 0)])
    assert torch.cat(nodule).mean() > torch.cat(lung).mean() + 0.5


def test_flips_turn_everything_together(case_folders, generator_settings):
    plain = TrainingPatches(case_folders, generator_settings, seed=0)
    flipped = TrainingPatches(case_folders, generator_settings.model_copy(update={"flips": True}), seed=0)
    turned = 0
    for i in range(12):
        a, b = plain[i], flipped[i]
        axes = [ax for ax in (1, 2, 3) if not torch.equal(b.coarse[ax - 1], a.coarse[ax - 1])]
        turned += bool(axes)
        for name in ("x_t", "target", "masks", "coarse"):
            assert torch.equal(getattr(a, name).flip(axes), getattr(b, name))
    assert turned > 3


def test_dropout_removes_the_nodule_mask_only(case_folders, generator_settings):
    settings = generator_settings.model_copy(update={"nodule_dropout": 1.0, "nodule_patches": 1.0})
    patches = TrainingPatches(case_folders, settings, seed=0)
    assert not any(patches[i].masks[0].any() for i in range(10))
    assert any(patches[i].masks[1].any() for i in range(10))


def test_validation_levels_are_evenly_spaced(case_folders, generator_settings):
    patches = TrainingPatches(case_folders, generator_settings, seed=0, stratified=10)
    assert [int(patches[i].t) for i in range(10)] == list(range(3, 51, 5))


def test_coarse_noise_has_the_averages_spread(case_folders, generator_settings):
    """At t = T the coarse view is averaged noise: standard deviation 4^-3/2 for context factor 2."""
    patches = TrainingPatches(case_folders[3:4], generator_settings, seed=0)
    case, noise = patches.cases[0], torch.randn(16, 16, 16)
    view = patches._coarse_view(case, (28, 28, 28), (4, 4, 4), noise, torch.tensor(0.0), np.random.default_rng(0))[0]
    inside = view[2:6, 2:6, 2:6]
    assert float(view[view != 0].std()) == pytest.approx(1 / 8, rel=0.2)
    assert torch.allclose(inside, torch.nn.functional.avg_pool3d(noise[None], 4)[0], atol=1e-6)


def test_collate_stacks_and_keeps_the_cases(case_folders, generator_settings):
    patches = TrainingPatches(case_folders, generator_settings, seed=0)
    batch = collate([patches[0], patches[1]])
    assert batch["target"].shape == (2, 1, 16, 16, 16)
    assert batch["x_t"].shape == (2, 1, *[16 + 2 * HALO] * 3)
    assert batch["cases"] == [patches[0].case, patches[1].case]


@pytest.mark.parametrize("start", [(0, 4, 12), (4, 4, 4), (12, 0, 0)])
def test_the_halo_is_what_lies_around_and_beyond_the_volume_its_end(start):
    volume, h = torch.randn(2, 20, 12, 20), HALO
    wider = np.pad(volume.numpy(), [(0, 0), *[(h, h)] * 3], mode="edge")
    expected = wider[:, *(slice(a, a + 8 + 2 * h) for a in start)]
    assert np.array_equal(with_halo(volume, start, 8).numpy(), expected)


@pytest.mark.parametrize("start", [(0, 5, 0), (12, 16, 0)])
def test_training_cuts_the_halo_as_the_synthesis_does(case_folders, generator_settings, monkeypatch, start):
    """Of a case that is smaller than a patch along z, so that the padded volume ends where the patch does."""
    patches = TrainingPatches(case_folders[2:3], generator_settings, seed=0)
    case, size = patches.cases[0], generator_settings.patch_voxels
    padded = padded_shape(case.ct.shape, size, generator_settings.grid_multiple)
    assert padded[2] == size
    monkeypatch.setattr(patches_module, "random_start", lambda *_: start)
    patches.learning.abar = torch.ones_like(patches.learning.abar)  # x_t is x_0
    found = patches[0]
    pads = [(0, b - a) for a, b in zip(case.ct.shape, padded, strict=True)]
    x0 = np.pad(to_model_range(case.ct, generator_settings.window_hu), pads, constant_values=-1)
    masks = np.stack([np.pad(np.asarray(m) > 0, pads) for m in (case.nodules, case.lungs, case.body)])
    assert torch.equal(found.x_t[0], with_halo(torch.from_numpy(x0), start, size))
    assert torch.equal(found.masks.bool(), with_halo(torch.from_numpy(masks), start, size))


def test_coordinates_are_the_place_in_the_volume(generator_settings):
    window = coarse_windows(generator_settings.learning(), [(0, 0, 12)], (16, 16, 16), (16, 16, 28), None)[0]
    assert window.shape == (3, 8, 8, 8)
    assert window[0, 0, 0, 0] < -0.9 < 0.9 < window[0, -1, 0, 0]
    assert window[2, 0, 0, 0] == pytest.approx(-1 + 2 * 12.5 / 27)


def test_no_cases_is_an_error_in_words(generator_settings):
    with pytest.raises(InputError, match="train split is empty"):
        TrainingPatches([], generator_settings, seed=0)
