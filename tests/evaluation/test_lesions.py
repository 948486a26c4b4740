"""Three nodules on a line, and predictions whose matches can be read off."""

import numpy as np

from lungsyn.evaluation.lesions import match_nodules
from tests.evaluation.conftest import line


def matched(prediction: str, truth: str):
    nodules, false_positives = match_nodules(line(prediction) > 0, line(truth))
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
    assert match_nodules(prediction, np.zeros((4, 4, 4), np.uint8)) == ([], 1)
