"""A disguise is what its name says."""

import numpy as np
import pytest
from scipy import ndimage

from lungsyn.audit.disguises import DISGUISES, VERBATIM, disguise

EDGE, SPACING_MM = 24, 2.0


def windows(seed: int, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a ball of 4 voxels in the middle."""
    hu = np.random.default_rng(seed).normal(size=(n, *(EDGE,) * 3)).astype(np.float32)
    away = np.ones((EDGE,) * 3)
    away[(EDGE // 2,) * 3] = 0
    masks = np.zeros((n, 3, *(EDGE,) * 3), np.float32)
    masks[:, 0] = ndimage.distance_transform_edt(away) <= 4
    masks[:, 2] = 1
    return hu, masks


TRAIN, HOSTS = windows(0), windows(1)


@pytest.mark.parametrize("name", DISGUISES)
def test_it_keeps_the_shape_the_type_and_what_it_was_given(name):
    before = [a.copy() for a in (*TRAIN, *HOSTS)]
    hu, masks = disguise(name, TRAIN, HOSTS, SPACING_MM, 0)
    assert hu.shape == TRAIN[0].shape and masks.shape == TRAIN[1].shape
    assert hu.dtype == masks.dtype == np.float32 and set(np.unique(masks)) <= {0, 1}
    assert all(np.array_equal(a, b) for a, b in zip(before, (*TRAIN, *HOSTS), strict=True))
    again, _ = disguise(name, TRAIN, HOSTS, SPACING_MM, 0)
    assert np.array_equal(hu, again)
    assert (hu != TRAIN[0]).any() or (masks != TRAIN[1]).any()


@pytest.mark.parametrize(("rim_mm", "voxels"), [(2, 1), (8, 4)])
def test_a_nodule_in_another_body(rim_mm, voxels):
    hu, masks = disguise(f"a nodule with {rim_mm} mm around it in another body", TRAIN, HOSTS, SPACING_MM, 0)
    near = ndimage.distance_transform_edt(TRAIN[1][0, 0] == 0) <= voxels
    assert (hu == TRAIN[0])[:, near].all() and not (hu == TRAIN[0])[:, ~near].any()
    np.testing.assert_array_equal(masks[:, 0], TRAIN[1][:, 0])


@pytest.mark.parametrize(("edge_mm", "edge"), [(20, 10), (30, 15)])
def test_a_cube_in_another_body(edge_mm, edge):
    hu, _ = disguise(f"a cube of {edge_mm} mm in another body", TRAIN, HOSTS, SPACING_MM, 0)
    for i in range(3):
        same = np.isin(hu[i], TRAIN[0][i]).sum(), np.isin(hu[i], HOSTS[0]).sum()
        assert same == pytest.approx((edge**3, EDGE**3 - edge**3), rel=0.01)  # a few values of noise are alike


def test_whole_copies():
    hu, masks = disguise("x and y exchanged", TRAIN, HOSTS, SPACING_MM, 0)
    np.testing.assert_array_equal(hu, TRAIN[0].transpose(0, 2, 1, 3))
    hu, masks = disguise("a nodule's mask 3 mm beside its place", TRAIN, HOSTS, SPACING_MM, 0)
    np.testing.assert_array_equal(hu, TRAIN[0])
    middles = [ndimage.center_of_mass(mask) for mask in masks[:, 0]]
    assert np.abs(np.array(middles) - EDGE // 2).sum(axis=1) == pytest.approx([2, 2, 2])
    hu, _ = disguise("half blended with another patient", TRAIN, HOSTS, SPACING_MM, 0)
    assert np.corrcoef(hu[0].ravel(), TRAIN[0][0].ravel())[0, 1] == pytest.approx(0.5**0.5, abs=0.02)


def test_a_cube_that_a_network_remembers_is_like_the_patient_s_but_not_verbatim():
    """Its own voxels would be found by any search that finds a copy."""
    verbatim, remembered = (
        disguise(f"a cube of 30 mm{how} in another body", TRAIN, HOSTS, SPACING_MM, 0)[0]
        for how in ("", ", half a voxel beside and with noise,")
    )
    assert np.isin(verbatim, TRAIN[0]).mean() > 0.2
    assert np.isin(remembered, TRAIN[0]).mean() < 0.001 < (~np.isin(remembered, HOSTS[0])).mean()


def test_a_scaled_nodule_is_larger():
    _, masks = disguise("scaled by 1.25", TRAIN, HOSTS, SPACING_MM, 0)
    assert masks[:, 0].sum() / TRAIN[1][:, 0].sum() == pytest.approx(1.25**3, rel=0.1)


def test_those_that_must_be_found_are_some_of_them():
    assert set(VERBATIM) < set(DISGUISES)


def test_a_bend_moves_voxels_smoothly_by_so_much():
    """A ramp tells how far each voxel was moved."""
    ramp = np.broadcast_to(np.arange(EDGE, dtype=np.float32)[:, None, None], TRAIN[0].shape)
    hu, masks = disguise("bent by 2 mm", (ramp, TRAIN[1]), HOSTS, SPACING_MM, 0)
    moved = (hu - ramp)[:, 4:-4, 4:-4, 4:-4] * SPACING_MM
    assert moved.std() == pytest.approx(2.0, rel=0.2)
    assert np.abs(np.diff(moved, axis=2)).mean() < 0.4  # and its neighbour nearly as far
    assert masks[:, 0].sum() == pytest.approx(TRAIN[1][:, 0].sum(), rel=0.2) and (masks[:, 0] != TRAIN[1][:, 0]).any()
