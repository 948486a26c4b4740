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
    check_worst(n_worst, len(means))
    return sorted(means, key=lambda case: (means[case], case))[:n_worst]


def worst_of_folds(score_rows: Iterable[Mapping], n_worst: int) -> set[str | tuple[int, str]]:
    """The worst validation cases of each fold, or of the one split, as `case_of` says them."""
    by_fold: dict[int | None, list[Mapping]] = {}
    for row in score_rows:
        by_fold.setdefault(row.get("fold"), []).append(row)
    worst = {fold: set(worst_cases(rows, n_worst)) for fold, rows in by_fold.items()}
    return {case_of(row) for fold, rows in by_fold.items() for row in rows if row["case"] in worst[fold]}


def tested(arms: Mapping[str, Iterable[Mapping]]) -> dict[str, list[Mapping]]:
    """The rows of the test cases only."""
    return {arm: [row for row in rows if row["split"] == TEST] for arm, rows in arms.items()}


def check_worst(n_worst: int, n_validation: int) -> None:
    """Raises InputError when there are fewer validation cases than are to be the worst."""
    if n_validation < n_worst:
        raise InputError(
            f"benchmark.worst_cases is {n_worst}, but the validation split has {n_validation} cases: "
            "lower it, or raise cohort.split.validation"
        )


def case_of(row: Mapping) -> str | tuple[int, str]:
    """What a row of scores is of: the case or, where there are folds, the fold and the case, which is a validation case
    in some of them."""
    return (row["fold"], row["case"]) if "fold" in row else row["case"]


def group_of(row: Mapping, worst: Collection[str | tuple[int, str]]) -> str | None:
    """The group of a scored case; None for a train case, which is in none. ``worst``: as `case_of` says them."""
    if row["split"] == "validation":
        return WORST if case_of(row) in worst else OTHER
    return TEST if row["split"] == "test" else None


def chosen_changes(scores: Mapping[str, Iterable[Mapping]], arm: str, benchmark_arm: str) -> dict[str, str]:
    """The test cases to draw, ``{case: rule}``: those whose Dice changed best, by the median amount, and worst.

    From the benchmark arm to ``arm``. A rule chooses them, so that nobody picks. Ties are in order of their
    names; of two in the middle it is the lower one; with fewer than three cases each is there once.
    """
    before, after = (
        case_means((row for row in scores[name] if row["split"] == TEST), "dice") for name in (benchmark_arm, arm)
    )
    change = {case: after[case] - before[case] for case in before}
    ordered = sorted(change, key=lambda case: (change[case], case))
    rules = {"median change": (len(ordered) - 1) // 2, "best change": len(ordered) - 1, "worst change": 0}
    taken = {ordered[place]: rule for rule, place in reversed(rules.items())}
    return {case: taken[case] for case in reversed(ordered) if case in taken}
