"""Statistics against simulated data whose true difference is known."""

import numpy as np
import pytest
from scipy import stats

from lungsyn.evaluation.paired import (
    Trainings,
    holm,
    interaction,
    interval_over_patients,
    of_other_seeds,
    p_of_mean,
    paired_difference,
    said,
    smallest_resolvable,
    spread_of,
    unskewed,
    variance_over_patients,
    wilcoxon_p,
)
from tests.benchmarks.studies import Design, dice


def skewed(rng, n, effect=0.0):
    """Differences with a long tail, as of Dice: mean ``effect``."""
    return effect + 0.05 * (rng.exponential(size=n) - rng.exponential(size=n)) + 0.02 * rng.normal(size=n)


def covered(draw, truth: float, n: int, n_trials: int = 1500) -> tuple[float, float]:
    """How often there is an interval, and how often it then holds the truth."""
    rng, ends = np.random.default_rng(11), []
    for _ in range(n_trials):
        ends.append(interval_over_patients(draw(rng, n), np.ones(n), 0.95))
    shown = [(low, high) for low, high in ends if low is not None]
    hits = [low - 1e-9 <= truth <= high + 1e-9 for low, high in shown]
    return len(shown) / n_trials, float(np.mean(hits)) if shown else 1.0


def found_or_missed(share: float):
    return lambda rng, n: 0.6 * (rng.random(n) < share)


@pytest.mark.parametrize("n_patients", [3, 5, 10, 20, 31, 100])
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng, n: skewed(rng, n, 0.03), 0.03),
        (lambda rng, n: rng.lognormal(size=n), np.exp(0.5)),
        (lambda rng, n: rng.standard_t(3, n), 0.0),
        (found_or_missed(0.15), 0.09),
        (found_or_missed(0.05), 0.03),
        (found_or_missed(0.5), 0.3),
    ],
    ids=["two tails", "lognormal", "t", "one in seven", "one in twenty", "half"],
)
def test_an_interval_that_is_given_covers(draw, truth, n_patients):
    """95 % are promised, 90 % held in the worst case; the bootstrap's covered 38 to 88 % for few and skewed ones."""
    shown, share = covered(draw, truth, n_patients)
    assert share >= 0.9
    assert (shown > 0) == (n_patients >= 20)


def test_the_interval_is_that_of_t_where_nothing_is_skewed():
    values = stats.norm.ppf((np.arange(40) + 0.5) / 40)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval_over_patients(values, np.ones(40), 0.95) == pytest.approx((low, high))


def test_halls_cubic_is_inverted():
    for skewness in (-0.4, 0.0, 1e-9, 0.05, 0.5):
        for t in (-2.5, 0.0, 2.0):
            x = unskewed(t, skewness)
            assert x + skewness * x**2 / 3 + skewness**2 * x**3 / 27 + skewness / 6 == pytest.approx(t, abs=1e-6)


def test_patients_count_by_their_weight():
    """31 patients, one of whom has 20 of 50 cases, are worth six; nothing is known from them as from 31."""
    values = np.random.default_rng(0).normal(size=31)
    assert interval_over_patients(values, np.ones(31), 0.95)[0] is not None
    assert interval_over_patients(values, np.array([20, *[1] * 30], float), 0.95) == (None, None)


def test_interval_covers_when_patients_have_several_cases():
    rng = np.random.default_rng(5)
    hits, n_trials = 0, 1000
    for _ in range(n_trials):
        cases = rng.integers(1, 5, size=60).astype(float)
        means = rng.normal(0.02, 0.05, size=60) + rng.normal(0, 0.03, size=60) / np.sqrt(cases)
        low, high = interval_over_patients(means, cases, 0.95)
        hits += low <= 0.02 <= high
    assert 0.93 <= hits / n_trials <= 0.98


def test_false_positive_rate():
    rng = np.random.default_rng(2)
    rejected = [wilcoxon_p(skewed(rng, 100)) < 0.05 for _ in range(1500)]
    assert 0.03 <= np.mean(rejected) <= 0.07


def test_many_patients_and_one_arm_see_2_8_standard_errors():
    assert smallest_resolvable(0.01, 1e6, 0.95) == pytest.approx(0.028, rel=0.01)


@pytest.mark.parametrize("freedom", [1.0, 1.7, 4.0, 30.0])
def test_what_could_have_been_seen_is_seen_with_80_percent_power(freedom):
    """By simulating the noncentral t itself: an error that is known. What is said is a little more, as errors vary."""
    rng, arms = np.random.default_rng(3), 4
    errors = np.sqrt(rng.chisquare(freedom, 200_000) / freedom)
    effect = smallest_resolvable(np.median(errors), freedom, 0.95, arms)
    claimed = p_of_mean(effect + rng.normal(size=len(errors)), errors, freedom) * arms < 0.05
    assert claimed.mean() >= 0.8
    assert freedom < 30 or claimed.mean() <= 0.9


def test_a_difference_that_dice_cannot_have_is_not_said():
    assert (said(np.array(0.2)), said(np.array(0.0)), said(np.array(1.5)), said(np.nan)) == (0.2, None, None, None)


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
    result = paired_difference(again[worst], first[worst], patients, 0.95)
    expected = (0.7 - first[worst].mean()) * noise_sd**2 / (noise_sd**2 + quality_sd**2)
    assert result.low > 0 and result.p_wilcoxon < 0.001
    assert result.mean == pytest.approx(expected, abs=0.03)
    fresh = paired_difference(again, quality + noise_sd * rng.normal(size=n), np.arange(n), 0.95)
    assert fresh.low <= 0 <= fresh.high


def of_seeds(variance: float, freedom: float = 4.0, noise: float = 0.0) -> tuple[Trainings, Trainings]:
    """Two arms whose mean over two trainings has this variance."""
    arm = Trainings(2, np.array(variance), np.array(freedom), np.array(noise), np.array(2 * variance), int(2 * freedom))
    return arm, arm


def test_a_patients_cases_are_not_independent():
    """The same ten values, once as ten patients and once as one patient's copies: copies add no certainty."""
    values = np.random.default_rng(0).normal(0.1, 0.1, size=30)
    single = paired_difference(values, np.zeros(30), range(30), 0.95, trainings=of_seeds(1e-4))
    copied = paired_difference(np.tile(values, 3), np.zeros(90), [*range(30)] * 3, 0.95, trainings=of_seeds(1e-4))
    for name in ("mean", "low", "high", "p_wilcoxon", "trainings_low", "p", "smallest_resolvable", "of_seeds"):
        assert getattr(copied, name) == pytest.approx(getattr(single, name))


def test_the_error_over_patients_by_pairs():
    """Banal: half the mean squared difference of two patients, times the sum of squared weights, in two loops; or the
    jackknife, by leaving out one patient after the other, if that is larger."""
    rng, cases, larger = np.random.default_rng(1), np.array([20, *[1] * 11], float), set()
    for means in rng.normal(size=(20, 12)):
        pairs, weights, without = [], 0.0, []
        for i in range(12):
            others = [j for j in range(12) if j != i]
            weights += (cases[i] / 31) ** 2
            pairs += [(means[i] - means[j]) ** 2 / 2 for j in others]
            without.append(np.average(means[others], weights=cases[others]))
        by_pairs = weights * sum(pairs) / len(pairs)
        jackknife = 11 / 12 * sum((mean - np.average(means, weights=cases)) ** 2 for mean in without)
        larger.add(jackknife > by_pairs)
        assert variance_over_patients(means, cases) == pytest.approx(max(by_pairs, jackknife))
    assert larger == {True, False}
    assert variance_over_patients(means, np.ones(12)) == pytest.approx(means.var(ddof=1) / 12)


def test_the_error_over_patients_is_right_or_too_large():
    """Against the spread of the mean itself, over 20,000 studies: cases of a patient alike, and not alike at all; and a
    patient of many cases who differs three times as much as others."""
    rng, cases = np.random.default_rng(2), np.array([20, *[1] * 11], float)
    alike = rng.normal(size=(20_000, 12))
    for means, least, most in ((alike, 1, 1.6), (alike / np.sqrt(cases), 1.03, 20), (alike * cases**0.37, 0.94, 1.6)):
        true = (means @ cases / 31).var()
        assert least <= variance_over_patients(means, cases).mean() / true <= most


def test_seeds_and_patients_are_told_apart():
    """A table of two ways without repetition, by its own formula: F-tests' mean squares."""
    rng, (r, p) = np.random.default_rng(4), (3, 40)
    table = rng.normal(size=(r, 1)) + rng.normal(size=p) + rng.normal(size=(r, p))
    rows, columns, grand = table.mean(1), table.mean(0), table.mean()
    squares = sum((table[i, j] - rows[i] - columns[j] + grand) ** 2 for i in range(r) for j in range(p))
    assert interaction(table) == pytest.approx(squares / ((r - 1) * (p - 1)))


def test_an_arms_spread_is_its_own_and_a_little_of_all():
    cases = np.ones(3)
    arms = [np.full((3, 3), 0.5) + np.array([[-1], [0], [1]]) * sd for sd in (0.3, 0.1, 0.1, 0.1)]
    spread = spread_of(arms, cases)
    pooled, borrowed = (0.09 + 3 * 0.01) / 4, 2 * 2 / 4 / 3
    assert [float(arm.pooled) for arm in spread] == pytest.approx([pooled] * 4)
    expected = [(borrowed * pooled + 2 * own) / (borrowed + 2) / 3 for own in (0.09, 0.01, 0.01, 0.01)]
    assert [float(arm.variance) for arm in spread] == pytest.approx(expected)
    assert (spread[0].pooled_freedom, float(spread[0].freedom)) == (8, pytest.approx(2 + borrowed))
    assert spread_of([arms[0], arms[1][:1]], cases) is None  # one training
    assert spread_of([arms[0][:, :2], arms[1][:, :2]], np.ones(2)) is None  # two patients
    two = spread_of(arms[:2], cases)
    assert [float(arm.variance) for arm in two] == pytest.approx([0.03, 0.01 / 3])  # nothing is borrowed


def test_other_seeds_alone_stay_within_their_reach():
    """Arms that are alike: 95 % of their differences, or a little more, since they share the benchmark."""
    design = Design(arms=3, own=0.0, seeds=(0.03, 0.03, 0.03))
    values = dice(design, 600, np.random.default_rng(12))
    within = []
    for study in values:
        spread = spread_of(list(study), np.ones(31))
        difference = study[1].mean() - study[0].mean()
        within.append(abs(difference) <= of_other_seeds((spread[1], spread[0]), 0.95))
    assert 0.92 <= np.mean(within) <= 0.98


def test_no_difference_and_one_patient():
    same = paired_difference([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], ["a", "b", "c"], 0.95)
    assert (same.mean, same.low, same.high, same.p_wilcoxon, same.smallest_resolvable) == (0, None, None, 1.0, None)
    nothing = [0.5, 0.6, 0.7]
    same = paired_difference(nothing, nothing, ["a", "b", "c"], 0.95, trainings=of_seeds(0.0))
    assert (same.p, same.smallest_resolvable, same.of_seeds, same.trainings_low) == (1.0, None, 0.0, 0.0)
    more = paired_difference([0.6, 0.7, 0.8], nothing, ["a", "b", "c"], 0.95, trainings=of_seeds(0.0))
    assert more.mean == pytest.approx(0.1) and more.smallest_resolvable is None  # all alike but for rounding
    one = paired_difference([0.5, 0.6], [0.4, 0.4], ["a", "a"], 0.95)
    assert (one.low, one.high, one.p_wilcoxon, one.p, one.smallest_resolvable) == (None, None, 1.0, None, None)
    assert one.mean == pytest.approx(0.15)


def test_float_noise_is_no_difference():
    noise = np.array([0.3 - 0.1 - 0.2, 0.1 + 0.2 - 0.3])
    assert wilcoxon_p(noise) == p_of_mean(noise.mean(), 0.0, 3) == 1.0


def test_p_is_that_of_the_t_test_where_trainings_do_not_differ():
    """Exactly, for differences that are not skewed; a skewed one is less sure, never surer."""
    rng = np.random.default_rng(2)
    half = rng.normal(0, 0.1, size=15)
    for values, exact in ((0.02 + np.concatenate([half, -half]), True), (rng.exponential(size=31) - 0.7, False)):
        n = len(values)
        found = paired_difference(values, np.zeros(n), range(n), 0.95, trainings=of_seeds(0.0))
        expected = stats.ttest_1samp(values, 0.0)
        low, high = expected.confidence_interval(0.95)
        if exact:
            assert found.p == pytest.approx(expected.pvalue)
            assert (found.trainings_low, found.trainings_high) == pytest.approx((low, high))
        assert found.p >= expected.pvalue - 1e-12
        assert found.trainings_low <= low + 1e-12 and found.trainings_high >= high - 1e-12


def test_interval_and_p_agree():
    """Moved so far that an end of the interval over both is zero, a skewed difference has a p of 5 %."""
    values = np.random.default_rng(5).exponential(size=31)
    found = paired_difference(values, np.zeros(31), range(31), 0.95, trainings=of_seeds(0.01, noise=0.001))
    for end in (found.trainings_low, found.trainings_high):
        moved = paired_difference(values - end, np.zeros(31), range(31), 0.95, trainings=of_seeds(0.01, noise=0.001))
        assert moved.p == pytest.approx(0.05)


def test_wilcoxon_by_hand():
    """Five differences of one sign: two of the 32 sign patterns are as extreme."""
    assert wilcoxon_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        paired_difference([np.nan], [0.5], ["a"], 0.95)
    with pytest.raises(ValueError, match="per case"):
        paired_difference([0.1, 0.2], [0.1, 0.2], ["a"], 0.95)
