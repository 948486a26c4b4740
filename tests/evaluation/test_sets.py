"""Synthetic sets side by side: each number comes from where it is known, and folds are one."""

import pytest

from lungsyn.evaluation import sets
from lungsyn.evaluation.groups import OTHER, TEST
from lungsyn.settings.arms import Arm

ARMS = {
    "real": Arm(real=True),
    "alone": Arm(real=False, synthetic="made"),
    "added": Arm(real=True, synthetic="made", synthetic_share=0.5),
}


def verdict(**other) -> dict:
    checks = [("nodule: copies", "pass", 2), ("part: copies", "pass", None), ("outline: copies", "fail", 9),
              ("outline: closer", "blind", 0.1), ("membership", "pass", 0.55)]  # fmt: skip
    found = [{"check": name, "result": result, "value": value} for name, result, value in checks]
    return {"set": "made", "size": 50, "generator": "g", "result": "fail", "cases": {"a": "", "b": ""}, "checks": found,
            **other}  # fmt: skip


def view(ratio: float, covered: float) -> dict:
    return {"frechet": {"ratio": ratio}, "coverage": {"synthetic": {"value": covered}, "floor": {"value": 0.9}}}


def fidelity(*ratios: float) -> dict:
    covered = (0.2, 0.4, 0.6)
    planes = zip(sets.PLANES, (view(*of) for of in zip(ratios, covered, strict=True)), strict=True)
    return {"views": {**dict(planes), "nodule": None}}


def job(verb: str, seconds: float, **of) -> dict:
    return {"stage": "generation", "verb": verb, "generator": "g", "set": None, "size": 50, "host_mb": 100,
            "device_mb": None, "seconds": seconds, **of}  # fmt: skip


def test_a_row_has_what_the_audit_the_distances_and_the_costs_say():
    costs = [
        job("train", 60, weights=7, host_mb=300), job("train", 1, size=100), job("train", 1, generator="other"),
        job("synthesise", 10, set="made", batch=0), job("synthesise", 4, set="made", batch=1, device_mb=800),
        job("synthesise", 99, set="made", batch=0, draw=1), job("synthesise", 99, set="another"),
    ]  # fmt: skip
    row = sets.set_row(verdict(), fidelity(2, 4, 6), costs)
    assert list(row) == sets.COLUMNS
    assert (row["weights"], row["training_s"], row["training_mb"]) == (7, 60, 300)
    assert (row["volume_s"], row["volume_mb"]) == (7, 800)  # of two volumes, in two jobs
    assert [row[f"frechet_{plane}"] for plane in sets.PLANES] == [2, 4, 6] and row["frechet_nodule"] is None
    assert (row["coverage"], row["coverage_floor"]) == (pytest.approx(0.4), pytest.approx(0.9))
    assert (row["verdict"], row["copies"], row["membership_auc"], row["outlines"]) == ("fail", 2, 0.55, "fail")


def test_what_is_not_known_is_left_empty():
    row = sets.set_row(verdict(checks=[]), {"views": dict.fromkeys([*sets.PLANES, "nodule"])}, [])
    known = {"set", "size", "generator", "verdict", "copies"}
    assert {key for key, value in row.items() if value is not None} == known


def test_folds_are_one_row_and_the_worst_result_counts():
    one = sets.set_row(verdict(fold=1, result="pass"), fidelity(2, 2, 2), [job("train", 10, fold=1)])
    two = sets.set_row(verdict(fold=2), fidelity(4, 4, 4), [job("train", 30, fold=2), job("train", 99, fold=1)])
    (row,) = sets.over_folds([one, two])
    assert (row["frechet_axial"], row["training_s"], row["copies"]) == (3, 20, 4)
    assert (row["verdict"], row["outlines"]) == ("fail", "fail")


def test_each_arm_with_a_set_is_beside_the_benchmark_of_its_own_size_and_segmenter():
    dice = {("u", 50): 0.5, ("u", 100): 0.8, ("v", 50): 0.0}
    rows = [
        {"segmenter": segmenter, "size": size, "arm": arm, "group": group, "mean_difference": d, "p_holm": 0.2,
         "mean_dice": base + d}
        for (segmenter, size), base in dice.items()
        for arm, d in (("real", 0.0), ("alone", -0.1), ("added", 0.1))
        for group in (TEST, OTHER)
    ]  # fmt: skip
    uses = sets.use_rows(rows, ARMS, "real")
    assert [(use["arm"], use["real"]) for use in uses] == [("alone", "no"), ("added", "yes")] * 3
    found = {(use["segmenter"], use["size"], use["arm"]): use["of_benchmark"] for use in uses}
    assert found["u", 50, "alone"] == pytest.approx(0.8) and found["u", 100, "added"] == pytest.approx(0.9 / 0.8)
    assert found["v", 50, "alone"] is None  # nothing to be a part of


def test_only_sets_that_teach_alone_are_drawn(tmp_path):
    rows = [sets.set_row(verdict(), fidelity(2, 4, 6), []), sets.set_row(verdict(size=100), fidelity(2, 4, 6), [])]
    rows[1]["frechet_axial"] = None
    use = {"set": "made", "size": 50, "segmenter": "u", "arm": "alone", "real": "no", "of_benchmark": 0.7}
    points = sets.points_of(rows, [use, use | {"real": "yes"}, use | {"size": 100}, use | {"of_benchmark": None}])
    assert points == [{"set": "made", "size": 50, "segmenter": "u", "arm": "alone", "frechet": 4, "of_benchmark": 0.7,
                       "verdict": "fail"}]  # fmt: skip
    for some in (points, []):
        sets.plot_sets(some, "a study", 60, tmp_path / "sets.png")
        assert (tmp_path / "sets.png").stat().st_size > 1000
