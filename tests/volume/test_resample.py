import numpy as np
import pytest

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
