"""A volume is made until it has no fault, and what is written down of each attempt."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lungsyn.quality.measures import MEASURES
from lungsyn.quality.ranges import faults
from lungsyn.random import seed_of
from lungsyn.volume.files import Case


@dataclass(frozen=True, eq=False)
class Attempt:
    """One made volume, its measures and what is wrong with it."""

    number: int  # 0 first
    case: Case
    measures: dict[str, float]
    faults: list[dict]


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of the noise of a volume's ``attempt``; of the first it is the volume's own ``seed``."""
    if attempt == 0:
        return seed
    return seed_of(seed, "attempt", attempt)


def attempts(
    make: Callable[[int], Case], examine: Callable[[Case], dict[str, float]], reference: Mapping | None, tries: int
) -> Iterator[Attempt]:
    """Make a volume (``make(attempt)``) until one has no fault, at most ``1 + tries`` times; the last one is kept.

    Without a ``reference`` nothing is examined: what is real CT is held against none."""
    for number in range(1 + tries):
        case = make(number)
        measures = examine(case) if reference else {}
        attempt = Attempt(number, case, measures, faults(measures, reference) if reference else [])
        yield attempt
        if not attempt.faults:
            return


REJECTED_COLUMNS = ["volume", "attempt", "seed", "kept", "measure", "value", "low", "high", "reason"]
RATE_COLUMNS = ["measure", "what", "low", "high", "train_median", "accepted_median", "judged", "rejected", "kept"]
ANY = "any"


def record(row: Mapping[str, str], attempt: Attempt, tries: int) -> dict:
    """All that is to be known of an attempt at the volume that ``row`` of the conditions describes."""
    return {
        "volume": row["volume"],
        "attempt": attempt.number,
        "seed": attempt_seed(int(row["seed"]), attempt.number),
        "kept": not attempt.faults or attempt.number == tries,
        "faults": attempt.faults,
        "measures": attempt.measures,
        "not_measured": [name for name in MEASURES if name not in attempt.measures],
    }


def rejected_rows(records: list[dict]) -> list[dict]:
    """One row per fault; ``kept`` 1: it was the last attempt, and is in the set all the same."""
    return [r | {"kept": int(r["kept"])} | fault for r in records for fault in r["faults"]]


def middle_slices(case: Case) -> dict[str, np.ndarray]:
    """Three slices of the CT (HU) and of the nodule mask through the largest nodule, or the middle: a small picture."""
    largest = max(case.about.get("nodules", []), key=lambda fact: fact["volume_mm3"], default=None)
    box = largest["box"] if largest else [[0, n] for n in case.ct.shape]
    slices = {}
    for axis, (start, stop) in enumerate(box):
        slices[f"ct_{axis}"] = np.take(case.ct, (start + stop) // 2, axis)
        slices[f"nodules_{axis}"] = np.take(case.nodules, (start + stop) // 2, axis) > 0
    return slices


def rates(records: list[dict], reference: Mapping) -> list[dict]:
    """How many of a set's attempts were judged, rejected, and kept all the same: for any reason, then by measure."""
    rows = [
        {"measure": ANY, "what": "made volumes, by any measure", "judged": len(records)} | _counts(records, None)
        | dict.fromkeys(("low", "high", "train_median", "accepted_median"))
    ]  # fmt: skip
    for name, of_measure in reference["measures"].items():
        values = [r["measures"][name] for r in records if name in r["measures"]]
        accepted = [r["measures"][name] for r in records if name in r["measures"] and not r["faults"]]
        rows.append({
            "measure": name, "what": of_measure["what"], **_told(name, of_measure),
            "train_median": _median(list(reference["values"][name].values())), "accepted_median": _median(accepted),
            "judged": 0 if of_measure["low"] is None else len(values), **_counts(records, name),
        })  # fmt: skip
    return rows


def _told(name: str, of_measure: Mapping) -> dict[str, float | None]:
    """Both ends of the range; None for one towards which nothing is wrong."""
    no_end = {"low": MEASURES[name].lowest, "high": MEASURES[name].highest}
    return {end: of_measure[end] if no_end[end] is None else None for end in no_end}


def _counts(records: list[dict], name: str | None) -> dict[str, int]:
    """Attempts with a fault (of measure ``name``), and how many of them are in the set."""
    found = [r for r in records if any(name in (None, fault["measure"]) for fault in r["faults"])]
    return {"rejected": len(found), "kept": sum(r["kept"] for r in found)}


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None
