"""Latent diffusion: what latents are, what its networks learn, and that it makes volumes as the others do."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.generators import latent_ddpm
from lungsyn.generators.core import training
from lungsyn.generators.core.bands import band_sd, inner, to_bands
from lungsyn.generators.core.canvas import Background, How, make_canvas
from lungsyn.generators.core.learning import predict
from lungsyn.generators.core.patches import TrainingPatches
from lungsyn.generators.core.prediction import diffuse, training_target
from lungsyn.generators.core.synthesis import synthesise
from lungsyn.generators.networks.autoencoder import latent_noise
from lungsyn.live import watcher
from lungsyn.masks.core.rows import untargeted
from lungsyn.optimizer import Muon
from lungsyn.seams import Run
from lungsyn.settings.checking import check
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import as_json
from lungsyn.volume.files import open_case
from tests.conftest import first_batch, loaded, made_case, network_of, without_zeros

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
FLOAT, DEVICE = torch.float32, torch.device("cpu")


@pytest.fixture
def network(latent_settings):
    torch.manual_seed(1)
    return without_zeros(network_of(latent_settings), 0.1)


@pytest.fixture
def batch(case_folders, latent_settings):
    return first_batch(case_folders, latent_settings)


@pytest.fixture(scope="module")
def trained(case_folders, latent_settings, tmp_path_factory):
    """Weights, facts and records; and the model file."""
    root = tmp_path_factory.mktemp("latent")
    made = training.train(case_folders, latent_settings, Run(7, CPU, root / "checkpoints"))
    about = {"generator": json.loads(as_json(latent_settings))} | made[1]
    checkpoint.save(root / "model.safetensors", made[0], about)
    return *made, root / "model.safetensors"


def canvas_of(shape, settings, background=None):
    rng = np.random.default_rng(0)
    masks = np.stack([rng.random(shape) < 0.02, rng.random(shape) < 0.5, np.ones(shape, bool)]).astype(np.uint8)
    masks[:, :2] = 0  # some air
    return make_canvas(masks, 2.0, settings, DEVICE, background)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_before_anything_is_learned_latents_are_the_coarsest_bands_of_the_patch(latent_settings, batch, levels):
    """The first eight; the others are zero. So the decoder gives back means of voxels, and grain of the usual width."""
    settings = latent_settings.autoencoder_training.model_copy(update={"channels": [8] * levels})
    autoencoder = network_of(settings).eval()
    x0 = inner(batch["x_t"])[:, :1]
    z = autoencoder.encode(x0, torch.ones(3, 3, 16, 16, 16))
    assert z.shape == (3, 10, *[16 // 2**levels] * 3)
    assert not z[:, 8:].any()
    assert 0.2 < z[:, 0].std() < 5
    edge = 2 ** (levels - 1)
    means = F.interpolate(F.avg_pool3d(x0, edge), scale_factor=edge) if levels > 1 else x0
    quiet, white = torch.zeros(3, 8, 8, 8, 8), torch.randn(3, 8, 8, 8, 8)
    torch.testing.assert_close(autoencoder.decode(z, quiet), means, rtol=0, atol=1e-5)
    grain = autoencoder.decode(z, white) - means
    torch.testing.assert_close(to_bands(grain), white * band_sd()[:, None, None, None], rtol=0, atol=1e-5)


def test_what_the_autoencoder_learns_is_the_likelihood_of_its_bands(latent_settings, network, batch):
    """Oracle: torch's normal distribution, about what it decodes without grain."""
    autoencoder = network.autoencoder
    masks, x0 = inner(batch["masks"]), inner(batch["x_t"])[:, :1]
    x0 = torch.where(masks.amax(dim=1, keepdim=True) > 0, x0, -1.0)
    z = autoencoder.encode(x0, masks)
    sd = band_sd()[:, None, None, None]
    mean = to_bands(autoencoder.decode(z, torch.zeros(3, 8, 8, 8, 8))) / sd
    width = to_bands(autoencoder.decode(z, torch.ones(3, 8, 8, 8, 8))) / sd - mean
    expected = -torch.distributions.Normal(mean, width).log_prob(to_bands(x0) / sd) - np.log(2 * np.pi) / 2
    torch.testing.assert_close(predict(autoencoder, batch, DEVICE, FLOAT), expected, rtol=1e-3, atol=1e-3)


def test_latents_do_not_see_beyond_the_masks(network, batch):
    x0, masks = inner(batch["x_t"])[:, :1], inner(batch["masks"])
    outside = masks.amax(dim=1, keepdim=True) == 0
    assert 0 < outside.float().mean() < 1
    z, other_air, other_body = (
        network.autoencoder.encode(x, masks) for x in (x0, torch.where(outside, 0.7, x0), torch.where(outside, x0, -x0))
    )
    assert z.shape == (3, 10, 4, 4, 4)
    assert torch.equal(z, other_air)
    assert not torch.equal(z, other_body)


def test_the_noise_of_latents_is_that_of_voxels_of_their_own():
    """Each place takes its numbers from its own cube of voxels, none of them twice: so it is white as theirs is."""
    noise = torch.arange(8.0**3).reshape(1, 1, 8, 8, 8)
    taken = latent_noise(noise, torch.zeros(1, 5, 2, 2, 2))
    assert taken.shape == (1, 5, 2, 2, 2)
    assert len(taken.unique()) == taken.numel()
    for place in np.ndindex(2, 2, 2):
        cube = noise[(0, 0, *(slice(4 * a, 4 * a + 4) for a in place))]
        assert torch.isin(taken[(0, slice(None), *place)], cube).all()


def test_the_patch_and_its_noise_come_side_by_side(case_folders, latent_settings, generator_settings):
    """As the patch diffusion model gets them mixed."""
    plain = {"nodule_dropout": 0.0}
    single, mixed = (settings.model_copy(update=plain) for settings in (latent_settings, generator_settings))
    both, mixed = (TrainingPatches(case_folders[3:4], settings, seed=3)[5] for settings in (single, mixed))
    assert both.x_t.shape == (2, 20, 20, 20) and mixed.x_t.shape == (1, 20, 20, 20)
    assert both.target is None
    assert both.t == mixed.t
    abar = network_of(single).abar[both.t]
    torch.testing.assert_close(diffuse(*both.x_t, abar), mixed.x_t[0])


@pytest.mark.parametrize("prediction", ["v", "epsilon", "sample"])
def test_what_it_learns_is_the_target_of_its_latents(latent_settings, network, batch, prediction):
    network.prediction = prediction
    x0, noise = inner(batch["x_t"]).split(1, dim=1)
    masks, t = inner(batch["masks"]), batch["t"]
    z0 = network.autoencoder.encode(x0, masks)
    noise, abar = latent_noise(noise, z0), network.abar[t][:, None, None, None, None]
    error = network.predict(diffuse(z0, noise, abar), masks, t) - training_target(prediction, z0, noise, abar)
    expected = error.detach().square()
    torch.testing.assert_close(predict(network, batch, DEVICE, FLOAT), expected)
    loss = latent_settings.learning().loss(network, batch, DEVICE, FLOAT).detach()
    nodule = inner(batch["masks"]).float()[:, :1].unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4).flatten(5).mean(-1)
    weight = 1 + (latent_settings.nodule_weight - 1) * nodule
    assert float(loss) == pytest.approx(float((weight * expected.mean(1, True)).sum() / weight.sum()), rel=1e-5)


def test_masks_lead_by_the_control_net_alone(network, batch):
    z, t = torch.randn(3, 10, 4, 4, 4), batch["t"]
    masks = inner(batch["masks"])
    with torch.no_grad():
        led, other = (network.predict(z, m, t) for m in (masks, 1 - masks))
        assert not torch.allclose(led, other)
        for weight in (
            *network.control.controlnet_down_blocks.parameters(),
            *network.control.controlnet_mid_block.parameters(),
        ):
            weight.zero_()
        assert torch.equal(network.predict(z, masks, t), network.predict(z, 1 - masks, t))


def test_the_autoencoder_learns_first_and_no_more_afterwards(case_folders, latent_settings, trained, tmp_path):
    weights, facts, _, _ = trained
    alone, alone_facts, records = training.train(
        case_folders, latent_settings.autoencoder_training, Run(7, CPU, tmp_path / "alone")
    )
    of_it = {name.removeprefix("autoencoder."): w for name, w in weights.items() if name.startswith("autoencoder.")}
    assert of_it.keys() == alone.keys()
    assert all(torch.equal(of_it[name], alone[name]) for name in alone)
    assert facts["autoencoder"]["best_loss"] == alone_facts["best_loss"]
    assert facts["cost"]["seconds"] >= facts["autoencoder"]["cost"]["seconds"] > 0
    assert records[-1]["validation"] < records[0]["validation"]


def test_a_changed_diffusion_model_learns_on_the_same_latents(case_folders, latent_settings, trained, capsys):
    changed = latent_settings.model_copy(update={"channels": [8, 8], "images": 4})
    capsys.readouterr()
    training.train(case_folders, changed, Run(7, CPU, trained[3].parent / "checkpoints"))
    said = capsys.readouterr().out
    assert "from 24 of 24 patches" in said  # the autoencoder's
    assert "from 0 of 4 patches" in said


def test_both_learn(latent_settings, batch):
    """On one batch: likelihood rises beyond that of the coarse bands, latents are denoised better than by always 0."""
    for settings, fall in ((latent_settings.autoencoder_training, 0.3), (latent_settings, 0.5)):
        torch.manual_seed(0)
        network = network_of(settings).train()
        optimizer = Muon([w for w in network.parameters() if w.requires_grad], 0.003)
        average = dict(network.state_dict())
        step = settings.learning().steps(network, network, optimizer, average, torch.ones(()), FLOAT)
        losses = [float(step(batch)[0]) for _ in range(60)]
        assert losses[-1] < losses[0] - fall


@pytest.mark.parametrize("shape", [(21, 34, 18), (16, 16, 16), (5, 40, 17)])
def test_a_volume_of_any_shape_is_made_and_air_is_air(latent_settings, study, network, shape):
    canvas = canvas_of(shape, latent_settings)
    synthesis = study.synthesis.model_copy(update={"steps": 3})
    one, other, again, noise = (
        synthesise(network, canvas, latent_settings, synthesis, seed, How(patches, FLOAT))
        for seed, patches in ((5, 1), (5, 4), (5, 1), (6, 1))
    )
    assert one.shape == shape and one.dtype == torch.float32 and one.isfinite().all()
    assert (one[:2] == -1).all() and one.abs().max() <= 1
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert torch.equal(one, again)
    assert not torch.allclose(one, noise, atol=1e-3)


def test_patches_that_agree_leave_no_seam(latent_settings, study, network, monkeypatch):
    """Where all patches say the same of latents and voxels, so does the volume: the weights of the blend sum to one."""
    monkeypatch.setattr(network, "predict", lambda z, masks, t: torch.full_like(z, 0.5))
    monkeypatch.setattr(network.autoencoder, "decode", lambda z, noise: F.interpolate(z[:, :1], scale_factor=4))
    settings = latent_settings.model_copy(update={"prediction": "sample"})
    x = synthesise(network, canvas_of((33, 34, 21), settings), settings, study.synthesis, 0, How(3, FLOAT))
    torch.testing.assert_close(x[2:], torch.full_like(x[2:], 0.5), rtol=0, atol=1e-5)


def test_a_background_stays_what_it_is_and_its_latents_are_known(latent_settings, study, network, monkeypatch):
    shape = (32, 32, 32)
    values = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    weight = np.zeros(shape, np.float32)
    weight[16:, 16:, 16:] = 1
    canvas = canvas_of(shape, latent_settings, Background(values, weight))
    asked, ask = [], network.predict

    def predict(z, masks, t):
        asked.append((int(t[0]), z.clone()))
        return ask(z, masks, t)

    monkeypatch.setattr(network, "predict", predict)
    synthesis = study.synthesis.model_copy(update={"steps": 4, "overlap": 0.0, "sampler": "ddim", "eta": 0.0})
    made = synthesise(network, canvas, latent_settings, synthesis, 0, How(8, FLOAT))
    known = weight == 0
    assert np.array_equal(made.numpy()[known], values[known])
    assert not np.allclose(made.numpy()[~known], values[~known], atol=0.05)

    masks = canvas.masks[None, :, :16, :16, :16]
    z0 = network.autoencoder.encode(torch.from_numpy(values)[None, None, :16, :16, :16], masks)[0]
    (first, noise), *_, (last, z) = [(t, z[0]) for t, z in asked]  # the first patch is all background
    assert last < first  # where there is nothing but noise
    torch.testing.assert_close(z, diffuse(z0, noise, network.abar[last]), rtol=0, atol=2e-2)


def test_guidance_leads_away_from_no_nodules(latent_settings, study, network):
    canvas = canvas_of((16, 16, 16), latent_settings)
    plain, led = (
        synthesise(
            network, canvas, latent_settings, study.synthesis.model_copy(update={"guidance_scale": scale}), 0, How(1)
        )
        for scale in (1.0, 3.0)
    )
    assert not torch.allclose(plain, led)


def test_cases_and_the_membership_attack_take_it_as_any_generator(case_folders, study, trained):
    generator = loaded(trained[3], CPU)
    assert isinstance(generator.settings, latent_ddpm.Settings)
    row, folders = untargeted(["case-0", "case-3"], 1, seed=0)[0], {folder.name: folder for folder in case_folders}
    cases = [
        made_case(generator, row, study.synthesis, lambda name: open_case(folders[name]), attempt)
        for attempt in (0, 0, 1)
    ]
    assert cases[0].digest == cases[1].digest != cases[2].digest
    assert (cases[0].ct[np.asarray(cases[0].body) == 0] == -1000).all()
    assert np.isfinite(generator.log_loss(case_folders[0], seed=1))


def test_its_training_can_be_watched(case_folders, latent_settings, tmp_path, capsys):
    watch = watcher(case_folders, latent_settings, CPU, 7, tmp_path / "live.png", "ours")
    training.train(case_folders, latent_settings, Run(7, CPU, tmp_path), watch=watch)
    assert (tmp_path / "live.png").stat().st_size > 10_000
    assert "no live picture" not in capsys.readouterr().out


def test_what_does_not_fit_is_refused(latent_settings, study):
    raw = study.model_dump(mode="json")
    raw["generators"]["latent"] = latent_settings.model_dump(mode="json")
    assert check(raw).generators["latent"] == latent_settings

    def refused(match, *, autoencoder=None, **changed):
        given = json.loads(json.dumps(raw))
        given["generators"]["latent"] |= changed
        given["generators"]["latent"]["autoencoder"] |= autoencoder or {}
        with pytest.raises(InputError, match=match):
            check(given)

    levels = r"latent: patch_voxels 24 must be a multiple of 16 for 2 levels of the autoencoder and 3 of the diffusion"
    refused(levels, patch_voxels=24, channels=[8, 8, 8])
    many = {"channels": [8], "latent_channels": 9}
    refused(r"autoencoder\.latent_channels is 9, more than the 8 voxels", autoencoder=many)
    refused(
        r"autoencoder\.latent_channels is 4: input should be greater than or equal to 8",
        autoencoder={"latent_channels": 4},
    )
    refused(r"latent\.context_factor: no key of this section; remove it", context_factor=2)
    refused(r"latent\.autoencoder\.latents: unknown key", autoencoder={"latents": 4})
