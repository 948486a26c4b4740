"""The GAN from noise: what its layers do to variance and frequencies, how it grows, what augmentation keeps together,
when it acts, that it stops and goes on bit for bit, and what it makes."""

import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lungsyn.errors import InputError
from lungsyn.generators import style_gan
from lungsyn.generators.core import training
from lungsyn.generators.networks import playing
from lungsyn.generators.networks.playing import Players, WholeFields, augmented, losses, shrunk, whole_field
from lungsyn.generators.networks.style import (
    Convolution,
    Critic,
    Generator,
    activated,
    doubled,
    filtered_activation,
    low_pass,
    normed,
    refiltered,
    spread,
)
from lungsyn.seams import Run
from lungsyn.settings.checking import check
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import open_case
from tests.conftest import cut_out, killed_at, without_zeros
from tests.generators.joint_sets import ends_in_a_checked_set

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
STYLES = ("plain", "adain", "modulated")


def settings_of(**changed) -> style_gan.Settings:
    small = {
        "field_voxels": 16, "channels": [8, 6], "latent": 8, "mapping_layers": 2, "images": 24, "batch_patches": 2,
        "warmup_images": 4, "validation_every_images": 8, "growing_images": 8, "augment_images": 20,
    }  # fmt: skip
    return style_gan.Settings(**small | changed)


def rng(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------- the layers


def test_demodulation_gives_unit_variance_whatever_the_style():
    torch.manual_seed(0)
    x, w = torch.randn(3, 12, 18, 18, 18), 4 * torch.randn(3, 5)
    convolve, free = (Convolution(12, 16, 3, 5, demodulated) for demodulated in (True, False))
    inside = (..., *[slice(1, -1)] * 3)
    variance = convolve(x, w)[inside].var(dim=(2, 3, 4))
    assert ((variance - 1).abs() < 0.12).all()
    assert free(x, w)[inside].var(dim=(2, 3, 4)).max() > 3  # it is not so by itself


def test_a_style_scales_what_goes_in():
    """Oracle: the modulated weights written out (StyleGAN2, Eq. 1 and 3)."""
    torch.manual_seed(0)
    x, w, convolve = torch.randn(2, 3, 5, 5, 5), torch.randn(2, 4), Convolution(3, 7, 3, 4)
    for i, style in enumerate(convolve.style(w)):
        weight = convolve.weight * style[:, None, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3, 4), keepdim=True) + 1e-8).sqrt()
        torch.testing.assert_close(convolve(x, w)[i], F.conv3d(x[i], weight, padding=1))


def test_activation_and_norms_keep_the_mean_square():
    torch.manual_seed(0)
    x = torch.randn(2, 40, 10, 10, 10)
    assert float(activated(x).square().mean()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(normed(5 * x).square().mean(dim=1), torch.ones(2, 10, 10, 10))


def test_the_filter_keeps_what_a_grid_can_show():
    taps, x = low_pass(), torch.full((1, 2, 24, 24, 24), 3.0)
    inside = (..., *[slice(8, -8)] * 3)
    assert taps.sum() == pytest.approx(1) and torch.allclose(taps, taps.flip(0))
    fine = refiltered(x, taps, True)
    assert fine.shape == (1, 2, 48, 48, 48) and refiltered(fine, taps, False).shape == x.shape
    torch.testing.assert_close(
        fine[..., 16:-16, 16:-16, 16:-16], torch.full((1, 2, 16, 16, 16), 3.0), rtol=0.01, atol=0
    )
    wave = torch.cos(torch.arange(24.0) * 2 * np.pi / 12)[:, None, None].expand(1, 1, 24, 24, 24)
    again = refiltered(refiltered(wave, taps, True), taps, False)
    torch.testing.assert_close(again[inside], wave[inside], atol=0.1, rtol=0)  # and it moves nothing


def moved(x: torch.Tensor) -> torch.Tensor:
    """Half a voxel along x, exactly, of what is periodic."""
    turn = torch.exp(-2j * torch.pi * torch.fft.fftfreq(x.shape[2]) * 0.5)[:, None, None]
    return torch.fft.ifft(torch.fft.fft(x, dim=2) * turn, dim=2).real


def test_a_filtered_non_linearity_moves_with_its_input_and_a_plain_one_less_so():
    torch.manual_seed(0)
    waves = torch.fft.fft(torch.randn(1, 1, 32, 32, 32), dim=2)
    waves[:, :, 9:24] = 0  # of at least four voxels
    x = torch.fft.ifft(waves, dim=2).real
    inside = (..., *[slice(8, -8)] * 3)

    def error(act) -> float:
        return float((act(moved(x)) - moved(act(x)))[inside].square().mean() / act(x)[inside].var())

    plain, filtered = error(activated), error(lambda y: filtered_activation(y, low_pass()))
    assert filtered < 0.5 * plain


# ------------------------------------------------------------------------------------------------------------- growing


@pytest.mark.parametrize("style", STYLES)
def test_a_level_fades_in_from_the_one_before(style):
    settings = settings_of(style=style, field_voxels=32, channels=[8, 6, 4])
    torch.manual_seed(0)
    network, z = without_zeros(Generator(settings), 0.1), torch.randn(2, 8)
    small, half, large = (network(z, rng(), level) for level in (0, 1, 2))
    assert small.shape == (2, 2, 8, 8, 8) and large.shape == (2, 2, 32, 32, 32)
    torch.testing.assert_close(network(z, rng(), 1, 0.0), doubled(small))
    torch.testing.assert_close(network(z, rng(), 1, 1.0), half)
    torch.testing.assert_close(network(z, rng(), 2, 1.0), network(z, rng()))  # fully grown
    middle = torch.lerp(doubled(small), half, 0.5)
    torch.testing.assert_close(network(z, rng(), 1, 0.5), middle)


def test_the_critic_fades_in_likewise():
    torch.manual_seed(0)
    critic, x = Critic(settings_of()), torch.randn(3, 2, 16, 16, 16)
    torch.testing.assert_close(critic(x, 1, 0.0), critic(F.avg_pool3d(x, 2), 0))
    torch.testing.assert_close(critic(x, 1, 1.0), critic(x))
    assert critic(x).shape == (3,)


def test_what_is_learned_grows_with_what_was_seen():
    settings = settings_of(growing=True, field_voxels=32, channels=[8, 6, 4], images=40)
    players = Players(Generator(settings), Critic(settings))
    found = {}
    for seen in range(0, 41, 2):
        players.seen.fill_(seen)
        found[seen] = players.stage(settings)
    assert found[0] == found[2] == (0, 1.0) and found[4] == (1, 0.0) and found[6] == (1, 0.5)
    assert found[8] == found[10] == (1, 1.0) and found[12] == (2, 0.0)
    assert found[16] == found[40] == (2, 1.0)
    assert players.stage(settings_of()) == (1, 1.0)
    real = torch.randn(1, 2, 32, 32, 32)
    torch.testing.assert_close(shrunk(real, settings, 1, 0.0), doubled(F.avg_pool3d(real, 4)))
    assert shrunk(real, settings, 2, 1.0) is real


@pytest.mark.parametrize("style", STYLES)
def test_another_style_is_another_volume_and_so_is_other_noise(style):
    torch.manual_seed(0)
    network, z = without_zeros(Generator(settings_of(style=style)), 0.1), torch.randn(2, 8)
    one, noisy = network(z, rng(0)), network(z, rng(1))
    assert torch.equal(one, network(z, rng(0))) and not torch.allclose(one[0], one[1])
    assert torch.equal(one, noisy) == (style == "plain")  # the progressive GAN has no noise inside


def test_a_critic_sees_whether_all_are_alike():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 4, 4)
    assert spread(x.expand(5, -1, -1, -1, -1)).max() < 1e-3 < spread(torch.randn(5, 3, 4, 4, 4)).min()


# -------------------------------------------------------------------------------------------------------- augmentation


def test_augmentation_keeps_image_and_mask_together():
    torch.manual_seed(0)
    mask = (torch.rand(12, 1, 12, 12, 12) < 0.3).float() * 2 - 1
    volumes = torch.cat([0.35 * mask, mask], dim=1)  # (ct + 1) is 0.65 or 1.35, whatever factor is on it
    found = augmented(volumes, 1.0, rng())
    for before, after in zip(volumes, found, strict=True):
        assert set(after[1].unique().tolist()) == {-1, 1}
        dark, bright = after[0][after[1] < 0] + 1, after[0][after[1] > 0] + 1
        torch.testing.assert_close(bright.min(), bright.max())
        assert float(bright.mean() / dark.mean()) == pytest.approx(1.35 / 0.65, rel=1e-4)
        assert not torch.equal(before[1], after[1])
    assert torch.equal(augmented(volumes, 0.0, rng()), volumes)
    assert torch.equal(augmented(volumes, 0.5, rng(3)), augmented(volumes, 0.5, rng(3)))
    changed = [not torch.equal(a, b) for a, b in zip(augmented(volumes, 0.1, rng(1)), volumes, strict=True)]
    assert 0 < sum(changed) < 12


def test_a_slope_goes_through_augmentation():
    volumes = torch.randn(2, 2, 8, 8, 8, requires_grad=True)
    augmented(volumes, 1.0, rng()).sum().backward()
    assert volumes.grad[:, 1].sum() == pytest.approx(2 * 8**3)  # each made voxel has one that it comes from


def test_augmentation_rises_while_the_critic_is_too_sure_and_falls_when_it_is_not():
    settings = settings_of(augment_target=0.6, augment_images=20)
    players = Players(Generator(settings), Critic(settings))
    chances = []
    for _ in range(60):
        players.steer(torch.tensor([2.0, 1.0]), 0.0, settings)
        chances.append(float(players.probability))
    assert chances[0] == 0 and chances[-1] == playing.MOST
    for _ in range(60):
        players.steer(torch.tensor([1.0, -1.0]), 0.0, settings)
    assert players.probability == 0 and players.seen == 240
    players.steer(torch.tensor([-5.0, -4.0]), -9.0, settings)  # sure of them: only differences count
    assert players.sure > 0
    never = settings_of(augment_target=0.0)
    players.probability.fill_(0)
    players.steer(torch.tensor([2.0, 1.0]), 0.0, never)
    assert players.probability == 0


# --------------------------------------------------------------------------------------------------- training and sets


def test_losses_are_those_of_the_papers():
    real, made, fooled = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), torch.tensor([0.7, -1.0])
    critic, generator = losses(real, made, fooled, "relativistic")
    assert critic == pytest.approx(torch.log1p(torch.exp(made - real)).mean())
    assert generator == pytest.approx(torch.log1p(torch.exp(real - fooled)).mean())
    critic, generator = losses(real, made, fooled, "non_saturating")
    assert critic == pytest.approx(-(torch.log(real.sigmoid()) + torch.log(1 - made.sigmoid())).mean())
    assert generator == pytest.approx(-torch.log(fooled.sigmoid()).mean())


@pytest.mark.parametrize("loss", ["relativistic", "non_saturating"])
def test_a_critic_that_learns_tells_real_from_made_and_a_slope_weight_flattens_it(cut_outs, loss):
    """Against a generator that does not learn it must win; with gradients of the wrong sign it would lose."""
    slopes = []
    for weight in (0.1, 1000.0):
        torch.manual_seed(0)
        settings = settings_of(loss=loss, slope_weight=weight, augment_target=0.0)
        players = Players(Generator(settings), Critic(settings))
        fields = WholeFields(cut_outs, settings, 0)
        batch = {"x_t": torch.stack([fields[i].x_t for i in range(4)]), "t": torch.arange(4)}
        optimizer = torch.optim.Adam(players.critic.parameters(), 0.003)
        average = dict(players.generator.state_dict())
        take = settings.learning().steps(None, players, optimizer, average, torch.zeros(()), torch.float32)
        for _ in range(15):
            take(batch)
        made = players.generator(torch.randn(4, 8), rng()).detach()
        real = batch["x_t"].clone().requires_grad_()
        scores = players.critic(real)
        slopes.append(float(torch.autograd.grad(scores.sum(), real)[0].square().sum()))
        if weight < 1:
            assert scores.mean() > players.critic(made).mean() + 0.5
    assert slopes[1] < 0.2 * slopes[0]


@pytest.mark.parametrize("chosen", [{"growing": True, "style": "plain"}, {"filtered": True}, {"style": "adain"}])
def test_a_killed_training_ends_bit_equal(cut_outs, chosen, tmp_path, monkeypatch):
    settings = settings_of(**chosen, augment_target=0.01)
    whole, _, records = training.train(cut_outs, settings, Run(7, CPU, tmp_path / "whole"))
    with monkeypatch.context() as patched:
        patched.setattr(playing.Playing, "examples", killed_at(WholeFields, 12, signal.SIGTERM))
        with pytest.raises(SystemExit):
            training.train(cut_outs, settings, Run(7, CPU, tmp_path / "killed"))
    resumed, _, again = training.train(cut_outs, settings, Run(7, CPU, tmp_path / "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [r["loss"] for r in records] == [r["loss"] for r in again]


@pytest.mark.parametrize("chosen", [{"growing": True, "style": "plain"}, {"style": "adain"}, {"filtered": True}])
def test_a_set_of_it_is_checked_audited_and_learned_from(cut_outs, chosen, tmp_path):
    ends_in_a_checked_set(cut_outs, settings_of(**chosen), CPU, tmp_path, attackable=False)


def test_a_field_holds_the_case_in_its_middle_mirrored_beyond(cut_outs):
    case = open_case(cut_outs[0])
    field = whole_field(case, 32, (-1000, 400))
    assert field.shape == (2, 32, 32, 32) and field.dtype == np.float32
    inside = field[1, 8:23, 8:23, 8:23] > 0
    assert (inside == (np.asarray(case.nodules) > 0)).all()
    np.testing.assert_array_equal(field[:, 7], field[:, 8])
    with pytest.raises(InputError, match=r"a volume of 24 x 24 x 24 voxels does not fit into the 16 that a style_gan"):
        whole_field(cut_out(), 16, (-1000, 400))
    with pytest.raises(InputError, match="no case to train on"):
        WholeFields([], settings_of(), 0)


def test_what_does_not_fit_together_is_refused(study):
    raw = study.model_dump(mode="json")
    raw["generators"] = {"gan": settings_of().model_dump(mode="json")}
    raw["cohort"]["preprocess"]["field_of_view"] = "part"
    for one in raw["sets"].values():
        one |= {"generator": "gan", "conditions": "blank"}
    assert check(raw).generators["gan"] == settings_of()
    for change, message in (
        ({"channels": [8]}, r"channels has 1 levels, but from 8 to 16 voxels \(field_voxels\) there are 2: give as"),
        ({"growing": True, "images": 7}, r"images 7 is too short to grow 1 times by growing_images 8: what is made"),
        ({"batch_patches": 1}, r"batch_patches is 1, but the critic compares the volumes of a batch: raise it"),
        ({"held_out": 0.1}, r"gan\.held_out"),
    ):
        with pytest.raises(InputError, match=message):
            check(raw | {"generators": {"gan": raw["generators"]["gan"] | change}})
    with pytest.raises(InputError, match=r"gpus is 2, but generators\.gan is a style_gan, which one GPU trains"):
        check(raw | {"compute": raw["compute"] | {"gpus": 2}})
