"""The comparison of arms: one row per arm and group, from the scores of all; and as text for a terminal.

Arms are compared within one training-set size (``size``, percent of the train patients); a table holds all sizes.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product

import numpy as np

from lungsyn.errors import InputError
from lungsyn.evaluation.groups import ENSEMBLE, GROUPS, TEST, case_means, group_of
from lungsyn.evaluation.layers import layer_rows
from lungsyn.evaluation.paired import (
    IF_EVEN,
    NO_INTERVAL,
    by_patient,
    holm,
    interval_over_patients,
    paired_difference,
    spread_of,
)
from lungsyn.evaluation.scores import Scores
from lungsyn.settings.evaluation import Evaluation

_DIFFERENCE = [
    "mean_difference", "ci_low", "ci_high", "p_wilcoxon", "p_wilcoxon_holm", "trainings_low", "trainings_high", "p",
    "p_holm", "smallest_resolvable", "of_seeds",
]  # fmt: skip
COMPARISON_COLUMNS = [
    "size", "arm", "group", "n_cases", "n_patients", "n_empty", "mean_dice", "dice_low", "dice_high", "median_dice",
    *_DIFFERENCE, "replicate_sd", "ensemble_dice", "nsd_1mm", "nsd_2mm", "hd95_mm", "sensitivity",
    "false_positives", "lesion_dice",
]  # fmt: skip

NONE = "-"  # an interval that cannot be given


def compare(
    scores: Scores, benchmark_arm: str, worst: Collection[str], settings: Evaluation, size: int = 100
) -> list[dict]:
    """Every arm against ``benchmark_arm`` in each group that has cases: rows of `COMPARISON_COLUMNS`.

    ``size``: the training-set size of all of them, percent. ``worst``: the worst validation cases, from the benchmark
    segmenter's scores. Differences are of Dice, per case, averaged over replicates; Holm's correction is over the
    arms of one group. The benchmark's own differences are None. ``n_empty`` counts references without a nodule.
    Raises InputError when arms were scored on different cases, or a case not once in each replicate.
    """
    for fold in sorted({row.get("fold", 0) for of_arm in scores.values() for row in of_arm}):
        of_fold = {arm: [row for row in of_arm if row.get("fold", 0) == fold] for arm, of_arm in scores.items()}
        _check_paired(of_fold, benchmark_arm)
    rows = []
    for group in GROUPS:
        members = {arm: _members(scores[arm], group, worst) for arm in scores}
        if not members[benchmark_arm]:
            continue
        benchmark = case_means(members[benchmark_arm], "dice")
        patient_of = {row["case"]: row["patient"] for row in members[benchmark_arm]}
        patient = {case: patient_of[case] for case in benchmark}
        trainings = _trainings(members, patient, benchmark_arm)
        group_rows = []
        for arm in scores:
            means = case_means(members[arm], "dice")
            row = {"size": size, "arm": arm, "group": group, **_summary(members[arm])} | dict.fromkeys(_DIFFERENCE)
            row["dice_low"], row["dice_high"] = interval_over_patients(
                *by_patient(list(means.values()), list(patient.values())), settings.confidence
            )
            if arm != benchmark_arm:
                result = paired_difference(
                    list(means.values()), list(benchmark.values()), list(patient.values()), settings.confidence,
                    len(scores) - 1, (trainings[arm], trainings[benchmark_arm]) if trainings else None,
                )  # fmt: skip
                row |= {
                    "mean_difference": result.mean, "ci_low": result.low, "ci_high": result.high,
                    "p_wilcoxon": result.p_wilcoxon, "p": result.p, "smallest_resolvable": result.smallest_resolvable,
                    "trainings_low": result.trainings_low, "trainings_high": result.trainings_high,
                    "of_seeds": result.of_seeds,
                }  # fmt: skip
            group_rows.append(row)
        for p in ("p_wilcoxon", "p"):
            compared = [row for row in group_rows if row[p] is not None]
            for row, corrected in zip(compared, holm([row[p] for row in compared]), strict=True):
                row[f"{p}_holm"] = float(corrected)
        rows += group_rows
    return rows


def _trainings(members: Mapping[str, Sequence[Mapping]], patient: Mapping[str, str], benchmark_arm: str) -> dict:
    """What the trainings of each arm do: empty where that cannot be known. With folds it is known of the test alone, in
    which each case is predicted by the trainings of one fold."""
    rows = members[benchmark_arm]
    fold_of = {row["patient"]: row["fold"] for row in rows if "fold" in row}
    if fold_of and rows[0]["split"] != TEST:
        return {}
    fold = np.array([fold_of[name] for name in sorted(fold_of)]) if fold_of else None
    arms = [benchmark_arm, *(arm for arm in members if arm != benchmark_arm)]
    spread = spread_of(*trainings_by_patient({arm: members[arm] for arm in arms}, patient), fold)
    return dict(zip(arms, spread, strict=True)) if spread else {}


def layers(scores: Scores, benchmark_arm: str, drawn: Collection[str], layer: str) -> list[dict]:
    """What each layer of chance adds to every arm's difference on the test cases: rows of `layers.LAYER_COLUMNS`; none
    where one training of an arm, or two patients, say nothing of it. ``drawn``, ``layer``: see `layers.layer_rows`."""
    arms = [benchmark_arm, *(arm for arm in scores if arm != benchmark_arm)]
    members = {arm: _members(scores[arm], TEST, ()) for arm in arms}
    patient = {row["case"]: row["patient"] for row in members[benchmark_arm]}
    patient = {case: patient[case] for case in sorted(patient)}
    trainings = _trainings(members, patient, benchmark_arm) if patient else {}
    if not trainings:
        return []
    found, cases = trainings_by_patient(members, patient)
    means = {arm: of_arm.mean(axis=-2) for arm, of_arm in zip(arms, found, strict=True)}
    return layer_rows(means, cases, trainings, drawn, layer)


def _check_paired(scores: Scores, benchmark_arm: str) -> None:
    """The same cases in every arm, of the same patient and split, each scored once in every replicate; in one fold, of
    those in which a case may be a validation case, too."""
    known = {(row["case"], row["patient"], row["split"]) for row in scores[benchmark_arm]}
    for arm, rows in scores.items():
        differ = sorted({case for case, *_ in known ^ {(row["case"], row["patient"], row["split"]) for row in rows}})
        if differ:
            raise InputError(
                f"arms {benchmark_arm!r} and {arm!r} were not scored on the same cases "
                f"({', '.join(differ[:5])}{', ...' if len(differ) > 5 else ''} in one only, or of another patient or "
                "split there): score both again"
            )
        times = Counter((row["replicate"], row["case"]) for row in rows if _is_number(row["dice"]))
        for replicate, case in product(
            sorted({row["replicate"] for row in rows}), sorted({case for case, *_ in known})
        ):
            if (found := times[replicate, case]) != 1:
                raise InputError(
                    f"arm {arm!r}: case {case!r} has {found} Dice in replicate {replicate}, not one: give each table "
                    "once, or score it again"
                )


def _is_number(value) -> bool:
    return value is not None and bool(np.isfinite(value))


def _members(rows: Sequence[Mapping], group: str, worst: Collection[str]) -> list[Mapping]:
    return [row for row in rows if group_of(row, worst) == group]


def _summary(rows: Sequence[Mapping]) -> dict:
    """What one arm reached in one group; means over cases of means over replicates."""
    single = [row for row in rows if row["replicate"] != ENSEMBLE]
    ensemble = [row["dice"] for row in rows if row["replicate"] == ENSEMBLE]
    dice = case_means(rows, "dice")
    nodules = {row["case"]: row["n_nodules"] for row in rows}
    replicates = training_means(rows)
    means = {
        name: _mean(case_means(rows, name).values()) for name in ("nsd_1mm", "nsd_2mm", "hd95_mm", "false_positives")
    }
    with_nodules = [row for row in single if row["n_nodules"]]
    total = sum(row["n_nodules"] for row in with_nodules)
    lesion_dice = sum(row["lesion_dice"] * row["n_nodules"] for row in with_nodules)
    return {
        "n_cases": len(dice), "n_patients": len({row["patient"] for row in rows}),
        "n_empty": sum(n == 0 for n in nodules.values()),
        "mean_dice": _mean(dice.values()), "median_dice": float(np.median(list(dice.values()))),
        "replicate_sd": float(np.std(replicates, ddof=1)) if len(replicates) > 1 else None,
        "ensemble_dice": _mean(ensemble) if ensemble else None, **means,
        "sensitivity": sum(row["found_nodules"] for row in with_nodules) / total if total else None,
        "lesion_dice": lesion_dice / total if total else None,
    }  # fmt: skip


def trainings_by_patient(
    members: Mapping[str, Sequence[Mapping]], patient: Mapping[str, str]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Mean Dice of each patient in each training, of each arm ``[r p]``; and each patient's number of cases ``[p]``."""
    found, cases = [], np.zeros(0)
    for rows in members.values():
        dice = {(row["replicate"], row["case"]): row["dice"] for row in rows if row["replicate"] != ENSEMBLE}
        replicates = sorted({replicate for replicate, _ in dice})
        values = [[dice[replicate, case] for case in patient] for replicate in replicates]
        means, cases = by_patient(values, list(patient.values()))
        found.append(means)
    return found, cases


def training_means(rows: Sequence[Mapping]) -> list[float]:
    """The mean Dice over the cases of each training of one arm; the ensemble is none."""
    by_training: dict[str, list[float]] = {}
    for row in rows:
        if row["replicate"] != ENSEMBLE:
            by_training.setdefault(row["replicate"], []).append(row["dice"])
    return [_mean(by_training[name]) for name in sorted(by_training)]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


STAYS = {  # by what replicates draw anew
    "segmenter": "Trainings are the segmenter's; the generator and its set stay.",
    "set": "Each training has a set of its own; the generator stays.",
    "generator": "Each training has a generator and a set of its own.",
}


def as_text(rows: Sequence[Mapping], title: str = "", draws: str = "segmenter") -> str:
    """The comparison as an aligned table for a terminal, the test group first, and how to read it. ``draws``: what
    replicates draw anew."""
    header = ["arm", "Dice", "difference", "interval", "and trainings", "p (Holm)", "could have seen"]
    blocks = [title] if title else []
    for group in sorted({row["group"] for row in rows}, key=(TEST, *GROUPS).index):
        members = [row for row in rows if row["group"] == group]
        note = "claims rest on this group" if group == TEST else "for inspection only, no claims"
        table = [header, *[_text_cells(row) for row in members]]
        widths = [max(len(line[k]) for line in table) for k in range(len(header))]
        blocks.append(f"\n{group}: {members[0]['n_cases']} cases of {members[0]['n_patients']} patients ({note})")
        blocks += ["  " + "   ".join(_align(line, widths)) for line in table]
    blocks.append(
        "\nDice: mean over cases and replicates. Difference: to the arm without one, paired by case; the\n"
        "interval is over patients, and beside it one over patients and trainings. Claims rest on p, which is\n"
        f"over both as well, corrected for the number of arms. Both hold\n{IF_EVEN}.\n{STAYS[draws]}\n"
        "Could have seen: the smallest true difference that would have been claimed with 80 % power.\n"
        f"'{NONE}': {NO_INTERVAL}."
    )
    return "\n".join(blocks)


def _text_cells(row: Mapping) -> list[str]:
    seen = row["smallest_resolvable"]
    return [
        row["arm"], f"{row['mean_dice']:.3f}", signed(row["mean_difference"]), interval_text(row),
        ends_text(row["mean_difference"], row["trainings_low"], row["trainings_high"]), p_text(row["p_holm"]),
        "" if seen is None else f"{seen:.3f}",
    ]  # fmt: skip


def _align(line: list[str], widths: list[int]) -> list[str]:
    return [
        line[0].ljust(widths[0]),
        *[cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)],
    ]


def signed(value: float | None) -> str:
    """A difference with its sign, or nothing."""
    return "" if value is None else f"{value:+.3f}"


def interval_text(row: Mapping) -> str:
    return ends_text(row["mean_difference"], row["ci_low"], row["ci_high"])


def ends_text(middle: float | None, low: float | None, high: float | None) -> str:
    """Both ends of an interval, a dash where there is none, or nothing where there is nothing in its ``middle``."""
    if low is None:
        return "" if middle is None else NONE
    return f"{low:+.3f} to {high:+.3f}"


def p_text(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def by_training(rows: Iterable[Mapping]) -> dict[str, list[Mapping]]:
    """Rows of comparisons by what was trained, in words: segmenter by segmenter, the largest training set first."""
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(row["segmenter"], set()).add(row["size"])
    return {
        segmenter if len(of) == 1 else f"{segmenter}, {size} % of the train patients": [
            row for row in rows if (row["segmenter"], row["size"]) == (segmenter, size)
        ]
        for segmenter, of in sizes.items()
        for size in sorted(of, reverse=True)
    }
