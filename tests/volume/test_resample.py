import numpy as np
import pytest
from scipy import ndimage

from lungsyn.volume.resample import outside_of, resample, resample_mask
from lungsyn.volume.space import Space, Volume

NATIVE = np.array([[-0.8, 0, 0, 50], [0, -0.8, 0, 60], [0, 0, 2.5, -10], [0, 0, 0, 1.0]])


def ramp(space: Space) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in space.shape], indexing="ij"))
    x, y, z = np.einsum("ij,jxyz->ixyz", space.affine[:3, :3], index) + space.affine[:3, 3].reshape(3, 1, 1, 1)
    return x + 2 * y - 3 * z


@pytest.mark.parametrize("spacing_mm", [0.7, 1.3, 3.0])
def test_a_linear_ramp_is_exact_inside(spacing_mm):
    source = Space((60, 50, 30), NATIVE)
    target = source.isotropic(spacing_mm)
    result = resample(Volume(ramp(source), source.affine), target, fill=0)
    margin = 8 if spacing_mm < 3 else 4
    inner = tuple(slice(margin, -margin) for _ in range(3))
    assert np.abs(result - ramp(target))[inner].max() < 1e-2


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.0])
def test_a_ball_keeps_its_volume(spacing_mm):
    source = Space((80, 80, 30), NATIVE)
    centre_mm = source.affine[:3, :3] @ [40, 40, 15] + source.affine[:3, 3]

    def ball(space, radius_mm=12):
        index = np.stack(np.meshgrid(*[np.arange(n) for n in space.shape], indexing="ij"))
        at = np.einsum("ij,jxyz->ixyz", space.affine[:3, :3], index) + space.affine[:3, 3].reshape(3, 1, 1, 1)
        return ((at - centre_mm.reshape(3, 1, 1, 1)) ** 2).sum(0) <= radius_mm**2

    target = source.isotropic(spacing_mm)
    mask = resample_mask(Volume(ball(source), source.affine), target)
    assert mask.sum() * target.voxel_ml == pytest.approx(4 / 3 * np.pi * 12**3 / 1000, rel=0.04)


def test_outside_is_filled():
    source = Space((4, 4, 4), np.eye(4))
    target = source.crop((-2, 0, 0), (4, 4, 4))
    result = resample(Volume(np.zeros((4, 4, 4)), source.affine), target, fill=-1000)
    assert (result[:2] == -1000).all()
    assert (result[2:] == 0).all()
    assert outside_of(source, target).sum() == 2 * 16


def test_a_flipped_volume_is_the_same_volume():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(10, 12, 8))
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 9
    target = Space((10, 12, 8), np.eye(4)).isotropic(1.0)
    a = resample(Volume(data, np.eye(4)), target, 0)
    b = resample(Volume(data[::-1], flipped), target, 0)
    assert np.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("spacing_mm", [0.5, 1.0, 2.7])
def test_parallel_grids_give_what_scipy_gives(axes, signs, spacing_mm):
    """The separable way against ``gaussian_filter`` and ``affine_transform``, on a grid that reaches outside."""
    affine = np.eye(4)[:, [*axes, 3]] @ np.diag([*np.multiply(signs, (0.7, 0.9, 2.5)), 1.0])
    affine[:3, 3] = 3.0, -8.0, 11.0
    volume = Volume(np.random.default_rng(0).integers(-1000, 400, (20, 17, 9)).astype(np.int16), affine)
    target = volume.space.isotropic(spacing_mm)
    target = target.crop((-2, 1, 0), np.add(target.shape, (1, 0, 3)))
    to_source = np.linalg.inv(affine) @ target.affine
    sigma = np.maximum(0, (np.abs(to_source[:3, :3]).max(axis=1) - 1) / 2)
    smooth = ndimage.gaussian_filter(volume.data.astype(float), sigma, mode="nearest", truncate=3.0)
    expected = ndimage.affine_transform(
        smooth, to_source[:3, :3], to_source[:3, 3], output_shape=target.shape, order=1, mode="nearest"
    )
    expected[outside_of(volume.space, target)] = -1000
    assert np.abs(resample(volume, target, fill=-1000) - expected).max() < 1e-2  # of 1400 HU, in float32


def test_an_oblique_ramp_is_exact_inside():
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    source = Space((60, 50, 30), turn @ NATIVE)
    target = Space((10, 10, 10), np.diag([0.7, 0.7, 0.7, 1.0]))
    middle = source.affine @ (30, 25, 15, 1)
    target.affine[:3, 3] = middle[:3] - 3.5
    assert np.abs(resample(Volume(ramp(source), source.affine), target, fill=0) - ramp(target)).max() < 1e-2
