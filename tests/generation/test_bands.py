import pytest
import torch

from lungsyn.generation.bands import HAAR_SD, band_sd, from_bands, to_bands, to_half


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
