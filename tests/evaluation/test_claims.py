"""What a study claims where nothing differs, and what it says it could have seen: thousands of simulated ones."""

from dataclasses import replace

import numpy as np
import pytest

from lungsyn.evaluation.comparison import compare
from lungsyn.evaluation.groups import worst_of_folds
from lungsyn.evaluation.scores import SCORE_COLUMNS
from lungsyn.settings.evaluation import Evaluation
from tests.benchmarks.studies import (
    DESIGNS,
    ONE_TO_EIGHT,
    WIDE_ARM,
    WIDE_BENCHMARK,
    Design,
    dice,
    false_claims,
    judged,
    patients,
    power,
)

STUDIES = 2000  # a share of 0.05 is known to 0.005
FEW = [
    Design((1,) * n, arms, trainings, own=own)
    for n, arms, trainings, own in ((3, 2, 2, 0.0), (3, 2, 3, 0.1), (3, 5, 3, 0.1), (3, 7, 2, 0.3), (10, 5, 2, 0.05))
]
UNEQUAL = [
    Design(patients(1, 20, 11)),
    Design(patients(1, 20, 11), arms=2, own=0.15),
    Design(patients(2, 10, 10)),
    Design(patients(1, 8, 11), arms=2),
    Design(patients(1, 20, 30), arms=2),
    Design(patients(1, 20, 2), own=0.1),
]
GROWING = [
    Design(patients(1, 20, 11), grows=0.3),
    Design(patients(1, 5, 30), grows=0.7),
    Design(ONE_TO_EIGHT, grows=0.5, own=0.03),
]
FEWER_OF_THE_BENCHMARK = [
    Design((1,) * 31, arms, 5, own=own, benchmark_trainings=2) for arms, own in ((2, 0.0), (5, 0.0), (2, 0.05))
]
SPREADS = [
    Design(arms=arms, trainings=trainings, seeds=seeds, own=0.0)
    for arms, trainings, seeds in (
        (7, 3, WIDE_BENCHMARK), (7, 2, WIDE_BENCHMARK), (5, 3, WIDE_ARM), (2, 3, WIDE_ARM), (2, 2, WIDE_BENCHMARK),
    )
]  # fmt: skip
SHAPES = [
    Design(shape="t"),
    Design((1,) * 10, shape="t"),
    Design(shape="turned", own=0.2),
    Design((1,) * 3, shape="turned", own=0.2),
    Design(shape="skewed", own=0.2),
]
FOLDS = [
    Design((1,) * n, arms, trainings, folds=folds, apart=apart)
    for n, folds, arms, trainings, apart in (
        (30, 5, 2, 2, (0.05, 0.05, 0.05)), (30, 3, 5, 3, (0.02, 0.02, 0.02)), (60, 5, 5, 3, (0.03, 0.0, 0.0)),
        (60, 5, 2, 5, (0.0, 0.03, 0.03)), (60, 10, 3, 2, (0.02, 0.02, 0.02)), (6, 3, 2, 2, (0.01, 0.01, 0.01)),
        (30, 30, 2, 2, (0.01, 0.01, 0.01)),
    )
]  # fmt: skip
# Every replicate of an arm draws a set, which adds to what its seeds do; the benchmark has none.
FOLDS.append(Design((1,) * 60, 2, 3, seeds=(0.015, 0.03, 0.03), folds=5, apart=(0.01, 0.02, 0.02)))


def named(design: Design) -> str:
    return (
        f"{len(design.cases)} patients of {max(design.cases)} cases at most, {design.arms} arms, {design.trainings} "
        f"trainings, seeds {design.seeds}, {design.shape} {design.own}, {design.grows:g}, {design.benchmark_trainings}"
        f", {design.folds} folds, apart {design.apart}"
    )


@pytest.mark.parametrize(
    "design", [Design(), *FEW, *UNEQUAL, *GROWING, *FEWER_OF_THE_BENCHMARK, *SPREADS, *SHAPES, *FOLDS], ids=named
)
def test_studies_without_a_difference_claim_one_in_5_percent_at_most(design):
    assert false_claims(design, STUDIES, seed=6) <= 0.06 + 0.005


@pytest.mark.parametrize(
    "design",
    [Design(), Design(own=0.0), *FEW, *UNEQUAL[::2], *GROWING, *FEWER_OF_THE_BENCHMARK, *SPREADS[:3], *FOLDS[:3]],
    ids=named,
)
def test_what_could_have_been_seen_is_claimed_with_80_percent_power_at_least(design):
    assert power(design, STUDIES, seed=9)[1] >= 0.75 - 0.02  # two standard errors


def test_what_could_have_been_seen_is_not_much_more_than_it_takes():
    """In ordinary studies: an effect of three quarters of it is claimed in fewer than 80 %."""
    design, rng = Design(), np.random.default_rng(1)
    values = dice(design, 1000, rng)
    values[:, 1] += 0.75 * power(design, 1000, seed=9)[0]
    assert (judged(values, design)[0][:, 0] * 4 < 0.05).mean() < 0.8


def test_designs_are_those_that_are_promised():
    assert {len(design.cases) for design in DESIGNS.values()} >= {3, 10, 12, 31}
    assert {design.arms for design in DESIGNS.values()} >= {2, 3, 5, 7}


def test_without_fold_by_arm_many_studies_would_claim_what_is_not_so():
    """What the statistics are for: the same patients and trainings, taken for those of one split."""
    design = Design((1,) * 105, 2, folds=5, apart=(0.03,) * 3)
    values = dice(design, 1000, np.random.default_rng(1))
    blind = judged(values, replace(design, folds=0))[0][:, 0]
    assert (blind < 0.05).mean() > 0.2 > 0.06 + 0.015 > (judged(values, design)[0][:, 0] < 0.05).mean()


def test_200_null_studies_with_folds_and_drawn_sets_claim_no_more_than_they_may():
    """Through the tables: two real arms, tables of each fold, in which a patient is tested once and watched in others.

    Of 200 at 5 %, 17 or fewer come out in 97 % of times."""
    design = Design((1,) * 40, 2, 3, seeds=(0.015, 0.03, 0.03), folds=5, apart=(0.02,) * 3)
    values = 0.6 + dice(design, 200, np.random.default_rng(11))
    ps = []
    for study in values:
        scores = {arm: table_of(design, of_arm) for arm, of_arm in zip(("real", "again"), study, strict=True)}
        rows = compare(scores, "real", worst_of_folds(scores["real"], 1), Evaluation(bootstrap=100, confidence=0.95))
        test = next(row for row in rows if (row["arm"], row["group"]) == ("again", "test"))
        assert test["n_patients"] == 40
        assert all(row["p"] is None for row in rows if row["group"] != "test")
        ps.append(test["p_holm"])
    assert np.allclose(ps, judged(values, design)[0][:, 0])
    assert 0 < np.sum(np.array(ps) < 0.05) <= 17


def table_of(design: Design, dice_of: np.ndarray) -> list[dict]:
    """The rows of an arm's tables of all folds: a patient is tested in its own, and watched in the next."""
    rows = []
    for replicate, of_training in enumerate(dice_of):
        for patient, (fold, value) in enumerate(zip(design.fold, of_training, strict=True)):
            for split, of in (("test", fold), ("validation", (fold + 1) % design.folds)):
                row = dict.fromkeys(SCORE_COLUMNS, 0.0) | {"fold": of + 1, "case": f"{patient:03d}", "n_nodules": 1}
                rows.append(
                    row | {"patient": f"{patient:03d}", "split": split, "replicate": str(replicate), "dice": value}
                )
    return rows


def test_folds_of_one_patient_each_are_no_folds():
    values = dice(Design((1,) * 12, 2), 50, np.random.default_rng(2))
    with_folds, without = (judged(values, Design((1,) * 12, 2, folds=folds))[0] for folds in (12, 0))
    assert np.array_equal(with_folds, without)
