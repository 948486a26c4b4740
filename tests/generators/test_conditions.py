from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lungsyn.errors import InputError
from lungsyn.masks.core import placing
from lungsyn.masks.core import rows as conditions
from lungsyn.volume import pasting
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.nodules import diameter_mm, nodule_facts
from lungsyn.volume.space import Space
from tests.conftest import labelled_case, without_lungs


@pytest.fixture
def sources(case_folders):
    folders = {folder.name: folder for folder in case_folders}
    return lambda name: open_case(folders[name])


def test_rows_are_seeded_and_use_all_cases_evenly():
    rows = conditions.untargeted(["a", "b", "c"], 7, seed=1)
    assert rows == conditions.untargeted(["c", "b", "a"], 7, seed=1)
    assert rows != conditions.untargeted(["a", "b", "c"], 7, seed=2)
    assert sorted(r["body_case"] for r in rows[:3]) == ["a", "b", "c"]
    assert len({r["volume"] for r in rows}) == len({r["seed"] for r in rows}) == 7


def test_targeted_rows_take_masks_from_the_worst_cases_only():
    rows = conditions.targeted(["w1", "w2"], 5, seed=0)
    assert {r["body_case"] for r in rows} == {"w1", "w2"}
    assert all(r["body_case"] == r["nodule_case"] for r in rows)
    assert {r["why"] for r in rows} == {"targeted"}


@pytest.mark.parametrize("why", ["untargeted", "targeted"])
def test_nodules_lie_in_the_lungs(sources, why):
    make = conditions.untargeted if why == "untargeted" else conditions.targeted
    for row in make(["case-0", "case-1", "case-3"], 6, seed=0):
        masks, body, _ = placing.make_masks(row, sources, row["why"] == "inpainted")
        nodules, lungs, inside = masks
        assert masks.dtype == np.uint8
        assert nodules.shape == body.ct.shape
        assert set(np.unique(nodules)) - {0}
        assert ((lungs > 0)[nodules > 0]).all()
        assert ((inside > 0)[nodules > 0]).all()
        assert ((body.lungs > 0)[nodules > 0]).mean() >= pasting.INSIDE_LUNGS - 0.02
        again = placing.make_masks(row, sources, row["why"] == "inpainted").masks
        assert np.array_equal(masks, again)


@pytest.mark.parametrize("why", ["untargeted", "targeted", "inpainted"])
def test_nodules_can_lie_about_where_they_lay_in_their_own_case(sources, why):
    """In bodies of other shapes too, wherever there is lung; new nodules beside those that an inpainted case keeps."""

    def all_lung(name):
        case = sources(name)
        nodules = np.zeros_like(case.nodules) if why == "inpainted" and name == "case-1" else case.nodules
        return case.with_labels(nodules=nodules, lungs=np.ones_like(case.lungs))

    for donor in ["case-1"] if why == "targeted" else ["case-0", "case-3", "case-4"]:
        row = conditions.untargeted(["case-1"], 1, 0, place=conditions.OWN)[0] | {"nodule_case": donor, "why": why}
        (nodules, _, _), body, placed = placing.make_masks(row, all_lung, row["why"] == "inpainted")
        facts, shape = sources(donor).about["nodules"], sources(donor).ct.shape
        assert len(placed) == len(facts)
        for index, fact in enumerate(facts, start=1):
            wanted = np.mean(fact["box"], axis=1) / shape * body.ct.shape
            found = np.array(ndimage.center_of_mass(nodules == index)) + 0.5
            assert np.abs(found - wanted).max() <= pasting.NEAR_VOXELS + 2


def test_nodules_keep_their_place_where_all_real_ones_have_the_same(sources):
    """A cut-out has its nodule in the middle; a segmenter that is taught otherwise learns less."""
    chests = [sources(f"case-{k}") for k in range(4)]
    assert conditions.usual_place(chests) == conditions.ANYWHERE
    middles = [{"nodules": [{"box": [[n // 2 - 2, n // 2 + 3] for n in case.ct.shape]}]} for case in chests]
    cut_outs = [replace(case, about=about) for case, about in zip(chests, middles, strict=True)]
    assert conditions.usual_place(cut_outs) == conditions.OWN
    assert conditions.usual_place([]) == conditions.ANYWHERE
    assert {row["place"] for row in conditions.targeted(["a"], 2, 0)} == {conditions.OWN}


def test_a_nodule_without_room_in_its_place_lies_elsewhere_in_the_lungs(sources):
    free = np.zeros((40, 20, 20), bool)
    free[:15] = True
    ball = np.ones((5, 5, 5), bool)
    starts = [pasting.find_place(ball, free, np.array([30, 10, 10]), np.random.default_rng(k)) for k in range(20)]
    assert all(start[0] <= 11 for start in starts) and len(set(starts)) > 10


def test_varied_masks_keep_their_size_within_the_scaling():
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[-7:8, -7:8, -7:8]
    ball = x**2 + y**2 + z**2 <= 36
    low, high = (s**3 for s in pasting.SCALES)
    sizes = [pasting.vary(ball, hu_around(ball), rng)[0].sum() / ball.sum() for _ in range(30)]
    assert low * 0.9 < min(sizes) < 1 < max(sizes) < high * 1.1
    one_voxel = np.ones((1, 1, 1), bool)
    assert all(pasting.vary(one_voxel, hu_around(one_voxel), rng)[0].any() for _ in range(20))


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 1, 1), (1, 1, 1)])
def test_of_a_nodule_that_is_made_smaller_than_voxels_something_is_left_in_its_place(shape):
    """Voxels that it does not fill at all used to make up its volume, in a corner, without HU of their own."""
    mask = np.ones(shape, bool)
    for seed in range(60):
        varied, hu = pasting.vary(mask, hu_around(mask), np.random.default_rng([seed, 1]), shrink=0.5)
        assert varied.any() and max(varied.shape) <= 3
        assert hu.shape == tuple(n + 2 * pasting.RIM_VOXELS for n in varied.shape)


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.3, 6.0])
def test_a_rotated_nodule_keeps_its_volume(radius, monkeypatch):
    """Cut at half full, a ball of 19 voxels kept 8 to 16 of them."""
    monkeypatch.setattr(pasting, "SCALES", (1.0, 1.0))
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[-7:8, -7:8, -7:8]
    ball = x**2 + y**2 + z**2 <= radius**2
    assert {int(pasting.vary(ball, hu_around(ball), rng)[0].sum()) for _ in range(10)} == {int(ball.sum())}


def test_no_nodule_is_made_smaller_than_the_smallest(sources):
    """Without a limit a small nodule is scaled down, and down again where it does not fit."""
    abouts = [sources(f"case-{k}").about for k in range(4)]
    diameters = [diameter_mm(fact["volume_mm3"]) for about in abouts for fact in about["nodules"]]
    smallest = conditions.smallest_diameter_mm(abouts)
    assert smallest == min(diameters) and conditions.smallest_diameter_mm([{"nodules": []}]) == 0

    def made(limit):
        rows = conditions.untargeted(["case-0", "case-1", "case-2", "case-3"], 24, 0, limit)
        nodules = [placing.make_masks(row, sources, row["why"] == "inpainted").masks[0] for row in rows]
        return [diameter_mm(8.0 * (mask == k).sum()) for mask in nodules for k in range(1, mask.max() + 1)]

    assert min(made(0.0)) < 0.81 * smallest  # the least scale, rounded to voxels
    assert min(made(smallest)) > 0.99 * smallest  # less half a voxel


def hu_around(mask):
    """A nodule of 50 HU in lung of -800 HU, as wide as `vary` takes it."""
    return np.where(np.pad(mask, 2 * pasting.RIM_VOXELS), 50.0, -800.0)


def test_hu_is_varied_with_its_mask():
    """An L, so that no mirror image or rotation is itself: where the varied mask is well inside, the HU is nodule's."""
    rng = np.random.default_rng(3)
    mask = np.zeros((15, 15, 15), bool)
    mask[2:13, 2:13, 2:8] = mask[2:8, 2:13, 2:13] = True
    rim = pasting.RIM_VOXELS
    for _ in range(10):
        varied, hu = pasting.vary(mask, hu_around(mask), rng)
        assert hu.shape == tuple(n + 2 * rim for n in varied.shape)
        inner = hu[rim:-rim, rim:-rim, rim:-rim]
        assert (inner[ndimage.binary_erosion(varied, iterations=2)] > 0).all()
        outside = ~ndimage.binary_dilation(np.pad(varied, rim), iterations=2)
        assert (hu[outside] < -700).all()


@pytest.mark.parametrize("why", ["untargeted", "targeted", "inpainted"])
def test_without_room_the_nodules_stay_as_they_are(sources, why):
    row = conditions.untargeted(["case-0"], 1, seed=0)[0] | {"nodule_case": "case-3", "why": why}
    masks, body, placed = placing.make_masks(row, lambda name: without_lungs(sources(name)), row["why"] == "inpainted")
    assert placed == []
    for made, real in zip(masks, (body.nodules, body.lungs, body.body), strict=True):
        assert np.array_equal(made, real)


def test_empty_splits_say_so():
    with pytest.raises(InputError, match="train split is empty"):
        conditions.untargeted([], 3, 0)
    with pytest.raises(InputError, match="validation split is empty"):
        conditions.targeted([], 3, 0)


def test_a_donor_that_does_not_fit_is_replaced_by_the_body_s_own(sources):
    def giant(name):
        case = sources(name)
        if name != "case-1":
            return case
        facts = [{"index": 1, "box": [[0, n] for n in case.ct.shape], "volume_mm3": 1e6}]
        return replace(case, about={"nodules": facts}).with_labels(nodules=np.ones_like(case.nodules))

    row = conditions.untargeted(["case-0"], 1, seed=0)[0] | {"nodule_case": "case-1"}
    (nodules, _, _), body, _ = placing.make_masks(row, giant, row["why"] == "inpainted")
    assert set(np.unique(nodules)) == {0} | {fact["index"] for fact in body.about["nodules"]}


def test_inpainted_cases_keep_their_own_nodules_and_get_new_ones(sources):
    for row in conditions.untargeted(["case-0", "case-3"], 4, seed=0, why="inpainted"):
        (nodules, _, _), body, _ = placing.make_masks(row, sources, row["why"] == "inpainted")
        kept = [fact["index"] for fact in body.about["nodules"]]
        assert row["why"] == "inpainted"
        region = placing.region_to_make(nodules, body)
        if all(np.array_equal(nodules == i, body.nodules == i) for i in kept):
            assert nodules.max() > max(kept)
            new = nodules > max(kept)
        else:
            new = nodules > 0  # nothing fitted beside them: they themselves are made anew
        assert (region[new] == 1).all()
        away = ndimage.distance_transform_edt((nodules == 0) & (body.nodules == 0), sampling=body.space.spacing_mm)
        assert (region[away > 2 * placing.INPAINT_MARGIN_MM] == 0).all()


def test_the_last_number_that_a_mask_can_hold_is_noticed():
    before = np.zeros((4, 4, 4), np.uint8)
    nodules, before[3] = before.copy(), 7
    nodules[3], nodules[0] = 7, 255
    assert placing.changed_nodules(nodules, before) == [255]
    assert placing.changed_nodules(before, nodules) == [255]
    nodules[3, 0] = 0
    assert placing.changed_nodules(nodules, before) == [7, 255]


@pytest.mark.parametrize(("kept", "new", "placed"), [(130, 130, 125), (255, 3, 3), (254, 1, 1)])
def test_a_case_has_no_more_nodules_than_its_mask_can_number(kept, new, placed, capsys):
    """What has no number left is not placed, and that is said; where nothing is, the body's own are varied."""

    def patient(name: str, n: int) -> Case:
        shape = (64, 64, 64)
        nodules = np.zeros(shape, np.uint8)
        starts = np.stack(np.meshgrid(*[range(2, 60, 8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        for i, (x, y, z) in enumerate(starts[:n], start=1):
            nodules[x : x + 2, y : y + 2, z : z + 2] = i
        lungs, affine = np.ones(shape, np.uint8), np.diag([2.0, 2.0, 2.0, 1.0])
        about = {"case": name, "nodules": nodule_facts(nodules, lungs, Space(shape, affine))}
        return labelled_case(np.full(shape, -800, np.int16), nodules, lungs, lungs, affine, about)

    cases = {"body": patient("body", kept), "donor": patient("donor", new)}
    row = conditions.untargeted(["body"], 1, 0, why="inpainted")[0] | {"nodule_case": "donor"}
    masks, _, found = placing.make_masks(row, cases.get, keep=True)
    said = capsys.readouterr().out
    assert masks[0].max() <= placing.MOST_NODULES
    if kept + new > placing.MOST_NODULES:
        assert f"{new - max(255 - kept, 0)} nodules are not placed: a case has at most 255" in said
    else:
        assert not said
    if kept < 255:
        assert len(found) == placed
        assert len(np.unique(masks[0])) - 1 == kept + placed
