import itertools

import pytest
import torch

from lungsyn.generators.core.bands import HAAR_SD, band_sd, from_bands, local_variance, shares, to_bands, to_half


def test_the_step_to_half_resolution_is_lossless_and_keeps_energy():
    x = torch.randn(2, 1, 8, 6, 4)
    bands = to_bands(x)
    assert bands.shape == (2, 8, 4, 3, 2)
    assert torch.allclose(from_bands(bands), x, atol=1e-5)
    assert float(bands.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-5)


def test_masks_keep_their_voxels_at_half_resolution():
    masks = torch.arange(2 * 4 * 4 * 8).view(1, 2, 4, 4, 8)
    half = to_half(masks)
    assert half.shape == (1, 16, 2, 2, 4)
    assert half[0, :, 1, 0, 3].tolist() == masks[0, :, 2:, :2, 6:].flatten(1).T.flatten().tolist()


def test_haar_puts_the_mean_first():
    x = torch.full((1, 1, 2, 2, 2), 3.0)
    assert to_bands(x).flatten().tolist() == pytest.approx([3.0 * 8**0.5] + [0.0] * 7, abs=1e-5)


def test_bands_are_told_by_the_axes_they_differ_along():
    """A step along one axis is in the bands of one difference, a checkerboard in that of three."""
    ramp = torch.zeros(1, 1, 2, 2, 2)
    ramp[:, :, 1] = 1.0
    i, j, k = torch.meshgrid(*[torch.tensor([1.0, -1.0])] * 3, indexing="ij")
    found = (to_bands(ramp).flatten().abs() > 1e-6).nonzero().flatten().tolist()
    assert [band_sd()[n].item() for n in found] == pytest.approx([HAAR_SD[0], HAAR_SD[1]])
    board = to_bands((i * j * k)[None, None]).flatten()
    assert (board.abs() > 1e-6).nonzero().flatten().tolist() == [7] and band_sd()[7].item() == pytest.approx(HAAR_SD[3])


def test_shares_are_what_bands_add_averaged_over_all_places_of_the_blocks():
    x = torch.randn(2, 1, 8, 8, 8, dtype=torch.float64)
    expected = torch.zeros(2, 8, 8, 8, 8, dtype=torch.float64)
    for place in itertools.product(range(2), repeat=3):
        bands = to_bands(x.roll(place, dims=(2, 3, 4)))
        for band in range(8):
            alone = torch.zeros_like(bands)
            alone[:, band] = bands[:, band]
            expected[:, band] += from_bands(alone).roll([-p for p in place], dims=(2, 3, 4))[:, 0] / 8
    parts = shares(x)
    assert torch.allclose(parts.sum(dim=1, keepdim=True), x)
    inner = (..., *[slice(1, -1)] * 3)  # rolled, the ends of an axis meet; a patch repeats its border
    assert torch.allclose(parts[inner], expected[inner])


@pytest.mark.parametrize(("sd", "abar"), [(0.05, 0.9999), (0.2, 0.9999), (0.8, 0.9999), (0.8, 0.99), (0.8, 0.9)])
def test_a_band_s_width_is_measured_where_noise_lets_it(sd, abar):
    """White images, so that each band has the voxels' variance: where the noise's is at most a quarter of it, the width
    is right within a tenth, be the usual one twice too wide or too narrow."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(1, 1, 64, 64, 64, generator=generator) for _ in range(2))
    abar = torch.tensor(abar)
    assert (1 - abar) / abar <= sd**2 / 4
    parts = shares(abar.sqrt() * sd * x0 + (1 - abar).sqrt() * noise)
    for usual in (0.5 * sd, 2 * sd):
        found = local_variance(parts, abar, torch.tensor(usual**2))
        assert found.shape == (1, 8, 32, 32, 32)
        assert found.mean(dim=(0, 2, 3, 4)).sqrt().tolist() == pytest.approx([sd] * 8, rel=0.1), usual


def test_of_pure_noise_the_usual_width_is_told():
    usual = band_sd()[:, None, None, None].square()
    parts = shares(torch.randn(1, 1, 8, 8, 8))
    for abar in (0.0, 1e-9, 1e-5):
        found = local_variance(parts, torch.tensor(abar), usual)
        assert torch.allclose(found, usual.expand_as(found), rtol=0.01), abar


def test_where_an_image_is_even_nothing_is_divided_by():
    found = local_variance(
        shares(torch.zeros(1, 1, 8, 8, 8)), torch.tensor(1 - 1e-5), band_sd().square()[:, None, None, None]
    )
    assert bool((found > 0).all())
