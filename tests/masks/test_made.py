"""Masks that are nobody's: they follow from their row, are as asked, and lead to no patient."""

import numpy as np
import pytest

from lungsyn.audit.outlines import find, read_outline
from lungsyn.errors import InputError
from lungsyn.masks import made
from lungsyn.registry import family
from lungsyn.volume.files import Case, open_case, write_case
from lungsyn.volume.nodules import nodule_facts
from lungsyn.volume.space import Space
from tests.audit.test_outlines import chest, wall
from tests.conftest import labelled_case


def with_nodule(lungs: np.ndarray, name: str, radius: float) -> Case:
    """A case with a ball in the middle of the deepest place of its lungs."""
    lungs = lungs.copy()
    depth = np.pad(lungs > 0, 1)[1:-1, 1:-1, 1:-1]
    at = np.argwhere(depth)
    middle = np.array(lungs.shape) // 2 if (lungs[:1] > 0).any() else at[len(at) // 3]
    nodules = (((np.indices(lungs.shape) - middle[:, None, None, None]) ** 2).sum(0) < radius**2).astype(np.uint8)
    lungs[(nodules > 0) & (lungs == 0)] = 1
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -31.7, 12.3, 451.9  # where a patient lay
    space = Space(lungs.shape, affine)
    about = {"case": name, "patient": name, "nodules": nodule_facts(nodules, lungs, space)}
    return labelled_case(np.zeros(lungs.shape, np.int16), nodules, lungs, np.ones_like(lungs), space.affine, about)


@pytest.fixture(scope="module", params=[wall, chest], ids=["cut-outs", "chests"])
def folders(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    for i in range(10):
        write_case(root / f"case-{i}", with_nodule(request.param(i), f"case-{i}", 2.0 + 0.3 * i))
    return sorted(root.iterdir())


@pytest.fixture(scope="module")
def drawn(folders):
    return scenes(folders)


def scenes(folders, volumes=3, **settings):
    source = family("masks", "made")
    rows = source.rows(folders, volumes, 7, made.Settings(**{"patients": 6} | settings))
    opened = {folder.name: open_case(folder) for folder in folders}
    rows = [{key: str(value) for key, value in row.items()} for row in rows]  # as they are read from the table
    return rows, [source.scene(row, lambda name: opened[name]) for row in rows]


def test_masks_follow_from_their_row_and_use_what_it_says(folders, drawn):
    rows, made_once = drawn
    again, made_twice = scenes(folders, volumes=1)
    source = family("masks", "made")
    assert again == rows[:1]
    for row, one, other in zip(rows, made_once, made_twice, strict=False):
        assert set(row) == set(source.columns) and len(source.uses(row)) == 6
        assert all((one.labels[name] == other.labels[name]).all() for name in ("nodules", "lungs", "body"))
    assert len({row["cases"] + row["weights"] for row in rows}) == len(rows)


def test_made_masks_are_a_chest_or_a_cut_out(folders, drawn):
    real = [open_case(folder) for folder in folders]
    share = [(np.asarray(case.lungs) > 0).mean() for case in real]
    for scene in drawn[1]:
        nodules, lungs, body = (scene.labels[name] for name in ("nodules", "lungs", "body"))
        assert nodules.any() and (lungs[nodules > 0] > 0).all() and (body[lungs > 0] > 0).all()
        assert {array.dtype for array in (nodules, lungs, body)} == {np.dtype(np.uint8)}
        assert 0.3 * min(share) < (lungs > 0).mean() < 1.5 * max(share)
        np.testing.assert_array_equal(scene.affine, np.diag([2.0, 2.0, 2.0, 1.0]))  # nothing of where a patient lay


def test_what_is_asked_for_is_made(folders):
    for scene in scenes(folders, volumes=1, nodules=(2, 2), diameter_mm=(8.0, 8.0))[1]:
        nodules = np.asarray(scene.labels["nodules"])
        facts = nodule_facts(nodules, np.asarray(scene.labels["lungs"]), Space(nodules.shape, scene.affine))
        assert facts and len(facts) <= 2  # of a cut-out the second may lie where the first is
        assert facts[0]["diameter_mm"] == pytest.approx(8.0, rel=0.1)


def test_no_train_patient_is_as_near_as_a_copy(folders, drawn):
    """The likeness of a copy is 0.99 and more; a mixture of six is like nobody."""
    cases = [open_case(folder) for folder in folders]
    cut_out = bool((np.asarray(cases[0].lungs)[:1] > 0).any())
    known = np.stack([read_outline(case, cut_out)[0] for case in cases])
    made_up = []
    for scene in drawn[1]:
        nodules, lungs, body = (np.asarray(scene.labels[name]) for name in ("nodules", "lungs", "body"))
        case = labelled_case(np.zeros(lungs.shape, np.int16), nodules, lungs, body, scene.affine, {})
        made_up.append(read_outline(case, cut_out)[0])
    owners = [case.about["patient"] for case in cases]
    assert max(match.likeness for match in find(np.stack(made_up), known, owners)) < 0.97
    assert min(match.likeness for match in find(known[:3], known, owners)) > 0.99


def test_fewer_patients_than_are_mixed_are_refused(folders):
    with pytest.raises(InputError, match=r"10 train patients, but conditions.patients asks for 12"):
        scenes(folders, patients=12)
