"""Measures of anatomy: known numbers of an analytic chest at every spacing, and each fault seen by its own measure."""

import numpy as np
import pytest
from scipy import ndimage

from lungsyn.anatomy import measures
from lungsyn.anatomy.tissues import AIRWAY, BONE, FAT, MUSCLE, averaged, label_map, whole_chest
from tests.anatomy.chests import TRACHEA_MM, chest, place


def measured(arrays, spacing_mm=3.0) -> dict[str, float]:
    return measures.measure(*arrays, spacing_mm)


# ------------------------------------------------------------------------------------------------------- known numbers


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.0])
def test_known_numbers_at_every_spacing(spacing_mm):
    found = measured(chest(spacing_mm, noise_hu=0), spacing_mm)
    assert found["spine_slices"] == 1
    assert found["rib_slices"] > 0.85
    assert found["bone_connected"] > 0.8
    assert found["airway_mm"] == pytest.approx(TRACHEA_MM, abs=4)
    assert found["fat_muscle_valley"] > 0.95
    assert found["organ_mottle_hu"] == 0
    assert 0.6 < found["heart_left"] < 0.8
    assert 0.001 < found["vessel_share"] < 0.02
    assert found["vessel_connected"] > 0.9


def test_noise_changes_little():
    """A sharp kernel is no fault of anatomy."""
    quiet, loud = (measured(chest(noise_hu=noise_hu)) for noise_hu in (5, 50))
    for name, tolerance in {
        "spine_slices": 0.02, "rib_slices": 0.1, "bone_connected": 0.15, "airway_mm": 4, "heart_left": 0.01,
        "vessel_share": 0.01,
    }.items():  # fmt: skip
        assert loud[name] == pytest.approx(quiet[name], abs=tolerance), name
    assert loud["organ_mottle_hu"] < 20


def test_half_a_spine_is_half_of_it():
    hu, *masks = chest(noise_hu=0)
    frame = whole_chest(hu, *masks, 3.0)
    hu[:, :, frame.level(0.5, 1)] = np.minimum(hu[:, :, frame.level(0.5, 1)], 60)
    assert measured([hu, *masks])["spine_slices"] == pytest.approx(0.5, abs=0.02)


def test_a_spine_in_pieces_counts_with_its_longest():
    hu, *masks = chest(noise_hu=0)
    frame = whole_chest(hu, *masks, 3.0)
    for low in (0.2, 0.5, 0.8):
        gap = frame.level(low, low + 0.1)
        hu[:, :, gap] = np.minimum(hu[:, :, gap], 60)
    assert measured([hu, *masks])["spine_slices"] == pytest.approx(0.2, abs=0.03)


def test_what_hangs_together():
    mask = np.zeros((30, 30, 30), bool)
    mask[:10, :10, :10] = True  # 8 ml at 2 mm
    mask[20:25, 20:25, 20:25] = True  # 1 ml
    assert measures.connected_share(mask, 5.0, 2.0) == pytest.approx(1000 / 1125)
    assert measures.connected_share(mask, 0.5, 2.0) == 1
    assert measures.connected_share(mask & False, 5.0, 2.0) == 0


def test_fat_and_muscle_apart_and_not():
    rng = np.random.default_rng(0)
    arrays = chest(noise_hu=0)
    frame = whole_chest(*arrays, 3.0)
    soft = frame.body & ~frame.lungs
    for values, depth in ((rng.choice([-100, 50], soft.sum()), 1), (rng.uniform(-200, 150, soft.sum()), 0)):
        frame.hu[soft] = values + rng.normal(0, 10, soft.sum())
        assert measures.fat_muscle_valley(frame, label_map(frame)) == pytest.approx(depth, abs=0.1)
    frame.hu[soft] = 50  # no fat: nothing is apart
    assert measures.fat_muscle_valley(frame, label_map(frame)) == 0


# ------------------------------------------------------------------------------------------------------ planted faults


def filled(arrays, where, hu_of_tissue=50.0):
    """The chest with what lies at ``where`` (bool) replaced by even tissue."""
    hu, lungs, nodules, body = arrays
    noise = np.random.default_rng(1).normal(0, 12, hu.shape)
    return np.where(where, hu_of_tissue + noise, hu).astype(np.float32), lungs, nodules, body


def without_spine(arrays):
    x, y, _ = place(3.0)
    return filled(arrays, (np.abs(x) < 40) & (y < -50) & (arrays[0] > 90) & (arrays[3] > 0))


def without_airway(arrays):
    return filled(arrays, (arrays[0] < -920) & (arrays[3] > 0) & (arrays[1] == 0))


def without_ribs(arrays):
    x, _, _ = place(3.0)
    return filled(arrays, (np.abs(x) > 60) & (arrays[0] > 90))


def without_vessels(arrays):
    return filled(arrays, (arrays[1] > 0) & (arrays[0] > -600), -850.0)


def mixed_tissues(arrays):
    """Fat and muscle in every proportion: the histogram smeared out between them."""
    hu, lungs, nodules, body = arrays
    share = np.random.default_rng(1).uniform(-150, 100, hu.shape)
    return np.where((body > 0) & (hu > -150) & (hu < 100), share, hu).astype(np.float32), lungs, nodules, body


def mottled(arrays):
    """Blots of 10 mm: what a patch model makes where it does not know the organ."""
    hu, lungs, nodules, body = arrays
    blots = ndimage.gaussian_filter(np.random.default_rng(1).normal(0, 1, hu.shape), 2)
    soft = (body > 0) & (hu > -20) & (hu < 120)
    return np.where(soft, hu + 30 * blots / blots.std(), hu).astype(np.float32), lungs, nodules, body


def mirrored(arrays):
    """Left is right, the masks' numbers are exchanged with it."""
    hu, lungs, nodules, body = (a[::-1].copy() for a in arrays)
    return hu, np.array([0, 2, 1], np.uint8)[lungs], nodules, body


@pytest.mark.parametrize(
    ("plant", "measure", "change"),
    [
        (without_spine, "spine_slices", -0.9), (without_ribs, "rib_slices", -0.8), (without_airway, "airway_mm", -100),
        (mixed_tissues, "fat_muscle_valley", -0.8), (mottled, "organ_mottle_hu", 8), (mirrored, "heart_left", -0.25),
        (without_vessels, "vessel_connected", -0.9),
    ],
)  # fmt: skip
def test_a_fault_moves_its_own_measure(plant, measure, change):
    sound = measured(chest())
    moved = {name: value - sound[name] for name, value in measured(plant(chest())).items()}
    assert moved[measure] <= change if change < 0 else moved[measure] >= change
    others = {"spine_slices": 0.05, "rib_slices": 0.1, "airway_mm": 4, "heart_left": 0.02, "vessel_connected": 0.1}
    for name, tolerance in others.items():
        assert name == measure or abs(moved[name]) <= tolerance, name


def test_a_mirrored_chest_has_the_other_share():
    assert measured(mirrored(chest()))["heart_left"] == pytest.approx(1 - measured(chest())["heart_left"], abs=0.01)


def test_numbers_of_the_sides_do_not_matter():
    hu, lungs, nodules, body = chest()
    assert measured([hu, np.array([0, 2, 1], np.uint8)[lungs], nodules, body]) == measured(chest())


def test_the_airway_is_found_inside_a_lung_mask_too():
    hu, lungs, nodules, body = chest()
    swallowed = np.where((hu < -950) & (body > 0), 1, lungs).astype(np.uint8)
    assert measured([hu, swallowed, nodules, body])["airway_mm"] == pytest.approx(TRACHEA_MM, abs=4)


# ----------------------------------------------------------------------------------------------- frame and label map


def test_a_cut_out_a_single_lung_and_a_few_slices_are_no_chest():
    hu, lungs, nodules, body = chest()
    assert measured([hu, (lungs > 0).astype(np.uint8), nodules, body]) == {}
    assert measured([hu, lungs * 0, nodules, body]) == {}
    assert measured([a[:, :, 30:40] for a in (hu, lungs, nodules, body)]) == {}


def test_the_frame_comes_from_the_lungs():
    frame = whole_chest(*chest(noise_hu=0), 3.0)
    assert frame.midline == pytest.approx(49.5, abs=0.5)
    assert frame.level(0, 1) == frame.slices
    middle = (frame.slices.start + frame.slices.stop) // 2
    assert (frame.back[middle] + 0.5) * 3 - 105 == pytest.approx(-75, abs=3)


def test_labels_are_what_was_painted():
    hu, lungs, nodules, body = chest(noise_hu=0)
    labels = label_map(whole_chest(hu, lungs, nodules, body, 3.0))
    inside, lung = body > 0, lungs > 0
    assert np.array_equal(labels == BONE, (hu > 250) & ~lung)
    assert np.array_equal(labels == FAT, (hu == -100) & inside & ~lung)
    assert np.array_equal(labels == MUSCLE, np.isin(hu, (50, 140)) & inside & ~lung)
    assert np.array_equal(labels == AIRWAY, (hu == -990) & inside)


@pytest.mark.parametrize("voxels", [1, 2, 3])
def test_shrinking_is_erosion_by_a_cube(voxels):
    mask = np.random.default_rng(0).random((17, 9, 12)) < 0.97
    size = 2 * voxels + 1
    oracle = ndimage.binary_erosion(mask, np.ones((size,) * 3), border_value=1)
    assert np.array_equal(measures.shrunk(mask, voxels), oracle)


def test_means_of_blocks():
    volume = np.random.default_rng(0).normal(0, 1, (7, 9, 6)).astype(np.float32)
    oracle = volume[:6, :9, :6].reshape(2, 3, 3, 3, 2, 3).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(averaged(volume, 3), oracle, atol=1e-6)
    assert averaged(volume, 1) is volume
