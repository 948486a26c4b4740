import pytest

from lungsyn.errors import InputError
from lungsyn.evaluation.groups import case_means, chosen_changes, group_of, worst_cases


def row(case, dice, split="validation", replicate="0"):
    return {"case": case, "patient": case, "split": split, "replicate": replicate, "dice": dice}


def test_worst_by_the_mean_over_replicates_ties_by_name():
    rows = [
        row("c", 0.2),
        row("c", 0.8, replicate="1"),
        row("b", 0.5),
        row("a", 0.5),
        row("d", 0.4),
        row("e", 0.9),
    ]
    assert worst_cases(rows, 3) == ["d", "a", "b"]
    assert worst_cases(rows, 5) == ["d", "a", "b", "c", "e"]


def test_neither_test_cases_nor_the_ensemble_choose():
    rows = [row("a", 0.6), row("b", 0.7), row("t", 0.0, split="test"), row("b", 0.0, replicate="ensemble")]
    assert worst_cases(rows, 1) == ["a"]
    assert case_means(rows, "dice") == {"a": 0.6, "b": 0.7, "t": 0.0}


def test_more_worst_than_validation_cases_is_refused():
    with pytest.raises(InputError, match=r"worst_cases is 3, but the validation split has 2 cases: lower it"):
        worst_cases([row("a", 0.1), row("b", 0.1)], 3)


def test_groups():
    assert [group_of({"case": "a", "split": split}, ["a"]) for split in ("validation", "test", "train")] == [
        "worst validation", "test", None,
    ]  # fmt: skip
    assert group_of({"case": "b", "split": "validation"}, ["a"]) == "other validation"


def test_a_case_is_among_the_worst_of_a_fold():
    rows = [{"case": "a", "split": "validation", "fold": fold} for fold in (1, 2)]
    assert [group_of(row, {(2, "a")}) for row in rows] == ["other validation", "worst validation"]


def changed(changes: dict[str, float]) -> dict[str, str]:
    real = [row(case, 0.5, "test") for case in changes] + [row("v", 0.0)]
    more = [row(case, 0.5 + change, "test") for case, change in changes.items()] + [row("v", 1.0)]
    return chosen_changes({"real": real, "more": more}, "more", "real")


def test_the_cases_to_draw_follow_a_rule():
    assert list(changed({"a": 0.4, "b": -0.1, "c": 0.1, "d": 0.05}).items()) == [
        ("a", "best change"), ("d", "median change"), ("b", "worst change"),
    ]  # fmt: skip


def test_few_cases_to_draw():
    assert changed({"a": 0.4, "b": -0.1}) == {"a": "best change", "b": "median change"}
    assert changed({"a": 0.4}) == {"a": "median change"}
