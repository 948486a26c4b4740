"""The extractor against what is known of its parts, and calibrated: worse images are further away."""

import numpy as np
import pytest
import torch

from lungsyn.audit import features
from lungsyn.audit.features import scattering
from lungsyn.errors import InputError
from lungsyn.volume.scattering import scatter, wavelets


def whole(images: np.ndarray) -> np.ndarray:
    return np.ones((len(images), 1, *images.shape[1:]))


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 50, (3, 96, 96))


def test_wavelets_do_not_see_the_mean_and_keep_the_energy_of_noise():
    filters = wavelets()
    np.testing.assert_allclose(filters.sum((1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose((np.abs(filters) ** 2).sum((1, 2)), 1)


def test_the_extractor_is_pinned():
    """Distances of two versions cannot be compared: whoever changes the filters or constants changes this line too."""
    assert features.digest() == "a6f9414a081f"


def test_a_constant_image_is_its_value_and_nothing_else():
    (found,) = scattering(np.full((1, 40, 40), 30.0), whole(np.zeros((1, 40, 40))))
    fractions = np.exp(found[:15]) - features.LEAST_FRACTION
    np.testing.assert_allclose(fractions, np.interp(np.arange(15), [9, 10, 11, 12], [0, 0.7, 0.3, 0]), atol=1e-5)
    np.testing.assert_allclose(np.exp(found[15:19]), features.LEAST_HU, rtol=1e-3)


def test_white_noise_has_the_responses_of_a_circular_gaussian(noise):
    """Rayleigh: mean modulus sigma sqrt(pi) / 2, mean square over squared mean 4 / pi."""
    found = scattering(noise, whole(noise)).mean(0)
    np.testing.assert_allclose(np.exp(found[15:19]), 50 * np.sqrt(np.pi) / 2, rtol=0.04)
    np.testing.assert_allclose(np.exp(found[19:23]), 4 / np.pi, rtol=0.06)


@pytest.mark.parametrize("orientation", range(4))
def test_a_grating_speaks_to_its_own_orientation(orientation):
    y, x = np.mgrid[:64, :64]
    angle = np.pi * orientation / 4
    grating = 100 * np.cos(0.75 * np.pi * (x * np.cos(angle) + y * np.sin(angle)))
    (found,) = scattering(grating[None], whole(grating[None]))
    assert np.argmax(found[15:19]) == orientation


def test_an_image_s_features_do_not_depend_on_its_company(noise, monkeypatch):
    together = scattering(noise, whole(noise))
    monkeypatch.setattr(features, "BATCH_PIXELS", 1)
    np.testing.assert_allclose(scattering(noise[::-1], whole(noise))[::-1], together, rtol=1e-4, atol=1e-5)


def test_what_is_far_from_the_pool_does_not_count():
    rng = np.random.default_rng(1)
    image = rng.normal(0, 50, (1, 64, 256))
    pool = np.zeros((1, 2, 64, 256))
    pool[:, 0, :, :16], pool[:, 1, :, 240:] = 1, 1
    changed = image.copy()
    changed[..., 200:] += 300
    first, second = np.split(scattering(changed, pool) - scattering(image, pool), 2, axis=1)
    np.testing.assert_allclose(first, 0, atol=1e-4)
    assert np.abs(second).max() > 0.5


def test_an_empty_pool_is_refused(noise):
    with pytest.raises(ValueError, match="pool is empty"):
        scattering(noise, np.zeros_like(whole(noise)))


class MeanAndMost(torch.nn.Module):
    def forward(self, images):
        return torch.cat([images.mean((2, 3)), images.amax((2, 3))], dim=1)


def test_a_network_of_one_s_own_sees_each_pool_in_air(tmp_path):
    torch.jit.script(MeanAndMost()).save(tmp_path / "network.pt")
    extract, name = features.choose(tmp_path / "network.pt")
    assert name.startswith("network.pt ")
    images = np.full((2, 8, 8), 400.0)
    pools = np.zeros((2, 2, 8, 8))
    pools[:, 0], pools[:, 1, :, :4] = 1, 1
    np.testing.assert_allclose(extract(images, pools), [[1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1]] * 2, atol=1e-6)


def test_a_file_that_is_no_network_is_named(tmp_path):
    (tmp_path / "weights.pt").write_text("not a network")
    for name in ("weights.pt", "absent.pt"):
        with pytest.raises(InputError, match=name):
            features.choose(tmp_path / name)
    assert features.choose(None)[1] == f"scattering {features.digest()}"


def test_features_have_a_slope_where_the_image_is_even_too():
    """In air every response is zero, and so is its slope."""
    images = torch.full((1, 24, 24), -1000.0)
    images[:, 12:] = torch.randn(12, 24, generator=torch.Generator().manual_seed(0)) * 50
    images.requires_grad_()
    scatter(images, torch.ones(1, 1, 24, 24)).sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad[:, 16:].abs().sum() > 0
