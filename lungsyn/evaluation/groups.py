"""Groups of cases: the worst validation cases, which drive the targeted synthesis, the other ones, and the
test.

The worst cases are chosen for a low score, part of which is bad luck: measured again they improve with no
intervention at all. So their group is shown, named for what it is, and no claim rests on it.
"""

from collections.abc import Collection, Iterable, Mapping

from lungsyn.errors import InputError

ENSEMBLE = "ensemble"
WORST, OTHER, TEST = GROUPS = ("worst validation", "other validation", "test")


def case_means(rows: Iterable[Mapping], measure: str) -> dict[str, float]:
    """Mean of ``measure`` over the replicates, by case name in order; the ensemble is not a replicate."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["replicate"] != ENSEMBLE:
            values.setdefault(row["case"], []).append(float(row[measure]))
    return {case: sum(values[case]) / len(values[case]) for case in sorted(values)}


def worst_cases(score_rows: Iterable[Mapping], n_worst: int) -> list[str]:
    """The ``n_worst`` validation cases of lowest mean Dice in the benchmark arm's scores, worst first.

    Ties are in order of their names. Raises InputError when there are fewer validation cases.
    """
    means = case_means((row for row in score_rows if row["split"] == "validation"), "dice")
    if len(means) < n_worst:
        raise InputError(
            f"benchmark.worst_cases is {n_worst}, but the validation split has {len(means)} cases: "
            "lower it, or raise cohort.split.validation"
        )
    return sorted(means, key=lambda case: (means[case], case))[:n_worst]


def group_of(case: str, split: str, worst: Collection[str]) -> str | None:
    """The group of a scored case; None for a train case, which is in none."""
    if split == "validation":
        return WORST if case in worst else OTHER
    return TEST if split == "test" else None


def median_change(scores: Mapping[str, Iterable[Mapping]], arm: str, benchmark_arm: str) -> str:
    """The test case whose Dice changed by the median amount from the benchmark arm to ``arm``.

    The rule that chooses the case to draw, so that nobody picks it. Of two in the middle, the lower one.
    """
    before, after = (
        case_means((row for row in scores[name] if row["split"] == "test"), "dice") for name in (benchmark_arm, arm)
    )
    change = {case: after[case] - before[case] for case in before}
    return sorted(change, key=lambda case: (change[case], case))[(len(change) - 1) // 2]
