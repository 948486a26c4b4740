"""Samplers against Gaussian data, whose denoiser is known exactly: E[x_0 | x_t] for x_0 ~ N(m, s^2)."""

import math

import pytest
import torch

from lungsyn.generators.core.samplers import ddim_step, ddpm_step, noise_adder, plan, sample
from lungsyn.generators.core.schedule import SCHEDULES, cosine, linear, log_snr, sampling_timesteps

MEAN, STD = 0.3, 0.5


def exact_denoiser(abar):
    """E[x_0 | x_t] = m + s^2 sqrt(abar) (x_t - sqrt(abar) m) / (abar s^2 + 1 - abar)."""

    def denoiser(x, t):
        a = abar[t]
        gain = STD**2 * a.sqrt() / (a * STD**2 + 1 - a)
        return (MEAN + gain * (x.double() - a.sqrt() * MEAN)).to(x.dtype)

    return denoiser


def run(sampler, abar, steps, eta=0.0, count=200_000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    timesteps = sampling_timesteps(len(abar) - 1, steps)
    x = torch.randn(8, count // 8, generator=generator, dtype=torch.float64)
    return sample(exact_denoiser(abar), x, timesteps, plan(sampler, abar, timesteps, eta), noise_adder(generator))


@pytest.mark.parametrize("steps", [300, 600, 1000])
@pytest.mark.parametrize(
    ("sampler", "eta"), [("ddpm", 0), ("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("dpmpp_2m", 0)]
)
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_many_steps_return_the_data_s_distribution(schedule, sampler, eta, steps):
    x = run(sampler, SCHEDULES[schedule](1000), steps, eta)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(x.std()) == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("steps", [20, 33, 50])
@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0), ("ddim", 0.0), ("ddim", 0.7), ("dpmpp_2m", 0)])
def test_few_steps_follow_the_exact_recursion(sampler, eta, steps):
    """With a linear denoiser x stays Gaussian: its mean and variance follow from the coefficients alone."""
    abar = cosine(1000)
    timesteps = sampling_timesteps(1000, steps)
    mean, previous_mean = 0.0, 0.0  # E x_t, E of the previous x_0
    covariance = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)  # of (x_t, previous x_0)
    for t, step in zip(timesteps, plan(sampler, abar, timesteps, eta), strict=False):
        a = abar[t]
        gain = float(STD**2 * a.sqrt() / (a * STD**2 + 1 - a))
        offset = MEAN - gain * float(a.sqrt()) * MEAN
        move = torch.tensor([[step.x + step.x0 * gain, step.previous], [gain, 0.0]], dtype=torch.float64)
        mean, previous_mean = (
            step.x * mean + step.x0 * (gain * mean + offset) + step.previous * previous_mean,
            gain * mean + offset,
        )
        covariance = move @ covariance @ move.T
        covariance[0, 0] += step.noise**2
    x = run(sampler, abar, steps, eta)
    assert float(x.mean()) == pytest.approx(mean, abs=4 * STD / math.sqrt(x.numel()))
    assert float(x.std()) == pytest.approx(float(covariance[0, 0].sqrt()), rel=0.01)


def test_a_known_bug_would_be_seen():
    """Stepping by one timestep with a stride of twenty (as a widely used scheduler does) misses the data's spread."""
    abar, generator = cosine(1000), torch.Generator().manual_seed(0)
    timesteps = sampling_timesteps(1000, 50)
    wrong = [ddpm_step(abar[t], abar[t - 1]) for t in timesteps[:-1]]
    x = torch.randn(8, 2_500, generator=generator, dtype=torch.float64)
    x = sample(exact_denoiser(abar), x, timesteps, wrong, noise_adder(generator))
    assert abs(float(x.std()) - STD) > 0.1


def test_ddim_with_eta_one_is_ddpm():
    abar = cosine(1000)
    for t, s in [(1000, 900), (500, 480), (20, 1)]:
        assert ddim_step(abar[t], abar[s], 1.0) == pytest.approx(ddpm_step(abar[t], abar[s]), abs=1e-9)


def test_last_step_returns_x0_for_every_sampler():
    abar = cosine(100)
    for sampler in ("ddpm", "ddim", "dpmpp_2m", "euler"):
        last = plan(sampler, abar, sampling_timesteps(100, 7), eta=0.3)[-1]
        assert (last.x, last.x0, last.previous, last.noise) == pytest.approx((0, 1, 0, 0), abs=1e-6)


@pytest.mark.parametrize("schedule", [cosine, linear])
@pytest.mark.parametrize("timesteps", [10, 250, 1000])
def test_schedules_fall_from_clean_to_noise(schedule, timesteps):
    abar = schedule(timesteps)
    assert abar.dtype == torch.float64
    assert abar[0] == 1
    assert len(abar) == timesteps + 1
    assert (abar.diff() < 0).all()
    assert abar[-1] < 1e-3
    assert (log_snr(abar[1:]).diff() < 0).all()


def test_sampling_timesteps_span_the_schedule():
    assert sampling_timesteps(1000, 4) == [1000, 750, 500, 250, 0]
    assert sampling_timesteps(10, 10) == list(range(10, -1, -1))
    with pytest.raises(ValueError, match="between 1 and the schedule's 10"):
        sampling_timesteps(10, 11)


def test_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="must be ddpm, ddim, dpmpp_2m or euler"):
        plan("heun", cosine(10), [10, 0])


def test_noise_is_the_same_in_one_piece_or_in_slabs():
    x = torch.zeros(20, 5, 6)
    noise_adder(torch.Generator().manual_seed(1))(x, 2.0)
    assert float(x.std()) == pytest.approx(2.0, rel=0.1)
    generator = torch.Generator().manual_seed(1)
    by_hand = torch.cat([torch.randn(n, 5, 6, generator=generator) for n in (8, 8, 4)])
    assert torch.equal(x, 2 * by_hand)


def test_diffusers_agrees_on_ddim():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: the second oracle is optional")
    theirs = diffusers.DDIMScheduler(1000, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    theirs.set_timesteps(50)
    abar = torch.cat([torch.ones(1, dtype=torch.float64), theirs.alphas_cumprod.double()])
    timesteps = sampling_timesteps(1000, 50)
    x = y = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = exact_denoiser(abar)
    for t, s, step in zip(timesteps[:-1], timesteps[1:], plan("ddim", abar, timesteps), strict=True):
        x0 = denoiser(y, t)
        epsilon = (y - abar[t].sqrt() * x0) / (1 - abar[t]).sqrt()
        y = theirs.step(epsilon, t - 1, y).prev_sample
        x = step.x * x + step.x0 * denoiser(x, t)
        assert torch.allclose(x, y, atol=1e-5), s
