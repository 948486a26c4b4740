"""What a study claims where nothing differs, and what it says it could have seen: thousands of simulated ones."""

import numpy as np
import pytest

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


def named(design: Design) -> str:
    return (
        f"{len(design.cases)} patients of {max(design.cases)} cases at most, {design.arms} arms, {design.trainings} "
        f"trainings, seeds {design.seeds}, {design.shape} {design.own}, {design.grows:g}, {design.benchmark_trainings}"
    )


@pytest.mark.parametrize(
    "design", [Design(), *FEW, *UNEQUAL, *GROWING, *FEWER_OF_THE_BENCHMARK, *SPREADS, *SHAPES], ids=named
)
def test_studies_without_a_difference_claim_one_in_5_percent_at_most(design):
    assert false_claims(design, STUDIES, seed=6) <= 0.06 + 0.005


@pytest.mark.parametrize(
    "design",
    [Design(), Design(own=0.0), *FEW, *UNEQUAL[::2], *GROWING, *FEWER_OF_THE_BENCHMARK, *SPREADS[:3]],
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
