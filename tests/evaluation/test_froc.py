"""Candidates on a line of voxels, and curves that can be read off."""

import numpy as np
import pytest

from lungsyn.evaluation.froc import (
    NONE_KEPT,
    RATES,
    THRESHOLDS,
    froc,
    froc_rows,
    on_every_threshold,
    operating_points,
    sensitivity_at_rates,
)
from lungsyn.evaluation.scores import score_arm
from tests.evaluation.conftest import case_of, line


def percents(text: str) -> np.ndarray:
    """A row of voxels: digits are tens of percent, 'X' is 100, '.' is 0."""
    return np.array([{".": 0, "X": 100}.get(c) if c in ".X" else 10 * int(c) for c in text], np.uint8)[:, None, None]


def test_candidates_enter_in_the_order_of_their_mean():
    """Means: 90 on nodule 1, 75 on none, 30 on nodule 2; the last, below 10 %, is no candidate."""
    percent = np.maximum(percents("..99...96...33.."), 9)
    found = operating_points(percent, line("..11........22.."))
    assert found == [(NONE_KEPT, 0, 0), (90, 1, 0), (75, 1, 1), (30, 2, 1)]


def test_the_mean_ranks_where_the_peak_ties():
    assert operating_points(percents("XX..X2..."), line("11.......")) == [(NONE_KEPT, 0, 0), (100, 1, 0), (60, 1, 1)]


def test_the_rule_of_matching_is_that_of_the_lesions():
    """A flood finds nothing and is false; with it, the nodule that a good candidate found is lost again if it is
    owned by both."""
    assert operating_points(percents("1" * 30), line("." * 14 + "11" + "." * 14)) == [(NONE_KEPT, 0, 0), (10, 0, 1)]
    text = "99" + "." + "1" * 60
    assert operating_points(percents(text), line("1111" + "." * 59))[1:] == [(90, 1, 0), (10, 0, 2)]


def test_no_candidate_and_no_nodule():
    assert operating_points(percents("....."), line("..1..")) == [(NONE_KEPT, 0, 0)]
    assert operating_points(percents("..8.."), line(".....")) == [(NONE_KEPT, 0, 0), (80, 0, 1)]


def test_between_two_points_the_higher_threshold_holds():
    found, false_positives = on_every_threshold([(NONE_KEPT, 0, 0), (90, 1, 0), (30, 2, 4)])
    at = {int(t): (f, p) for t, f, p in zip(THRESHOLDS, found, false_positives, strict=True)}
    assert (at[101], at[91], at[90], at[31], at[30], at[10]) == ((0, 0), (0, 0), (1, 0), (1, 0), (2, 4), (2, 4))


def test_sensitivity_is_read_off_and_not_interpolated():
    """Four nodules in two cases; thresholds that cost 0, 1, 3 and 16 false positives."""
    found, false_positives = np.array([1, 2, 3, 4]), np.array([0, 1, 3, 16])
    at = sensitivity_at_rates(found, false_positives, n_nodules=4, n_cases=2)
    assert dict(zip(RATES.tolist(), at.tolist(), strict=True)) == {
        0.125: 0.25, 0.25: 0.25, 0.5: 0.5, 1: 0.5, 2: 0.75, 4: 0.75, 8: 1.0,
    }  # fmt: skip


def test_a_find_that_is_lost_again_stays_on_the_curve():
    at = sensitivity_at_rates(np.array([2, 1]), np.array([0, 1]), n_nodules=2, n_cases=1)
    assert at.tolist() == [1.0] * 7


def rows_of(points: dict[str, list[tuple]], n_nodules=1, replicate="0") -> list[dict]:
    return [
        {"case": case, "patient": case, "split": "test", "replicate": replicate, "n_nodules": n_nodules,
         "threshold": t, "found_nodules": found, "false_positives": false}
        for case, several in points.items() for t, found, false in several
    ]  # fmt: skip


NOTHING, SURE = (NONE_KEPT, 0, 0), (90, 1, 0)


def test_a_case_without_candidates_counts_in_both_denominators():
    """One of two nodules is found without any false positive: 0.5 at every rate, so the CPM is 0.5."""
    estimate, drawn = froc(rows_of({"a": [NOTHING, SURE], "b": [NOTHING]}), 400, seed=1)
    assert estimate.tolist() == [0.5] * 8
    # Of both patients drawn with replacement: twice the one, each once, twice the other.
    shares = [float(np.mean(drawn[:, 7] == value)) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.07)


def test_replicates_are_averaged_at_equal_rates():
    """Their thresholds differ in scale, so averaging at equal thresholds would be wrong."""
    rows = rows_of({"a": [NOTHING, (95, 1, 0)]}) + rows_of({"a": [NOTHING, (20, 0, 1), (15, 1, 1)]}, replicate="1")
    assert froc(rows, 10, seed=1)[0][:7].tolist() == [0.5, 0.5, 0.5, 1, 1, 1, 1]


def simulated(rng, n: int, chance: float) -> dict[str, list[tuple]]:
    return {f"p{k:03}": [NOTHING, SURE] if rng.random() < chance else [NOTHING] for k in range(n)}


def test_the_band_covers_the_truth():
    """Each patient has one nodule, found with a chance of 0.7."""
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        row = froc_rows({"real": rows_of(simulated(rng, 60, 0.7))}, "real", 200, 0.95, seed=trial)[-1]
        hits += row["ci_low"] <= 0.7 <= row["ci_high"]
    assert 0.92 <= hits / 200 <= 0.98


def test_a_difference_is_paired_and_the_benchmark_has_none():
    """Nodules hard for one arm are hard for the other, so the difference is surer than either curve."""
    rng = np.random.default_rng(3)
    real = simulated(rng, 80, 0.5)
    better = {k: [NOTHING, SURE] if len(v) == 2 or rng.random() < 0.2 else v for k, v in real.items()}
    rows = froc_rows({"real": rows_of(real), "more": rows_of(better)}, "real", 2000, 0.95, seed=0)
    cpm = {row["arm"]: row for row in rows if row["rate"] is None}
    assert cpm["real"]["difference"] is None
    assert cpm["more"]["difference"] == pytest.approx(cpm["more"]["sensitivity"] - cpm["real"]["sensitivity"])
    assert cpm["more"]["difference_low"] > 0
    width = cpm["more"]["difference_high"] - cpm["more"]["difference_low"]
    assert width < 0.8 * (cpm["more"]["ci_high"] - cpm["more"]["ci_low"])


def test_one_patient_has_a_curve_and_no_band():
    rows = froc_rows({"real": rows_of({"a": [NOTHING, SURE]})}, "real", 50, 0.95, seed=0)
    assert len(rows) == 8 and all(row["sensitivity"] == 1 and row["ci_low"] is None for row in rows)


@pytest.mark.parametrize(("n", "given"), [(2, False), (10, False), (19, False), (20, True)])
def test_few_patients_have_no_band(n, given):
    """Ten patients of whom one in seven has what was found: a fifth of studies see none of it, and are sure."""
    rows = froc_rows({"real": rows_of(simulated(np.random.default_rng(1), n, 0.5))}, "real", 50, 0.95, seed=0)
    assert all((row["ci_low"] is not None) == given for row in rows)


def test_where_nothing_varies_nothing_is_sure():
    """All nodules found by both arms: no band of no width."""
    points = rows_of({f"p{k:02}": [NOTHING, SURE] for k in range(30)})
    rows = froc_rows({"real": points, "more": points}, "real", 50, 0.95, seed=0)
    assert all(row["sensitivity"] == 1 and row["ci_low"] is None and row["difference_low"] is None for row in rows)


def test_from_volumes_to_the_curve():
    """The ensemble is sure of what both replicates see, and half as sure of what one does."""
    case = case_of(line("11....."))
    predictions = {"0": percents("99...8."), "1": percents("99.....")}
    rows = froc_rows({"real": score_arm(predictions, case, "test")[2]}, "real", 50, 0.95, seed=0)
    assert {(row["replicate"], row["sensitivity"]) for row in rows} == {("mean", 1.0), ("ensemble", 1.0)}
