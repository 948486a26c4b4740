"""Preparation: exact where it can be exact, and volumes of nodules kept."""

import numpy as np
import pytest

from lungsyn.cohort.preprocess import HU_RANGE, nodule_index, on_grid, prepare, reoriented
from lungsyn.errors import InputError
from lungsyn.settings.cohort import Preprocess
from lungsyn.volume.space import Space, Volume

LPS = np.diag([-0.7, -0.7, 2.5, 1.0])


def part(spacing_mm: float) -> Preprocess:
    return Preprocess(spacing_mm=spacing_mm, margin_mm=0, field_of_view="part")


def points_mm(space: Space) -> np.ndarray:
    """Position of every voxel's centre: ``[x y z 3]``, mm."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in space.shape], indexing="ij"), axis=-1)
    return index @ space.affine[:3, :3].T + space.affine[:3, 3]


def ball(space: Space, centre_mm, radius_mm: float) -> Volume:
    return Volume(np.linalg.norm(points_mm(space) - centre_mm, axis=-1) <= radius_mm, space.affine)


def test_a_linear_ramp_is_resampled_exactly():
    affine = LPS.copy()
    affine[:3, 3] = 20.0, 15.0, -100.0
    source = Space((60, 50, 20), affine)
    slope = np.array([3.0, -5.0, 2.0])  # HU per mm
    hu = on_grid(Volume((points_mm(source) @ slope).astype(np.float32), affine), source.isotropic(0.7))
    inner = tuple(slice(6, -6) for _ in range(3))  # beyond the last centres it is constant
    expected = (points_mm(hu.space) @ slope)[inner]
    assert np.abs(hu.data[inner] - expected).max() <= 0.5 + 1e-2  # int16


@pytest.mark.parametrize("radius_mm", [2.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("spacing_mm", [0.7, 1.0, 2.0])
def test_the_volume_of_a_ball_is_kept(radius_mm, spacing_mm):
    space = Space((60, 60, 18), LPS)
    mask = ball(space, points_mm(space)[29, 31, 9] + 0.2, radius_mm)
    grid = space.isotropic(spacing_mm)
    index = nodule_index([mask], grid)
    wanted_ml, got_ml = mask.data.sum() * space.voxel_ml, (index == 1).sum() * grid.voxel_ml
    assert abs(got_ml - wanted_ml) <= max(0.03 * wanted_ml, 0.5 * grid.voxel_ml)
    centre = points_mm(grid)[index == 1].mean(axis=0)
    assert np.linalg.norm(centre - points_mm(space)[mask.data].mean(axis=0)) < 0.5 * spacing_mm


def test_a_nodule_smaller_than_a_voxel_keeps_one():
    space = Space((40, 40, 10), LPS)
    mask = ball(space, points_mm(space)[20, 20, 5], 0.1)
    assert (nodule_index([mask], space.isotropic(3.0)) == 1).sum() == 1


def test_a_finer_grid_moves_no_nodule():
    """Voxels filled alike are taken from both ends: over many balls the middle stays (it went -0.06 along x)."""
    rng, moved = np.random.default_rng(0), []
    space = Space((24, 24, 24), np.diag([2.0, 2.0, 2.0, 1.0]))
    grid = space.isotropic(1.0)
    for radius_mm in rng.uniform(3, 9, 150):
        mask = ball(space, 23 + rng.uniform(-1, 1, 3), radius_mm)
        index = nodule_index([mask], grid)
        moved.append(points_mm(grid)[index == 1].mean(axis=0) - points_mm(space)[mask.data].mean(axis=0))
    error = np.std(moved, axis=0) / np.sqrt(len(moved))
    assert (np.abs(np.mean(moved, axis=0)) < np.maximum(4 * error, 0.01)).all()


def test_a_tight_box_and_a_whole_mask_give_the_same_index():
    space = Space((40, 40, 12), LPS)
    mask = ball(space, points_mm(space)[20, 18, 6], 4.0)
    box = mask.crop((10, 10, 2), (30, 30, 10))
    grid = space.isotropic(1.0)
    assert np.array_equal(nodule_index([mask], grid), nodule_index([box], grid))


def test_two_specks_in_one_voxel_are_told_with_a_way_out():
    space = Space((40, 40, 10), LPS)
    speck = ball(space, points_mm(space)[20, 20, 5], 0.1)
    with pytest.raises(InputError, match=r"nodule 2 has no voxel of its own at 3 mm: raise"):
        nodule_index([speck.crop((20, 20, 5), (21, 21, 6))] * 2, space.isotropic(3.0))


def test_overlapping_nodules_keep_their_own_index():
    space = Space((40, 40, 12), LPS)
    masks = [ball(space, points_mm(space)[20 + 3 * i, 20, 6], 4.0) for i in range(2)]
    index = nodule_index(masks, space.isotropic(1.0))
    assert set(np.unique(index)) == {0, 1, 2}


@pytest.mark.parametrize(("moved", "radius"), [(0, 6.0), (4, 4.0)])
def test_what_an_earlier_nodule_has_a_later_one_does_not_get_elsewhere(moved, radius):
    """Of balls on the image's own grid the later one gets what the earlier one leaves of it, and no other voxel."""
    space = Space((40, 40, 40), np.eye(4))
    first, second = (ball(space, points_mm(space)[20 + x, 20, 20], r) for x, r in ((0, 4.0), (moved, radius)))
    index = nodule_index([first, second], space)
    assert np.array_equal(index == 1, first.data)
    assert np.array_equal(index == 2, second.data & ~first.data)


def test_a_cut_out_is_no_chest():
    """Its lung would be taken for the air around the body, and wiped."""
    space = Space((50, 50, 50), np.eye(4))
    hu = np.full(space.shape, -850, np.int16)
    hu[:, 30:] = 40
    mask = ball(space, points_mm(space)[25, 20, 25], 5.0)
    with pytest.raises(
        InputError,
        match=r"no lungs found: the image is 50 mm wide: set cohort.preprocess.field_of_view to part if",
    ):
        prepare(Volume(hu, space.affine), [mask], Preprocess(spacing_mm=1.0, margin_mm=10, field_of_view="chest"))
    assert prepare(Volume(hu, space.affine), [mask], part(1.0)).lungs.any()


@pytest.mark.parametrize(("unit", "length"), [(1e-3, "0.05"), (1e3, "5e\\+04")])
def test_a_wrong_unit_of_length_is_refused_before_memory_is_asked_for(unit, length):
    ct = Volume(np.full((50, 50, 50), -850, np.int16), np.diag([unit] * 3 + [1.0]))
    with pytest.raises(InputError, match=f"a length that none has: {length} mm, its spacing"):
        prepare(ct, [], part(1.0))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_flips_and_permutations_change_nothing(axes, signs):
    rng = np.random.default_rng(0)
    plain = Volume(rng.integers(-1000, 400, (7, 8, 9)).astype(np.int16), np.diag([1.0, 1.0, 1.0, 1.0]))
    affine = np.eye(4)[:, [*axes, 3]] @ np.diag([*signs, 1.0])
    affine[:3, 3] = [0.0 if signs[axes.index(k)] > 0 else plain.data.shape[k] - 1.0 for k in range(3)]
    turned = Volume(plain.data.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)], affine)
    case = prepare(turned, [], part(1.0))
    assert np.array_equal(case.ct, plain.data)
    assert np.allclose(case.affine, plain.affine)


def test_an_oblique_scan_lands_where_it_was():
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    space = Space((50, 50, 20), affine)
    centre = points_mm(space)[30, 20, 10]
    mask = ball(space, centre, 6.0)
    case = prepare(Volume(np.where(mask.data, 40, -800).astype(np.int16), affine), [mask], part(1.0))
    assert np.linalg.norm(points_mm(case.space)[case.nodules == 1].mean(axis=0) - centre) < 0.3
    assert case.ct[case.nodules == 1].mean() > -100


def test_hu_is_int16_within_twelve_bits():
    values = np.linspace(-4000, 9000, 8**3).reshape(8, 8, 8)
    case = prepare(Volume(values, np.eye(4)), [], part(1.0))
    assert case.ct.dtype == np.int16
    assert (case.ct.min(), case.ct.max()) == HU_RANGE


def test_native_spacing_within_one_percent_is_not_interpolated():
    values = np.random.default_rng(0).integers(-1000, 400, (9, 9, 9)).astype(np.int16)
    ct = Volume(values, np.diag([-1.005, -0.995, 1.0, 1.0]))
    case = prepare(ct, [], part(1.0))
    assert np.array_equal(case.ct, reoriented(ct, "RAS").data)
    assert np.allclose(case.space.spacing_mm, (1.005, 0.995, 1.0))


def test_a_nodule_outside_the_image_is_refused():
    space = Space((20, 20, 20), np.eye(4))
    far = Volume(np.ones((3, 3, 3), dtype=bool), space.crop((50, 0, 0), (53, 3, 3)).affine)
    with pytest.raises(InputError, match="nodule 1 lies outside the image"):
        nodule_index([far], space)


def test_more_nodules_than_uint8_are_refused():
    space = Space((4, 4, 4), np.eye(4))
    with pytest.raises(InputError, match="256 nodules"):
        nodule_index([Volume(np.ones((1, 1, 1)), np.eye(4))] * 256, space)
