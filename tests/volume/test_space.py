import numpy as np
import pytest

from lungsyn.volume.space import Space, Volume, bounding_box

OBLIQUE = np.array([[0, -1.5, 0, 10], [-0.7, 0, 0, 20], [0, 0, 2.5, -30], [0, 0, 0, 1.0]])


def test_spacing_and_voxel_volume_come_from_the_affine():
    space = Space((4, 5, 6), OBLIQUE)
    assert space.spacing_mm == pytest.approx([0.7, 1.5, 2.5])
    assert space.voxel_ml == pytest.approx(0.7 * 1.5 * 2.5 / 1000)


def test_bounds_hold_the_voxels_half_widths():
    low, high = Space((4, 4, 4), np.diag([2.0, 2, 2, 1])).bounds_mm()
    assert low == pytest.approx([-1, -1, -1])
    assert high == pytest.approx([7, 7, 7])


def test_isotropic_grid_covers_the_same_box():
    source = Space((40, 50, 60), OBLIQUE)
    target = source.isotropic(1.0)
    for a, b in zip(source.bounds_mm(), target.bounds_mm(), strict=True):
        assert np.abs(a - b).max() <= 0.5 + 1e-9
    assert (np.diag(target.affine)[:3] == 1).all()


def test_a_crop_keeps_every_voxel_in_its_place():
    volume = Volume(np.arange(4 * 5 * 6).reshape(4, 5, 6), OBLIQUE)
    crop = volume.crop((1, 2, 3), (3, 5, 6))
    assert np.array_equal(crop.data, volume.data[1:3, 2:5, 3:6])
    assert crop.affine @ [0, 0, 0, 1] == pytest.approx(volume.affine @ [1, 2, 3, 1])


def test_same_as_sees_shift_and_shape():
    a = Space((4, 5, 6), OBLIQUE)
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 0.01
    assert a.same_as(Space((4, 5, 6), OBLIQUE.copy()))
    assert not a.same_as(Space((4, 5, 6), shifted))
    assert not a.same_as(Space((4, 5, 7), OBLIQUE))


def test_bounding_box():
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 2, 3] = mask[3, 2, 6] = True
    start, stop = bounding_box(mask)
    assert (start.tolist(), stop.tolist()) == ([1, 2, 3], [4, 3, 7])
    with pytest.raises(ValueError, match="empty"):
        bounding_box(np.zeros((2, 2, 2), bool))
