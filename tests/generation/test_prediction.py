import pytest
import torch

from lungsyn.generation.prediction import diffuse, guide, to_x0, training_target
from lungsyn.generation.schedule import cosine


@pytest.mark.parametrize("kind", ["epsilon", "v", "sample"])
def test_the_perfect_prediction_gives_x0_back(kind):
    x0, noise = (
        torch.rand(2, 1, 4, 4, 4, dtype=torch.float64),
        torch.randn(2, 1, 4, 4, 4, dtype=torch.float64),
    )
    for t in (1, 300, 990):
        abar = cosine(1000)[t]
        x_t = diffuse(x0, noise, abar)
        assert torch.allclose(to_x0(kind, training_target(kind, x0, noise, abar), x_t, abar), x0, atol=1e-6)


def test_v_at_full_noise_needs_no_division():
    assert torch.isfinite(to_x0("v", torch.ones(3), torch.ones(3), torch.tensor(0.0))).all()


def test_guidance_scale_one_is_the_conditional():
    a, b = torch.rand(5), torch.rand(5)
    assert torch.allclose(guide(a, b, 1.0), a)
    assert torch.allclose(guide(a, b, 3.0), b + 3 * (a - b), atol=1e-6)


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="must be epsilon, v or sample"):
        training_target("score", torch.ones(1), torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="must be epsilon, v or sample"):
        to_x0("score", torch.ones(1), torch.ones(1), torch.ones(1))
