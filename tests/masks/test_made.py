"""Masks that are nobody's: they follow from their row, are as asked, and lead to no patient."""

import numpy as np
import pytest

from lungsyn.audit.outlines import find, read_outline
from lungsyn.errors import InputError
from lungsyn.masks import made
from lungsyn.masks.core import parametric
from lungsyn.masks.core.lesions import in_turn, read_wanted
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


def measured(scene) -> tuple[list[dict], np.ndarray, Space]:
    """The nodules' facts, the lungs and the grid of a scene."""
    nodules, lungs = (np.asarray(scene.labels[name]) for name in ("nodules", "lungs"))
    space = Space(nodules.shape, scene.affine)
    return nodule_facts(nodules, lungs, space), lungs, space


def test_a_parametric_body_has_no_patients_outline(folders):
    """It uses one case, for its spacing; the shape of another one of the same grid leads to the same masks."""
    rows, drawn_scenes = scenes(folders, volumes=2, body="parametric")
    opened = {folder.name: open_case(folder) for folder in folders}
    source = family("masks", "made")
    for row, scene in zip(rows, drawn_scenes, strict=True):
        (name,) = source.uses(row)
        other = next(key for key in opened if key != name)
        facts, lungs, space = measured(scene)
        assert facts and (np.asarray(scene.labels["body"])[lungs > 0] > 0).all()
        if row["cut_out"] == "1":
            swapped = source.scene(row, lambda _, other=other: opened[other])
            assert all((swapped.labels[key] == scene.labels[key]).all() for key in ("nodules", "lungs", "body"))
            assert lungs.shape == opened[name].ct.shape
        else:
            assert set(np.unique(lungs)) == {0, 1, 2}
            right, left = (np.argwhere(lungs == value).mean(0) for value in (1, 2))
            assert right[0] > left[0]  # RAS+: x runs to the patient's right
            extent = np.ptp(np.argwhere(lungs > 0), axis=0) * space.spacing_mm
            asked = np.array(row["lungs_mm"].split(), dtype=float)
            assert extent == pytest.approx(asked, rel=0.12)


def test_parametric_chests_are_as_large_as_the_train_cases(folders):
    cases = [open_case(folder) for folder in folders]
    if made.shapes.are_cut_outs(cases):
        pytest.skip("cut-outs have no size")
    sizes = parametric.sizes_of(cases)
    drawn_sizes = np.log([parametric.draw_size_mm(sizes, np.random.default_rng(i)) for i in range(400)])
    np.testing.assert_allclose(drawn_sizes.mean(0), sizes.mean(0), atol=0.02)
    np.testing.assert_allclose(drawn_sizes.std(0), sizes.std(0, ddof=1), rtol=0.25)
    assert parametric.draw_size_mm(sizes[:4], np.random.default_rng(0)) is None  # too few to have a spread


@pytest.mark.parametrize("body", ["mixed", "parametric"])
def test_the_lungs_of_a_chest_have_the_volume_that_is_asked_for(folders, body):
    if made.shapes.are_cut_outs([open_case(folder) for folder in folders]):
        with pytest.raises(InputError, match="the train cases are cut-outs"):
            scenes(folders, body=body, lungs_l=(0.4, 0.4))
        return
    for scene in scenes(folders, volumes=2, body=body, lungs_l=(0.4, 0.4))[1]:
        _, lungs, space = measured(scene)
        assert (lungs > 0).sum() * space.voxel_ml / 1000 == pytest.approx(0.4, rel=0.12)


def test_a_table_says_what_each_volume_is_to_be(folders, tmp_path):
    table = tmp_path / "wanted.tsv"
    table.write_text("volume\tdiameters_mm\twalls_mm\na\t9\t8\nb\t6 7\t\nc\t\t12\n")
    rows, made_up = scenes(folders, volumes=4, table=table, diameter_mm=(5.0, 5.0))
    source = family("masks", "made")
    asked = [source.asked(row) for row in rows]
    assert [one["diameter_mm"] for one in asked] == [[9], [6, 7], [5], [9]]  # the third as the settings say
    assert asked[0]["wall_mm"] == [8] and asked[2]["wall_mm"] == [12] and len(asked[1]["wall_mm"]) == 2
    facts, _, _ = measured(made_up[0])
    assert facts[0]["diameter_mm"] == pytest.approx(9.0, rel=0.05)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("volume\na\n", "no line that asks for anything"),
        ("diameters_mm\n", "no line that asks for anything"),
        ("diameters_mm\tcolour\n5\tred\n", "a column 'colour'"),
        ("diameters_mm\n5\nlarge\n", "line 3: diameters_mm is 'large'"),
        ("diameters_mm\n-5\n", "above 0 and up to 200"),
        ("walls_mm\nnan\n", "above 0 and up to 200"),
        ("diameters_mm\twalls_mm\n5 6\t3\n", "different numbers of nodules"),
        ("lungs_l\n4 5\n", "a volume has one"),
    ],
)
def test_a_table_that_asks_for_nothing_possible_is_refused(tmp_path, text, match):
    (tmp_path / "wanted.tsv").write_text(text)
    with pytest.raises(InputError, match=match):
        read_wanted(tmp_path / "wanted.tsv")


@pytest.mark.parametrize(
    "settings", [{"diameter_mm": (9, 5)}, {"nodules": (0, 2)}, {"lungs_l": (1, 50)}, {"wall_mm": (-1, 5)}]
)
def test_ranges_that_no_volume_can_have_are_refused(settings):
    with pytest.raises(ValueError, match="must be a low and a high end between"):
        made.Settings(**settings)


def test_nodules_are_drawn_as_often_as_each_other():
    """So that ten volumes have the diameters of ten train nodules, not those of a few of them several times."""
    turns = in_turn(range(5), 3, "what")
    assert [sorted(next(turns) for _ in range(5)) for _ in range(3)] == [list(range(5))] * 3


def test_the_middle_of_a_mixed_cut_out_is_as_deep_as_its_nodule_is_to_be(folders):
    if not made.shapes.are_cut_outs([open_case(folder) for folder in folders]):
        pytest.skip("nodules of whole chests are placed anywhere")
    depths = []
    for deep in (6.0, 12.0):
        made_up = scenes(folders, volumes=3, wall_mm=(deep, deep), diameter_mm=(4.0, 4.0))[1]
        depths.append([made.shapes.wall_mm(lungs, facts[0]["box"], space.spacing_mm)
                       for facts, lungs, space in map(measured, made_up)])  # fmt: skip
    assert depths[0] == pytest.approx([6.0] * 3, abs=5.0) and depths[1] == pytest.approx([12.0] * 3, abs=5.0)
    assert np.mean(depths[1]) > np.mean(depths[0]) + 3.0


def test_fewer_patients_than_are_mixed_are_refused(folders):
    with pytest.raises(InputError, match=r"10 train patients, but conditions.patients asks for 12"):
        scenes(folders, patients=12)
