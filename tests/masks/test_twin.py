"""Twins: real cases whose own nodules are made anew in their place."""

from pathlib import Path

import numpy as np
import pytest

from lungsyn.audit.specimens import openers
from lungsyn.generators.copy_paste import Pasting
from lungsyn.quality.measures import measure
from lungsyn.registry import family
from lungsyn.seams import Sampled, Scene
from lungsyn.sets import as_case, check_kept, synthetic_case
from lungsyn.volume.files import open_case, write_case

TWIN = family("masks", "twin")


def scene_of(folder: Path) -> Scene:
    return TWIN.scene({"body_case": folder.name}, lambda name: open_case(folder.parent / name))


@pytest.fixture
def twins(case_folders, tmp_path) -> list[Path]:
    """Twins of two cases, from a generator that makes whatever it may make 100 HU brighter."""
    folders = []
    for i, folder in enumerate(case_folders[:2]):
        scene = scene_of(folder)
        hu = (np.asarray(scene.known.ct) + np.rint(100 * scene.made)).astype(np.int16)
        check_kept(hu, scene)
        case = as_case(Sampled(hu), scene)
        case.about["case"] = f"twin-{i}"
        write_case(tmp_path / f"twin-{i}", case)
        folders.append(tmp_path / f"twin-{i}")
    return folders


def test_every_marked_case_has_a_twin_before_any_has_two(case_folders):
    rows = TWIN.rows(case_folders, 7, 3, TWIN.Settings())
    assert all(row["body_case"] == row["nodule_case"] for row in rows) and set(rows[0]) == set(TWIN.columns)
    assert {row["body_case"] for row in rows[:5]} == {folder.name for folder in case_folders}
    assert len({row["seed"] for row in rows}) == 7
    assert TWIN.uses(rows[0]) == {rows[0]["body_case"]}
    assert rows == TWIN.rows(case_folders, 7, 3, TWIN.Settings())


def test_a_twin_has_the_case_s_masks_and_all_of_its_ct_but_the_nodules(case_folders):
    for folder in case_folders:
        case, scene = open_case(folder), scene_of(folder)
        nodules = scene.labels["nodules"]
        assert np.array_equal(nodules > 0, np.asarray(case.nodules) > 0)
        assert (nodules != np.asarray(case.nodules))[nodules > 0].all()  # other numbers: they are not its own any more
        assert np.array_equal(scene.labels["lungs"], np.asarray(case.lungs))
        assert (scene.made[nodules > 0] == 1).all() and (scene.made == 0).any()
        assert len(scene.placed) == 2


def test_pasting_a_nodule_in_its_own_place_gives_the_case(case_folders):
    made = synthetic_case(Pasting(), scene_of(case_folders[3]), {"volume": "0", "seed": "1"}, 1)
    assert np.array_equal(made.ct, open_case(case_folders[3]).ct)


def test_the_audit_and_quality_control_look_at_what_was_made(case_folders, twins):
    """A twin keeps a real CT, so only its new nodules and what is near them say anything."""
    for opener, folder in zip(openers(case_folders, case_folders, twins)["synthetic"], twins, strict=True):
        case, item = open_case(folder), opener()
        assert case.about["new_nodules"] == 2
        assert (item.nodules > 0).sum() == (case.nodules > 0).sum() and item.counts.any() and not item.counts.all()
    scene = scene_of(case_folders[0])
    assert any(name.startswith("nodule") for name in measure(open_case(twins[0]), None, scene.made == 1))
