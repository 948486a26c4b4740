"""Three nodules on a line, and predictions whose matches can be read off."""

import numpy as np
import pytest

from lungsyn.evaluation.lesions import STRATA_MM, Nodule, by_diameter, match_nodules, sphere_diameter_mm


def line(text: str) -> np.ndarray:
    """A volume of one row of voxels: digits are indices, '.' is 0."""
    return np.array([0 if c == "." else int(c) for c in text], dtype=np.uint8)[:, None, None]


def matched(prediction: str, truth: str):
    nodules, false_positives = match_nodules(line(prediction) > 0, line(truth), voxel_ml=0.001)
    return [(n.index, n.found, round(n.dice, 4)) for n in nodules], false_positives


def test_found_missed_and_false():
    assert matched("..1111....11..1.",
                   "..1111..33......") == ([(1, True, 1.0), (3, False, 0.0)], 2)  # fmt: skip


def test_dice_counts_all_of_a_nodules_components():
    assert matched(".11.11....",
                   "..1111....") == ([(1, True, round(2 * 3 / (4 + 4), 4))], 0)  # fmt: skip


def test_a_component_over_two_nodules_finds_both():
    assert matched("11111.....",
                   "11.22.....") == ([(1, True, 0.8), (2, True, 0.8)], 0)  # fmt: skip


def test_a_flood_finds_nothing():
    assert matched("1" * 30, "." * 14 + "11" + "." * 14) == ([(1, False, 0.0)], 1)


def test_empty_truth_and_empty_prediction():
    assert matched("..11..1.", "........") == ([], 2)
    assert matched("........", "..22....") == ([(2, False, 0.0)], 0)
    assert matched("........", "........") == ([], 0)


def test_diagonal_neighbours_are_one_component():
    prediction = np.zeros((4, 4, 4), dtype=bool)
    prediction[0, 0, 0] = prediction[1, 1, 1] = True
    assert match_nodules(prediction, np.zeros((4, 4, 4), np.uint8), 0.001) == ([], 1)


def test_diameter_and_strata():
    assert sphere_diameter_mm(np.pi / 6) == pytest.approx(10.0)  # 523.6 mm3
    assert [Nodule(1, d, True, 1.0).stratum for d in (3, 6, 9.99, 10, 20, 90)] == [
        "< 6 mm", "6-10 mm", "6-10 mm", "10-20 mm", "> 20 mm", "> 20 mm",
    ]  # fmt: skip
    rows = by_diameter([Nodule(1, 4, True, 0.8), Nodule(2, 5, False, 0.0)])
    assert [row["stratum"] for row in rows] == list(STRATA_MM)
    assert rows[0] == {
        "stratum": "< 6 mm",
        "n_nodules": 2,
        "found_nodules": 1,
        "sensitivity": 0.5,
        "lesion_dice": 0.4,
    }
    assert rows[1]["n_nodules"] == 0 and rows[1]["sensitivity"] is None
