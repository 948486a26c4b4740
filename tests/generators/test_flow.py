"""Rectified flow: its path, what is learned on it, Euler's sampler against known velocities, and each family on it."""

import itertools
import json
import math
import signal

import numpy as np
import pytest
import torch
from monai.networks.schedulers import RFlowScheduler

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.generators import cascade_ddpm, latent_ddpm
from lungsyn.generators.core import training
from lungsyn.generators.core.patches import TrainingPatches
from lungsyn.generators.core.prediction import diffuse, to_x0, training_target
from lungsyn.generators.core.samplers import ddim_step, euler_step, noise_adder, plan, sample
from lungsyn.generators.core.schedule import SCHEDULES, drawn_timestep, sampling_timesteps, straight
from lungsyn.generators.core.settings import PatchSettings
from lungsyn.masks.core.rows import untargeted
from lungsyn.seams import Run
from lungsyn.settings.checking import check
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import as_json, part
from lungsyn.volume.files import open_case
from tests.conftest import killed_at, loaded, made_case

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
MEAN, STD = 0.3, 0.5
FLOW = {"objective": "flow", "timestep_density": "logit_normal"}


# ------------------------------------------------------------------------------------- the path, and what is said of it


def test_the_path_is_a_straight_line_scaled_to_unit_variance():
    x0, noise = torch.rand(2, 50, dtype=torch.float64).unbind()
    abar = straight(8)
    for i in range(9):
        t = i / 8
        expected = ((1 - t) * x0 + t * noise) / math.hypot(1 - t, t)
        torch.testing.assert_close(diffuse(x0, noise, abar[i]), expected)
    assert (abar.diff() < 0).all() and abar[0] == 1 and abar[-1] == 0


@pytest.mark.parametrize("t", [0, 1, 300, 999, 1000])
def test_the_velocity_gives_x0_back_at_every_place_of_the_path(t):
    """Pure noise included, of which epsilon says nothing."""
    x0, noise = torch.rand(2, 50, dtype=torch.float64).unbind()
    abar = straight(1000)[t]
    velocity = training_target("velocity", x0, noise, abar)
    torch.testing.assert_close(velocity, noise - x0)
    torch.testing.assert_close(to_x0("velocity", velocity, diffuse(x0, noise, abar), abar), x0)


def test_monai_s_scheduler_agrees():
    """Noise, target and step; there time runs the other way, and the velocity with it."""
    theirs, abar = RFlowScheduler(1000), straight(1000)
    theirs.set_timesteps(20)
    x0, noise, said = torch.randn(3, 1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    assert [int(t) for t in theirs.timesteps] == sampling_timesteps(1000, 20)[:-1]
    for t, s in [(1000, 950), (500, 450), (50, 0)]:
        scale_t, scale_s = ((a.sqrt() + (1 - a).sqrt()).float() for a in (abar[t], abar[s]))
        z_t = theirs.add_noise(x0, noise, torch.tensor([t]))
        x_t = diffuse(x0, noise, abar[t].float())
        torch.testing.assert_close(x_t, z_t * scale_t)
        z_s, _ = theirs.step(-said, t, z_t, s)
        step = euler_step(abar[t], abar[s])
        x_s = step.x * x_t + step.x0 * to_x0("velocity", said, x_t, abar[t].float())
        torch.testing.assert_close(x_s, z_s * scale_s)


@pytest.mark.parametrize("schedule", ["straight", "cosine", "linear"])
def test_euler_is_ddim_without_noise(schedule):
    abar = SCHEDULES[schedule](1000)
    for t, s in [(1000, 900), (500, 480), (20, 0)]:
        assert euler_step(abar[t], abar[s]) == pytest.approx(ddim_step(abar[t], abar[s], 0.0), abs=1e-9)


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_timesteps_are_drawn_as_published(density):
    rng = np.random.default_rng(0)
    drawn = np.array([drawn_timestep(density, 50, rng) for _ in range(20_000)])
    assert drawn.min() >= 1 and drawn.max() <= 50
    edges = np.arange(51) / 50
    below = edges  # share of draws below
    if density == "logit_normal":
        logit = np.log(edges[1:-1] / (1 - edges[1:-1]))
        below = np.concatenate([[0], [(1 + math.erf(x / 2**0.5)) / 2 for x in logit], [1]])
    found = np.bincount(drawn, minlength=51)[1:] / len(drawn)
    np.testing.assert_allclose(found, np.diff(below), atol=0.004)
    assert drawn_timestep(density, 1, rng) == 1


# ----------------------------------------------------------------------------- Euler's sampler against exact velocities


def gaussian_velocity(z, t):
    """E[noise - x_0 | z_t = z] of x_0 ~ N(m, s^2): linear in ``z - (1 - t) m``, of variance (1-t)^2 s^2 + t^2."""
    rest = (z - (1 - t) * MEAN) / ((1 - t) ** 2 * STD**2 + t**2)
    return t * rest - (MEAN + (1 - t) * STD**2 * rest)


def two_peaks_velocity(z, t, peaks=(-0.6, 0.5), std=0.1):
    """Of x_0 with two narrow peaks, each as likely: the mean of theirs, by how likely each is given z."""
    variance = (1 - t) ** 2 * std**2 + t**2
    likely = torch.softmax(torch.stack([-((z - (1 - t) * m) ** 2) / (2 * variance) for m in peaks]), dim=0)
    rests = [(z - (1 - t) * m) / variance for m in peaks]
    each = torch.stack([t * r - (m + (1 - t) * std**2 * r) for m, r in zip(peaks, rests, strict=True)])
    return (likely * each).sum(dim=0)


def sampled(velocity, steps, noise):
    """By the sampler: the state is scaled to unit variance, the denoiser says x_0."""
    abar, timesteps = straight(1000), sampling_timesteps(1000, steps)

    def denoiser(x, i):
        t, a = i / 1000, abar[i]
        return to_x0("velocity", velocity(x * math.hypot(1 - t, t), t), x, a)

    never = noise_adder(torch.Generator())
    return sample(denoiser, noise.clone(), timesteps, plan("euler", abar, timesteps), never)


@pytest.mark.parametrize("velocity", [gaussian_velocity, two_peaks_velocity])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_the_sampler_is_euler_s_method(velocity, steps):
    """A second one: z moves by the velocity, and by nothing else."""
    z = noise = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = sampling_timesteps(1000, steps)
    for t, s in itertools.pairwise(times):
        z = z + (s - t) / 1000 * velocity(z, t / 1000)
    torch.testing.assert_close(sampled(velocity, steps, noise), z)


def test_the_exact_velocity_gives_mean_and_spread_the_better_the_more_steps():
    """Euler's method is of first order: twice the steps, half the error."""
    noise = torch.tensor([-1.0, 1.0], dtype=torch.float64)  # all is linear: these two have mean and spread of all
    off = []
    for steps in (25, 50, 100, 200):
        x = sampled(gaussian_velocity, steps, noise)
        assert float(x.mean()) == pytest.approx(MEAN, abs=1e-9)  # the mean's path is straight
        off.append(abs(float(x.std(correction=0)) - STD) / STD)
    assert off[-1] < 0.01
    assert [a / b for a, b in itertools.pairwise(off)] == pytest.approx([2, 2, 2], rel=0.1)


def test_both_peaks_of_a_mixture_are_found_as_often_and_as_wide():
    noise = torch.randn(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = sampled(two_peaks_velocity, 100, noise)
    low = x[x < 0]
    assert len(low) / len(x) == pytest.approx(0.5, abs=0.02)
    assert float(low.mean()) == pytest.approx(-0.6, abs=0.02) and float(low.std()) == pytest.approx(0.1, rel=0.1)


def test_where_all_data_are_one_point_every_state_is_on_the_line_to_it():
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    abar, timesteps = straight(1000), sampling_timesteps(1000, 8)
    states = []

    def kept(i, x):
        t = timesteps[i + 1] / 1000
        states.append((t, x * math.hypot(1 - t, t)))

    steps = plan("euler", abar, timesteps)
    sample(lambda x, i: torch.full_like(x, MEAN), noise.clone(), timesteps, steps, noise_adder(None), kept)
    for t, z in states:
        torch.testing.assert_close(z, (1 - t) * MEAN + t * noise)


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 1.0), ("dpmpp_2m", 0.0)])
def test_the_other_samplers_know_the_path_too(sampler, eta):
    """Their last timestep is nothing but noise, where the log-SNR is not finite."""
    abar, timesteps, generator = straight(1000), sampling_timesteps(1000, 200), torch.Generator().manual_seed(0)
    x = torch.randn(8, 12_500, generator=generator, dtype=torch.float64)  # noise is drawn in slabs of eight

    def denoiser(x, i):
        t = i / 1000
        return to_x0("velocity", gaussian_velocity(x * math.hypot(1 - t, t), t), x, abar[i])

    x = sample(denoiser, x, timesteps, plan(sampler, abar, timesteps, eta), noise_adder(generator))
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(x.std()) == pytest.approx(STD, rel=0.02)


# --------------------------------------------------------------------------------------------------------- the families


@pytest.fixture(scope="module", params=["patch_ddpm", "latent_ddpm", "cascade_ddpm"])
def settings(request, generator_settings, latent_settings):
    """Each family on the path; the first with logit-normal timesteps."""
    shared = part(generator_settings, PatchSettings).model_dump() | {"timesteps": 50, "objective": "flow"}
    if request.param == "patch_ddpm":
        return generator_settings.model_copy(update=FLOW)
    if request.param == "latent_ddpm":
        shared |= {"nodule_dropout": 0.2, "autoencoder": latent_settings.autoencoder.model_dump()}
        return latent_ddpm.Settings(**shared)
    whole = {"factor": 4, "channels": [16, 16], "images": 12, "batch_patches": 2, "warmup_images": 2, "steps": 3}
    return cascade_ddpm.Settings(**shared, nodule_dropout=0.2, whole=whole)


def test_each_family_learns_resumes_samples_and_is_attacked(settings, study, case_folders, tmp_path, monkeypatch):
    weights, facts, records = training.train(case_folders, settings, Run(7, CPU, tmp_path / "whole"))
    assert np.isfinite(facts["best_loss"])
    with monkeypatch.context() as patched:
        patched.setattr(training, "TrainingPatches", killed_at(TrainingPatches, 20, signal.SIGTERM))
        with pytest.raises(SystemExit):
            training.train(case_folders, settings, Run(7, CPU, tmp_path / "killed"))
    again, _, records_again = training.train(case_folders, settings, Run(7, CPU, tmp_path / "killed"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert [r["loss"] for r in records] == [r["loss"] for r in records_again]

    model = tmp_path / "model.safetensors"
    checkpoint.save(model, weights, {"generator": json.loads(as_json(settings))} | facts)
    generator, folders = loaded(model, CPU), {folder.name: folder for folder in case_folders}
    assert generator.settings == settings
    row = untargeted(["case-0", "case-3"], 1, seed=0)[0]
    for how in ({"sampler": "euler"}, {"mode": "fused"}, {"guidance_scale": 2.0}):
        synthesis = study.synthesis.model_copy(update={"steps": 3, **how})
        case = made_case(generator, row, synthesis, lambda name: open_case(folders[name]))
        assert (case.ct[np.asarray(case.body) == 0] == -1000).all()
        assert case.ct[np.asarray(case.body) > 0].std() > 50
    source = open_case(folders["case-0"])
    inpainted = untargeted(["case-0"], 1, seed=0)[0] | {"why": "inpainted"}
    case = made_case(generator, inpainted, synthesis, lambda name: source)
    assert (np.asarray(case.ct) == np.clip(source.ct, -1000, None)).mean() > 0.3  # the known CT, to the unit
    assert np.isfinite(generator.log_loss(case_folders[0], seed=1))


def test_a_flow_s_velocity_is_what_its_network_learns(generator_settings, case_folders):
    both = [
        TrainingPatches(case_folders[3:4], generator_settings.model_copy(update={"nodule_dropout": 0.0, **more}), 3)[5]
        for more in ({"objective": "flow"}, {"prediction": "sample"}, {"prediction": "epsilon"})
    ]
    velocity, x0, noise = (example.target for example in both)
    torch.testing.assert_close(velocity, noise - x0)


def test_what_is_no_flow_is_refused(study):
    raw = study.model_dump(mode="json")
    raw["generators"]["patch_ddpm"] |= FLOW
    raw["synthesis"]["sampler"] = "euler"
    assert check(raw).generators["patch_ddpm"].objective == "flow"
    for key, value in (("prediction", "epsilon"), ("schedule", "linear")):
        wrong = json.loads(json.dumps(raw))
        wrong["generators"]["patch_ddpm"][key] = value
        with pytest.raises(InputError, match=rf"patch_ddpm: {key} is {value}, but objective: flow .* remove {key}"):
            check(wrong)
