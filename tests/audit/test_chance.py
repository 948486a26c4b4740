"""Exact and simulated coverage of every number that says how far chance goes."""

import numpy as np
import pytest
from scipy import stats

from lungsyn.audit.chance import (
    as_correlation,
    auc_interval,
    beyond,
    by_patient,
    critical_excess,
    critical_value,
    evidence,
    false_alarms,
    patients_needed,
    preference,
    separation,
)


def test_separated_groups_have_area_one_and_exchangeable_ones_a_half():
    rng = np.random.default_rng(0)
    apart = separation(rng.normal(9, 1, 30), rng.normal(0, 1, 20), 0.95)
    assert (apart.auc, apart.high) == (1.0, 1.0) and 0.85 < apart.low < 0.99 and apart.p < 1e-8
    alike = separation(rng.normal(0, 1, 2000), rng.normal(0, 1, 2000), 0.95)
    assert alike.auc == pytest.approx(0.5, abs=0.03) and alike.low < 0.5 < alike.high
    reversed_ = separation([0, 1], [2, 3, 4], 0.95)
    assert (reversed_.auc, reversed_.p, reversed_.smallest_p) == (0.0, 1.0, pytest.approx(0.1))
    assert separation([2, 3], [0, 1, 1.5], 0.95).p == pytest.approx(0.1)  # the smallest that 2 and 3 can give


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_interval_of_the_area_covers_the_true_one(shift):
    rng, truth = np.random.default_rng(1), stats.norm.cdf(shift / np.sqrt(2))
    hits = []
    for _ in range(400):
        a, b = rng.normal(shift, 1, 25), rng.normal(0, 1, 15)
        low, high = auc_interval((a[:, None] > b).mean(), 25, 15, 0.95)
        hits.append(low <= truth <= high)
    assert 0.92 <= np.mean(hits) <= 0.99


@pytest.mark.parametrize("held_out", [5, 30, 150])
def test_what_lies_beyond_the_threshold_by_chance_is_as_stated(held_out):
    """Exchangeable values: the mean fraction is `expected`, and p < 0.05 no more often than that."""
    rng = np.random.default_rng(2)
    found = [beyond(rng.normal(size=40), rng.normal(size=held_out), 0.95) for _ in range(300)]
    fractions = np.array([f.fraction for f in found])
    error = fractions.std() / np.sqrt(len(fractions))
    assert fractions.mean() == pytest.approx(found[0].expected, abs=4 * error)
    assert np.mean([f.p < 0.05 for f in found]) <= 0.07


def test_beyond_counts_and_bounds():
    found = beyond([1, 2, 11, 12], np.arange(10.0), 0.95)  # the largest of ten stands for the 99th percentile
    assert (found.threshold, found.count, found.fraction, found.expected) == (9.0, 2, 0.5, pytest.approx(1 / 11))
    assert (found.low, found.high) == pytest.approx((0.0676, 0.9324), abs=1e-4)  # Clopper-Pearson, 2 of 4
    assert found.p == pytest.approx(sum(stats.betabinom.pmf(k, 4, 1, 10) for k in (2, 3, 4)))
    assert beyond([0], np.arange(199.0), 0.95).threshold == 197  # k = 198 of 199


def test_no_preference_is_found_where_marks_mean_nothing():
    """Also where one patient is the neighbour of half of all queries."""
    rng, p = np.random.default_rng(3), []
    patients = [f"p{i}" for i in range(20)]
    weights = np.r_[0.5, np.full(19, 0.5 / 19)]
    for i in range(120):
        is_train = dict(zip(patients, rng.permutation(20) < 12, strict=True))
        p.append(preference(list(rng.choice(patients, 60, p=weights)), is_train, seed=i).p)
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.08


def test_a_preference_is_found():
    is_train = {f"p{i}": i < 10 for i in range(20)}
    found = preference([f"p{i % 10}" for i in range(40)], is_train, seed=0)
    assert (found.share, found.expected) == (1.0, 0.5)
    assert found.p < 0.001
    assert preference(["p0"] * 40, is_train, seed=0).p > 0.3  # one patient alone is no preference for a group
    assert preference(["a"], {"a": True, "b": False}, seed=0).smallest_p == 0.5


def test_halves_of_the_held_out_patients_raise_alarms_at_the_stated_rate():
    rng, patients = np.random.default_rng(4), [str(i // 2) for i in range(60)]
    found = [false_alarms(rng.normal(size=60), patients, 0.05, seed) for seed in range(10)]
    assert 0.03 <= np.mean(found) <= 0.07


@pytest.mark.parametrize(("n", "held_out"), [(10, 6), (50, 26), (200, 120)])
def test_the_largest_of_many_exceeds_the_critical_value_as_often_as_stated(n, held_out):
    """By Gumbel's law, and less often by a normal one, whose tail is lighter."""
    rng, draws = np.random.default_rng(5), 2000
    over = [rng.gumbel(3, 2, n).max() >= critical_value(rng.gumbel(3, 2, held_out), n, 0.05) for _ in range(draws)]
    assert np.mean(over) == pytest.approx(0.05, abs=0.015)
    over = [rng.normal(size=n).max() >= critical_value(rng.normal(size=held_out), n, 0.05) for _ in range(draws)]
    assert np.mean(over) <= 0.05


@pytest.mark.parametrize(("n", "held_out"), [(50, 5), (100, 26), (200, 120)])
def test_the_critical_value_holds_its_small_alpha(n, held_out):
    """An eighth of a hundredth, as a verdict's check has it, by other draws than it was made from."""
    drawn = np.random.default_rng(6).gumbel(size=(2_000_000 // held_out, held_out))
    reached = drawn.mean(1) + critical_excess(0.00125, n, held_out) * drawn.std(1, ddof=1)
    assert np.mean(-np.expm1(-n * np.exp(-reached))) == pytest.approx(0.00125, rel=0.08)


def test_more_held_out_patients_lower_the_critical_value():
    values = stats.gumbel_r.ppf((np.arange(8) + 0.5) / 8)
    eight = critical_value(values, 50, 0.001)
    assert eight > critical_value(stats.gumbel_r.ppf((np.arange(80) + 0.5) / 80), 50, 0.001)
    assert critical_value(values[:2], 50, 0.001) == critical_value(np.zeros(9), 50, 0.001) == np.inf
    assert patients_needed(values, 50, 0.001, 1.001 * eight) == 8
    assert 8 < patients_needed(values, 50, 0.001, 0.7 * eight) < 1000
    assert patients_needed(values, 50, 0.001, values.mean()) is None


def test_a_patient_has_one_value():
    assert by_patient([1, 2, 4, 6], ["a", "b", "a", "b"]).tolist() == [2.5, 4]
    assert by_patient([1, 2, 4, 6], ["b", "a", "b", "a"], np.max).tolist() == [4, 6]


def test_evidence_of_a_correlation():
    assert evidence([-0.5, 0.0, 1.0]).tolist()[:2] == [0, 0]
    assert as_correlation(evidence(0.6)) == pytest.approx(0.6)
    assert np.isfinite(evidence(1.0))
