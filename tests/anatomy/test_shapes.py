"""Shapes as signed distances: exact where they are known, and mixtures with the statistics of what is mixed."""

import numpy as np
import pytest

from lungsyn.anatomy import shapes
from lungsyn.volume.space import Space


def ball(edge: int, radius: float, centre=None) -> np.ndarray:
    middle = np.full(3, (edge - 1) / 2) if centre is None else np.asarray(centre)
    return ((np.indices((edge,) * 3) - middle[:, None, None, None]) ** 2).sum(0) < radius**2


def test_a_wall_has_its_distance_to_a_part_of_a_voxel():
    """Lungs up to 10.25 voxels along x: the fields' zero lies there, and distances grow by one a voxel."""
    filled = np.zeros((20, 20, 20), np.float32)
    filled[:10], filled[10] = 1, 0.75
    line = shapes.signed_distance(filled)[:, 3, 3]
    assert line[10] == pytest.approx(0.25)
    assert np.diff(line[[5, 6, 7, 8]]) == pytest.approx(-1)
    assert np.abs(line).max() <= shapes.FAR * 20 + 1e-5


@pytest.mark.parametrize("filled, sign", [(1.0, 1), (0.0, -1)])
def test_without_a_surface_all_is_far(filled, sign):
    field = shapes.signed_distance(np.full((12,) * 3, filled, np.float32))
    assert (field == np.float32(sign * shapes.FAR * 12)).all()


@pytest.mark.parametrize("count", [5, 8, 20])
def test_weights_keep_mean_and_variance_and_no_patient_prevails(count):
    rng = np.random.default_rng(0)
    weights = np.stack([shapes.mixing_weights(count, 0.6, rng) for _ in range(300)])
    assert weights.sum(1) == pytest.approx(1) and (weights**2).sum(1) == pytest.approx(1)
    assert np.abs(weights).max() <= 0.6
    values = rng.standard_normal((300, count)) * 3 + 5  # of that many patients each
    made = (weights * values).sum(1)
    assert made.mean() == pytest.approx(5, abs=0.6) and made.std() == pytest.approx(3, rel=0.15)


def test_too_few_patients_make_nobody():
    with pytest.raises(ValueError, match="four or more"):
        shapes.mixing_weights(3, 0.6, np.random.default_rng(0))


def test_a_mixture_of_concentric_balls_is_a_ball_of_the_mean_radius():
    fields = [shapes.signed_distance(ball(32, r).astype(np.float32)) for r in (8.0, 12.0)]
    made = shapes.mixed(fields, np.array([0.5, 0.5])) > 0
    assert made.sum() == pytest.approx(ball(32, 10.0).sum(), rel=0.08)


def test_a_mixture_of_thin_shapes_keeps_their_volume():
    """Two plates of three voxels beside each other: their sum has no inside, the mixture their volume."""
    plates = np.zeros((2, 24, 24, 24), np.float32)
    plates[0, 6:9], plates[1, 14:17] = 1, 1
    fields, weights = [shapes.signed_distance(plate) for plate in plates], np.array([0.5, 0.5])
    total = shapes.mixed(fields, weights)
    assert not (total > 0).any()
    assert (
        shapes.filled_like(total + np.random.default_rng(0).normal(0, 1e-3, total.shape), fields, weights) > 0
    ).sum() == (pytest.approx(plates[0].sum(), rel=0.02))


def test_roughness_is_what_is_asked_for():
    """A wall in the middle: where the field is zero moves by a standard deviation of 1.5 voxels."""
    field = np.broadcast_to(20.5 - np.arange(40.0, dtype=np.float32)[:, None, None], (40, 40, 40))
    rough = shapes.roughened(field, 1.5, 3.0, np.random.default_rng(0))
    height = (rough > 0).sum(0)
    assert height.std() == pytest.approx(1.5, rel=0.35) and height.mean() == pytest.approx(20.5, abs=0.7)
    assert shapes.roughened(field, 0.0, 3.0, np.random.default_rng(0)) is field


def test_harmonics_are_orthonormal():
    directions = np.random.default_rng(0).standard_normal((60_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    basis = np.concatenate([shapes.harmonics(directions, degree) for degree in range(4)], axis=1)
    assert basis.T @ basis / len(basis) == pytest.approx(np.eye(16), abs=0.04)


@pytest.mark.parametrize(
    "diameter_mm, spacing_mm", [(6.0, (1.0, 1.0, 1.0)), (20.0, (1.0, 1.0, 2.5)), (2.0, (3.0,) * 3)]
)
def test_a_nodule_has_its_diameter(diameter_mm, spacing_mm):
    spacing_mm = np.array(spacing_mm)
    mask = shapes.star_nodule(diameter_mm, np.array([0.03, 0.01, 0.01]), spacing_mm, np.random.default_rng(0))
    volume = mask.sum() * np.prod(spacing_mm)
    assert volume == pytest.approx(np.pi / 6 * diameter_mm**3, abs=0.51 * np.prod(spacing_mm)) or mask.sum() == 1


def test_roughness_of_nodules_is_measured_as_it_was_made():
    rng, asked = np.random.default_rng(0), np.array([0.04, 0.01, 0.006])
    found = [shapes.star_powers(shapes.star_nodule(16.0, asked, np.ones(3), rng), np.ones(3)) for _ in range(12)]
    assert np.mean(found, axis=0) == pytest.approx(asked, rel=0.5)
    assert (shapes.star_powers(ball(30, 11.0), np.ones(3)) < 0.002).all()
    assert shapes.star_powers(ball(8, 1.0), np.ones(3)) is None


def test_a_frame_turns_occupancy_into_shares():
    space = Space((4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]) + np.array([[0, 0, 0, 0.5]] * 3 + [[0] * 4]))
    mask = np.zeros((8, 8, 8), bool)
    mask[:4] = True
    filled = shapes.occupancy(mask, np.eye(4), space)
    assert filled[0].min() > 0.9 and filled[3].max() < 0.1


def test_only_the_largest_pieces_are_kept():
    mask = ball(24, 6.0, (7, 12, 12)) | ball(24, 3.0, (18, 12, 12)) | ball(24, 1.5, (22, 2, 2))
    assert shapes.largest_pieces(mask, 2).sum() == (ball(24, 6.0, (7, 12, 12)) | ball(24, 3.0, (18, 12, 12))).sum()
