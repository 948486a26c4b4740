"""What the autoencoder may be judged by beside its likelihood: L1, KL, a critic, features of slices."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.losses import PatchAdversarialLoss
from torch.distributions import Normal, kl_divergence

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.generators.core import training
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.learning import predict
from lungsyn.generators.networks.autoencoder import LATENT_NOISE, latent_noise, slices_of, texture_distance
from lungsyn.masks.core.rows import untargeted
from lungsyn.seams import Run
from lungsyn.settings.checking import check
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import as_json
from lungsyn.volume.files import open_case
from tests.conftest import first_batch, loaded, made_case, network_of, without_zeros
from tests.generators.test_training import end_bit_equal

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
FLOAT, DEVICE = torch.float32, torch.device("cpu")
MAISI = {"loss": "l1", "kl_weight": 0.03, "critic_weight": 0.1, "critic_levels": 2, "critic_channels": 4}
MAISI |= {"feature_weight": 0.3}


def judged(latent_settings, **by):
    """The autoencoder's settings."""
    autoencoder = latent_settings.autoencoder.model_copy(update=by)
    return latent_settings.model_copy(update={"autoencoder": autoencoder}).autoencoder_training


@pytest.fixture
def batch(case_folders, latent_settings):
    return first_batch(case_folders, latent_settings)


def parts(batch):
    x0, noise = inner(batch["x_t"]).split(1, dim=1)
    masks = inner(batch["masks"])
    return torch.where(masks.amax(dim=1, keepdim=True) > 0, x0, -1.0), noise, masks


def fresh(settings):
    torch.manual_seed(1)
    return without_zeros(network_of(settings), 0.1)


def test_l1_is_that_of_the_voxels_and_what_is_decoded_has_no_grain(latent_settings, batch):
    network = fresh(judged(latent_settings, loss="l1"))
    x0, _, masks = parts(batch)
    made = network.decode(network.encode(x0, masks), torch.randn(3, 8, 8, 8, 8))
    found = predict(network, batch, DEVICE, FLOAT)
    assert found.shape == (3, 8, 8, 8, 8)
    each_block = (made - x0).abs().unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).flatten(5).mean(-1)
    torch.testing.assert_close(found.mean(1, True), each_block)
    loss = judged(latent_settings, loss="l1").learning().loss(network, batch, DEVICE, FLOAT)
    weight = judged(latent_settings).learning().weight(batch["masks"])
    torch.testing.assert_close(loss, (weight * each_block).sum() / weight.sum())


@pytest.mark.parametrize("loss", ["likelihood", "l1"])
def test_the_kl_is_that_of_torch_s_distributions_for_each_voxel(latent_settings, batch, loss):
    network, plain = (fresh(judged(latent_settings, loss=loss, kl_weight=weight)) for weight in (0.5, 0.25))
    x0, _, masks = parts(batch)
    mean, log_variance = network.encoded(x0, masks)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0, 1)).sum(1, True) / 64
    more = predict(network, batch, DEVICE, FLOAT) - predict(plain, batch, DEVICE, FLOAT)  # the rest is the same
    torch.testing.assert_close(
        more, 0.25 * F.interpolate(expected, scale_factor=2).expand_as(more), rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(network.encode(x0, masks), mean)


def test_latents_are_drawn_in_training_as_wide_as_the_encoder_says(latent_settings, batch, monkeypatch):
    network, seen = network_of(judged(latent_settings, kl_weight=0.5)), []
    decode = network.expected_bands
    monkeypatch.setattr(network, "expected_bands", lambda z: seen.append(z) or decode(z))
    x0, noise, masks = parts(batch)
    mean, log_variance = network.encoded(x0, masks)
    torch.testing.assert_close((log_variance / 2).exp(), torch.full_like(mean, LATENT_NOISE))  # before it learned
    network.train()(*(batch[key] for key in ("x_t", "masks", "coarse", "t", "spacing_mm")))
    network.eval()(*(batch[key] for key in ("x_t", "masks", "coarse", "t", "spacing_mm")))
    torch.testing.assert_close(seen[0], mean + LATENT_NOISE * latent_noise(noise, mean))
    torch.testing.assert_close(seen[1], mean)


def test_each_network_learns_by_the_gradient_of_its_own_loss(latent_settings, batch):
    """Oracle: the losses written out, each with a backward pass of its own."""
    settings = judged(latent_settings, **MAISI).model_copy(update={"gradient_norm": 1e9})
    learning = settings.learning()
    network = fresh(settings).train()
    learner, _ = learning.learner(network, DEVICE)
    networks = learner.generator, learner.critic
    before = [[weight.detach().clone() for weight in part.parameters()] for part in networks]

    error, made, real = network.tried(batch["x_t"], batch["masks"])
    adversarial = PatchAdversarialLoss(criterion="least_squares")
    error = learning.mean_in_body(error.mean(1, True), batch["masks"])
    features = texture_distance(made, real, inner(batch["masks"]), settings.window_hu)
    whole = error + 0.3 * features + 0.1 * adversarial(learner.critic(made)[-1], True, False)
    wanted = list(torch.autograd.grad(whole, list(network.parameters()), allow_unused=True))
    scores = [learner.critic(x.detach())[-1] for x in (made, real)]
    critic = (adversarial(scores[0], False, True) + adversarial(scores[1], True, True)) / 2
    wanted += torch.autograd.grad(critic, list(learner.critic.parameters()))

    descent = torch.optim.SGD(learner.parameters(), 1.0)
    found, _ = learning.steps(network, learner, descent, dict(network.state_dict()), torch.ones(()), FLOAT)(batch)
    assert float(found) == pytest.approx(float(error.detach()), rel=1e-5)
    after = [weight for part in networks for weight in part.parameters()]
    for old, new, slope in zip([*before[0], *before[1]], after, wanted, strict=True):
        torch.testing.assert_close(
            old - new, slope if slope is not None else torch.zeros_like(old), atol=1e-4, rtol=1e-3
        )


def test_textures_are_compared_wherever_they_lie(latent_settings):
    """As strong a texture, drawn anew, is nearer than a smooth patch, whose voxels are nearer."""
    torch.manual_seed(0)
    window_hu, masks = latent_settings.window_hu, torch.ones(2, 3, 16, 16, 16)
    real, other = 0.1 * torch.randn(2, 2, 1, 16, 16, 16)
    smooth = torch.zeros_like(real)
    distances = [float(texture_distance(x, real, masks, window_hu)) for x in (real, other, smooth)]
    assert distances[0] == 0
    assert distances[1] < distances[2] / 3
    assert (other - real).abs().mean() > (smooth - real).abs().mean()


def test_what_lies_outside_the_masks_has_no_texture_to_speak_of(latent_settings):
    torch.manual_seed(0)
    masks = torch.zeros(1, 3, 32, 32, 32)
    masks[..., :16] = 1
    real = 0.1 * torch.randn(1, 1, 32, 32, 32)
    inside, outside = real.clone(), real.clone()
    inside[..., :8], outside[..., 24:] = 0, 0
    far, near = (float(texture_distance(x, real, masks, latent_settings.window_hu)) for x in (inside, outside))
    assert near < 0.05 * far  # filters see a neighbour
    nothing = texture_distance(outside, real, torch.zeros_like(masks), latent_settings.window_hu)
    assert nothing == 0


def test_a_fifth_of_the_slices_is_looked_at_along_each_axis():
    x = torch.arange(10.0**3).reshape(1, 1, 10, 10, 10)
    found = slices_of(x)
    expected = [x[0, :, 2], x[0, :, 7], x[0, :, :, 2], x[0, :, :, 7], x[0, :, :, :, 2], x[0, :, :, :, 7]]
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("by", [{"loss": "l1"}, {"loss": "l1", "feature_weight": 0.3}, {"kl_weight": 1.0}])
def test_it_learns(latent_settings, batch, by):
    settings = judged(latent_settings, **by)
    torch.manual_seed(0)
    network = network_of(settings).train()
    learner, optimizer = settings.learning().learner(network, DEVICE)
    optimizer.set_learning_rate(0.002)
    step = settings.learning().steps(network, learner, optimizer, dict(network.state_dict()), torch.ones(()), FLOAT)
    losses = [float(step(batch)[0]) for _ in range(25)]
    assert np.mean(losses[-3:]) < losses[0] - (0.01 if by.get("loss") == "l1" else 0.1)


def test_maisi_s_recipe_trains_resumes_and_makes_volumes(latent_settings, case_folders, study, tmp_path, monkeypatch):
    autoencoder = latent_settings.autoencoder.model_copy(update=MAISI)
    settings = latent_settings.model_copy(update={"autoencoder": autoencoder, "objective": "flow", "images": 24})
    end_bit_equal(case_folders, settings, tmp_path, monkeypatch)
    weights, facts, _ = training.train(case_folders, settings, Run(7, CPU, tmp_path / "whole"))
    assert not [name for name in weights if "critic" in name]
    model = tmp_path / "model.safetensors"
    checkpoint.save(model, weights, {"generator": json.loads(as_json(settings))} | facts)
    generator, folders = loaded(model, CPU), {folder.name: folder for folder in case_folders}
    row = untargeted(["case-0", "case-3"], 1, seed=0)[0]
    synthesis = study.synthesis.model_copy(update={"steps": 3, "sampler": "euler"})
    case = made_case(generator, row, synthesis, lambda name: open_case(folders[name]))
    assert (case.ct[np.asarray(case.body) == 0] == -1000).all() and case.ct.std() > 50
    assert np.isfinite(generator.log_loss(case_folders[0], seed=1))


def test_what_cannot_be_judged_is_refused(latent_settings, study):
    raw = study.model_dump(mode="json")
    raw["generators"]["latent"] = latent_settings.model_dump(mode="json")
    raw["generators"]["latent"]["autoencoder"] |= MAISI
    check(raw)
    small, many = json.loads(json.dumps(raw)), json.loads(json.dumps(raw))
    small["generators"]["latent"]["autoencoder"]["critic_levels"] = 3
    with pytest.raises(InputError, match=r"patch_voxels 16 is too small for a critic .* Lower critic_levels"):
        check(small)
    many["compute"]["gpus"] = 2
    with pytest.raises(InputError, match=r"latent\.autoencoder\.critic_weight is 0\.1, with which one GPU"):
        check(many)
