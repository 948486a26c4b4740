"""The GAN: what it sees, what its two networks learn from, and that it makes volumes as the diffusion model does."""

import json

import numpy as np
import pytest
import torch

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.generators.core import training
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.learning import predict
from lungsyn.generators.core.patches import TrainingPatches
from lungsyn.generators.core.samplers import plan, sample
from lungsyn.generators.core.schedule import pure_noise
from lungsyn.generators.networks.adversaries import Adversaries
from lungsyn.generators.networks.critic import Critic
from lungsyn.masks.core.rows import untargeted
from lungsyn.processes import Team
from lungsyn.seams import Run
from lungsyn.settings.checking import check, from_json
from lungsyn.settings.compute import Compute
from lungsyn.settings.generators import AnyGenerator
from lungsyn.volume.files import open_case, write_case
from tests.conftest import first_batch, loaded, made_case, make_case, network_of

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
FLOAT, DEVICE = torch.float32, torch.device("cpu")


@pytest.fixture
def batch(case_folders, gan_settings):
    return first_batch(case_folders, gan_settings)


@pytest.fixture
def both(gan_settings):
    torch.manual_seed(1)
    pair = Adversaries(network_of(gan_settings), Critic(gan_settings))
    torch.nn.init.normal_(pair.generator.head.weight, std=0.1)  # zero at the start: nothing would flow through it
    return pair


def test_the_generator_sees_nothing_of_the_ct(gan_settings, tmp_path):
    case = make_case((28, 28, 28))
    write_case(tmp_path / "a", case)
    case.ct[...] = np.where(case.body > 0, case.ct + 150, case.ct)
    write_case(tmp_path / "b", case)
    one, other = (TrainingPatches([tmp_path / name], gan_settings, seed=0)[4] for name in "ab")
    assert not torch.equal(one.target, other.target)
    for name in ("x_t", "masks", "coarse", "t", "spacing_mm"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_each_network_learns_by_the_gradient_of_its_own_loss(gan_settings, both, batch):
    """Oracle: the losses of Huang et al. written out patch by patch, each with a backward pass of its own."""
    settings = gan_settings.model_copy(update={"gradient_norm": 1e9, "slope_weight": 3.0})

    class Noted(torch.optim.SGD):
        def step(self):
            self.gradients = [p.grad.clone() for group in self.param_groups for p in group["params"]]

    optimizer, average = Noted(both.parameters(), 1.0), dict(both.generator.state_dict())
    take = settings.learning().steps(both.generator, both, optimizer, average, torch.zeros(()), FLOAT)
    error, _ = take(batch)

    made, masks, critic = predict(both.generator, batch, DEVICE, FLOAT), inner(batch["masks"]), both.critic
    expected = settings.learning().mean_in_body((made - batch["target"]).square(), batch["masks"])
    assert float(error) == pytest.approx(float(expected))
    bands = [critic.bands(x, masks) for x in (batch["target"], made)]
    real, fake = (critic(b, masks) for b in bands)
    loss = 10 * expected + torch.log(1 + torch.exp(real - fake)).mean()
    wanted = list(torch.autograd.grad(loss, both.generator.parameters()))

    loss, n = 0.0, len(masks)
    for i in range(n):
        one = [b[i : i + 1].detach().requires_grad_() for b in bands]
        real, fake = (critic(b, masks[i : i + 1]) for b in one)
        slopes = [torch.autograd.grad(d.sum(), b, create_graph=True)[0] for d, b in zip((real, fake), one, strict=True)]
        penalties = sum(slope.square().sum() for slope in slopes) / real.numel()
        loss += (torch.log(1 + torch.exp(fake - real)).mean() + 3.0 / 2 * penalties) / n
    wanted += torch.autograd.grad(loss, critic.parameters())
    assert len(wanted) == len(optimizer.gradients)
    for found, oracle in zip(optimizer.gradients, wanted, strict=True):
        torch.testing.assert_close(found, oracle, rtol=1e-3, atol=1e-6)
    assert sum(bool(gradient.any()) for gradient in wanted) > len(wanted) / 2


def test_the_critic_judges_only_what_is_generated(both, batch):
    critic, masks, x = both.critic, inner(batch["masks"]), batch["target"]
    outside = masks.amax(dim=1, keepdim=True) == 0
    assert 0 < outside.float().mean() < 1
    scores, other_air, other_body = (
        critic(critic.bands(seen, masks), masks)
        for seen in (x, torch.where(outside, 0.7, x), torch.where(outside, x, 0.7))
    )
    assert scores.shape == (3, 1, 4, 4, 4)
    assert torch.equal(other_air, scores)
    assert not torch.equal(other_body, scores)


def test_a_critic_that_learns_tells_real_from_made(gan_settings, both, batch):
    """Against a generator that does not learn it must win; with gradients of the wrong sign it would lose."""
    optimizer = torch.optim.Adam(both.critic.parameters(), 0.01)
    take = gan_settings.learning().steps(
        both.generator, both, optimizer, dict(both.generator.state_dict()), torch.zeros(()), FLOAT
    )
    for _ in range(30):
        take(batch)
    with torch.no_grad():
        made = both.generator(*(batch[key] for key in ("x_t", "masks", "coarse", "t", "spacing_mm")))
        masks = inner(batch["masks"])
        bands = (both.critic.bands(x, masks) for x in (batch["target"], made))
        real, fake = (both.critic(b, masks).mean() for b in bands)
    assert real > fake + 1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_one_step_from_pure_noise_is_what_the_network_says(sampler):
    abar, said = pure_noise(1), torch.randn(3, 4, 5)
    steps = plan(sampler, abar, [1, 0], eta=1.0)

    def no_noise(x, scale):
        assert scale == 0

    found = sample(lambda x, t: said, torch.randn(3, 4, 5), [1, 0], steps, no_noise)
    torch.testing.assert_close(found, said)


def test_the_last_weights_are_kept(case_folders, gan_settings, tmp_path, monkeypatch):
    losses = iter([[0.1], [0.2], [0.3], [0.4]])
    monkeypatch.setattr(training, "held_out_losses", lambda *_: next(losses))
    _, facts, _ = training.train(case_folders, gan_settings, Run(7, CPU, tmp_path))
    assert facts["best_loss"] == 0.4


def test_a_volume_is_made_in_one_step_whatever_synthesis_says(case_folders, gan_settings, study, tmp_path):
    weights, facts, _ = training.train(case_folders, gan_settings, Run(7, CPU, tmp_path))
    about = {"generator": gan_settings.model_dump(mode="json")} | facts
    checkpoint.save(tmp_path / "model.safetensors", weights, about)
    generator = loaded(tmp_path / "model.safetensors", CPU)
    row, folders = untargeted(["case-0", "case-3"], 1, seed=0)[0], {folder.name: folder for folder in case_folders}
    few = study.synthesis.model_copy(update={"steps": 3, "mode": "shifted", "sampler": "ddpm"})
    cases = [
        made_case(generator, row, synthesis, lambda name: open_case(folders[name]), attempt)
        for synthesis, attempt in ((study.synthesis, 0), (few, 0), (few, 1))
    ]
    assert cases[0].digest == cases[1].digest != cases[2].digest
    assert (cases[0].ct[np.asarray(cases[0].body) == 0] == -1000).all()
    assert np.isfinite(generator.log_loss(case_folders[0], seed=1))  # what the membership audit asks of a generator


def test_what_a_gan_has_no_use_for_is_refused(gan_settings, study):
    raw = study.model_dump(mode="json")
    raw["generators"]["gan"] = gan_settings.model_dump(mode="json")
    assert check(raw).generators["gan"] == gan_settings
    raw["compute"]["gpus"] = 2
    with pytest.raises(InputError, match=r"gpus is 2, but generators\.gan is a patch_gan, which one GPU trains"):
        check(raw)
    raw["compute"]["gpus"] = 1
    for key, value, message in (
        ("schedule", "cosine", r"gan\.schedule: no key of this section; remove it"),
        ("eta", 0.5, r"gan\.eta: no key of this section; remove it"),
        ("critic_channels", [4] * 4, r"gan: patch_voxels 24 must be a multiple of 16 for 4 levels of the critic"),
    ):
        bad = {
            **raw,
            "generators": {"gan": raw["generators"]["gan"] | {"patch_voxels": 24, "channels": [8], key: value}},
        }
        with pytest.raises(InputError, match=message):
            check(bad)
    with pytest.raises(InputError, match=r"^critic_channels\.0 is 0: input should be greater"):
        given = raw["generators"]["gan"] | {"critic_channels": [0]}
        from_json(AnyGenerator, json.dumps(given))
    known = r"^kind missing: it must be one of 'cascade_ddpm', 'copy_paste', .*'latent_ddpm'"
    with pytest.raises(InputError, match=known):
        from_json(AnyGenerator, "{}")


def test_a_gan_is_trained_by_one_process(gan_settings):
    with pytest.raises(InputError, match=r"a patch_gan is trained by one process, not by 2: set compute\.gpus to 1"):
        gan_settings.learning().check_team(Team(0, 2, "cpu"))
