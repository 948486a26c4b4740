"""Paired statistics: how much one arm differs from another on the same cases, and how sure that is.

Cases are paired, patients are independent. The mean is over cases. A patient's cases are alike, so its error comes
from the patients' means, and a patient of many cases has more weight in it: 12 patients of whom one has 20 of 31 cases
are worth ``sum(w)^2 / sum(w^2)`` = 2.3. Values come averaged over replicates, so the interval over patients and
Wilcoxon's test are about *other patients*, for these trainings. A claim about training data is one about *other
trainings* too (Bouthillier et al. 2021, arXiv 2103.03098): without them three trainings with other seeds "differed"
from three on the same data, in a study of cut-outs: -0.026 Dice, p 0.016. So a second interval and the ``p`` that
claims rest on are over both, by t. What a training is depends on what replicates draw anew.

With folds every patient is tested by models of its fold. What the fold's train patients, generator and set do for an
arm is shared by all patients of the fold, so it is one more source of chance: *fold by arm*. Left out, up to 66 %
of simulated studies without a difference claimed one. What the folds have in common, since they share most of their
train patients, is in no number: nothing computed from them can know it (Bengio & Grandvalet 2004, JMLR 5:1089).

It is a test of the mean. Signed ranks are another question where differences are skewed, as those of Dice are (a
nodule found or missed): centred at a mean of zero, the differences of four of five arms of a study of cut-outs were
"different" by Wilcoxon in 21 to 44 % of draws of as many patients, by t in 5 to 9 %. So t is corrected for skewness.
What happens in so few patients that hardly one was drawn no correction can know: where fewer than about five who gain
much are among the test patients, or below 20 patients, a skewed difference whose mean is zero is claimed too often.

How often it claims too much, and what it sees, is measured by ``python -m tests.benchmarks claims``.
Axes: a arms, r trainings, p patients, c cases; ``...``: any, so that many studies are computed at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from lungsyn.random import stream

POWER = 0.8
NOTHING = 1e-10  # of Dice: 0.3 - 0.1 is not quite 0.2
FEWEST_TO_CLAIM = 3  # patients: two that happen to be alike would show anything
FEWEST_PATIENTS = 20  # below, no interval over patients is sure to cover: what is rare was perhaps not seen at all
FEWEST_UNLIKE = 3  # patients that differ from the commonest value, for the same reason
NO_INTERVAL = f"fewer than {FEWEST_PATIENTS} patients by their weight, or fewer than {FEWEST_UNLIKE} unlike the others"
IF_EVEN = f"below {FEWEST_PATIENTS} patients only where differences are not skewed"
BORROWED_OF_FOLDS = 2.0  # how much more other comparisons say of fold by arm than this one, if they are many
LUCK = 0.22  # share of studies whose error comes out smaller than what is reckoned with for the power
# That a variance is no larger than degrees of freedom are counted for:
SURE_OF_PATIENTS, SURE_OF_SEEDS, SURE_OF_FOLDS = 0.9, 0.82, 0.82


@dataclass(frozen=True)
class Difference:
    """``mean`` of the per-case differences, its interval over patients (None where none can be trusted) and Wilcoxon's
    p; then, over patients and trainings, interval, ``p`` and what could have been seen, and ``of_seeds``, how far
    trainings that differ in nothing but their seeds are apart in as many studies: None where there is one training of
    each arm, or two patients. ``smallest_resolvable`` is None, too, where not even one of 1 would be claimed.

    >>> ours = np.linspace(0.5, 0.8, 30)
    >>> found = lungsyn.paired_difference(ours, ours - np.tile([0.01, 0.02, 0.03], 10), patients=range(30))
    >>> f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"
    '0.020 (0.017 to 0.023)'
    """

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
class Trainings:
    """What the seeds of an arm's trainings do to its mean over ``count`` of them: its ``variance``, known with so many
    degrees of ``freedom``; ``noise``, the part of it that comes patient by patient, and is in the patients' variance
    as well; and variance and freedom of one training of any arm, ``pooled`` over all arms. ``[...]`` each.

    With folds, whose number of each patient is ``fold`` ``[p]``, one training is one of each fold; ``apart`` is what
    fold by arm adds to the variance of a mean difference, a mean over ``comparisons``."""

    count: int
    variance: np.ndarray
    freedom: np.ndarray
    noise: np.ndarray
    pooled: np.ndarray
    pooled_freedom: float
    fold: np.ndarray | None = None
    apart: np.ndarray | float = 0.0
    comparisons: int = 1


def spread_of(arms: Sequence[np.ndarray], cases: np.ndarray, fold: np.ndarray | None = None) -> list[Trainings] | None:
    """Of every arm, given by each patient's mean in each training ``[... r p]``; ``cases`` of each patient ``[p]``, and
    the ``fold`` that tests it ``[p]``, if there are any: the first arm is then the one that others are compared with.

    None unless all have two trainings or more and there are three patients. Two or three trainings tell little of one
    arm, but arms may spread unequally, and a benchmark that does is in every comparison. So an arm's own variance is
    drawn towards that of all arms, which counts a third as much as its own, and less where arms are few."""
    if min(means.shape[-2] for means in arms) < 2 or len(cases) < FEWEST_TO_CLAIM:
        return None
    if fold is not None and len(np.unique(fold)) == len(cases):
        fold = None  # each patient is a fold: what a fold does is what the patient does
    weights, folds = cases / cases.sum(), parts_of(fold, len(cases))
    shares = np.array([weights[part].sum() for part in folds])
    as_many = (shares**2).sum() ** 2 / (shares**4).sum()  # trainings of other folds are drawn apart
    freedoms = [(means.shape[-2] - 1) * as_many for means in arms]
    own = [sum((means[..., part] @ weights[part]).var(axis=-1, ddof=1) for part in folds) for means in arms]
    pooled = sum(freedom * variance for freedom, variance in zip(freedoms, own, strict=True)) / sum(freedoms)
    found = []
    for means, freedom, variance in zip(arms, freedoms, own, strict=True):
        borrowed = freedom * max(len(arms) - 2, 0) / len(arms) / 3
        shrunk = (borrowed * pooled + freedom * variance) / (borrowed + freedom)
        n, noise = means.shape[-2], (weights**2).sum() * interaction(means, fold)
        spread = np.full(shrunk.shape, borrowed + freedom)
        found.append(Trainings(n, shrunk / n, spread, noise / n, pooled, sum(freedoms), fold))
    return found if fold is None else with_folds_apart(found, arms, cases)


def with_folds_apart(trainings: list[Trainings], arms: Sequence[np.ndarray], cases: np.ndarray) -> list[Trainings]:
    """``trainings`` with what fold by arm adds, over all comparisons with the first arm."""
    apart = []
    for arm, of_arm in zip(arms[1:], trainings[1:], strict=True):
        difference, pair = arm.mean(axis=-2) - arms[0].mean(axis=-2), (of_arm, trainings[0])
        within, _ = variance_within_folds(difference, cases, pair)
        apart.append(variance_over_folds(difference, cases, of_arm.fold) - within)
    if not apart:
        return trainings
    return [replace(of_arm, apart=np.mean(apart, axis=0), comparisons=len(apart)) for of_arm in trainings]


def parts_of(fold: np.ndarray | None, patients: int) -> list[np.ndarray]:
    """The places of the patients of each fold; all of them where there are none."""
    return [np.arange(patients)] if fold is None else [np.flatnonzero(fold == one) for one in np.unique(fold)]


def interaction(means: np.ndarray, fold: np.ndarray | None = None) -> np.ndarray:
    """Variance of what is neither the patient's nor the training's in ``[... r p]``: two ways, without repetition, in
    each fold."""
    squares, freedom = np.zeros(means.shape[:-2]), 0
    for part in parts_of(fold, means.shape[-1]):
        residual = means[..., part] - means[..., part].mean(axis=-1, keepdims=True)
        residual = residual - residual.mean(axis=-2, keepdims=True)
        squares = squares + np.square(residual).sum(axis=(-2, -1))
        freedom += (means.shape[-2] - 1) * (len(part) - 1)
    return squares / max(freedom, 1)


def paired_difference(
    a: ArrayLike, b: ArrayLike, patients: Sequence[str | int], confidence: float = 0.95, arms: int = 1,
    trainings: tuple[Trainings, Trainings] | None = None,
) -> Difference:  # fmt: skip
    """How much ``a`` exceeds ``b``: two values per case ``[c]``, such as Dice, and each case's patient ``[c]``.

    Intervals of level ``confidence``; ``arms``: how many are compared at once; ``trainings`` of which ``a`` and ``b``
    are the means. Raises ValueError on unpaired or non-finite values.

    >>> ours, theirs = [0.81, 0.64, 0.70, 0.77], [0.79, 0.60, 0.71, 0.70]
    >>> found = lungsyn.paired_difference(ours, theirs, patients=["a", "b", "c", "c"])
    >>> round(found.mean, 3), found.low  # three patients are too few for an interval
    (0.03, None)
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if difference.ndim != 1 or len(difference) != len(patients) or not len(difference):
        raise ValueError(f"{difference.shape} values for {len(patients)} cases: give one of each arm per case")
    if not np.isfinite(difference).all():
        raise ValueError("a value is not finite: a case without a number would silently leave the mean")
    means, cases = by_patient(difference, patients)
    low, high = interval_over_patients(means, cases, confidence)
    mean, over_patients = float(difference.mean()), wilcoxon_p(means)
    if trainings is None:
        return Difference(mean, low, high, over_patients)
    error, freedom = (float(part) for part in error_with_trainings(means, cases, trainings))
    skewness = float(skewness_of_mean(means, cases, error))
    down, up = reach_of_mean(error, freedom, confidence, skewness)
    return Difference(
        mean, low, high, over_patients, mean - down, mean + up, float(p_of_mean(mean, error, freedom, skewness)),
        said(smallest_resolvable(error, freedom, confidence, arms)), of_other_seeds(trainings, confidence),
    )  # fmt: skip


def errors_within(confidence: float, freedom: float) -> float:
    """Half the interval of a mean in standard errors, by t."""
    return float(stats.t.ppf((1 + confidence) / 2, freedom))


def of_other_seeds(trainings: tuple[Trainings, Trainings], confidence: float) -> float:
    """How far two arms alike are apart by their seeds alone: ``confidence`` of such differences are within it."""
    one = trainings[0]
    error = np.sqrt(one.pooled * sum(1 / arm.count for arm in trainings))
    return float(error) * errors_within(confidence, one.pooled_freedom)


def variance_over_patients(means, cases, fold: np.ndarray | None = None) -> np.ndarray:
    """Of the mean over cases, from the patients' means ``[... p]``, known with p - 1 degrees of freedom; within folds,
    of which there are k, with p - k.

    Patients of many cases are taken to differ as much as those of one: their cases are alike. Where they are not, it is
    too large. Where they differ more, it would be too small: then the jackknife over patients is larger, and counts.
    It is the same where all have equally many cases, and alone too unsure where one patient has most of them. With
    folds both are within these: a patient is left out of its fold."""
    weights, folds = cases / cases.sum(), parts_of(fold, len(cases))
    squares = sum(np.var(means[..., part], axis=-1) * len(part) for part in folds)
    alike = (weights**2).sum() * squares / (len(cases) - len(folds))
    return np.maximum(alike, sum(_jackknifed(means[..., part], weights[part]) for part in folds if len(part) > 1))


def _jackknifed(means, weights) -> np.ndarray:
    """Variance of the sum of weight times mean over one fold's patients, from leaving out each: ``[...]``."""
    share = weights.sum()
    moved = (means - (means @ weights / share)[..., None]) * weights * share / (share - weights)
    return (1 - 1 / len(weights)) * np.square(moved).sum(axis=-1)


def variance_over_folds(means, cases, fold: np.ndarray | None) -> np.ndarray:
    """Of the mean over cases, from how far the folds are apart, with k - 1 degrees of freedom: all that differs from
    fold to fold is in it, patients and trainings too."""
    weights, folds = cases / cases.sum(), parts_of(fold, len(cases))
    centred = means - (means @ weights)[..., None]
    return sum(np.square(centred[..., part] @ weights[part]) for part in folds) * len(folds) / (len(folds) - 1)


def error_with_trainings(means, cases, trainings: tuple[Trainings, Trainings]) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of a mean difference over patients and trainings, and its degrees of freedom: ``[...]`` each.

    With folds it is over these as well: what they are apart beyond what patients and trainings explain is added. It is
    drawn towards that of all comparisons, as a few folds say little. Where it is nothing by chance, degrees of freedom
    are the fewest that are possible if it is not."""
    within, freedom = variance_within_folds(means, cases, trainings)
    if trainings[0].fold is None:
        return np.sqrt(within), freedom
    beyond, known = beyond_folds(means, cases, trainings[0], within)
    possible = np.maximum(at_most(np.maximum(within + beyond, 0), known, SURE_OF_FOLDS) - within, 0)
    if_more = np.minimum(freedom, satterthwaite(within + possible, (within, freedom), (possible, known)))
    freedom = np.where(beyond > 0, np.minimum(if_more, known), if_more)
    return np.sqrt(within + np.maximum(beyond, 0)), freedom


def beyond_folds(means, cases, arm: Trainings, within) -> tuple[np.ndarray, float]:
    """What fold by arm adds to the variance ``within`` folds, if below zero too, and its degrees of freedom."""
    own = len(parts_of(arm.fold, len(cases))) - 1
    borrowed = BORROWED_OF_FOLDS * own * (arm.comparisons - 1) / (arm.comparisons + 1)
    found = variance_over_folds(means, cases, arm.fold) - within
    return (own * found + borrowed * arm.apart) / (own + borrowed), own + borrowed


def variance_within_folds(means, cases, trainings: tuple[Trainings, Trainings]) -> tuple[np.ndarray, np.ndarray]:
    """Variance of a mean difference over patients and trainings, and its degrees of freedom.

    ``means``: of the difference, patient by patient ``[... p]``. What comes training by training and patient by patient
    is in the variances of both, and taken off once. Degrees of freedom: Satterthwaite 1946, the fewest that are
    possible if one of both variances is larger than it came out by chance; otherwise few patients who happen
    to be alike would leave the trainings' many degrees of freedom to a variance that was missed."""
    fold = trainings[0].fold
    patients, freedom = variance_over_patients(means, cases, fold), len(cases) - len(parts_of(fold, len(cases)))
    by_seeds, seeds_freedom = welch(trainings)
    twice = sum(arm.noise for arm in trainings)

    def together(patients, by_seeds):
        total = np.maximum(patients + by_seeds - twice, np.maximum(patients, by_seeds))
        return total, satterthwaite(patients + by_seeds, (patients, freedom), (by_seeds, seeds_freedom))

    total, as_found = together(patients, by_seeds)
    _, if_patients_differ_more = together(at_most(patients, freedom, SURE_OF_PATIENTS), by_seeds)
    _, if_seeds_do_more = together(patients, at_most(by_seeds, seeds_freedom, SURE_OF_SEEDS))
    return total, np.minimum.reduce([as_found, if_patients_differ_more, if_seeds_do_more])


def welch(trainings: tuple[Trainings, Trainings]) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the difference of two arms by their seeds, and its degrees of freedom.

    If one arm has fewer trainings than the other, these degrees are the fewest that are possible if either of both
    spreads more than it did by chance: two trainings alike would leave the other arm's many to a missed variance."""
    a, b = trainings

    def freedom_of(of_a, of_b):
        return satterthwaite(of_a + of_b, (of_a, a.freedom), (of_b, b.freedom))

    freedom = np.minimum(freedom_of(a.variance, b.variance), a.pooled_freedom)
    if a.count != b.count:
        more = [at_most(arm.variance, arm.freedom, SURE_OF_SEEDS) for arm in trainings]
        unlucky = freedom_of(more[0], b.variance), freedom_of(a.variance, more[1])
        freedom = np.minimum.reduce([freedom, *unlucky])
    return a.variance + b.variance, freedom


def satterthwaite(total, *parts) -> np.ndarray:
    """Degrees of freedom of a ``total`` of independent (variance, freedom); 1 where all are zero."""
    spread = sum(np.square(variance) / freedom for variance, freedom in parts)
    return np.where(spread > 0, np.square(total) / np.where(spread > 0, spread, 1.0), 1.0)


def at_most(variance, freedom, sure: float) -> np.ndarray:
    """What the true variance does not exceed in a share ``sure`` of samples."""
    return variance * freedom / special.chdtri(freedom, sure)


def skewness_of_mean(means, cases, error) -> np.ndarray:
    """Third cumulant of the mean over cases, by ``error`` cubed: ``[...]``, from the patients' means ``[... p]``.

    0 for fewer than `FEWEST_PATIENTS`: what so few look like says nothing about it."""
    weights, centred = cases / cases.sum(), means - np.mean(means, axis=-1, keepdims=True)
    if too_few(weights):
        return np.zeros_like(error)
    third = (weights**3).sum() * np.mean(centred**3, axis=-1)
    return third / np.maximum(error, NOTHING) ** 3


def p_of_mean(mean, error, freedom, skewness=0.0) -> np.ndarray:
    """Two-sided p of a mean of zero, by t; 1 when there is no difference but that of floating point.

    Where the mean is skewed it is the larger one of that and of t by Hall's cubic (Hall 1992): t alone takes a few
    patients who lost much, and were not drawn, for none."""
    t = np.asarray(mean / np.maximum(error, NOTHING))
    corrected = t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6
    smaller = np.clip(np.sign(t) * corrected, 0, np.abs(t))
    return np.where(np.abs(mean) < NOTHING, 1.0, 2 * special.stdtr(freedom, -smaller))


def reach_of_mean(error: float, freedom: float, confidence: float, skewness: float) -> tuple[float, float]:
    """How far the interval of `p_of_mean` goes down and up."""
    t = errors_within(confidence, freedom)
    return error * max(t, unskewed(t, skewness)), error * max(t, -unskewed(-t, skewness))


def by_patient(values, patients) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the values ``[... c]`` and number of cases of each patient, by name: ``[... p]``, ``[p]``."""
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    cases = np.bincount(owner).astype(np.float64)
    sums = np.zeros((*np.shape(values)[:-1], len(cases)))
    np.add.at(sums, (..., owner), values)  # type: ignore[arg-type]  # NumPy's types know no ellipsis here
    return sums / cases, cases


def interval_over_patients(means, cases, confidence: float) -> tuple[float | None, float | None]:
    """Interval of the mean over cases, from the patients' means and numbers of cases ``[p]``; None where none is sure.

    By t, its skewness corrected by Hall's cubic (Hall 1992, J R Stat Soc B 54:221): differences of Dice are skewed, a
    nodule found or missed, and the bootstrap's percentiles cover too little then. None for fewer than
    `FEWEST_PATIENTS` (by their weight in the mean), or where fewer than `FEWEST_UNLIKE` are unlike the rest: what one
    patient in seven has is missing among ten in a fifth of studies, and nothing computed from the ten can know of it.
    """
    weights = cases / cases.sum()
    if too_few(weights) or unlike(means) < FEWEST_UNLIKE:
        return None, None
    mean, error = float(means @ weights), float(np.sqrt(variance_over_patients(means, cases)))
    skewness = float(skewness_of_mean(means, cases, error))
    reach = errors_within(confidence, len(means) - 1)
    return mean - error * unskewed(reach, skewness), mean - error * unskewed(-reach, skewness)


def too_few(weights) -> bool:
    """Whether the patients of these ``weights``, which sum to 1, are worth fewer than `FEWEST_PATIENTS` equal ones."""
    return bool((weights**2).sum() * FEWEST_PATIENTS > 1 + NOTHING)


def unlike(values) -> int:
    """How many are not the commonest value."""
    return len(values) - int(np.unique(np.round(values, 10), return_counts=True)[1].max())


def unskewed(t: float, skewness: float) -> float:
    """Inverse of Hall's cubic, g(x) = x + s x^2 / 3 + s^2 x^3 / 27 + s / 6 for a mean of skewness s, at ``t``."""
    if abs(skewness) < 1e-6:
        return t
    return 3 * float(np.cbrt(1 + skewness * (t - skewness / 6)) - 1) / skewness


def draw_patients(n: int, samples: int, seed: int) -> np.ndarray:
    """How often each of ``n`` patients is in each bootstrap sample: ``[samples n]``, rows sum to ``n``."""
    return stream(seed, "bootstrap").multinomial(n, np.full(n, 1.0 / n), size=samples)


def expanded_quantiles(estimates: np.ndarray, n: int, confidence: float) -> np.ndarray:
    """Both ends ``[2 ...]`` of the interval from bootstrap estimates ``[samples ...]`` over ``n`` > 1 patients.

    The percentiles are moved outwards as Hesterberg 2015 (The American Statistician 69:371, "expanded
    percentile") does, because the plain ones are too narrow for few patients."""
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * errors_within(confidence, n - 1))
    return np.quantile(estimates, (tail, 1 - tail), axis=0)


def wilcoxon_p(difference: np.ndarray) -> float:
    """Two-sided p of the signed-rank test, zeros by Pratt 1959; 1 when all differences are zero."""
    rounded = np.round(difference, 10)  # 0.3 - 0.1 and 0.2 are a tie
    if not rounded.any():
        return 1.0
    return float(stats.wilcoxon(rounded, zero_method="pratt").pvalue)


def smallest_resolvable(error, freedom, confidence: float, arms: int = 1) -> np.ndarray:
    """The true mean difference that would be claimed with a power of 80 %, by the noncentral t: ``[...]``.

    alpha is divided among the ``arms`` that are compared at once, as Holm's correction asks of the smallest p. An
    ``error`` known with few degrees of freedom is more often too small than too large, so it is divided by what a share
    `LUCK` of such errors lie below.
    With one arm, one case of each patient and trainings that do not differ it is about 2.8 SD / sqrt(n) for many
    patients."""
    claimed = -special.stdtrit(freedom, (1 - confidence) / arms / 2)
    shift = special.nctdtrinc(freedom, 1 - POWER, claimed)
    return error * shift / np.sqrt(special.chdtri(freedom, 1 - LUCK) / freedom)


def said(resolvable) -> float | None:
    """The smallest difference as a number; None where nothing differs, or where Dice cannot differ by so much."""
    return float(resolvable) if NOTHING < resolvable < 1 else None


def holm(p_values) -> np.ndarray:
    """P values adjusted for their number, in the given order (Holm 1979): step down, monotone, at most 1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
