"""Paired statistics: how much one arm differs from another on the same cases, and how sure that is.

Cases are paired, patients are independent: a patient's cases are drawn together in the bootstrap and count
once in the Wilcoxon test. Values come averaged over replicates, so the bootstrap interval and that test are about
*other patients*, for these trainings. A claim about training data is one about *other trainings* too (Bouthillier et
al. 2021, arXiv 2103.03098): without them three trainings with other seeds "differed" from three on the same data, in a
study of cut-outs: -0.026 Dice, p 0.016. So a second interval and the ``p`` that claims rest on are over both, by t.

It is a test of the mean, as the interval is. Signed ranks are another question where differences are skewed, as those
of Dice are (a nodule found or missed): centred at a mean of zero, the differences of four of five arms of a study of
cut-outs were "different" by Wilcoxon in 21 to 44 % of draws of as many patients, by t in 5 to 9 %.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

POWER = 0.8
NOTHING = 1e-10  # of Dice: 0.3 - 0.1 is not quite 0.2


@dataclass(frozen=True)
class Difference:
    """``mean`` of the per-case differences, its interval over patients (None for one patient) and Wilcoxon's p; then,
    over patients and trainings, interval, ``p`` and what could have been seen, and ``of_seeds``, how far trainings that
    differ in nothing but their seeds are apart in as many studies: None where their spread is not known."""

    mean: float
    low: float | None
    high: float | None
    p_wilcoxon: float
    trainings_low: float | None = None
    trainings_high: float | None = None
    p: float | None = None
    smallest_resolvable: float | None = None
    of_seeds: float | None = None


@dataclass(frozen=True)
class Spread:
    """``variance`` of an arm's mean from one training to the next, estimated with so many degrees of ``freedom``."""

    variance: float
    freedom: int


def spread_of(arms: Iterable[Sequence[float]]) -> Spread | None:
    """Pooled over the ``arms``, each given by the mean of each of its trainings; None if none was trained twice.

    Two or three trainings tell little of one arm's spread, all arms together enough of a common one."""
    repeated = [np.asarray(means, dtype=np.float64) for means in arms if len(means) > 1]
    freedom = sum(len(means) - 1 for means in repeated)
    if not freedom:
        return None
    return Spread(float(sum(((means - means.mean()) ** 2).sum() for means in repeated) / freedom), freedom)


def paired_difference(
    a, b, patients, samples: int, confidence: float, seed: int, arms: int = 1, spread: Spread | None = None,
    trainings: tuple[int, int] = (1, 1),
) -> Difference:  # fmt: skip
    """How much ``a`` exceeds ``b``: two values per case ``[n]``, and each case's patient ``[n]``.

    ``samples`` bootstrap draws, interval of level ``confidence``; ``arms``: how many are compared at once; ``spread``
    of the means of single trainings, of which ``a`` and ``b`` average so many ``trainings``. Raises ValueError on
    unpaired or non-finite values.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if difference.ndim != 1 or len(difference) != len(patients) or not len(difference):
        raise ValueError(f"{difference.shape} values for {len(patients)} cases: give one of each arm per case")
    if not np.isfinite(difference).all():
        raise ValueError("a value is not finite: a case without a number would silently leave the mean")
    sums, cases = by_patient(difference, patients)
    low, high = bootstrap_interval(sums, cases, samples, confidence, seed)
    mean, over_patients = float(difference.mean()), wilcoxon_p(sums / cases)
    if not spread or len(sums) < 2:
        return Difference(mean, low, high, over_patients)
    of_trainings = spread.variance * sum(1 / n for n in trainings)
    error, freedom = error_with_trainings(sums, cases, of_trainings, spread.freedom)
    reach = error * errors_within(confidence, freedom)
    of_seeds = float(np.sqrt(of_trainings)) * errors_within(confidence, spread.freedom)
    return Difference(
        mean, low, high, over_patients, mean - reach, mean + reach, p_of_mean(mean, error, freedom),
        smallest_resolvable(error, freedom, confidence, arms), of_seeds,
    )  # fmt: skip


def errors_within(confidence: float, freedom: float) -> float:
    """Half the interval of a mean in standard errors, by t."""
    return float(stats.t.ppf((1 + confidence) / 2, freedom))


def error_with_trainings(sums, cases, of_trainings: float, freedom: int) -> tuple[float, float]:
    """Standard error of the mean over patients and trainings, and its degrees of freedom (Welch and Satterthwaite).

    ``of_trainings``: the part of the mean's variance that trainings have, known with so many degrees of ``freedom``.
    The noise of single cases from training to training is in both parts: the error is a little too large."""
    of_patients = standard_error(sums, cases) ** 2
    total = of_patients + of_trainings
    if total == 0:
        return 0.0, 1.0
    together = total**2 / (of_patients**2 / (len(sums) - 1) + of_trainings**2 / freedom)
    return float(np.sqrt(total)), float(together)


def p_of_mean(mean: float, error: float, freedom: float) -> float:
    """Two-sided p of a mean of zero, by t; 1 when there is no difference but that of floating point."""
    if abs(mean) < NOTHING:
        return 1.0
    return float(2 * stats.t.sf(abs(mean) / max(error, NOTHING), freedom))


def standard_error(sums, cases) -> float:
    """Of the mean over cases, patients being the clusters."""
    n = len(sums)
    residual = sums - cases * (sums.sum() / cases.sum())  # [p]
    return float(np.sqrt(n / (n - 1) * np.square(residual).sum()) / cases.sum())


def by_patient(values, patients) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of cases of each patient, in the order of their names: ``[p]``, ``[p]``."""
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return np.bincount(owner, weights=values), np.bincount(owner).astype(np.float64)


def bootstrap_interval(sums, cases, samples: int, confidence: float, seed: int) -> tuple[float | None, float | None]:
    """Percentile interval of the mean over cases, patients drawn with replacement; None for a single patient.

    The percentiles are moved outwards as Hesterberg 2015 (The American Statistician 69:371, "expanded
    percentile") does, because the plain ones are too narrow for few patients: 90 % instead of 95 % at ten of
    them. Below about five no bootstrap can be trusted: it never leaves the range of what it saw.
    """
    if len(sums) < 2:
        return None, None
    drawn = draw_patients(len(sums), samples, seed)
    low, high = expanded_quantiles((drawn @ sums) / (drawn @ cases), len(sums), confidence)
    return float(low), float(high)


def draw_patients(n: int, samples: int, seed: int) -> np.ndarray:
    """How often each of ``n`` patients is in each bootstrap sample: ``[samples n]``, rows sum to ``n``."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=samples)


def expanded_quantiles(estimates: np.ndarray, n: int, confidence: float) -> np.ndarray:
    """Both ends ``[2 ...]`` of the interval from bootstrap estimates ``[samples ...]`` over ``n`` > 1 patients."""
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * errors_within(confidence, n - 1))
    return np.quantile(estimates, (tail, 1 - tail), axis=0)


def wilcoxon_p(difference: np.ndarray) -> float:
    """Two-sided p of the signed-rank test, zeros by Pratt 1959; 1 when all differences are zero."""
    rounded = np.round(difference, 10)  # 0.3 - 0.1 and 0.2 are a tie
    if not rounded.any():
        return 1.0
    return float(stats.wilcoxon(rounded, zero_method="pratt").pvalue)


def smallest_resolvable(error: float, freedom: float, confidence: float, arms: int = 1) -> float | None:
    """The true mean difference that would be claimed with a power of 80 %; None where no difference was seen at all.

    (t_{1 - alpha/2} + t_{power}) ``error``, alpha divided among the ``arms`` that are compared at once, as Holm's
    correction asks of the smallest p. With one arm, one case of each patient and trainings that do not differ it is
    about 2.8 SD / sqrt(n) for many patients.
    """
    quantiles = stats.t.ppf([1 - (1 - confidence) / arms / 2, POWER], freedom)
    return float(quantiles.sum() * error) or None


def holm(p_values) -> np.ndarray:
    """P values adjusted for their number, in the given order (Holm 1979): step down, monotone, at most 1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
