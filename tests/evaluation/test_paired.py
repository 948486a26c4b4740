"""Statistics against simulated data whose true difference is known."""

import numpy as np
import pytest
from scipy import stats

from lungsyn.evaluation.paired import (
    Spread,
    bootstrap_interval,
    error_with_trainings,
    holm,
    p_of_mean,
    paired_difference,
    smallest_resolvable,
    spread_of,
    wilcoxon_p,
)


def skewed(rng, n, effect=0.0):
    """Differences with a long tail, as of Dice: mean ``effect``."""
    return effect + 0.05 * (rng.exponential(size=n) - rng.exponential(size=n)) + 0.02 * rng.normal(size=n)


@pytest.mark.parametrize("n_patients, n_trials", [(100, 800), (10, 1500)])
def test_interval_covers_the_truth(n_patients, n_trials):
    rng = np.random.default_rng(11)
    cases = np.ones(n_patients)
    hits = 0
    for trial in range(n_trials):
        low, high = bootstrap_interval(skewed(rng, n_patients, 0.03), cases, 500, 0.95, seed=trial)
        hits += low <= 0.03 <= high
    assert 0.93 <= hits / n_trials <= 0.97


def test_interval_covers_when_patients_have_several_cases():
    rng = np.random.default_rng(5)
    hits, n_trials = 0, 500
    for trial in range(n_trials):
        cases = rng.integers(1, 5, size=60)
        sums = cases * rng.normal(0.02, 0.05, size=60) + rng.normal(0, 0.03, size=60) * np.sqrt(cases)
        low, high = bootstrap_interval(sums, cases, 500, 0.95, seed=trial)
        hits += low <= 0.02 <= high
    assert 0.93 <= hits / n_trials <= 0.97


def test_false_positive_rate():
    rng = np.random.default_rng(2)
    rejected = [wilcoxon_p(skewed(rng, 100)) < 0.05 for _ in range(1500)]
    assert 0.03 <= np.mean(rejected) <= 0.07


@pytest.mark.parametrize(
    ("patients", "arms", "trainings", "of_trainings"), [(31, 6, 3, 0.03), (100, 1, 2, 0.03), (40, 4, 3, 0.0)]
)
def test_what_could_have_been_seen_is_claimed_with_80_percent_power(patients, arms, trainings, of_trainings):
    """An arm that is better by as much as the study says, among others: its p times their number is small enough."""
    rng, seen, n_trials = np.random.default_rng(9), 0, 500
    patient_sd = 0.06 * np.sqrt(2 / trainings)
    spread_sd = np.hypot(of_trainings, 0.06 / np.sqrt(patients))
    freedom = (arms + 1) * (trainings - 1)
    values = stats.norm.ppf((np.arange(patients) + 0.5) / patients) * patient_sd
    error, together = error_with_trainings(values, np.ones(patients), spread_sd**2 * 2 / trainings, freedom)
    effect = smallest_resolvable(error, together, 0.95, arms)
    for trial in range(n_trials):
        dice = trained(rng, arms + 1, trainings, patients, of_trainings)
        dice[1] += effect
        p = compared(dice, trial, first=1)[0].p
        seen += p * arms < 0.05
    assert 0.72 <= seen / n_trials <= 0.9


def test_many_patients_and_one_arm_see_2_8_standard_errors():
    assert smallest_resolvable(0.01, 1e6, 0.95) == pytest.approx(0.028, rel=0.01)
    assert smallest_resolvable(0.0, 5, 0.95) is None


def test_the_worst_cases_improve_with_no_intervention():
    """Two trainings of the same arm. The k worst by the first are better in the second by noise variance
    over total variance times their distance to the mean; the others are worse; unselected cases do not
    change.
    """
    rng = np.random.default_rng(4)
    n, quality_sd, noise_sd = 400, 0.1, 0.08
    quality = 0.7 + quality_sd * rng.normal(size=n)
    first, again = (quality + noise_sd * rng.normal(size=n) for _ in range(2))
    worst = np.argsort(first)[:40]
    patients = np.arange(40)
    result = paired_difference(again[worst], first[worst], patients, 2000, 0.95, seed=1)
    expected = (0.7 - first[worst].mean()) * noise_sd**2 / (noise_sd**2 + quality_sd**2)
    assert result.low > 0 and result.p_wilcoxon < 0.001
    assert result.mean == pytest.approx(expected, abs=0.03)
    fresh = paired_difference(again, quality + noise_sd * rng.normal(size=n), np.arange(n), 2000, 0.95, seed=1)
    assert fresh.low <= 0 <= fresh.high


def test_a_patients_cases_are_not_independent():
    """The same ten values, once as ten patients and once as one patient's copies: copies add no certainty."""
    values = np.random.default_rng(0).normal(0.1, 0.1, size=10)
    zero, spread = np.zeros(10), Spread(0.01**2, 4)
    single = paired_difference(values, zero, range(10), 4000, 0.95, seed=3, spread=spread)
    copied = paired_difference(
        np.tile(values, 3), np.tile(zero, 3), [*range(10)] * 3, 4000, 0.95, seed=3, spread=spread
    )
    for name in ("mean", "low", "high", "p_wilcoxon", "trainings_low", "p", "smallest_resolvable", "of_seeds"):
        assert getattr(copied, name) == pytest.approx(getattr(single, name))


def trained(rng, arms: int, trainings: int, patients: int, of_trainings: float) -> np.ndarray:
    """Dice ``[arms trainings patients]`` of arms that are alike: patients differ, and so does one training from the
    next, by the standard deviation ``of_trainings`` for all of its cases alike."""
    patient = rng.normal(0.6, 0.2, patients)
    training = rng.normal(0, of_trainings, (arms, trainings, 1))
    return patient + training + rng.normal(0, 0.06, (arms, trainings, patients))


def compared(dice: np.ndarray, seed: int, first: int | None = None) -> list:
    """Every arm of ``dice`` ``[arms trainings patients]``, or the ``first`` few, against the one before them."""
    spread, trainings, arms = spread_of(dice.mean(axis=2)), dice.shape[1], len(dice) - 1
    benchmark, *others = dice.mean(axis=1)
    return [
        paired_difference(arm, benchmark, range(dice.shape[2]), 100, 0.95, seed, arms, spread, (trainings, trainings))
        for arm in others[:first]
    ]


@pytest.mark.parametrize(("arms", "trainings", "patients", "of_trainings"), [(6, 3, 31, 0.03), (4, 2, 100, 0.02)])
def test_studies_without_a_difference_claim_one_in_5_percent_at_most(arms, trainings, patients, of_trainings):
    """Any arm of any study. Wilcoxon, which knows of no other trainings, "finds" one in most of them."""
    rng, claims, by_ranks, n_trials = np.random.default_rng(6), 0, 0, 300
    for trial in range(n_trials):
        found = compared(trained(rng, arms + 1, trainings, patients, of_trainings), trial)
        claims += min(holm([one.p for one in found])) < 0.05
        by_ranks += min(holm([one.p_wilcoxon for one in found])) < 0.05
    assert claims / n_trials <= 0.07
    assert by_ranks / n_trials > 0.2


def test_other_seeds_alone_stay_within_their_reach():
    """Arms that are alike: 95 % of their differences, or a little more, since they share the benchmark."""
    rng, within, n_trials = np.random.default_rng(12), 0, 400
    for trial in range(n_trials):
        found = compared(trained(rng, 3, 3, 31, 0.03), trial, first=1)[0]
        within += abs(found.mean) <= found.of_seeds
    assert 0.92 <= within / n_trials <= 0.98


@pytest.mark.parametrize(("trainings", "of_trainings"), [(2, 0.03), (3, 0.03), (5, 0.01), (3, 0.0)])
def test_the_interval_over_trainings_covers_where_the_one_over_patients_does_not(trainings, of_trainings):
    """Seven arms without any difference: a false claim is one of both intervals and p together."""
    rng, hits, plain, n_trials = np.random.default_rng(3), 0, 0, 600
    for trial in range(n_trials):
        dice = trained(rng, 7, trainings, 31, of_trainings)
        spread = spread_of(dice.mean(axis=2))
        means = dice.mean(axis=1)
        found = paired_difference(
            means[1], means[0], range(31), 200, 0.95, trial, spread=spread, trainings=(trainings, trainings)
        )
        hits += found.trainings_low <= 0 <= found.trainings_high
        plain += found.low <= 0 <= found.high
    assert hits / n_trials >= 0.93
    if of_trainings > 0.02:
        assert hits / n_trials <= 0.98
        assert plain / n_trials < 0.8  # other seeds alone would be a finding in more than a fifth of studies


def test_the_spread_of_trainings_is_pooled_over_the_arms():
    assert spread_of([[0.5], [0.6]]) is None
    spread = spread_of([[0.5, 0.6], [0.1, 0.2, 0.3], [0.9]])
    assert spread.freedom == 3
    assert spread.variance == pytest.approx((0.005 + 0.02) / 3)


def test_no_difference_and_one_patient():
    same = paired_difference([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], ["a", "b", "c"], 100, 0.95, seed=0)
    assert (same.mean, same.low, same.high, same.p_wilcoxon, same.smallest_resolvable) == (0, 0, 0, 1.0, None)
    nothing, spread = [0.5, 0.6, 0.7], Spread(0.0, 3)
    same = paired_difference(nothing, nothing, ["a", "b", "c"], 100, 0.95, seed=0, spread=spread)
    assert (same.p, same.smallest_resolvable, same.of_seeds, same.trainings_low) == (1.0, None, 0.0, 0.0)
    one = paired_difference([0.5, 0.6], [0.4, 0.4], ["a", "a"], 100, 0.95, seed=0, spread=spread)
    assert (one.low, one.high, one.p_wilcoxon, one.p, one.smallest_resolvable) == (None, None, 1.0, None, None)
    assert one.mean == pytest.approx(0.15)


def test_float_noise_is_no_difference():
    noise = np.array([0.3 - 0.1 - 0.2, 0.1 + 0.2 - 0.3])
    assert wilcoxon_p(noise) == p_of_mean(noise.mean(), 0.0, 3) == 1.0


def test_p_is_that_of_the_t_test_where_trainings_do_not_differ():
    values = np.random.default_rng(2).normal(0.02, 0.1, size=31)
    found = paired_difference(values, np.zeros(31), range(31), 100, 0.95, 0, spread=Spread(0.0, 4))
    expected = stats.ttest_1samp(values, 0.0)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (found.trainings_low, found.trainings_high) == pytest.approx((low, high))


def test_wilcoxon_by_hand():
    """Five differences of one sign: two of the 32 sign patterns are as extreme."""
    assert wilcoxon_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


def test_seed_decides():
    values = np.linspace(-0.1, 0.2, 20), np.zeros(20), range(20)
    first, same, other = (paired_difference(*values, 500, 0.95, seed=s) for s in (1, 1, 2))
    assert first == same
    assert (first.low, first.high) != (other.low, other.high)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        paired_difference([np.nan], [0.5], ["a"], 100, 0.95, seed=0)
    with pytest.raises(ValueError, match="per case"):
        paired_difference([0.1, 0.2], [0.1, 0.2], ["a"], 100, 0.95, seed=0)
