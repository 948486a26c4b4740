"""The verdict on a synthetic set: checks with values, thresholds and one plain sentence each.

A check is *pass*, *fail*, or *blind*: it could not have found anything, because planted copies were not found or
because so few patients cannot show a difference; or it found more than is allowed, but so few may show that by chance;
or a number that it needs is none. A set fails if one check fails; it passes if all pass; else it is blind.

For nodules, whole volumes and parts alike:

- ``copies``: is one synthetic case nearer to a train case than chance allows the nearest of all of them? One patient
  given away is a failed set. The tail is fitted to held-out patients (`chance.critical_value`).

For nodules and whole volumes:

- ``beyond``: how many are closer than 99 % of held-out patients are. Exact under exchangeability, threshold estimated.
- ``closer``: synthetic cubes as a whole are closer to train cubes than held-out ones are (Mann-Whitney), *and* prefer
  train patients to held-out ones. Both are needed: a blurred cube is closer to everything, but has no preference.

For outlines of body and lungs (`outlines`): ``copies``, and ``closer``: the nearest train patient stands out more than
among held-out ones. Planted copies must lead to their patients, each kind of ``outlines.REQUIRED``, or it is blind.
Where a set says whose bodies it has, ``donors``: whether the outlines lead to these very patients.

``disguises``: what became of the copies that were planted. Those that leave a patient's voxels as they are must be
found, or the check is blind; which others one could not have found is said in its sentence, and in ``not_found``.
``membership`` is about the generator: an attacker tells train cases from others by its loss.

What is counted are patients, since several cases of one are alike; a synthetic case belongs to the patient from whom it
has its masks. All checks together raise a false alarm with probability ``alpha`` at most: each has its share of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from scipy import stats

from lungsyn.audit import outlines
from lungsyn.audit.chance import (
    Beyond,
    as_correlation,
    beyond,
    by_patient,
    critical_value,
    evidence,
    false_alarms,
    patients_needed,
    preference,
    separation,
)
from lungsyn.audit.checks import (
    BLIND,
    LEAST_RECALL,
    PASS,
    Check,
    Control,
    as_told,
    blindness,
    correlations,
    interval_text,
    overall,
    result_of,
    too_few,
)
from lungsyn.audit.disguises import DISGUISES, EIGHT_MM, VERBATIM
from lungsyn.audit.outlines import OUTLINE
from lungsyn.audit.probes import KINDS, NOISY, PART
from lungsyn.settings.audit import Thresholds

CONFIDENCE = 0.95
CHECKS = 11  # that share alpha: four of copies, two of beyond, three of closer, donors, membership
# The least a kind must find.
ANSWERED_BY = {"nodule": NOISY, "volume": NOISY, PART: EIGHT_MM, OUTLINE: outlines.AS_IT_IS}
GROUPS = ("synthetic", "held-out", "planted", "train")


def verdict(neighbours: Sequence[Mapping], losses: Sequence[Mapping], settings: Thresholds, seed: int) -> dict:
    """The verdict as JSON: ``result``, ``checks``, ``controls``; ``disguises``, each with its recall, and those that
    were ``not_found``.

    ``neighbours``: rows of `probes.probe` and `probes.probe_parts` (numbers or text); ``losses``: rows of
    `membership.attack`, may be empty."""
    controls, checks, seen = [], [], []
    for kind in dict.fromkeys(row["kind"] for row in neighbours):
        rows = [row for row in neighbours if row["kind"] == kind]
        control, found = neighbour_checks(kind, rows, settings, seed)
        controls.append(asdict(control))
        checks += found
        seen += noticed(rows, control.copy_level)
    recalls = disguise_recalls(seen)
    checks.append(disguise_check(recalls))
    recalls += outline_recalls([row for row in neighbours if row["kind"] == OUTLINE])
    if losses:
        checks.append(membership_check(losses, settings))
    checks = [asdict(check) for check in checks]
    hidden = [row["disguise"] for row in recalls if row["recall"] < LEAST_RECALL]
    return {
        "result": overall(checks), "checks": checks, "controls": controls, "disguises": recalls, "not_found": hidden,
    }  # fmt: skip


def neighbour_checks(
    kind: str, rows: Sequence[Mapping], settings: Thresholds, seed: int
) -> tuple[Control, list[Check]]:
    """The control and the checks of one kind of cubes."""
    whole = {name: [row for row in rows if row["group"] == name] for name in GROUPS}
    groups = whole | {name: [row for row in whole[name] if _is_number(row)] for name in GROUPS[:3]}
    groups["looked among"] = [*whole["held-out"], *whole["train"]]
    no_number = sum(len(whole[name]) - len(groups[name]) for name in GROUPS)
    control = _control(kind, groups, no_number, settings, seed)
    values = {name: correlations(groups[name]) for name in ("synthetic", "held-out")}
    names = {PART: ("copies",), OUTLINE: ("copies", "closer")}.get(kind, ("copies", "beyond", "closer"))
    if not all(map(len, groups.values())):
        empty = next(name for name in GROUPS if not groups[name])
        sentence = f"Blind: no {empty} {kind} has a number to compare."
        return control, [Check(f"{kind}: {name}", None, None, None, None, BLIND, sentence) for name in names]
    checks = [_copies(kind, values["synthetic"], control)]
    if kind == OUTLINE:
        checks.append(_outlines(groups, values, control, settings))
        checks += _donors(groups, settings)
    if kind in KINDS:
        checks.append(_beyond(kind, groups, values, control, settings))
        checks.append(_closer(kind, groups, values, control, settings, seed))
    return control, checks


def _is_number(row: Mapping) -> bool:
    twice = row["group"] == "synthetic" and row["kind"] in KINDS  # these look among the held-out ones too
    needed = [row[key] for key in (["correlation", "held_out_correlation"] if twice else ["correlation"])]
    return bool(np.isfinite([float(value) if value not in (None, "") else np.nan for value in needed]).all())


def _control(kind: str, groups: Mapping, no_number: int, settings: Thresholds, seed: int) -> Control:
    held_out, n = correlations(groups["held-out"]), len(groups["synthetic"])
    patients = [row["patient"] for row in groups["held-out"]]
    highest = by_patient(evidence(held_out), patients, np.max)
    critical = critical_value(highest, n, settings.alpha / CHECKS) if n else np.inf
    level = as_correlation(critical) if critical <= evidence(1.0) else None
    own = [row for row in groups["planted"] if row.get("disguise", NOISY) == ANSWERED_BY[kind]]
    found = [row["found"] for row in noticed([*own, *groups["train"]], level)]
    recall = float(np.mean(found)) if found else 0.0
    needed = None
    if recall < LEAST_RECALL and own and n:
        wanted = float(np.quantile(evidence(correlations(own)), 1 - LEAST_RECALL))
        needed = patients_needed(highest, n, settings.alpha / CHECKS, wanted)
        if needed and needed <= len(highest):  # there are enough: the copies were taken for other patients'
            needed = None
    return Control(
        kind=kind, synthetic=n, held_out=len(held_out), train=len(groups["train"]), planted=len(own), recall=recall,
        copy_level=level, held_out_highest=float(held_out.max()) if len(held_out) else None,
        false_alarms=false_alarms(held_out, patients, settings.alpha / CHECKS, seed) if len(highest) > 1 else None,
        held_out_patients=len(highest), patients_needed=needed, no_number=no_number,
    )  # fmt: skip


def noticed(rows: Sequence[Mapping], level: float | None) -> list[dict]:
    """Whether each planted copy among ``rows`` of one kind is a finding, of the right patient."""
    owner = {row["place"]: row["patient"] for row in rows if row["group"] == "train"}
    planted = [row for row in rows if row["group"] == "planted"]
    return [
        {
            "disguise": row.get("disguise", NOISY),
            "copy": row.get("copy"),
            "found": level is not None
            and _is_number(row)
            and float(row["correlation"]) >= level
            and owner.get(row["nearest"]) == owner.get(row["source"], row.get("patient")),
        }
        for row in planted
    ]


def disguise_recalls(seen: Sequence[Mapping]) -> list[dict]:
    """For every disguise the share of copies that some kind found; the noisy ones are each kind's own (`Control`)."""
    recalls = []
    for name in DISGUISES:
        found = {}
        for row in seen:
            if row["disguise"] == name:
                found[row["copy"]] = found.get(row["copy"], False) or row["found"]
        recalls.append(
            {"disguise": name, "planted": len(found), "recall": float(np.mean(list(found.values()))) if found else 0.0}
        )
    return recalls


def disguise_check(recalls: Sequence[Mapping]) -> Check:
    """Those of ``VERBATIM`` must be found; what else was not is named."""
    hidden = [row for row in recalls if row["recall"] < LEAST_RECALL]
    blind = any(row["disguise"] in VERBATIM for row in hidden)
    found = [row["disguise"] for row in recalls if row not in hidden]
    told = "; ".join(f"{row['disguise']} ({row['recall']:.0%} found)" for row in hidden)
    sentence = (
        ("Blind: copies of a patient's own voxels were not found. " if blind else "")
        + (f"Not looked for, since such single copies are not found reliably: {told}. " if hidden else "")
        + (f"Found: {'; '.join(found)}." if found else "Nothing was found.")
    )
    least = min((row["recall"] for row in recalls if row["disguise"] in VERBATIM), default=0.0)
    return Check("disguises", least, None, None, LEAST_RECALL, BLIND if blind else PASS, sentence)


def outline_recalls(rows: Sequence[Mapping]) -> list[dict]:
    """For every disguise of outlines the share of copies whose nearest outline is that of the right patient."""
    owner = {row["place"]: row["patient"] for row in rows if row["group"] == "train"}
    recalls = []
    for name in outlines.DISGUISES:
        right = [owner[row["nearest"]] == row["patient"] for row in rows if row.get("disguise") == name]
        if right:
            recalls.append({"disguise": name, "planted": len(right), "recall": float(np.mean(right))})
    return recalls


def _outlines(groups: Mapping, values: Mapping, control: Control, settings: Thresholds) -> Check:
    """Whether outlines lead to train patients: how far the nearest stands out against the next one, by patients."""
    strength = {name: by_patient(evidence(values[name]), [row["patient"] for row in groups[name]]) for name in values}
    found, alpha = separation(strength["synthetic"], strength["held-out"], CONFIDENCE), settings.alpha / CHECKS
    recalls = outline_recalls([row for rows in groups.values() for row in rows])
    missed = [row for row in recalls if row["disguise"] in outlines.REQUIRED and row["recall"] < LEAST_RECALL]
    few = found.smallest_p >= alpha
    result = result_of(found.p < alpha, few or bool(missed) or len(recalls) < len(outlines.DISGUISES))
    patients = f"{len(strength['synthetic'])} patients' or made up outlines"
    area = f"AUC {interval_text(found.auc, found.low, found.high, 2)}"
    area += f" against {len(strength['held-out'])} held-out patients"
    sentence = (
        f"The outlines of lungs and body {'lead' if found.p < alpha else 'lead no more than strangers do'} to train "
        f"patients: the nearest of them stands out against the next by {area} (p {found.p:.2g}, limit {alpha:.2g}); "
        f"{control.synthetic} cases with {patients}. Planted copies that lead to their patient: "
        + "; ".join(f"{row['disguise']} {row['recall']:.0%}" for row in recalls)
        + "."
    )
    told = "; ".join(row["disguise"] for row in missed)
    blind = f"Blind: not found reliably: {told}. " if missed else "Blind: so few patients cannot show it. "
    return Check("outline: closer", found.p, None, None, alpha, result, as_told(result, blind, sentence))


def _donors(groups: Mapping, settings: Thresholds) -> list[Check]:
    """Whether outlines lead to the very patients that lent them: no check of a set that is nobody's."""
    owner = {row["place"]: row["patient"] for row in groups["train"]}
    patients = set(owner.values())
    lent = [row for row in groups["synthetic"] if row["patient"] in patients]
    if not lent:
        return []
    right = by_patient([owner[row["nearest"]] == row["patient"] for row in lent], [row["patient"] for row in lent])
    count, alpha = int(right.sum() + 1e-9), settings.alpha / CHECKS
    p = float(stats.binomtest(count, len(right), 1 / len(patients), "greater").pvalue)
    cases = sum(owner[row["nearest"]] == row["patient"] for row in lent)
    sentence = (
        f"{cases} of {len(lent)} synthetic outlines are nearest to that of the patient whose body they have, of "
        f"{len(patients)} patients (p {p:.2g}, limit {alpha:.2g})."
    )
    few = len(patients) ** -len(right) >= alpha
    blind = "Blind: so few patients cannot show it. " if few else ""
    result = result_of(p < alpha, few)
    return [Check("outline: donors", p, None, None, alpha, result, as_told(result, blind, sentence))]


def _copies(kind: str, synthetic: np.ndarray, control: Control) -> Check:
    """One synthetic case above what chance allows the highest of so many is a patient given away."""
    level = control.copy_level
    count = int((synthetic >= level).sum()) if level is not None else None
    result = result_of(bool(count), bool(blindness(control)))
    cubes = "case" if kind == PART else kind
    of = "any part of a train case" if kind == PART else f"a train {kind}"
    measure = "likeness" if kind == OUTLINE else "correlation"
    if level is None:
        limit = f"with {control.held_out_patients} held-out patients no {measure} of a single one would be a finding"
    else:
        highest = f"the closest held-out {cubes} has {control.held_out_highest:.2f}"
        limit = f"from {level:.3g} on a single one is a finding, {highest}"
    if count:
        sentence = f"{count} of {len(synthetic)} synthetic {cubes}s are nearer to {of} than chance allows: {limit}."
    else:
        sentence = (
            f"{blindness(control)}The synthetic {cubes} that is closest to {of} has a {measure} of "
            f"{synthetic.max():.2f}; {limit}."
        )
    return Check(f"{kind}: copies", count, None, None, 0, result, sentence)


def _beyond(kind: str, groups: Mapping, values: Mapping, control: Control, settings: Thresholds) -> Check:
    """The count stands for as many patients: of one patient's cases all may be alike."""
    held_out = by_patient(values["held-out"], [row["patient"] for row in groups["held-out"]], np.max)
    sources = len({row["patient"] for row in groups["synthetic"]})
    cubes: Beyond = beyond(values["synthetic"], held_out, CONFIDENCE)
    count = int(cubes.fraction * sources + 1e-9)
    tail = beyond(np.where(np.arange(sources) < count, np.inf, -np.inf), held_out, CONFIDENCE)
    allowed, alpha = settings.largest_fraction_beyond, settings.alpha / CHECKS
    failed = cubes.fraction > allowed and tail.p < alpha
    # The p of all of them: what so few patients could show at most.
    few = beyond(np.full(sources, np.inf), np.zeros(len(held_out)), CONFIDENCE).p >= alpha
    undecided = cubes.fraction > allowed and not failed
    result = result_of(failed, few or undecided or bool(blindness(control)))
    percent = interval_text(100 * cubes.fraction, 100 * tail.low, 100 * tail.high, 1)
    sentence = (
        f"{cubes.count} of {control.synthetic} synthetic {kind}s ({percent} %) are closer to a train {kind} than "
        f"{1 - tail.expected:.0%} of held-out patients' are; by chance {tail.expected:.1%} (p {tail.p:.2g}), allowed "
        f"{allowed:.1%}."
    )
    blind = blindness(control) or too_few(few and not failed, undecided)
    sentence = as_told(result, blind, sentence)
    return Check(f"{kind}: beyond", cubes.fraction, tail.low, tail.high, allowed, result, sentence)


def _closer(kind: str, groups: Mapping, values: Mapping, control: Control, settings: Thresholds, seed: int) -> Check:
    means = [by_patient(values[name], [row["patient"] for row in groups[name]]) for name in ("synthetic", "held-out")]
    found = separation(*means, CONFIDENCE)
    is_train = {row["patient"]: row["group"] == "train" for row in groups["looked among"]}
    owner = {row["place"]: row["patient"] for row in groups["looked among"]}
    elsewhere = correlations(groups["synthetic"], "held_out_correlation")
    nearest = [
        owner[row["nearest"] if here > there else row["held_out_nearest"]]
        for row, here, there in zip(groups["synthetic"], values["synthetic"], elsewhere, strict=True)
    ]
    preferred = preference(nearest, is_train, seed)
    p, alpha = max(found.p, preferred.p), settings.alpha / CHECKS
    few = max(found.smallest_p, preferred.smallest_p) >= alpha
    result = result_of(p < alpha, few or bool(blindness(control)))
    told = "are closer to train ones than held-out ones are" if p < alpha else "show no pull to train ones"
    area = interval_text(found.auc, found.low, found.high, 2)
    sentence = (
        f"Synthetic {kind}s {told}: AUC {area} against held-out (p {found.p:.2g}); "
        f"{preferred.share:.0%} have a train patient as nearest, by chance {preferred.expected:.0%} "
        f"(p {preferred.p:.2g}). A pull needs both p below {alpha:.2g}."
    )
    blind = blindness(control) or ("Blind: so few patients cannot show it. " if few else "")
    return Check(f"{kind}: closer", p, None, None, alpha, result, as_told(result, blind, sentence))


def membership_check(losses: Sequence[Mapping], settings: Thresholds) -> Check:
    """Lower loss on learned patients: an AUC above what is allowed, and not by chance. A loss that is no number may
    hide the very patient who is given away."""
    allowed, alpha = settings.largest_membership_auc, settings.alpha / CHECKS
    told = [row for row in losses if np.isfinite(float(row["log_loss"] or "nan"))]
    none = len(losses) - len(told)
    learned, unseen = (_mean_losses([row for row in told if row["group"] == g]) for g in ("learned", "unseen"))
    unknown = f"Blind: {none} of {len(losses)} losses are no numbers. " if none else ""
    if not len(learned) or not len(unseen):
        sentence = f"{unknown or 'Blind: '}There is no loss of {'unseen' if len(learned) else 'learned'} cases."
        return Check("membership", None, None, None, allowed, BLIND, sentence)
    found = separation(-learned, -unseen, CONFIDENCE)
    few = found.smallest_p >= alpha
    failed = found.auc > allowed and found.p < alpha
    undecided = found.auc > allowed and not failed
    can = "An attacker can tell" if failed else f"An attacker {'may' if undecided else 'could not'} tell"
    sentence = (
        f"{can} {len(learned)} patients from whom the generator learned, by its loss, from {len(unseen)} whom it never "
        f"saw: AUC {interval_text(found.auc, found.low, found.high, 2)} (p {found.p:.2g}); 0.5 is chance, allowed "
        f"{allowed:g}."
    )
    result = result_of(failed, bool(none) or few or undecided)
    blind = unknown or too_few(few, undecided)
    return Check("membership", found.auc, found.low, found.high, allowed, result, as_told(result, blind, sentence))


def _mean_losses(rows: Sequence[Mapping]) -> np.ndarray:
    """One loss for each patient: ``[patients]``."""
    return by_patient(correlations(rows, "log_loss"), [row["patient"] for row in rows])
