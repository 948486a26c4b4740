"""The verdict on a synthetic set: checks with values, thresholds and one plain sentence each.

A check is *pass*, *fail*, or *blind*: it could not have found anything, because planted copies were not found or
because so few cases cannot show a difference; or it found more than is allowed, but so few cases may show that by
chance. A set fails if one check fails; it passes if all pass; else it is blind.

For nodules and for whole volumes alike:

- ``copies``: no synthetic cube may be as close to a train cube as the planted copies are.
- ``beyond``: how many are closer than 99 % of held-out cubes are. Exact under exchangeability, threshold estimated.
- ``closer``: synthetic cubes as a whole are closer to train cubes than held-out ones are (Mann-Whitney), *and* prefer
  train patients to held-out ones. Both are needed: a blurred cube is closer to everything, but has no preference.

``membership`` is about the generator: an attacker tells train cases from others by its loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lungsyn.audit.chance import Beyond, Separation, beyond, false_alarms, preference, separation
from lungsyn.config import Thresholds

PASS, FAIL, BLIND = "pass", "fail", "blind"
LEAST_RECALL = 0.95  # of planted copies
COPY_QUANTILE = 0.05  # of the planted copies' correlations: from there on a cube is as close as a copy
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Check:
    """One line of the verdict. ``value`` beyond ``threshold`` fails; ``low`` and ``high`` are a 95 % interval."""

    check: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float
    result: str
    sentence: str


@dataclass(frozen=True)
class Control:
    """What the audit of one kind can see: the share of planted copies ``recall``\\ ed, how close copies are at least
    (``copy_level``) and held-out cubes at most, and how often held-out patients alone raise an alarm."""

    kind: str
    synthetic: int
    held_out: int
    train: int
    planted: int
    recall: float
    copy_level: float
    held_out_highest: float
    false_alarms: float


def overall(checks: Sequence[Mapping]) -> str:
    """Fail before blind before pass; no check at all is blind."""
    results = {check["result"] for check in checks}
    return next((result for result in (FAIL, BLIND) if result in results), PASS if results else BLIND)


def verdict(neighbours: Sequence[Mapping], losses: Sequence[Mapping], settings: Thresholds, seed: int) -> dict:
    """The verdict as JSON: ``result``, ``checks``, ``controls``.

    ``neighbours``: rows of `probes.probe` (correlations as numbers or text); ``losses``: rows of `membership.attack`,
    may be empty."""
    controls, checks = [], []
    for kind in dict.fromkeys(row["kind"] for row in neighbours):
        rows = [row for row in neighbours if row["kind"] == kind]
        control, found = neighbour_checks(kind, rows, settings, seed)
        controls.append(asdict(control))
        checks += [asdict(check) for check in found]
    if losses:
        checks.append(asdict(membership_check(losses, settings)))
    return {"result": overall(checks), "checks": checks, "controls": controls}


def neighbour_checks(
    kind: str, rows: Sequence[Mapping], settings: Thresholds, seed: int
) -> tuple[Control, list[Check]]:
    """The control and the three checks of one kind of cubes."""
    groups = {
        name: [row for row in rows if row["group"] == name] for name in ("synthetic", "held-out", "planted", "train")
    }
    values = {name: correlations(members) for name, members in groups.items() if name != "train"}
    tail = beyond(values["synthetic"], values["held-out"], CONFIDENCE)
    is_right = np.array([row["nearest"] == row["source"] for row in groups["planted"]])
    held_out_patients = [row["patient"] for row in groups["held-out"]]
    control = Control(
        kind=kind, synthetic=len(groups["synthetic"]), held_out=len(groups["held-out"]), train=len(groups["train"]),
        planted=len(is_right), recall=float(np.mean(is_right & (values["planted"] > tail.threshold))),
        copy_level=float(np.quantile(values["planted"], COPY_QUANTILE)),
        held_out_highest=float(values["held-out"].max()),
        false_alarms=false_alarms(values["held-out"], held_out_patients, settings.alpha, seed),
    )  # fmt: skip
    checks = [
        _copies(kind, values["synthetic"], control),
        _beyond(kind, tail, control, settings),
        _closer(kind, groups, values, control, settings, seed),
    ]
    return control, checks


def correlations(rows: Sequence[Mapping], key: str = "correlation") -> np.ndarray:
    return np.array([float(row[key]) for row in rows])


def _result(failed: bool, blind: bool) -> str:
    """A finding is one even where the controls say that others may have been missed."""
    return FAIL if failed else BLIND if blind else PASS


def _blindness(control: Control) -> str:
    if control.recall >= LEAST_RECALL:
        return ""
    return f"Blind: of {control.planted} planted copies only {control.recall:.0%} were found. "


def _copies(kind: str, synthetic: np.ndarray, control: Control) -> Check:
    """Where copies cannot be told from the closest held-out cube, a single cube cannot be called one."""
    distinct = control.copy_level > control.held_out_highest
    count = int((synthetic >= control.copy_level).sum()) if distinct else None
    result = _result(bool(count), not distinct or control.recall < LEAST_RECALL)
    level = f"a correlation of {control.copy_level:.2f}"
    if not distinct:
        sentence = (
            f"Blind: planted copies ({level} or more) cannot be told from the closest held-out {kind} "
            f"({control.held_out_highest:.2f})."
        )
    elif count:
        sentence = (
            f"{count} of {len(synthetic)} synthetic {kind}s are as close to a train {kind} as disguised copies are "
            f"({level} or more; the closest held-out {kind} has {control.held_out_highest:.2f})."
        )
    else:
        sentence = (
            f"{_blindness(control)}No synthetic {kind} is as close to a train {kind} as disguised copies are "
            f"({level}); the closest has {synthetic.max():.2f}, the closest held-out one "
            f"{control.held_out_highest:.2f}."
        )
    return Check(f"{kind}: copies", count, None, None, 0, result, sentence)


def _beyond(kind: str, tail: Beyond, control: Control, settings: Thresholds) -> Check:
    allowed = settings.largest_fraction_beyond
    failed = tail.fraction > allowed and tail.p < settings.alpha
    # The p of all of them: what so few cases could show at most.
    few = beyond(np.full(control.synthetic, np.inf), np.zeros(control.held_out), CONFIDENCE).p >= settings.alpha
    undecided = tail.fraction > allowed and not failed
    result = _result(failed, few or undecided or control.recall < LEAST_RECALL)
    percent = _interval(100 * tail.fraction, 100 * tail.low, 100 * tail.high, 1)
    sentence = (
        f"{tail.count} of {control.synthetic} synthetic {kind}s ({percent} %) are closer to a train {kind} than "
        f"{1 - tail.expected:.0%} of held-out ones are; by chance {tail.expected:.1%} (p {tail.p:.2g}), allowed "
        f"{allowed:.1%}."
    )
    blind = _blindness(control) or _too_few(few and not failed, undecided)
    return Check(f"{kind}: beyond", tail.fraction, tail.low, tail.high, allowed, result, blind + sentence)


def _closer(kind: str, groups: Mapping, values: Mapping, control: Control, settings: Thresholds, seed: int) -> Check:
    found = separation(values["synthetic"], values["held-out"], CONFIDENCE)
    is_train = {row["patient"]: group == "train" for group in ("held-out", "train") for row in groups[group]}
    owner = {row["place"]: row["patient"] for group in ("held-out", "train") for row in groups[group]}
    elsewhere = correlations(groups["synthetic"], "held_out_correlation")
    nearest = [
        owner[row["nearest"] if here > there else row["held_out_nearest"]]
        for row, here, there in zip(groups["synthetic"], values["synthetic"], elsewhere, strict=True)
    ]
    preferred = preference(nearest, is_train, seed)
    p = max(found.p, preferred.p)
    few = max(found.smallest_p, preferred.smallest_p) >= settings.alpha
    result = _result(p < settings.alpha, few or control.recall < LEAST_RECALL)
    told = "are closer to train ones than held-out ones are" if p < settings.alpha else "show no pull to train ones"
    area = _interval(found.auc, found.low, found.high, 2)
    sentence = (
        f"Synthetic {kind}s {told}: AUC {area} against held-out (p {found.p:.2g}); "
        f"{preferred.share:.0%} have a train patient as nearest, by chance {preferred.expected:.0%} "
        f"(p {preferred.p:.2g}). A pull needs both p below {settings.alpha:g}."
    )
    blind = _blindness(control) or ("Blind: so few patients cannot show it. " if few else "")
    return Check(f"{kind}: closer", p, None, None, settings.alpha, result, blind + sentence)


def membership_check(losses: Sequence[Mapping], settings: Thresholds) -> Check:
    """Lower loss on learned cases: an AUC above what is allowed, and not by chance."""
    learned, unseen = ([-float(r["log_loss"]) for r in losses if r["group"] == g] for g in ("learned", "unseen"))
    found: Separation = separation(learned, unseen, CONFIDENCE)
    allowed = settings.largest_membership_auc
    few = found.smallest_p >= settings.alpha
    failed = found.auc > allowed and found.p < settings.alpha
    undecided = found.auc > allowed and not failed
    told = "An attacker can tell" if failed else f"An attacker {'may' if undecided else 'could not'} tell"
    sentence = (
        f"{told} {len(learned)} cases that the generator learned from, by its loss, from {len(unseen)} that it never "
        f"saw: AUC {_interval(found.auc, found.low, found.high, 2)} (p {found.p:.2g}); 0.5 is chance, allowed "
        f"{allowed:g}."
    )
    result = _result(failed, few or undecided)
    return Check("membership", found.auc, found.low, found.high, allowed, result, _too_few(few, undecided) + sentence)


def _too_few(nothing: bool, undecided: bool) -> str:
    """Why there were too few cases: for any finding, or to tell this one from chance."""
    if nothing:
        return "Blind: so few cases cannot show it. "
    return "Blind: more than is allowed, which so few cases may show by chance. " if undecided else ""


def _interval(value: float, low: float, high: float, digits: int) -> str:
    return f"{value:.{digits}f}, {low:.{digits}f} to {high:.{digits}f}"
