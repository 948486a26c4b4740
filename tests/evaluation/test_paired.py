"""Statistics against simulated data whose true difference is known."""

import numpy as np
import pytest
from scipy import stats

from lungsyn.evaluation.paired import (
    bootstrap_interval,
    holm,
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


def test_smallest_resolvable_effect_is_seen_with_80_percent_power():
    rng = np.random.default_rng(8)
    n, sd = 40, 0.1
    effect = smallest_resolvable(stats.norm.ppf((np.arange(n) + 0.5) / n) * sd, np.ones(n), 0.95)
    assert effect == pytest.approx(2.8 * sd / np.sqrt(n), rel=0.06)
    p = stats.ttest_1samp(rng.normal(effect, sd, size=(4000, n)), 0.0, axis=1).pvalue
    assert 0.76 <= np.mean(p < 0.05) <= 0.84


@pytest.mark.parametrize(("n", "arms"), [(10, 4), (31, 6)])
def test_the_power_is_that_of_the_corrected_test(n, arms):
    """An arm's claim is made after Holm's correction, which multiplies the smallest p by the number of arms."""
    rng, sd = np.random.default_rng(9), 0.1
    effect = smallest_resolvable(stats.norm.ppf((np.arange(n) + 0.5) / n) * sd, np.ones(n), 0.95, arms)
    seen = [wilcoxon_p(rng.normal(effect, sd, size=n)) * arms < 0.05 for _ in range(1500)]
    assert 0.67 <= np.mean(seen) <= 0.87  # at ten patients the rank test's p has few steps: 0.70


def test_where_nothing_can_be_claimed_no_effect_is_resolvable():
    """Seven patients, each better by far: 2 / 2^7 times four arms is more than 0.05."""
    better = np.full(7, 0.2) + np.arange(7) * 0.001
    assert wilcoxon_p(better) * 4 > 0.05
    assert smallest_resolvable(better, np.ones(7), 0.95, 4) is None
    assert smallest_resolvable(better, np.ones(7), 0.95) is not None


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
    assert result.low > 0 and result.p < 0.001
    assert result.mean == pytest.approx(expected, abs=0.03)
    fresh = paired_difference(again, quality + noise_sd * rng.normal(size=n), np.arange(n), 2000, 0.95, seed=1)
    assert fresh.low <= 0 <= fresh.high


def test_a_patients_cases_are_not_independent():
    """The same ten values, once as ten patients and once as one patient's copies: copies add no certainty."""
    values = np.random.default_rng(0).normal(0.1, 0.1, size=10)
    zero = np.zeros(10)
    single = paired_difference(values, zero, range(10), 4000, 0.95, seed=3)
    copied = paired_difference(np.tile(values, 3), np.tile(zero, 3), [*range(10)] * 3, 4000, 0.95, seed=3)
    for name in ("mean", "low", "high", "p", "smallest_resolvable"):
        assert getattr(copied, name) == pytest.approx(getattr(single, name))


def trained(rng, arms: int, trainings: int, patients: int, of_trainings: float) -> np.ndarray:
    """Dice ``[arms trainings patients]`` of arms that are alike: patients differ, and so does one training from the
    next, by the standard deviation ``of_trainings`` for all of its cases alike."""
    patient = rng.normal(0.6, 0.2, patients)
    training = rng.normal(0, of_trainings, (arms, trainings, 1))
    return patient + training + rng.normal(0, 0.06, (arms, trainings, patients))


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
    assert (same.mean, same.low, same.high, same.p, same.smallest_resolvable) == (0, 0, 0, 1.0, None)
    one = paired_difference([0.5, 0.6], [0.4, 0.4], ["a", "a"], 100, 0.95, seed=0)
    assert (one.low, one.high, one.p, one.smallest_resolvable) == (None, None, 1.0, None)
    assert one.mean == pytest.approx(0.15)


def test_float_noise_is_no_difference():
    assert wilcoxon_p(np.array([0.3 - 0.1 - 0.2, 0.1 + 0.2 - 0.3])) == 1.0


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
