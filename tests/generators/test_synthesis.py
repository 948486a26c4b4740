"""Whole volumes from patches: the properties that hold for any denoiser, shown with denoisers that are known."""

import dataclasses

import numpy as np
import pytest
import torch

from lungsyn.generators.core import synthesis as syn
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.canvas import Background, How, make_canvas
from lungsyn.generators.core.samplers import plan
from lungsyn.generators.core.schedule import cosine, sampling_timesteps
from lungsyn.volume.intensity import to_hu
from lungsyn.volume.patches import Patch, all_patches, box
from tests.conftest import network_of, without_zeros

SHAPES = [(40, 33, 50), (16, 16, 16), (5, 40, 17), (51, 51, 51)]


@pytest.fixture(scope="module")
def synthesis(study):
    return study.synthesis.model_copy(update={"steps": 6, "fused_steps": 2})


@pytest.fixture(scope="module")
def network(generator_settings):
    torch.manual_seed(0)
    return without_zeros(network_of(generator_settings), 0.05)


def canvas_of(shape, settings, seed=0):
    """All body, a few nodules, so that no patch is skipped."""
    rng = np.random.default_rng(seed)
    masks = np.stack([rng.random(shape) < 0.02, rng.random(shape) < 0.5, np.ones(shape, bool)]).astype(np.uint8)
    return make_canvas(masks, 2.0, settings, torch.device("cpu"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_blended_identity_patches_are_the_input(generator_settings, synthesis, shape, overlap):
    canvas = canvas_of(shape, generator_settings)
    synthesis = synthesis.model_copy(update={"overlap": overlap, "mode": "fused"})
    grid = syn.step_grids(canvas, generator_settings, synthesis, np.random.default_rng(0))[0]
    identity = syn.blended(lambda x, s, v, t: inner(x)[:, 0], canvas, generator_settings.learning(), lambda t: grid, 3)
    x = torch.randn(canvas.padded)
    inside = tuple(slice(n) for n in shape)
    assert torch.allclose(identity(x, 1)[inside], x[inside], atol=1e-5)


def test_no_more_than_two_estimates_of_a_volume_are_held(generator_settings):
    canvas = canvas_of((20, 20, 20), generator_settings)
    learning, grid = generator_settings.learning(), [[(0, 16), (4, 16)]] * 3
    denoiser = syn.blended(lambda x, s, v, t: t * inner(x)[:, 0], canvas, learning, lambda t: grid, 3)
    x = torch.ones(canvas.padded)
    first, second = denoiser(x, 1), denoiser(x, 2)
    assert torch.allclose(first, x) and torch.allclose(second, 2 * x)
    third = denoiser(x, 3)
    assert third.data_ptr() == first.data_ptr() and torch.allclose(third, 3 * x) and torch.allclose(second, 2 * x)


def test_every_shifted_step_covers_every_voxel(generator_settings, synthesis):
    canvas = canvas_of((41, 20, 33), generator_settings)
    shifted = synthesis.model_copy(update={"steps": 30})
    for grid in syn.step_grids(canvas, generator_settings, shifted, np.random.default_rng(0)):
        ones = syn.blended(
            lambda x, s, v, t: torch.ones_like(inner(x)[:, 0]),
            canvas,
            generator_settings.learning(),
            lambda t, g=grid: g,
            4,
        )
        assert torch.allclose(ones(torch.zeros(canvas.padded), 1)[:41, :20, :33], torch.ones(41, 20, 33))


@pytest.mark.parametrize("mode", ["fused", "shifted"])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_volumes_of_any_shape_come_out_whole(network, generator_settings, synthesis, mode, shape):
    volume = syn.synthesise(
        network, canvas_of(shape, generator_settings), generator_settings,
        synthesis.model_copy(update={"mode": mode}), 1, How(3),
    )  # fmt: skip
    assert volume.shape == shape
    assert volume.dtype == torch.float32
    assert volume.abs().max() <= 1 + 1e-5
    assert volume.std() > 1e-3


@pytest.mark.parametrize("mode", ["fused", "shifted"])
def test_the_batch_of_patches_changes_nothing(network, generator_settings, synthesis, mode):
    canvas = canvas_of((30, 25, 40), generator_settings)
    settings = synthesis.model_copy(update={"mode": mode})
    one, many = (syn.synthesise(network, canvas, generator_settings, settings, 5, How(n)) for n in (1, 7))
    other = syn.synthesise(network, canvas, generator_settings, settings, 6, How(7))
    assert torch.allclose(one, many, atol=1e-4)
    noisy = settings.model_copy(update={"sampler": "ddpm"})
    one_noisy, many_noisy = (syn.synthesise(network, canvas, generator_settings, noisy, 5, How(n)) for n in (1, 7))
    assert torch.allclose(one_noisy, many_noisy, atol=1e-4)
    assert not torch.allclose(one, other, atol=1e-2)


def test_air_has_the_air_s_hu_in_any_window(network, generator_settings, synthesis):
    """As the training pads: else a synthetic case is told from a real one by what is around the body."""
    settings = generator_settings.model_copy(update={"window_hu": (-1350.0, 150.0)})
    masks = np.zeros((3, 20, 20, 20), np.uint8)
    masks[2, :6] = 1
    canvas = make_canvas(masks, 2.0, settings, torch.device("cpu"))
    made = syn.synthesise(network, canvas, settings, synthesis, 0, How(4)).numpy()
    assert (to_hu(made, settings.window_hu)[8:] == -1000).all()


def test_patches_are_evaluated_where_the_mask_has_a_voxel_and_nowhere_else(generator_settings, synthesis):
    """Against a look at each patch's voxels: one voxel is enough, at whichever corner."""
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        masks = np.zeros((3, *shape), np.uint8)
        for _ in range(3):
            masks[(2, *(rng.integers(n) for n in shape))] = 1
        canvas = make_canvas(masks, 2.0, generator_settings, torch.device("cpu"))
        grid = syn.step_grids(canvas, generator_settings, synthesis, rng)[0]
        seen = []

        def denoise(x, starts, views, t, seen=seen):
            seen.extend(starts)
            return inner(x)[:, 0]

        syn.blended(denoise, canvas, generator_settings.learning(), lambda t, grid=grid: grid, 2)(
            torch.zeros(canvas.padded), 1
        )
        wanted = [patch for patch in all_patches(grid) if canvas.generated(*box(*patch)).any()]
        assert sorted(seen) == sorted(wanted) and len(seen) == len(wanted)


def test_air_is_air_and_its_patches_are_never_evaluated(network, generator_settings, synthesis):
    masks = np.zeros((3, 64, 20, 20), np.uint8)
    masks[2, 40:, 5:15, 5:15] = 1
    canvas = make_canvas(masks, 2.0, generator_settings, torch.device("cpu"))
    seen = []

    def denoise(x, starts, views, t):
        seen.extend(starts)
        return torch.ones_like(inner(x)[:, 0])

    grid = syn.step_grids(canvas, generator_settings, synthesis, np.random.default_rng(0))[-1]
    x0 = syn.blended(denoise, canvas, generator_settings.learning(), lambda t: grid, 2)(torch.zeros(canvas.padded), 1)
    assert (x0[:40] == -1).all()
    assert torch.allclose(x0[40:64, 5:15, 5:15], torch.ones(1))
    assert seen
    assert all(patch.start[0] + patch.size[0] > 40 for patch in seen)


def test_fused_sampling_of_known_gaussian_data_keeps_their_spread(generator_settings, synthesis):
    """Independent N(0, 0.5^2) voxels: fused patches share one noise field, so overlap must not shrink the spread."""
    canvas = canvas_of((48, 48, 48), generator_settings)
    abar, std = cosine(1000), 0.5
    timesteps = sampling_timesteps(1000, 100)

    def exact(x, starts, views, t):
        a = float(abar[t])
        return inner(x)[:, 0] * std**2 * a**0.5 / (a * std**2 + 1 - a)

    fused = synthesis.model_copy(update={"mode": "fused", "overlap": 0.5, "steps": 100})
    grids = dict(zip(timesteps, syn.step_grids(canvas, generator_settings, fused, None), strict=False))
    denoiser = syn.blended(exact, canvas, generator_settings.learning(), grids.__getitem__, 8)
    noise = syn.noise_adder(torch.Generator().manual_seed(0))
    x = torch.zeros(canvas.padded)
    noise(x, 1.0)
    x = syn.sample(denoiser, x, timesteps, plan("ddpm", abar, timesteps), noise)
    assert float(x.std()) == pytest.approx(std, rel=0.05)


def test_training_and_synthesis_see_the_same_surroundings(generator_settings, case_folders):
    """The coarse view of a patch cut from a padded volume equals the one that the training makes of the same x_t."""
    from lungsyn.volume.files import open_case
    from lungsyn.volume.intensity import to_model_range
    from lungsyn.volume.patches import padded_shape

    settings = generator_settings
    case = open_case(case_folders[3])
    padded = padded_shape(case.ct.shape, settings.patch_voxels, settings.grid_multiple)
    x0 = np.full(padded, -1.0, np.float32)
    x0[tuple(slice(n) for n in case.ct.shape)] = to_model_range(case.ct, settings.window_hu)
    start = (4, 8, 12)
    from lungsyn.generators.core.patches import TrainingPatches

    patches = TrainingPatches([case_folders[3]], settings, seed=0)
    quiet = torch.zeros((settings.patch_voxels,) * 3)
    training = patches._coarse_view(case, padded, start, quiet, torch.tensor(1.0), np.random.default_rng(0))
    view = syn.coarse_view(torch.from_numpy(x0), settings.learning())
    patch = Patch(start, (settings.patch_voxels,) * 3)
    assert torch.allclose(syn.crop_views(view, [patch], settings.learning())[0], training, atol=1e-5)


def test_guidance_needs_the_mask(network, generator_settings, synthesis):
    """Without nodules in the mask, guidance changes nothing; with them it does."""
    plain, guided = (synthesis.model_copy(update={"guidance_scale": g}) for g in (1.0, 3.0))
    with_nodules = canvas_of((20, 20, 20), generator_settings)
    without = dataclasses.replace(with_nodules, masks=with_nodules.masks.clone())
    without.masks[0] = 0
    a, b = (syn.synthesise(network, without, generator_settings, s, 1, How(4)) for s in (plain, guided))
    assert torch.allclose(a, b, atol=1e-5)
    a, b = (syn.synthesise(network, with_nodules, generator_settings, s, 1, How(4)) for s in (plain, guided))
    assert not torch.allclose(a, b, atol=1e-4)


def test_box_is_used_for_patches_of_any_start():
    assert torch.zeros(9, 9, 9)[box((1, 2, 3), 4)].shape == (4, 4, 4)


def inpainting_canvas(settings, shape=(40, 36, 44)):
    """A smooth known background, of which a ball in the middle is replaced, with a feathered edge."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    values = (0.5 * np.sin(3 * x) * np.cos(2 * y) + 0.3 * z).astype(np.float32)
    weight = np.clip(2 - np.sqrt(x**2 + y**2 + z**2) / 0.3, 0, 1).astype(np.float32)
    masks = np.stack([weight == 1, np.ones(shape), np.ones(shape)]).astype(np.uint8)
    canvas = make_canvas(masks, 2.0, settings, torch.device("cpu"), Background(values, weight))
    return canvas, values, weight


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("mode", ["fused", "shifted"])
def test_inpainting_keeps_the_background_and_makes_the_rest(network, generator_settings, synthesis, mode, sampler):
    canvas, values, weight = inpainting_canvas(generator_settings)
    chosen = synthesis.model_copy(update={"mode": mode, "sampler": sampler})
    volume = syn.synthesise(network, canvas, generator_settings, chosen, 3, How(4)).numpy()
    assert np.allclose(volume[weight == 0], values[weight == 0], atol=1e-5)
    assert np.abs(volume - values)[weight == 1].mean() > 0.05


def test_the_background_is_at_the_state_s_own_noise_level_at_every_step(generator_settings, synthesis):
    """x_t - sqrt(abar) background must be noise of variance 1 - abar, at every t: peers re-noise to a neighbour's."""
    canvas, values, weight = inpainting_canvas(generator_settings)
    abar = cosine(1000)
    timesteps = sampling_timesteps(1000, 12)
    grids = dict(zip(timesteps, syn.step_grids(canvas, generator_settings, synthesis.model_copy(
        update={"mode": "fused", "steps": 12}), None), strict=False))  # fmt: skip
    denoiser = syn.blended(
        lambda x, s, v, t: 0 * inner(x)[:, 0], canvas, generator_settings.learning(), grids.__getitem__, 8
    )
    noise = syn.noise_adder(torch.Generator().manual_seed(0))
    x = torch.zeros(canvas.padded)
    noise(x, 1.0)
    inside = tuple(slice(n) for n in values.shape)
    known, background = torch.from_numpy(weight == 0), torch.from_numpy(values)

    def check(i, state):
        a = float(abar[timesteps[i + 1]])
        rest = (state[inside] - a**0.5 * background)[known]
        assert float(rest.square().mean()) == pytest.approx(1 - a, rel=0.03, abs=1e-4)

    syn.sample(denoiser, x, timesteps, plan("ddpm", abar, timesteps), noise, check)


def test_inpainting_evaluates_only_patches_near_the_nodule(generator_settings, synthesis):
    canvas, values, _ = inpainting_canvas(generator_settings, (96, 20, 20))
    seen = []

    def denoise(x, starts, views, t):
        seen.extend(starts)
        return torch.zeros_like(inner(x)[:, 0])

    grid = syn.step_grids(canvas, generator_settings, synthesis, np.random.default_rng(0))[-1]
    x0 = syn.blended(denoise, canvas, generator_settings.learning(), lambda t: grid, 4)(torch.zeros(canvas.padded), 1)
    patches_along_x = {patch.start[0] for patch in seen}
    assert 0 < len(patches_along_x) < len(grid[0])
    assert torch.allclose(x0[:10, :20, :20], torch.from_numpy(values[:10]))
