"""One check of a verdict: what it found, whether it could have found anything, and how that is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PASS, FAIL, BLIND = "pass", "fail", "blind"
LEAST_RECALL = 0.95  # of planted copies


@dataclass(frozen=True)
class Check:
    """One line of the verdict. ``value`` beyond ``threshold`` fails; ``low`` and ``high`` are a 95 % interval."""

    check: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    result: str
    sentence: str


@dataclass(frozen=True)
class Control:
    """What the audit of one kind can see: the share of planted copies ``recall``\\ ed, the correlation from which one
    synthetic case is a finding (``copy_level``; None: none would be) and the highest of held-out cubes, and how often
    held-out patients alone raise an alarm. ``patients_needed``: held-out ones, to find the copies; None: unknown.
    ``no_number``: correlations that are none."""

    kind: str
    synthetic: int
    held_out: int
    train: int
    planted: int
    recall: float
    copy_level: float | None
    held_out_highest: float | None
    false_alarms: float | None
    held_out_patients: int
    patients_needed: int | None
    no_number: int


def overall(checks: Sequence[Mapping]) -> str:
    """Fail before blind before pass; no check at all is blind."""
    results = {check["result"] for check in checks}
    return next((result for result in (FAIL, BLIND) if result in results), PASS if results else BLIND)


def correlations(rows: Sequence[Mapping], key: str = "correlation") -> np.ndarray:
    return np.array([float(row[key]) for row in rows])


def result_of(failed: bool, blind: bool) -> str:
    """A finding is one even where the controls say that others may have been missed."""
    return FAIL if failed else BLIND if blind else PASS


def as_told(result: str, blind: str, sentence: str) -> str:
    """Why a check is blind stands before what it says, but not where it found something all the same."""
    return blind + sentence if result == BLIND else sentence


def blindness(control: Control) -> str:
    if control.no_number:
        return f"Blind: {control.no_number} correlations are no numbers. "
    if control.recall >= LEAST_RECALL:
        return ""
    found = f"of {control.planted} planted copies only {control.recall:.0%} were found"
    if control.patients_needed:
        needed = f"about {control.patients_needed} held-out patients, not {patients_of(control)}"
        return f"Blind: {found}; that takes {needed}. "
    return f"Blind: {found}, by {patients_of(control)} held-out patients. "


def patients_of(control: Control) -> int:
    return control.held_out_patients


def too_few(nothing: bool, undecided: bool) -> str:
    """Why there were too few patients: for any finding, or to tell this one from chance."""
    if nothing:
        return "Blind: so few patients cannot show it. "
    return "Blind: more than is allowed, which so few patients may show by chance. " if undecided else ""


def interval_text(value: float, low: float, high: float, digits: int) -> str:
    return f"{value:.{digits}f}, {low:.{digits}f} to {high:.{digits}f}"
