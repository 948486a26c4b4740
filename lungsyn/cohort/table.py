"""The cohort table (``cohort.tsv``): every case that the raw data hold, its split, and why it is left out if it is.

``train_rank`` orders the train patients: a smaller training set is those of the lowest ranks. ``source`` and
``annotation`` let one case be prepared without looking at the others: for DICOM the series' folder and
its UID; for NIfTI the image and the label file. Paths are relative to the cohort's root.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lungsyn.cohort import lidc, nifti, split
from lungsyn.cohort.annotations import RATINGS
from lungsyn.cohort.preprocess import prepare
from lungsyn.config import Listing, Preparation
from lungsyn.errors import InputError
from lungsyn.memory import keep_freed_memory
from lungsyn.volume.files import Case
from lungsyn.volume.nodules import nodule_facts

NODULE_COLUMNS = [
    "case", "patient", "nodule", "diameter_mm", "volume_mm3", "touches_pleura", "readers", *RATINGS,
]  # fmt: skip
COLUMNS = [
    "case",
    "patient",
    "split",
    "train_rank",
    "n_nodules",
    "spacing_mm",
    "status",
    "reason",
    "source",
    "annotation",
]
NO_SUCH_CASE = "cohort.exclude names a case that is not there"


def index(settings: Listing, root: Path, seed: int, workers: int = 1) -> list[dict]:
    """Rows of ``COLUMNS`` for every case below ``root``, sorted by case. Raises InputError if none can be used."""
    reader = nifti if settings.dataset == "nifti" else lidc
    found = reader.index(root, settings, workers)
    rows = _without(found, settings.exclude)
    included = [row for row in rows if row["status"] == "included"]
    if not included:
        examples = {_kind(row["reason"]): f"  {row['case']}: {row['reason']}" for row in reversed(rows)}
        counts = Counter(_kind(row["reason"]) for row in rows)
        told = [f"{examples[kind]} (so it is with {count})" for kind, count in counts.most_common(4)]
        raise InputError("\n".join([f"{root}: no case can be used, of {len(rows)}", *told]))
    # Dealt before the config's own exclusions: to leave out one case must not move the others' patients.
    dealt = [(row["patient"], row.get("split", "")) for row in found if row["status"] == "included"]
    split_of = split.assign(dealt, settings.split, seed)
    left = {split_of[row["patient"]] for row in included}
    if emptied := [name for name in split.SPLITS if name in split_of.values() and name not in left]:
        raise InputError(f"cohort.exclude leaves split {', '.join(emptied)} without a case: leave fewer out")
    ranks = split.train_ranks((row["patient"] for row in included if split_of[row["patient"]] == "train"), seed)
    for row in rows:
        row["split"] = split_of[row["patient"]] if row["status"] == "included" else ""
        row["train_rank"] = ranks.get(row["patient"], "") if row["split"] == "train" else ""
    return sorted(rows, key=lambda row: row["case"])


def _without(rows: list[dict], exclude: dict[str, str]) -> list[dict]:
    """``rows`` with the config's own exclusions, by case or by its file's name; one that names no case gets a row that
    says so."""
    known = {row["case"] for row in rows}
    exclude = {name if name in known else nifti.as_folder(name): reason for name, reason in exclude.items()}
    blank = dict.fromkeys(COLUMNS, "") | {"status": "excluded"}
    return [
        row | {"status": "excluded", "reason": exclude[row["case"]]} if row["case"] in exclude else row for row in rows
    ] + [
        blank | {"case": case, "reason": f"{NO_SUCH_CASE}: {reason}"}
        for case, reason in exclude.items() if case not in known
    ]  # fmt: skip


def summary(rows: list[dict]) -> str:
    """Counts per split and per reason, as lines of text."""
    included = [row for row in rows if row["status"] == "included"]
    there = [row for row in rows if not row["reason"].startswith(NO_SUCH_CASE)]
    lines = [f"{len(included)} of {len(there)} cases included"]
    for name in split.SPLITS:
        part = [row for row in included if row["split"] == name]
        patients, nodules = {row["patient"] for row in part}, sum(int(row["n_nodules"]) for row in part)
        lines.append(f"  {name}: {len(part)} cases of {len(patients)} patients, {nodules} nodules")
    reasons = Counter(_kind(row["reason"]) for row in rows if row["status"] == "excluded")
    lines += [f"  excluded, {kind}: {count}" for kind, count in reasons.most_common()]
    return "\n".join(lines)


def _kind(reason: str) -> str:
    """A reason up to its particulars, so that like ones are counted together."""
    return reason.split(":")[0].split(" (")[0]


def prepare_case(row: dict, settings: Preparation, root: Path) -> Case:
    """Read one included row's raw files and prepare the case. Raises InputError naming case and file."""
    keep_freed_memory()
    root = Path(root)
    try:
        if settings.dataset == "nifti":
            ct, masks = nifti.read_case(root, row["source"], row["annotation"], settings)
            facts = [{} for _ in masks]
        else:
            ct, marked, masks = lidc.read_case(root / row["source"], row["annotation"], settings.nodules)
            facts = [
                {"diameter_mm": nodule.diameter_mm, "readers": nodule.readers, "ratings": nodule.ratings}
                for nodule in marked
            ]
        case = prepare(ct, masks, settings.preprocess)
    except InputError as error:
        raise InputError(
            f"case {row['case']}: {error}, or leave it out: cohort.exclude: {{{row['case']}: <reason>}}"
        ) from error
    found = nodule_facts(case.nodules, case.lungs, case.space)
    case.about.update(
        case=row["case"], patient=row["patient"], dataset=settings.dataset,
        native_spacing_mm=[round(float(value), 4) for value in ct.space.spacing_mm],
        nodules=[measured | known for measured, known in zip(found, facts, strict=True)],
    )  # fmt: skip
    return case


def nodule_rows(abouts: Iterable[dict]) -> list[dict]:
    """Rows of ``NODULE_COLUMNS``, one per nodule, from the cases' ``about``; what no reader noted stays empty."""
    unknown = dict.fromkeys(["readers", *RATINGS])
    return [
        unknown | nodule | nodule.get("ratings", {})
        | {"case": about["case"], "patient": about["patient"], "nodule": nodule["index"]}
        for about in abouts for nodule in about["nodules"]
    ]  # fmt: skip
