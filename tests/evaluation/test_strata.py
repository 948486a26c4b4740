import pytest

from lungsyn.evaluation.strata import ALL, STRATA, nodule_means, strata_of, strata_rows, turned


def nodule(case="a", index=1, replicate="0", found=1, dice=0.8, diameter_mm=8.0, texture=4.7, pleura=0):
    return {
        "case": case, "patient": case, "split": "test", "replicate": replicate, "nodule": index,
        "diameter_mm": diameter_mm, "texture": texture, "touches_pleura": pleura, "found": found, "dice": dice,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"diameter_mm": 5.99, "texture": 1.0}, {"< 6 mm", "ground glass", "inside the lung"}),
        ({"diameter_mm": 6.0, "texture": 2.5, "pleura": 1}, {"6-10 mm", "part solid", "at the pleura"}),
        ({"diameter_mm": 19.9, "texture": 3.5}, {"10-20 mm", "solid", "inside the lung"}),
        ({"diameter_mm": 20.0, "texture": None}, {"> 20 mm", "texture not rated", "inside the lung"}),
    ],
)
def test_strata(facts, expected):
    assert set(strata_of(nodule(**facts))) == expected | {ALL} and expected <= set(STRATA)


def test_the_ensemble_is_no_replicate():
    rows = [nodule(found=1), nodule(found=0, replicate="1"), nodule(found=1, replicate="ensemble")]
    assert nodule_means(rows, "found") == {("a", 1): 0.5}


def test_a_table_by_hand():
    """Two patients, one with two nodules; the other arm finds one more and outlines the rest 0.1 better."""
    real = [nodule(), nodule(index=2, found=0, dice=0.0, diameter_mm=4), nodule("b", dice=0.6)]
    more = [nodule(dice=0.9), nodule(index=2, dice=0.5, diameter_mm=4), nodule("b", dice=0.7)]
    rows = {(r["arm"], r["stratum"]): r for r in strata_rows({"real": real, "more": more}, "real", 0.95)}
    everything = rows["more", ALL]
    assert (everything["n_nodules"], everything["n_patients"]) == (3, 2)
    assert (everything["sensitivity"], everything["lesion_dice"]) == (1.0, pytest.approx(0.7))
    assert everything["sensitivity_difference"] == pytest.approx(1 / 3)
    assert everything["dice_difference"] == pytest.approx((0.1 + 0.5 + 0.1) / 3)
    assert everything["dice_ci_low"] is None  # of two patients
    small = rows["more", "< 6 mm"]
    assert (small["n_nodules"], small["dice_difference"], small["dice_ci_low"]) == (1, 0.5, None)
    assert rows["real", ALL]["dice_difference"] is None and rows["real", ALL]["sensitivity"] == pytest.approx(2 / 3)
    assert ("real", "> 20 mm") not in rows and ("real", "ground glass") not in rows


def test_the_order_of_rows_changes_nothing():
    real = [nodule(case, dice=0.1 * k) for k, case in enumerate("abcd")]
    more = [nodule(case, dice=0.1 * k + 0.05) for k, case in enumerate("abcd")]
    straight = strata_rows({"real": real, "more": more}, "real", 0.95)
    assert straight == strata_rows({"real": real[::-1], "more": more[::-1]}, "real", 0.95)


def several(case, finds, **facts):
    return [nodule(case, replicate=str(k), found=found, **facts) for k, found in enumerate(finds)]


def test_nodules_that_turned():
    """By more than half of the replicates; those that all agree on come first, then the larger ones."""
    before = [*several("a", (0, 0, 0)), *several("b", (0, 0, 1)), *several("c", (1, 1, 0)), *several("d", (0, 0, 0)),
              *several("e", (0, 0, 0), diameter_mm=15.0), *several("f", (1, 1, 1))]  # fmt: skip
    after = [*several("a", (1, 1, 1)), *several("b", (1, 1, 0)), *several("c", (0, 0, 0)), *several("d", (1, 0, 0)),
             *several("e", (1, 1, 1), diameter_mm=15.0), *several("f", (1, 1, 1))]  # fmt: skip
    gained, lost = turned(before, after)
    assert [row["case"] for row in gained] == ["e", "a", "b"]
    assert [row["case"] for row in lost] == ["c"]


def test_half_of_the_replicates_is_no_majority():
    assert turned(several("a", (0, 0)), several("a", (1, 0))) == ([], [])
