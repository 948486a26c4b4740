"""How often a study claims what is not so, and sees what is: thousands of simulated ones, by `evaluation.paired`."""

from dataclasses import dataclass

import numpy as np

from lungsyn.evaluation.paired import (
    error_with_trainings,
    p_of_mean,
    skewness_of_mean,
    smallest_resolvable,
    spread_of,
)
from tests.benchmarks.claims import Bench, Claim

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Design:
    """A study in which no arm differs. ``cases`` of each patient; ``seeds``: standard deviation of the mean Dice from
    one training to the next, of the benchmark, the first arm and the others; ``own``: how far patients differ in what
    an arm does for them, of this ``shape``, times the number of cases to the power ``grows``; ``noise`` of each case in
    each training. ``benchmark_trainings``: if it has fewer than the others."""

    cases: tuple[int, ...] = (1,) * 31
    arms: int = 5  # the benchmark is one
    trainings: int = 3
    seeds: tuple[float, float, float] = (0.015, 0.015, 0.015)
    own: float = 0.05
    shape: str = "normal"
    noise: float = 0.06
    grows: float = 0.0
    benchmark_trainings: int | None = None
    folds: int = 0  # 0: one split. Each fold has trainings of its own
    apart: tuple[float, float, float] = (0.0, 0.0, 0.0)  # standard deviation of fold by arm, as ``seeds``

    @property
    def fold(self) -> np.ndarray | None:
        """In which each patient is tested ``[p]``."""
        return np.arange(len(self.cases)) % self.folds if self.folds else None

    def by_arm(self, spread: tuple[float, float, float]) -> np.ndarray:
        """``[a 1 1]``."""
        benchmark, first, others = spread
        return np.array([benchmark, first, *[others] * (self.arms - 2)])[:, None, None]


def effects(shape: str, size: tuple[int, ...], rng) -> np.ndarray:
    """Numbers of mean 0 and standard deviation 1."""
    if shape == "t":
        return rng.standard_t(3, size) / np.sqrt(3)
    if shape == "turned":  # a nodule that one arm finds and another misses: 15 %, either way
        return rng.choice([-1, 0, 1], size, p=[0.075, 0.85, 0.075]) / np.sqrt(0.15)
    if shape == "skewed":  # 15 % of patients gain, the others lose as much in all
        return ((rng.random(size) < 0.15) - 0.15) / np.sqrt(0.15 * 0.85)
    if shape == "rare":  # 5 % do
        return ((rng.random(size) < 0.05) - 0.05) / np.sqrt(0.05 * 0.95)
    return rng.normal(size=size)


def dice(design: Design, studies: int, rng) -> np.ndarray:
    """Mean Dice, less what is common to all arms, of each patient in each training: ``[s a r p]``, float64."""
    cases, shape = np.array(design.cases, float), (studies, design.arms, design.trainings)
    of = np.zeros(len(cases), int) if design.fold is None else design.fold
    values = effects(design.shape, (studies, design.arms, 1, len(cases)), rng) * design.own * cases**design.grows
    if design.shape in ("skewed", "rare"):
        values[:, 0] = 0  # two arms that are skewed alike differ symmetrically
    values = values + (rng.normal(size=(*shape, of.max() + 1)) * design.by_arm(design.seeds))[..., of]
    if design.folds:
        values = values + (rng.normal(size=(*shape[:2], 1, design.folds)) * design.by_arm(design.apart))[..., of]
    return values + rng.normal(size=(*shape, len(cases))) * design.noise / np.sqrt(cases)


def judged(values: np.ndarray, design: Design) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """p of every arm against the benchmark ``[s a - 1]``, and of each its error and degrees of freedom ``[s]``."""
    cases = np.array(design.cases, float)
    arms = list(np.moveaxis(values, 1, 0))
    arms[0] = arms[0][:, : design.benchmark_trainings]
    trainings, p, errors = spread_of(arms, cases, design.fold), [], []
    for arm in range(1, design.arms):
        difference = arms[arm].mean(axis=1) - arms[0].mean(axis=1)
        error, freedom = error_with_trainings(difference, cases, (trainings[arm], trainings[0]))
        skewness = skewness_of_mean(difference, cases, error)
        p.append(p_of_mean(difference @ cases / cases.sum(), error, freedom, skewness))
        errors.append((error, freedom))
    return np.stack(p, axis=1), errors


def false_claims(design: Design, studies: int, seed: int) -> float:
    """Share of studies that claim any difference: by Holm the smallest p decides."""
    p, _ = judged(dice(design, studies, np.random.default_rng(seed)), design)
    return float((p.min(axis=1) * p.shape[1] < 1 - CONFIDENCE).mean())


def power(design: Design, studies: int, seed: int) -> tuple[float, float]:
    """The median of what a study says it could have seen, and how often that is claimed if the first arm has it."""
    rng = np.random.default_rng(seed)
    error, freedom = judged(dice(design, studies, rng), design)[1][0]
    seen = float(np.median(smallest_resolvable(error, freedom, CONFIDENCE, design.arms - 1)))
    values = dice(design, studies, rng)
    values[:, 1] += seen
    p, _ = judged(values, design)
    return seen, float((p[:, 0] * p.shape[1] < 1 - CONFIDENCE).mean())


def patients(many: int, of_cases: int, others: int) -> tuple[int, ...]:
    """Numbers of cases: ``many`` patients ``of_cases`` each, and ``others`` with one."""
    return (of_cases,) * many + (1,) * others


ONE_TO_EIGHT = (8,) * 4 + (4,) * 4 + (2,) * 8 + (1,) * 16
WIDE_BENCHMARK, WIDE_ARM = (0.045, 0.015, 0.015), (0.015, 0.045, 0.015)
DESIGNS = {
    "31 patients": Design(),
    "31, no effect of their own": Design(own=0.0),
    "12, one of 20 cases": Design(patients(1, 20, 11)),
    "12, one of 20, 2 arms": Design(patients(1, 20, 11), arms=2),
    "12, one of 20, far apart": Design(patients(1, 20, 11), own=0.15),
    "12, two of 10": Design(patients(2, 10, 10)),
    "12, one of 8, 2 arms": Design(patients(1, 8, 11), arms=2),
    "31, one of 20, 2 arms": Design(patients(1, 20, 30), arms=2),
    "3, one of 20": Design(patients(1, 20, 2), own=0.1),
    **{
        f"{n}, {arms} arms, {trainings} trainings": Design((1,) * n, arms, trainings)
        for n in (3, 10, 31) for arms in (2, 3, 5, 7) for trainings in (2, 3)
    },
    **{
        f"{name} x 3, {arms} arms, {trainings} trainings": Design((1,) * 31, arms, trainings, seeds, own=0.0)
        for name, seeds in (("benchmark", WIDE_BENCHMARK), ("one arm", WIDE_ARM)) for arms in (2, 3, 5, 7)
        for trainings in (2, 3)
    },
    **{
        f"{n}, benchmark of 2, {arms} arms of 5": Design((1,) * n, arms, 5, own=own, benchmark_trainings=2)
        for n, own in ((10, 0.05), (31, 0.0)) for arms in (2, 5)
    },
    "12, one of 20, differs more": Design(patients(1, 20, 11), grows=0.3),
    "31, one of 5, differs more": Design(patients(1, 5, 30), grows=0.7),
    "32, 1 to 8, differ more": Design(ONE_TO_EIGHT, grows=0.5, own=0.03),
    "3, far apart, 7 arms": Design((1,) * 3, 7, own=0.3),
    "31, tails of t": Design(shape="t"),
    "10, tails of t": Design((1,) * 10, shape="t"),
    "31, found or missed": Design(shape="turned", own=0.2),
    "10, found or missed": Design((1,) * 10, shape="turned", own=0.2),
    "31, skewed, mean 0": Design(shape="skewed", own=0.2),
    "31, skewed, mean 0, 2 arms": Design(shape="skewed", own=0.1, arms=2),
    **{
        f"105, 5 folds, {arms} arms, {trainings} trainings, apart {apart[0]:g} {apart[1]:g}": Design(
            (1,) * 105, arms, trainings, folds=5, apart=apart
        )
        for arms, trainings in ((2, 2), (2, 5), (5, 3))
        for apart in ((0.0,) * 3, (0.01,) * 3, (0.05,) * 3, (0.03, 0.0, 0.0), (0.0, 0.03, 0.0))
    },
    "105, 5 folds, sets drawn": Design((1,) * 105, 2, seeds=(0.015, 0.03, 0.03), folds=5, apart=(0.02,) * 3),
    "30, 3 folds": Design((1,) * 30, folds=3, apart=(0.01,) * 3),
    "105, 10 folds": Design((1,) * 105, folds=10, apart=(0.01,) * 3),
    "20 + 11 of 5, 5 folds": Design(patients(11, 5, 20), folds=5, apart=(0.01,) * 3),
    "105, 5 folds, skewed": Design((1,) * 105, folds=5, apart=(0.01,) * 3, shape="skewed", own=0.2),
    "6, 3 folds": Design((1,) * 6, 2, 2, folds=3, apart=(0.01,) * 3),
}  # fmt: skip
BEYOND = {  # what no test can hold: what is rare was hardly drawn; three folds know little of a benchmark's own
    "105, 3 folds, only the benchmark apart": Design((1,) * 105, folds=3, apart=(0.03, 0.0, 0.0)),
    "10, skewed, mean 0": Design((1,) * 10, shape="skewed", own=0.2),
    "20, skewed, mean 0": Design((1,) * 20, shape="skewed", own=0.2),
    "31, one in twenty gains, 2 arms": Design(arms=2, shape="rare", own=0.2),
    "benchmark x 5, 7 arms": Design(arms=7, trainings=2, seeds=(0.05, 0.01, 0.01), own=0.0),
}


def claims(bench: Bench) -> list[Claim]:
    """A line per design: false claims, and the power of what could have been seen; their standard errors."""
    lines, studies = [], bench.studies
    for name, design in (DESIGNS | BEYOND).items():
        share, (seen, found) = false_claims(design, studies, seed=1), power(design, studies, seed=2)
        met = None if name in BEYOND else share <= 0.06 and found >= 0.75
        lines.append(Claim(
            f"claims {name}", share, found, seen,
            "false claims; power at what could have been seen; that, Dice (1 or more is not said); +- "
            f"{np.sqrt(0.05 * 0.95 / studies):.3f} and {np.sqrt(0.2 * 0.8 / studies):.3f}",
            "none: more than is promised" if met is None else "<= 0.06, >= 0.75", met,
        ))  # fmt: skip
    return lines
