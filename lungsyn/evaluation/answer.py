"""The study's answer in plain sentences, from the test group's rows and nothing else.

An arm *differs* when its p over patients and trainings, corrected for the number of arms, is below 1 - confidence:
where no arm differs so many studies at most claim one, whatever the number of arms; each segmenter and training-set
size is a study of its own. That is about other patients and other trainings of the segmenter, from the same generator
and the same synthetic set: these are drawn once, and another draw may move an arm by more. Anything less is reported
as no difference shown, with the smallest one that could have been seen.
"""

from collections.abc import Mapping, Sequence

from lungsyn.evaluation.comparison import ends_text, interval_text, p_text, signed
from lungsyn.evaluation.groups import TEST
from lungsyn.evaluation.paired import FEWEST_TO_CLAIM
from lungsyn.settings.study import null_arms


def differs(row: Mapping, confidence: float) -> bool:
    """Whether the row's arm can be said to differ from the benchmark arm."""
    return row["p_holm"] is not None and row["p_holm"] < 1.0 - confidence


def headline(rows: Sequence[Mapping], config: Mapping) -> str:
    """What adding synthetic data to real data did on the test cases. ``config``: the config, from JSON."""
    added, shown = _added(rows, config)
    if not added:
        return "No arm adds synthetic data to real data, so this study does not say whether it helps."
    if not shown:
        return "No difference could be shown between real data with and without synthetic data."
    parts = [
        f"“{row['arm']}” {'raised' if row['mean_difference'] > 0 else 'lowered'} the mean Dice of the test "
        f"cases by {abs(row['mean_difference']):.3f}"
        for row in shown
    ]
    return f"Compared with “{config['benchmark']['arm']}”, {' and '.join(parts)}."


def uncertainty(rows: Sequence[Mapping], config: Mapping) -> str:
    """What the headline rests on, each arm's difference, what would have been seen, and what chance alone did."""
    (added, shown), test = _added(rows, config), _test_rows(rows)
    if not test:
        return "the test group is empty, so nothing can be claimed."
    words = f"{test[0]['n_cases']} test cases of {test[0]['n_patients']} patients, {config['replicates']} trainings of "
    words += "each arm."
    confidence = config["evaluation"]["confidence"]
    words += "".join(f" “{row['arm']}”: {_change(row, confidence)}." for row in added)
    resolvable = [row["smallest_resolvable"] for row in added]
    if added and not shown and None not in resolvable:  # of one arm a difference of 1 may not be enough
        words += f" A difference of {max(resolvable):.3f} Dice or more would have been seen (80 % power)."
    return words + _chance(rows, config)


def _added(rows: Sequence[Mapping], config: Mapping) -> tuple[list[Mapping], list[Mapping]]:
    """The test group's rows of arms that add synthetic to real data; those of them that differ."""
    added = [row for row in _test_rows(rows) if _adds(config["arms"][row["arm"]])]
    return added, [row for row in added if differs(row, config["evaluation"]["confidence"])]


def _chance(rows: Sequence[Mapping], config: Mapping) -> str:
    """The noise floor: how far the null arms moved, and how far they might have."""
    null = [
        signed(row["mean_difference"])
        + ("" if row["of_seeds"] is None else f" (up to {row['of_seeds']:.3f} either way)")
        for row in _test_rows(rows)
        if _is_null(config, row["arm"])
    ]
    return f" Other random seeds alone moved the mean by {', '.join(null)}." if null else ""


def sentences(rows: Sequence[Mapping], config: Mapping) -> list[str]:
    """One sentence per arm, the benchmark first and the null arms last, each with the numbers it rests on."""
    test, confidence = _test_rows(rows), config["evaluation"]["confidence"]
    name = config["benchmark"]["arm"]
    benchmark = next((row for row in test if row["arm"] == name), None)
    if benchmark is None:
        return ["The test group is empty, so nothing can be claimed."]
    others = sorted((row for row in test if row["arm"] != name), key=lambda row: _is_null(config, row["arm"]))
    null = [abs(row["mean_difference"]) for row in others if _is_null(config, row["arm"])]
    first = (
        f"“{name}”, the benchmark: mean Dice {benchmark['mean_dice']:.3f}, median "
        f"{benchmark['median_dice']:.3f}, on {benchmark['n_cases']} test cases of "
        f"{benchmark['n_patients']} patients."
    )
    return [first, *[_sentence(row, benchmark, config, confidence, max(null, default=0.0)) for row in others]]


def _sentence(row: Mapping, benchmark: Mapping, config: Mapping, confidence: float, null: float) -> str:
    change = _change(row, confidence)
    if _is_null(config, row["arm"]):
        return f"“{row['arm']}”, the null arm (same data, other random seeds): {change}: what chance alone does."
    text = f"“{row['arm']}”: {change}: "
    if differs(row, confidence):
        text += "better" if row["mean_difference"] > 0 else "worse"
        if abs(row["mean_difference"]) <= null:
            text += f", but by no more than the null arm moved ({null:.3f})"
    else:
        text += "no difference could be shown"
        if row["p_holm"] is None:
            text += (
                ": there are too few patients"
                if row["n_patients"] < FEWEST_TO_CLAIM
                else ": there is one training of each arm"
            )
        elif not row["trainings_low"] <= 0 <= row["trainings_high"]:
            text += ": of so many arms one may come out like this by chance"
        elif row["ci_low"] is not None and not row["ci_low"] <= 0 <= row["ci_high"]:
            text += f": other trainings may undo it (interval {_with_trainings(row)})"
        if row["smallest_resolvable"] is not None:
            text += f"; one of {row['smallest_resolvable']:.3f} or more would have been seen with 80 % power"
    if not config["arms"][row["arm"]]["real"] and benchmark["mean_dice"] > 0:
        share = row["mean_dice"] / benchmark["mean_dice"]
        text += f". Without any real case it reaches {share:.0%} of the benchmark's Dice"
    return text + "."


def _change(row: Mapping, confidence: float) -> str:
    change = f"{signed(row['mean_difference'])} Dice"
    if interval := _interval(row):
        sure = f"{100 * confidence:g} % " if row["ci_low"] is not None else ""
        change += f" ({sure}interval {interval}, p {p_text(row['p_holm'])} after Holm)"
    return change


def _interval(row: Mapping) -> str:
    """Over patients; where none of these can be given, over patients and trainings, which is less sure then."""
    if row["ci_low"] is not None:
        return interval_text(row)
    if row["trainings_low"] is None:
        return ""
    return f"over patients and trainings {_with_trainings(row)}, if differences are not skewed"


def _with_trainings(row: Mapping) -> str:
    return ends_text(row["mean_difference"], row["trainings_low"], row["trainings_high"])


def _test_rows(rows: Sequence[Mapping]) -> list[Mapping]:
    return [row for row in rows if row["group"] == TEST]


def _adds(arm: Mapping) -> bool:
    return bool(arm["real"] and arm.get("synthetic"))


def _is_null(config: Mapping, arm: str) -> bool:
    return arm in null_arms(config["arms"], config["benchmark"]["arm"])
