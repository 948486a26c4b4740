import pytest
import torch

from lungsyn.generators.core.prediction import (
    diffuse,
    from_v,
    guide,
    guided,
    precondition,
    skip_of_variance,
    to_x0,
    training_target,
)
from lungsyn.generators.core.schedule import cosine


@pytest.mark.parametrize("kind", ["epsilon", "v", "sample", "velocity"])
def test_the_perfect_prediction_gives_x0_back(kind):
    x0, noise = (
        torch.rand(2, 1, 4, 4, 4, dtype=torch.float64),
        torch.randn(2, 1, 4, 4, 4, dtype=torch.float64),
    )
    for t in (1, 300, 990):
        abar = cosine(1000)[t]
        x_t = diffuse(x0, noise, abar)
        assert torch.allclose(to_x0(kind, training_target(kind, x0, noise, abar), x_t, abar), x0, atol=1e-6)


@pytest.mark.parametrize("timesteps", [50, 1000, 4000])
def test_epsilon_gives_x0_back_at_the_last_timestep_too(timesteps):
    """Where abar is smallest: a floor under it once halved x_0 there."""
    abar, x0, noise = cosine(timesteps)[-1], torch.rand(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    assert torch.allclose(to_x0("epsilon", noise, diffuse(x0, noise, abar), abar), x0, atol=1e-3)


@pytest.mark.parametrize("nodule_in", [None, 1])
def test_guidance_asks_twice_only_where_there_are_nodules(nodule_in):
    masks, asked = torch.zeros(2, 3, 4, 4, 4, dtype=torch.uint8), []
    if nodule_in is not None:
        masks[nodule_in, 0, 2, 2, 2] = 1

    def x0_of(given):
        asked.append(given.clone())
        return given.float()

    led = guided(x0_of, masks, 3.0)
    assert len(asked) == 1 + (nodule_in is not None)
    assert torch.equal(led[:, 1:], masks[:, 1:].float()) and led[:, 0].sum() == 3 * masks[:, 0].sum()
    assert torch.equal(guided(x0_of, masks, 1.0), masks.float())


def test_v_at_full_noise_needs_no_division():
    assert torch.isfinite(to_x0("v", torch.ones(3), torch.ones(3), torch.tensor(0.0))).all()


def test_guidance_scale_one_is_the_conditional():
    a, b = torch.rand(5), torch.rand(5)
    assert torch.allclose(guide(a, b, 1.0), a)
    assert torch.allclose(guide(a, b, 3.0), b + 3 * (a - b), atol=1e-6)


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="must be epsilon, v, sample or velocity"):
        training_target("score", torch.ones(1), torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="must be epsilon, v, sample or velocity"):
        to_x0("score", torch.ones(1), torch.ones(1), torch.ones(1))


@pytest.mark.parametrize("kind", ["epsilon", "v", "sample", "velocity"])
def test_v_says_the_same_in_every_type(kind):
    x0, noise = torch.rand(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    for t in (1, 300, 990):
        abar = cosine(1000)[t]
        v = training_target("v", x0, noise, abar)
        found = from_v(kind, v, diffuse(x0, noise, abar), abar)
        assert torch.allclose(found, training_target(kind, x0, noise, abar), atol=1e-9)


@pytest.mark.parametrize("sd", [0.05, 0.5, 1.0, 1.5])
def test_preconditioning_leaves_a_target_of_unit_variance(sd):
    """Gaussian data: what is left of v after the skip has variance c_out squared and no correlation with the input."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(200_000, generator=generator, dtype=torch.float64) for _ in range(2))
    for t in (5, 200, 600, 995):
        abar = cosine(1000)[t]
        x_t = diffuse(sd * x0, noise, abar)
        c_in, c_skip, c_out = precondition(abar, torch.tensor(sd, dtype=torch.float64))
        target = (training_target("v", sd * x0, noise, abar) - c_skip * x_t) / c_out
        assert float((c_in * x_t).std()) == pytest.approx(1, abs=0.01)
        assert float(target.std()) == pytest.approx(1, abs=0.01)
        assert abs(float((target * x_t).mean() / x_t.std())) < 0.01


@pytest.mark.parametrize("variance", [0.001, 0.04, 0.6])
@pytest.mark.parametrize("t", [5, 200, 600, 995])
def test_a_variance_said_to_be_wider_changes_the_skip_as_that_variance_would(variance, t):
    abar, variance, wider = cosine(1000)[t], torch.tensor(variance, dtype=torch.float64), 1e-5

    def skip(of):
        return float(precondition(abar, of.sqrt())[1])

    assert float(skip_of_variance(abar, variance, torch.zeros(()))) == skip(variance)
    found = float(skip_of_variance(abar, variance, torch.tensor(wider, dtype=torch.float64))) - skip(variance)
    assert found == pytest.approx(skip((1 + wider) * variance) - skip(variance), rel=1e-3)
