"""Two tables of cases. ``listing.tsv`` has every case that the raw data hold, its split, and why it is left out if it
is; ``cohort.tsv`` is the same after the cases were prepared, less those that could not be.

``role`` is marked, or host: a case without marked lesions, which teaches the generator and lends its body. It is of the
train split, but in no arm as labelled data (`lungsyn.hosts`). ``train_rank`` orders the train patients: a smaller
training set is those of the lowest ranks; patients who have hosts only have an order of their own. With folds there are
``split_1``, ``train_rank_1`` and so on in place of ``split`` and ``train_rank``. ``slice_mm`` and
``noise_hu`` say what kind of scan it is (`lungsyn.volume.source`). ``warnings`` say what is odd about a case that is
used all the same. ``raw`` is a digest of its raw files (keyed where names are not public), unless the reader lists them
once: a case whose files changed is prepared anew, whatever their time stamps say. Which files those are, and what may
not be said to everybody, is in ``private/names.tsv`` (see ``cohort.private``).
"""

from collections import Counter
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from lungsyn.cohort import private, split
from lungsyn.cohort.annotations import RATINGS
from lungsyn.cohort.names import as_folder
from lungsyn.cohort.patients import refuse_two_splits
from lungsyn.cohort.preprocess import prepare
from lungsyn.errors import InputError
from lungsyn.folds import OF_A_PATIENT, columns_of, folds_in, in_fold
from lungsyn.hosts import HOST, MARKED, is_host
from lungsyn.memory import keep_freed_memory
from lungsyn.registry import family
from lungsyn.settings.cohort import Listing, Preparation
from lungsyn.volume import source
from lungsyn.volume.files import Case
from lungsyn.volume.nodules import nodule_facts
from lungsyn.volume.tables import JOIN

NODULE_COLUMNS = [
    "case", "patient", "nodule", "diameter_mm", "volume_mm3", "touches_pleura", "readers", *RATINGS,
]  # fmt: skip
COLUMNS = [
    "case", "patient", "role", "split", "train_rank", "n_nodules", "spacing_mm", "slice_mm", "noise_hu",
    "status", "reason", "warnings", "raw",
]  # fmt: skip


def columns(folds: Iterable[int | None]) -> list[str]:
    """``COLUMNS`` with those of each fold in place of ``split`` and ``train_rank``."""
    own = columns_of(folds)
    before = COLUMNS.index(OF_A_PATIENT[0])
    return [*COLUMNS[:before], *own, *COLUMNS[before + len(OF_A_PATIENT) :]]


NO_SUCH_CASE = "cohort.exclude names a case that is not there"


def index(settings: Listing, root: Path, seed: int, workers: int = 1, known: Iterable[dict] = ()) -> list[dict]:
    """Rows of ``COLUMNS`` and of ``private.COLUMNS`` for every case below ``root``, sorted by case.

    ``known``: rows of an earlier ``names.tsv``. Raises InputError if no case can be used.
    """
    known = list(known)
    if settings.exclude and not settings.readable and not known:
        raise InputError(
            "cohort.exclude goes by numbers, and there is no results/private/names.tsv that says whose they are: put "
            "it back; or take cohort.exclude out, make results/listing.tsv, and exclude by the numbers of the new one"
        )
    return with_splits(found_by_reader(settings, root, workers), settings, seed, known)


def with_splits(found: list[dict], settings: Listing, seed: int, known: Iterable[dict] = ()) -> list[dict]:
    """The rows of ``index`` from the reader's own."""
    if not settings.readable:
        found = private.numbered(found, known, seed)
    rows = _without(found, settings.exclude)
    included = [row for row in rows if row["status"] == "included"]
    if all(map(is_host, included)):
        raise _none_left(rows)
    split_of = _dealt(found, included, settings, seed)
    rows = [_unless_tested(row, split_of) for row in rows]
    included = [row for row in rows if row["status"] == "included"]
    for fold in split.folds_of(settings.split):
        named, rank = columns_of([fold])
        of_fold = {name: of[fold] for name, of in split_of.items()}
        ranks = _ranks(included, of_fold, seed)
        for row in rows:
            row[named] = of_fold[row["patient_name"]] if row["status"] == "included" else ""
            row[rank] = ranks.get(row["patient_name"], "") if row[named] == "train" else ""
    for row in rows:
        row["warnings"] = JOIN.join(row["warnings"])
        row["slice_mm"] = row["noise_hu"] = ""  # known once the case is prepared
        row["raw"] = row["raw"] if row["status"] == "included" else ""
    marked = [row for row in found if row["status"] == "included" and not is_host(row)]
    needed = {of for row in marked for of in split_of[row["patient_name"]].items()}
    _check_splits(rows, needed, "cohort.exclude leaves")
    return sorted(rows, key=lambda row: row["case"])


def _unless_tested(row: dict, split_of: dict[str, dict[int | None, str]]) -> dict:
    """A row, excluded if it is a host whose patient has cases in validation or test, with folds in any of them: the
    generator would learn whom it is tested on."""
    if row["status"] != "included" or not is_host(row):
        return row
    where = sorted((fold, name) for fold, name in split_of[row["patient_name"]].items() if name != "train")
    if not where:
        return row
    place = where[0][1] if where[0][0] is None else f"{where[0][1]} of a fold"
    return row | {"status": "excluded", "reason": f"a host of a patient in {place}: only train patients teach"}


def _ranks(included: Iterable[dict], split_of: dict[str, str], seed: int) -> dict[str, int]:
    """The order in which train patients join, of those with marked cases and of the others by itself."""
    train = [row for row in included if split_of[row["patient_name"]] == "train"]
    marked = {row["patient_name"] for row in train if not is_host(row)}
    others = {row["patient_name"] for row in train} - marked
    return split.train_ranks(marked, seed) | split.train_ranks(others, seed)


def found_by_reader(settings: Listing, root: Path, workers: int) -> list[dict]:
    """The reader's rows, each with its role. Raises InputError for two of one case, and for one whose files could
    change unseen."""
    reader = family("readers", settings.dataset)
    blank = {"warnings": [], "detail": "", "source": "", "annotation": "", "raw": ""}
    found = [
        blank | row | {"name": row["case"], "patient_name": row["patient"]}
        for row in reader.index(Path(root), settings, workers)
    ]
    for row in found:
        nothing_marked = row["status"] == "included" and not int(row["n_nodules"] or 0)
        row["role"] = row.get("role") or (HOST if nothing_marked and settings.unmarked == HOST else MARKED)
    counts = Counter(row["case"] for row in found)
    unseen = [row["case"] for row in found if row["status"] == "included" and not row["raw"]]
    if twice := [case for case, count in counts.items() if count > 1]:
        raise InputError(f"reader {settings.dataset!r} has two rows of one case: give each a name", f"case {twice[0]}")
    if unseen and not reader.listed_once:
        raise InputError(
            f"reader {settings.dataset!r} gives a case no 'raw', so that a change of its files would not be noticed: "
            "give it a digest of their bytes (lungsyn.cohort.raw.digest)",
            f"case {unseen[0]}",
        )
    return found


def _dealt(found: list[dict], included: list[dict], settings: Listing, seed: int) -> dict[str, dict[int | None, str]]:
    """The split of every patient of ``found``, in each fold; ``included`` are those rows that the config does not
    exclude.

    Patients who have hosts only are train patients, unless they are given another split, and change nobody's. Dealt
    before the config's own exclusions, since to leave out one case must not move the others' patients. Only where
    an excluded case is given another split than one of its patient that stays it has none. Raises InputError, which
    tells why cases were left out.
    """
    refuse_two_splits(included)
    given = {row["patient_name"]: row["split"] for row in included if row.get("split")}
    stays = {row["case"] for row in included}
    usable = [row for row in found if row["status"] == "included"]
    dealt = [
        (row["patient_name"], row.get("split", ""))
        if row["case"] in stays or row["patient_name"] not in given else (row["patient_name"], "")
        for row in usable
    ]  # fmt: skip
    marked = {row["patient_name"] for row in usable if not is_host(row)}
    others = split.given_splits(pair for pair in dealt if pair[0] not in marked)
    try:
        dealt = [pair for pair in dealt if pair[0] in marked]
        folds = split.folds_of(settings.split)
        teach = {name: dict.fromkeys(folds, given or "train") for name, given in others.items()}
        return teach | split.assign_all(dealt, settings.split, seed)
    except InputError as error:
        if len(usable) == len(found):
            raise
        raise _with_reasons(f"{error}; left out are", found, error.detail) from error


def _none_left(rows: list[dict]) -> InputError:
    hosts = sum(row["status"] == "included" for row in rows)
    but = f"; {hosts} are hosts, which only teach: mark lesions in some" if hosts else ""
    return _with_reasons(f"no case can be used, of {len(rows)}{but}", rows)


def _with_reasons(message: str, rows: list[dict], detail: str = "") -> InputError:
    """``message``, and why cases were left out: an example of each kind of reason, the most frequent first."""
    rows = [row for row in rows if row["status"] != "included"]
    examples = {_kind(row["reason"]): row for row in reversed(rows)}
    counts = Counter(_kind(row["reason"]) for row in rows)
    shown = [(examples[kind], count) for kind, count in counts.most_common(4)]
    told = [f"  {row['case']}: {row['reason']} (so it is with {count})" for row, count in shown]
    who = [f"{row['case']} is {row['name']}" for row, _ in shown if row.get("name", row["case"]) != row["case"]]
    return InputError("\n".join([message, *told]), "; ".join(filter(None, [detail, *who])))


def _check_splits(rows: list[dict], needed: set[tuple[int | None, str]], who: str) -> None:
    emptied = sorted(needed - _filled(rows), key=lambda of: (of[0] or 0, split.SPLITS.index(of[1])))
    if emptied:
        names = ", ".join(name if fold is None else f"{name} of fold {fold}" for fold, name in emptied)
        raise _with_reasons(f"{who} split {names} without a case: leave fewer out, or add cases; left out are", rows)


def _filled(rows: list[dict]) -> set[tuple[int | None, str]]:
    """Which splits, of which folds, have a marked case."""
    marked = [row for row in rows if not is_host(row)]
    return {(fold, row["split"]) for fold in folds_in(rows) for row in in_fold(marked, fold) if row["split"]}


def settled(listing: list[dict], abouts: dict[str, dict]) -> list[dict]:
    """The rows of ``listing`` after preparing, ``abouts`` being the contents of ``case.json`` by case: one that could
    not be prepared is excluded with its reason, and what was odd is told. Raises InputError if no case is left."""
    rows = [_settled(row, abouts[row["case"]]) if row["status"] == "included" else row for row in listing]
    included = [row for row in rows if row["status"] == "included"]
    if all(map(is_host, included)):
        raise _none_left(rows)
    _check_splits(rows, _filled(listing), "what could not be prepared leaves")
    for fold in folds_in(listing):
        _, rank = columns_of([fold])
        train = [row for row in included if row[rank]]
        marked = {row["patient"] for row in train if not is_host(row)}
        for alike in ([row for row in train if (row["patient"] in marked) is own] for own in (True, False)):
            ranks = sorted({int(row[rank]) for row in alike})
            for row in alike:
                row[rank] = ranks.index(int(row[rank])) + 1
    return rows


def _settled(row: dict, about: dict) -> dict:
    if reason := about.get("left_out"):
        nowhere = dict.fromkeys(columns_of(folds_in([row])), "")
        return row | {"status": "excluded", "reason": reason} | nowhere
    warnings = [*filter(None, row["warnings"].split(JOIN)), *about.get("warnings", [])]
    kind = about.get("source", {})  # of before there was one: not known
    return row | kind | {"n_nodules": len(about["nodules"]), "warnings": JOIN.join(dict.fromkeys(warnings))}


def _without(rows: list[dict], exclude: dict[str, str]) -> list[dict]:
    """``rows`` with the config's own exclusions, by case or by its file's name; one that names no case gets a row that
    says so."""
    known = {row["case"] for row in rows}
    exclude = {name if name in known else as_folder(name): reason for name, reason in exclude.items()}
    blank = dict.fromkeys([*COLUMNS, *private.COLUMNS], "") | {"status": "excluded", "warnings": []}
    return [
        row | {"status": "excluded", "reason": exclude[row["case"]]} if row["case"] in exclude else row for row in rows
    ] + [
        blank | {"case": case, "name": case, "reason": f"{NO_SUCH_CASE}: {reason}"}
        for case, reason in exclude.items() if case not in known
    ]  # fmt: skip


def summary(rows: list[dict]) -> str:
    """Counts per split and per reason, as lines of text."""
    included = [row for row in rows if row["status"] == "included"]
    there = [row for row in rows if not row["reason"].startswith(NO_SUCH_CASE)]
    lines = [f"{len(included)} of {len(there)} cases included"]
    for fold, name in product(folds_in(rows), split.SPLITS):
        part = [row for row in in_fold(included, fold) if row["split"] == name and not is_host(row)]
        patients, nodules = {row["patient"] for row in part}, sum(int(row["n_nodules"]) for row in part)
        where = name if fold is None else f"fold {fold}, {name}"
        lines.append(f"  {where}: {len(part)} cases of {len(patients)} patients, {nodules} nodules")
    if hosts := [row for row in included if is_host(row)]:
        of = len({row["patient"] for row in hosts})
        lines.append(f"  hosts, without marked lesions: {len(hosts)} cases of {of} patients")
    reasons = Counter(_kind(row["reason"]) for row in rows if row["status"] == "excluded")
    lines += [f"  excluded, {kind}: {count}" for kind, count in reasons.most_common()]
    warned = Counter(_kind(warning) for row in included for warning in row["warnings"].split(JOIN) if warning)
    lines += [f"  warning, {kind}: {count}" for kind, count in warned.most_common()]
    return "\n".join(lines)


def _kind(reason: str) -> str:
    """A reason up to its particulars, so that like ones are counted together."""
    return reason.split(":")[0].split(" (")[0]


def prepare_case(row: dict, settings: Preparation, root: Path) -> Case:
    """Read the raw files of one row of ``names.tsv`` and prepare the case. Raises InputError with the reason why that
    cannot be done."""
    keep_freed_memory()
    raw = family("readers", settings.dataset).read(Path(root), row, settings)
    if missing := [name for name in settings.labels if name not in raw.labels]:
        raise InputError(f"no label {missing[0]}: dataset {settings.dataset!r} has none; take it out of cohort.labels")
    further = {name: raw.labels[name] for name in settings.labels}
    host = is_host(row)  # whatever a reader gives, nothing of it is marked
    nodules, facts = ([], []) if host else (list(raw.nodules), raw.facts)
    case = prepare(raw.ct, nodules, settings.preprocess, further)
    found = nodule_facts(case.nodules, case.lungs, case.space)
    case.about.update({"role": HOST} if host else {})
    case.about.update(
        case=row["case"], patient=row["patient"], dataset=settings.dataset,
        source=source.measured(raw.ct)._asdict(),
        native_spacing_mm=[round(float(value), 4) for value in raw.ct.space.spacing_mm],
        nodules=[measured | known for measured, known in zip(found, facts or [{} for _ in found], strict=True)],
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
