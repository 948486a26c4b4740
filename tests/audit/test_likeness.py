"""What masks are like: numbers that are known by hand, and the distance of a set that is shifted by a known amount."""

import numpy as np
import pytest

from lungsyn.audit import likeness
from lungsyn.volume.files import write_case
from lungsyn.volume.nodules import nodule_facts
from lungsyn.volume.space import Space
from tests.conftest import labelled_case

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def case(name: str, edge: int = 10, **about):
    """Lungs: a cube of ``edge`` voxels in a body of 24 x 24 x 24, all of it in the middle third; a nodule in it."""
    body = np.ones((24, 24, 30), np.uint8)
    lungs, nodules = np.zeros_like(body), np.zeros_like(body)
    lungs[2 : 2 + edge, 2 : 2 + edge, 10 : 10 + edge] = 1
    nodules[5:8, 5:8, 13:16] = 1
    facts = nodule_facts(nodules, lungs, Space(lungs.shape, AFFINE))
    return labelled_case(
        np.zeros(body.shape, np.int16), nodules, lungs, body, AFFINE,
        {"case": name, "patient": name, "nodules": facts} | about,
    )  # fmt: skip


def test_numbers_are_those_of_a_cube():
    numbers = likeness.numbers_of(case("a"))
    assert numbers["lungs_l"] == pytest.approx([20**3 / 1e6])
    assert numbers["lung_share"] == pytest.approx([10**3 / (24 * 24 * 30)])
    assert [numbers[f"lung_share_{part}"][0] for part in ("low", "middle", "high")] == pytest.approx(
        [0, 10**3 / (24 * 24 * 10), 0]
    )
    assert numbers["lungs_surface_cm2"] == pytest.approx([6 * 2.0**2])
    assert numbers["nodules"] == [1] and numbers["diameter_mm"] == pytest.approx([6 * np.cbrt(6 / np.pi)], abs=1e-3)
    assert numbers["wall_mm"] == pytest.approx([10.0])  # the nodule's middle is the fifth voxel from three sides


def test_nobody_says_how_many_nodules_a_host_has():
    assert likeness.numbers_of(case("a", role="host"))["nodules"] == []


def test_what_was_asked_for_is_compared_nodule_by_nodule():
    """The second nodule found no place: it counts for the number alone."""
    asked = {"diameter_mm": [8.0, 5.0], "wall_mm": [9.0, 3.0], "lungs_l": 0.01}
    made = case("a", asked=asked)
    wanted, off = likeness.asked_of(made, likeness.numbers_of(made))
    assert wanted == asked | {"lungs_l": [0.01], "nodules": [2.0]}
    assert off["nodules"] == [1.0] and off["lungs_l"] == pytest.approx([0.002]) and off["wall_mm"] == pytest.approx([1])
    assert off["diameter_mm"] == pytest.approx([8 - 6 * np.cbrt(6 / np.pi)], abs=1e-3)


def test_nothing_is_asked_of_masks_that_are_taken_from_cases():
    assert likeness.asked_of(case("a"), likeness.numbers_of(case("a"))) == ({}, {})


@pytest.fixture
def folders(tmp_path):
    def written(kind: str, edges, **about):
        for i, edge in enumerate(edges):
            write_case(tmp_path / kind / f"{kind}-{i}", case(f"{kind}-{i}", edge, **about))
        return sorted((tmp_path / kind).iterdir())

    return written


def test_the_distance_of_a_larger_set_is_how_much_larger_it_is(folders):
    train, held_out = folders("train", (8, 9, 10)), folders("held", (8, 9, 10))
    rows = likeness.compare(train, held_out, folders("made", (12, 12, 12), asked={"diameter_mm": [7.0]}), seed=1)
    row = {row["measure"]: row for row in rows}["lungs_l"]
    litres = {edge: edge**3 * 8e-6 for edge in (8, 9, 10, 12)}
    assert row["floor"] == pytest.approx(0) and row["asked"] is None
    assert row["distance"] == pytest.approx(litres[12] - np.mean([litres[edge] for edge in (8, 9, 10)]))
    assert row["train"] == pytest.approx(np.mean([litres[edge] for edge in (8, 9, 10)])) and row["synthetic_sd"] == 0
    assert [row["asked"] for row in rows if row["measure"] in ("nodules", "diameter_mm")] == [1, 7]
    assert all(set(row) == set(likeness.COLUMNS) for row in rows) and len(rows) == len(likeness.MEASURES)


def test_one_case_is_no_distribution(folders):
    rows = likeness.compare(folders("train", (8, 9)), folders("held", (8, 9)), folders("made", (12,)), seed=1)
    assert {row["distance"] for row in rows} == {None} and all(row["synthetic"] is not None for row in rows)
