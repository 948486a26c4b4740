import numpy as np
import pytest

from lungsyn.errors import InputError
from lungsyn.evaluation.comparison import COMPARISON_COLUMNS, as_text, compare
from lungsyn.evaluation.groups import GROUPS, worst_cases
from lungsyn.evaluation.scores import read_scores
from lungsyn.volume.tables import write_table


def row_of(rows, arm, group="test"):
    return next(row for row in rows if (row["arm"], row["group"]) == (arm, group))


def test_known_effects_are_found(comparison):
    assert row_of(comparison, "real+synthetic")["mean_difference"] == pytest.approx(0.1, abs=0.02)
    assert row_of(comparison, "real+synthetic")["ci_low"] > 0
    assert row_of(comparison, "synthetic")["ci_high"] < 0
    null = row_of(comparison, "real-reseeded")
    assert null["ci_low"] <= 0 <= null["ci_high"] and null["p_holm"] > 0.05


def test_rows_are_complete(comparison):
    assert len(comparison) == 4 * 3
    assert all(list(COMPARISON_COLUMNS) == sorted(row, key=COMPARISON_COLUMNS.index) for row in comparison)
    assert [row_of(comparison, "real", g)["n_cases"] for g in ("worst validation", "other validation", "test")] == [
        4,
        8,
        20,
    ]
    benchmark = row_of(comparison, "real")
    assert benchmark["mean_difference"] is None and benchmark["p_holm"] is None
    assert all(row["p_holm"] >= row["p"] for row in comparison if row["p"] is not None)


def test_means_by_hand(scores, comparison):
    by_case = {}
    for row in scores["synthetic"]:
        if row["split"] == "test" and row["replicate"] != "ensemble":
            by_case.setdefault(row["case"], []).append(row["dice"])
    row = row_of(comparison, "synthetic")
    assert row["mean_dice"] == pytest.approx(np.mean([np.mean(v) for v in by_case.values()]))
    assert row["replicate_sd"] == pytest.approx(np.std(np.mean(list(by_case.values()), axis=0), ddof=1))
    assert row["sensitivity"] == 0.5 and row["false_positives"] == 1.0 and row["n_empty"] == 0
    assert row["mean_difference"] == pytest.approx(row["mean_dice"] - row_of(comparison, "real")["mean_dice"])


def test_the_order_of_rows_changes_nothing(scores, worst, evaluation, comparison):
    shuffled = {arm: rows[::-1] for arm, rows in scores.items()}
    for a, b in zip(compare(shuffled, "real", worst, evaluation), comparison, strict=True):
        assert a == pytest.approx(b, abs=1e-12)


def test_an_arm_without_a_case_is_refused(scores, worst, evaluation):
    broken = scores | {"synthetic": [row for row in scores["synthetic"] if row["case"] != "case20"]}
    with pytest.raises(InputError, match=r"'real' and 'synthetic' were not scored on the same cases \(case20 in one"):
        compare(broken, "real", worst, evaluation)


@pytest.mark.parametrize("change", [{"patient": "another"}, {"split": "validation"}])
def test_a_case_that_is_another_patients_in_one_arm_is_refused(change, scores, worst, evaluation):
    rows = [row | change if row["case"] == "case20" else row for row in scores["synthetic"]]
    with pytest.raises(InputError, match="case20 in one only, or of another patient or split"):
        compare(scores | {"synthetic": rows}, "real", worst, evaluation)


@pytest.mark.parametrize("times", [0, 2, "nan", "none"])
def test_a_case_is_scored_once_in_every_replicate(times, scores, worst, evaluation):
    """Not in the second one, or twice since a table was given twice, or without a number."""
    that = next(row for row in scores["real"] if (row["case"], row["replicate"]) == ("case20", "1"))
    others = [row for row in scores["real"] if row is not that]
    no_number = {"nan": float("nan"), "none": None}
    rows = [that | {"dice": no_number[times]}] if times in no_number else [that] * times
    count = 2 if times == 2 else 0
    with pytest.raises(InputError, match=f"'real': case 'case20' has {count} Dice in replicate 1, not one"):
        compare(scores | {"real": others + rows}, "real", worst, evaluation)


def test_cases_without_nodules_are_counted(scores, worst, evaluation):
    empty = {"n_nodules": 0, "found_nodules": 0, "lesion_dice": None}
    changed = {arm: [row | empty if row["case"] == "case20" else row for row in rows] for arm, rows in scores.items()}
    row = row_of(compare(changed, "real", worst, evaluation), "real")
    assert (row["n_cases"], row["n_empty"], row["sensitivity"]) == (20, 1, 0.5)


def test_the_table_returns_what_was_written(comparison, tmp_path):
    write_table(tmp_path / "unet.tsv", comparison, COMPARISON_COLUMNS)
    for read, written in zip(read_scores(tmp_path / "unet.tsv", COMPARISON_COLUMNS), comparison, strict=True):
        assert list(read) == COMPARISON_COLUMNS
        assert all(read[key] == written[key] for key in ("size", "arm", "group"))
        for key in COMPARISON_COLUMNS[3:]:
            assert read[key] == (None if written[key] is None else pytest.approx(written[key], rel=1e-5))


def test_text_starts_with_the_test_group_and_is_aligned(comparison):
    text = as_text(comparison, "unet")
    assert text.index("\ntest: 20 cases") < text.index("worst validation: 4 cases") < text.index("other validation: 8")
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert len({len(line) for line in lines[:5]}) == 1
    assert "None" not in text and "nan" not in text


def trained_alike(rng, n_validation=45, n_test=60) -> dict[str, list[dict]]:
    """Scores of two arms that differ by chance alone: the same cases, the same quality, other noise."""
    cases = [(f"c{k:03}", "validation" if k < n_validation else "test", rng.uniform(0.55, 0.75))
             for k in range(n_validation + n_test)]  # fmt: skip
    other = dict.fromkeys(["nsd_1mm", "nsd_2mm", "hd95_mm", "false_positives", "lesion_dice"], 0.0)
    other |= {"n_nodules": 1, "found_nodules": 1}
    return {
        arm: [
            other | {"case": case, "patient": case, "split": split, "replicate": str(k),
                     "dice": quality + rng.normal(0, 0.25)}
            for case, split, quality in cases for k in range(3)
        ]
        for arm in ("real", "real-reseeded")
    }  # fmt: skip


def test_the_worst_group_improves_with_no_intervention_and_the_test_group_does_not(evaluation):
    """Regression to the mean, through the study's own choice of the worst and its own comparison.

    In most of 40 studies in which nothing was done, the worst cases are 'significantly better', the others worse.
    The test group says so as often as an interval of 95 % may.
    """
    rng = np.random.default_rng(6)
    settings, claims = evaluation.model_copy(update={"bootstrap": 300}), {group: [] for group in GROUPS}
    for _ in range(40):
        scores = trained_alike(rng)
        for row in compare(scores, "real", worst_cases(scores["real"], 20), settings):
            if row["arm"] != "real":
                claims[row["group"]].append(np.sign(row["ci_low"]) + np.sign(row["ci_high"]))  # 2, 0 or -2
    worst, others, test = (np.array(claims[group]) for group in GROUPS)
    assert (worst == 2).mean() > 0.5 and not (worst == -2).any()
    assert others.mean() < 0
    assert (test != 0).mean() <= 0.15


def of_few(scores, n: int) -> dict[str, list[dict]]:
    """The same scores, of the first ``n`` test cases."""
    kept = {f"case{12 + k}" for k in range(n)}
    return {arm: [row for row in rows if row["split"] != "test" or row["case"] in kept] for arm, rows in scores.items()}


def test_few_patients_get_a_dash_and_the_reason(scores, worst, evaluation):
    row = row_of(compare(of_few(scores, 10), "real", worst, evaluation), "real+synthetic")
    assert (row["ci_low"], row["ci_high"], row["dice_low"]) == (None, None, None)
    assert row["trainings_low"] < row["mean_difference"] < row["trainings_high"]
    text = as_text(compare(of_few(scores, 10), "real", worst, evaluation))
    assert "   -   " in text and "fewer than 20 patients" in text


def test_means_do_not_depend_on_who_the_patients_are(scores, worst, evaluation, comparison):
    """The mean is over cases: one patient with most of them makes it less sure, not another one."""
    one = {
        arm: [row | {"patient": "p"} if row["split"] == "test" and row["case"] > "case15" else row for row in rows]
        for arm, rows in scores.items()
    }
    before, after = (row_of(rows, "real+synthetic") for rows in (comparison, compare(one, "real", worst, evaluation)))
    assert after["mean_difference"] == pytest.approx(before["mean_difference"], abs=1e-12)
    assert (after["n_cases"], after["n_patients"]) == (20, 5)
    assert after["smallest_resolvable"] > before["smallest_resolvable"]
    assert before["ci_low"] is not None and after["ci_low"] is None


def test_two_patients_show_nothing(scores, worst, evaluation):
    row = row_of(compare(of_few(scores, 2), "real", worst, evaluation), "real+synthetic")
    assert (row["p"], row["p_holm"], row["trainings_low"], row["smallest_resolvable"]) == (None,) * 4
    assert row["mean_difference"] == pytest.approx(0.1, abs=0.05)
