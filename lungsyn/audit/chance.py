"""How far a difference can be chance: exact where it can be, and honest about how little few cases can show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats

from lungsyn.random import stream

PERMUTATIONS = 10_000
GUMBEL_VALUES, FEWEST_DRAWS = 1_000_000, 2000  # small samples vary more, and need more draws for p of a thousandth
MOST_PATIENTS = 1000  # that are asked for
LARGEST_CORRELATION = 0.9999  # above it is rounding
QUANTILE = 0.99  # of the held-out values; what lies beyond is looked at


def by_patient(values, patients: Sequence[str], summary=np.mean) -> np.ndarray:
    """One value for each patient, since those of one patient are alike: ``[patients]``, in the order of first sight."""
    own: dict[str, list[float]] = {}
    for value, patient in zip(np.asarray(values, dtype=float), patients, strict=True):
        own.setdefault(patient, []).append(value)
    return np.array([summary(np.array(of_one)) for of_one in own.values()])


def evidence(correlation) -> np.ndarray:
    """-log(1 - r^2): of noise with k degrees of freedom it falls off as exp(-k/2), so that its largest of many values
    follows Gumbel's law, whatever k. Negative correlations count as none."""
    return -np.log1p(-(np.clip(correlation, 0, LARGEST_CORRELATION) ** 2))


def as_correlation(found: float) -> float:
    """The inverse of ``evidence``."""
    return math.sqrt(-math.expm1(-found))


@cache
def _gumbel_samples(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of samples of ``m`` values of Gumbel's law: ``[draws]`` each."""
    drawn = stream(0, "Gumbel", m).gumbel(size=(max(GUMBEL_VALUES // m, FEWEST_DRAWS), m))
    return drawn.mean(1), drawn.std(1, ddof=1)


def largest_p(excess: float, n: int, m: int) -> float:
    """P that the largest of ``n`` new values of Gumbel's law lies ``excess`` standard deviations of a sample of ``m``
    above that sample's mean, or more. Exact but for the draws: it depends on neither place nor width of the law."""
    mean, spread = _gumbel_samples(m)
    return float(np.mean(-np.expm1(-n * np.exp(-(mean + excess * spread)))))


@cache
def critical_excess(alpha: float, n: int, m: int) -> float:
    """The ``excess`` whose `largest_p` is ``alpha``; infinite for fewer than three values."""
    if m < 3:
        return math.inf
    return math.exp(optimize.brentq(lambda log: largest_p(math.exp(log), n, m) - alpha, -5, 50))


def critical_value(held_out, n: int, alpha: float) -> float:
    """What none of ``n`` exchangeable values reaches, but with probability ``alpha``, by a Gumbel tail fitted to the
    mean and spread of ``held_out`` ``[m]``. Infinite where these are fewer than three, or all the same."""
    if len(held_out) < 3 or np.std(held_out) < 1e-9:
        return math.inf
    excess = critical_excess(alpha, n, len(held_out))
    return float(np.mean(held_out) + excess * np.std(held_out, ddof=1))


def patients_needed(held_out, n: int, alpha: float, value: float) -> int | None:
    """How many held-out patients it takes until ``value`` is critical, if more are as these; None: more than
    ``MOST_PATIENTS``, or unknown."""
    if len(held_out) < 3 or np.std(held_out) < 1e-9:
        return None
    wanted = (value - np.mean(held_out)) / np.std(held_out, ddof=1)
    counts = np.unique(np.geomspace(len(held_out), MOST_PATIENTS, 40).astype(int))
    return next((int(m) for m in counts if largest_p(wanted, n, int(m)) <= alpha), None)


@dataclass(frozen=True)
class Separation:
    """``auc``: how often a value of the first group exceeds one of the second (ties half), its interval, one-sided
    ``p`` (Mann-Whitney), and the ``smallest_p`` that groups of these sizes can give at all."""

    auc: float
    low: float
    high: float
    p: float
    smallest_p: float


def separation(first, second, confidence: float) -> Separation:
    """Whether values of ``first`` ``[n]`` tend to be larger than those of ``second`` ``[m]``."""
    n, m = len(first), len(second)
    tested = stats.mannwhitneyu(first, second, alternative="greater")
    auc = float(tested.statistic / (n * m))
    low, high = auc_interval(auc, n, m, confidence)
    return Separation(auc, low, high, float(tested.pvalue), 1 / math.comb(n + m, n))


def auc_interval(auc: float, n: int, m: int, confidence: float) -> tuple[float, float]:
    """Newcombe 2006 (Statistics in Medicine 25:559), method 5: all areas that lie within z standard errors of ``auc``,
    the error being that of Hanley & McNeil at the area in question. Unlike DeLong's it has a width at 0 and 1."""
    z = stats.norm.ppf((1 + confidence) / 2)

    def error(area: float) -> float:
        spread = 1 + ((n + m) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))
        return math.sqrt(area * (1 - area) * spread / (n * m))

    beside = 1e-9  # at 0 and 1 the error is 0, so that the area itself is a solution: not the one looked for
    low = optimize.brentq(lambda area: auc - area - z * error(area), 0, auc - beside) if auc > 0 else 0.0
    high = optimize.brentq(lambda area: area - auc - z * error(area), auc + beside, 1) if auc < 1 else 1.0
    return float(low), float(high)


@dataclass(frozen=True)
class Beyond:
    """How many of a group lie beyond the held-out values' ``threshold``: ``count``, ``fraction``, its interval
    (Clopper-Pearson); the fraction ``expected`` of exchangeable values, and the ``p`` of so many or more."""

    threshold: float
    count: int
    fraction: float
    low: float
    high: float
    expected: float
    p: float


def beyond(values, held_out, confidence: float) -> Beyond:
    """Count ``values`` ``[n]`` above the smallest held-out one that at least ``QUANTILE`` of such values stay below.

    With m held-out values that is the k-th smallest, k = ceil((m + 1) 0.99), or the largest where m < 99. If all values
    are exchangeable, a new one lies beyond it with probability (m + 1 - k) / (m + 1), and the count is beta-binomial:
    it knows that the threshold was estimated too.
    """
    m, n = len(held_out), len(values)
    k = min(math.ceil((m + 1) * QUANTILE), m)
    threshold = float(np.sort(held_out)[k - 1])
    count = int((np.asarray(values) > threshold).sum())
    low, high = stats.binomtest(count, n).proportion_ci(confidence)  # Clopper & Pearson 1934
    p = float(stats.betabinom.sf(count - 1, n, m + 1 - k, k))
    return Beyond(threshold, count, count / n, float(low), float(high), (m + 1 - k) / (m + 1), p)


@dataclass(frozen=True)
class Preference:
    """Share of queries whose nearest reference is of one kind, the share ``expected`` if kinds meant nothing, ``p``,
    and the ``smallest_p`` that so many patients can give."""

    share: float
    expected: float
    p: float
    smallest_p: float


def preference(nearest_patient: list[str], is_train: dict[str, bool], seed: int) -> Preference:
    """Whether queries prefer the patients marked in ``is_train``: one-sided permutation test, the marks being dealt
    anew among all patients. A patient who is everybody's neighbour counts as one, and what all queries have in common
    (blur, say) cannot matter, since who is nearest does not depend on the marks."""
    patients = sorted(is_train)
    number = {patient: i for i, patient in enumerate(patients)}
    counts = np.bincount([number[patient] for patient in nearest_patient], minlength=len(patients))
    marks = np.array([is_train[patient] for patient in patients])
    rng, found = stream(seed, "marks of patients"), counts @ marks
    chance = np.concatenate([
        (np.argsort(rng.random((PERMUTATIONS // 100, len(patients))), axis=1) < marks.sum()) @ counts  # [s p], as many
        for _ in range(100)
    ])  # fmt: skip
    p = (1 + (chance >= found).sum()) / (1 + PERMUTATIONS)
    smallest_p = 1 / min(math.comb(len(marks), int(marks.sum())), 1 + PERMUTATIONS)
    return Preference(float(found / counts.sum()), float(marks.mean()), float(p), smallest_p)


def false_alarms(values, patients: list[str], alpha: float, seed: int, splits: int = 1000) -> float:
    """Negative control: how often one half of the (held-out) patients is found larger than the other at ``alpha``.

    Mann-Whitney with the normal approximation. Several cubes of one patient stay together, so their likeness shows."""
    ranks, (kinds, owner) = stats.rankdata(values), np.unique(patients, return_inverse=True)
    order = np.argsort(stream(seed, "halves of patients").random((splits, len(kinds))), axis=1)
    half = (order < len(kinds) // 2)[:, owner]  # [s n]
    n, m = half.sum(axis=1), (~half).sum(axis=1)
    area = half @ ranks - n * (n + 1) / 2
    error = np.sqrt(np.maximum(n * m * (n + m + 1) / 12, 1e-9))
    return float(np.mean(stats.norm.sf((area - n * m / 2 - 0.5) / error) < alpha))
