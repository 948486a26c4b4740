"""Facts of nodules that can be counted by hand, on a lung that is a box."""

import numpy as np
import pytest

from lungsyn.volume.nodules import nodule_facts
from lungsyn.volume.space import Space

SPACE = Space((20, 20, 20), np.diag([2.0, 2.0, 2.0, 1.0]))


def facts_of(*boxes) -> list[dict]:
    """Facts of box-shaped nodules in a lung of [4, 16) along every axis."""
    lungs, nodules = np.zeros(SPACE.shape, np.uint8), np.zeros(SPACE.shape, np.uint8)
    lungs[4:16, 4:16, 4:16] = 1
    for index, (start, stop) in enumerate(boxes, start=1):
        nodules[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = index
    return nodule_facts(nodules, lungs, SPACE)


def test_size_and_box():
    (fact,) = facts_of(((6, 7, 8), (9, 9, 12)))
    assert fact["box"] == [[6, 9], [7, 9], [8, 12]]
    assert fact["volume_mm3"] == 3 * 2 * 4 * 8
    assert np.pi / 6 * fact["diameter_mm"] ** 3 == pytest.approx(fact["volume_mm3"], rel=1e-3)


@pytest.mark.parametrize(
    ("start", "stop", "touches"),
    [
        ((8, 8, 8), (11, 11, 11), False),
        ((5, 5, 5), (7, 7, 7), False),  # one voxel of lung between
        ((4, 8, 8), (6, 10, 10), True),  # its last voxel is the lung's last
        ((14, 14, 14), (16, 16, 16), True),
        ((2, 8, 8), (6, 10, 10), True),  # half outside
    ],
)
def test_the_pleura_is_where_the_lung_ends(start, stop, touches):
    assert facts_of((start, stop))[0]["touches_pleura"] is touches


def test_a_neighbour_does_not_count_and_an_absent_index_has_no_row():
    lungs, nodules = np.ones(SPACE.shape, np.uint8), np.zeros(SPACE.shape, np.uint8)
    nodules[5:8, 5:8, 5:8], nodules[8:10, 5:8, 5:8] = 1, 3
    facts = nodule_facts(nodules, lungs, SPACE)
    assert [fact["index"] for fact in facts] == [1, 3]
    assert not any(fact["touches_pleura"] for fact in facts)  # nor does the border of the image
