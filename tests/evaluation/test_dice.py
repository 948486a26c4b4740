"""Masks whose agreement is known by hand: a cube and the same cube moved."""

import numpy as np
import pytest

from lungsyn.evaluation.dice import (
    dice,
    hd95_mm,
    normalised_surface_dice,
    surface_distances_mm,
    surface_points_mm,
)

EMPTY = np.zeros((12, 12, 12), dtype=bool)


def cube(start, size=4, shape=(12, 12, 12)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, a + size) for a in start)] = True
    return mask


@pytest.mark.parametrize("shift, expected", [(0, 1.0), (1, 0.75), (2, 0.5), (4, 0.0)])
def test_dice_of_a_shifted_cube(shift, expected):
    assert dice(cube((2 + shift, 2, 2)), cube((2, 2, 2))) == expected


def test_empty_masks_have_numbers():
    diagonal_mm = 20.0
    pairs = [(EMPTY, EMPTY), (EMPTY, cube((2, 2, 2))), (cube((2, 2, 2)), EMPTY)]
    for (prediction, truth), expected in zip(pairs, [(1, 1, 0), (0, 0, 20), (0, 0, 20)], strict=True):
        distances = surface_distances_mm(prediction, truth, (1, 1, 1))
        found = (
            dice(prediction, truth),
            normalised_surface_dice(distances, 2.0),
            hd95_mm(distances, diagonal_mm),
        )
        assert found == expected


def test_surface_of_a_cube():
    assert len(surface_points_mm(cube((2, 2, 2)), (1, 1, 1))) == 4**3 - 2**3
    assert len(surface_points_mm(cube((0, 0, 0), size=12), (1, 1, 1))) == 12**3 - 10**3  # the volume ends there
    one = np.zeros((5, 5, 5), dtype=bool)
    one[1, 2, 3] = True
    assert surface_points_mm(one, (2.0, 1.0, 0.5)).tolist() == [[2.0, 2.0, 1.5]]


def test_surface_distance_of_a_shifted_cube():
    """Moved by one voxel of 2 mm along x. Of each surface's 56 points, those off the other lie exactly 2
    mm away.
    """
    truth, moved = cube((2, 2, 2)), cube((3, 2, 2))
    distances = surface_distances_mm(moved, truth, (2.0, 1.0, 1.0))
    for one_way in distances:
        # One end face (16 points) lies outside of the other cube. The inner 2 x 2 of the opposite end face
        # lies inside of it, 1 mm (along y or z) from its sides. All others lie on both surfaces.
        assert sorted(set(one_way.round(9))) == [0.0, 1.0, 2.0]
        assert [int((one_way == d).sum()) for d in (0.0, 1.0, 2.0)] == [36, 4, 16]
    assert normalised_surface_dice(distances, 0.5) == pytest.approx(36 / 56)
    assert normalised_surface_dice(distances, 1.0) == pytest.approx(40 / 56)
    assert normalised_surface_dice(distances, 2.0) == 1.0
    assert hd95_mm(distances, 100.0) == 2.0


def test_hd95_of_distant_single_voxels():
    a, b = cube((1, 1, 1), size=1), cube((4, 5, 1), size=1)
    assert hd95_mm(surface_distances_mm(a, b, (1, 1, 1)), 100.0) == 5.0
    assert hd95_mm(surface_distances_mm(a, b, (1, 1, 1)), 3.0) == 3.0


@pytest.mark.slow
def test_surfaces_agree_with_monai():
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(3)
    spacing_mm = (0.8, 1.0, 2.5)
    for _ in range(4):
        truth, prediction = (gaussian_filter(rng.normal(size=(24, 20, 16)), 2.5) > 0.03 for _ in range(2))
        both = [torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32)) for mask in (prediction, truth)]
        distances = surface_distances_mm(prediction, truth, spacing_mm)
        for tolerance_mm in (1.0, 2.0):
            theirs = compute_surface_dice(*both, class_thresholds=[tolerance_mm], spacing=spacing_mm).item()
            assert normalised_surface_dice(distances, tolerance_mm) == pytest.approx(theirs, abs=1e-6)
        theirs = compute_hausdorff_distance(*both, percentile=95, spacing=spacing_mm).item()
        assert hd95_mm(distances, 1000.0) == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(("spacing_mm", "voxels"), [(1.0, 1), (1.0000001, 1), (np.float32(0.2), 5)])
def test_what_is_exactly_at_the_tolerance_is_within_it(spacing_mm, voxels):
    """Files keep a spacing as float32, and 0.2 has no exact number."""
    shape = (24, 24, 24)
    distances = surface_distances_mm(cube((4 + voxels, 4, 4), 8, shape), cube((4, 4, 4), 8, shape), (spacing_mm,) * 3)
    assert normalised_surface_dice(distances, 1.0) == 1.0
    assert normalised_surface_dice(distances, 0.99) < 1.0
