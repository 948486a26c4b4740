"""Which cases are shown: rules choose them, not a person, and each says why."""

from collections.abc import Iterable, Mapping, Sequence

from lungsyn.evaluation.groups import TEST, chosen_changes
from lungsyn.evaluation.pictures import choose

# The kinds of the audit's table nearest.tsv that have a place to look at, in words. A fourth, small parts, has none.
KINDS = {"nodule": "nodule", "volume": "whole volume", "outline": "outline of lungs and body"}


def shown_of_set(names: Sequence[str], nearest: Sequence[Mapping], count: int, seed: int) -> dict[str, str]:
    """Synthetic cases of a set, ``{case: why}``: of each kind the one that is closest to a train case, and ``count``
    drawn by the seed, as those of the contact sheet are. ``nearest``: rows of the set's ``nearest.tsv``."""
    found: dict[str, str] = {}
    for kind, words in KINDS.items():
        rows = [row for row in nearest if (row["kind"], row["group"]) == (kind, "synthetic")]
        if rows:
            case = max(rows, key=lambda row: float(row["correlation"]))["case"]
            found[case] = f"{found[case]}, {words}" if case in found else f"closest of the set to a train case: {words}"
    return found | {case: "drawn at random" for case in choose(names, count, seed) if case not in found}


def shown_tests(arms: Mapping[str, Iterable[Mapping]], drawn: tuple[str, str], count: int, seed: int) -> dict[str, str]:
    """``count`` test cases, ``{case: why}``: those of best, median and worst change between the two ``drawn`` arms, as
    in the figure of cases, if both are there; then random ones. ``arms``: rows of scores."""
    rows = [row for scores in arms.values() for row in scores if row["split"] == TEST]
    found = chosen_changes(arms, drawn[1], drawn[0]) if set(drawn) <= set(arms) else {}
    others = [case for case in choose(list({row["case"] for row in rows}), len(rows), seed) if case not in found]
    return dict(list((found | dict.fromkeys(others, "drawn at random")).items())[:count])


def neighbours(case: str, nearest: Iterable[Mapping]) -> list[dict]:
    """The train cases that the audit found closest to a synthetic one, of each kind: ``case``, ``words``, and of
    nodules also the index of both, ``own`` and ``other``. Of several nodules it is the closest that counts."""
    rows = sorted((row for row in nearest if row["case"] == case and row["group"] == "synthetic"),
                  key=lambda row: -float(row["correlation"]))  # fmt: skip
    found = []
    for kind, words in KINDS.items():
        row = next((row for row in rows if row["kind"] == kind and row["nearest"]), None)
        if row:
            name, _, index = row["nearest"].partition("/")
            likeness = f"likeness {float(row['correlation']):.2f}"
            if row["held_out_correlation"]:
                likeness += f"; of the nearest held-out case {float(row['held_out_correlation']):.2f}"
            own = row["place"].partition("/")[2]
            found.append({
                "case": name, "words": f"nearest train case by {words} ({likeness})",
                "own": int(own) if own else None, "other": int(index) if index else None,
            })  # fmt: skip
    return found
