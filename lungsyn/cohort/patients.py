"""Who is who in a cohort of files: the list of patients, its spellings, and images that stand there twice.

``cases.tsv`` beside the folders has the columns case and patient, and split and role if one likes. A patient who counts
as two can be trained on and tested on, which no result would show. So what looks like a list and is not read ends the
run.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from lungsyn.cohort.names import alike, readable, spelling_key
from lungsyn.cohort.overlap import overlapping
from lungsyn.errors import InputError
from lungsyn.hosts import HOST
from lungsyn.volume.tables import read_table

LIST = "cases.tsv"
NO_LIST = "no list of patients (cases.tsv) was found: this case counts as a patient of its own"
SAME_PATIENT = "has the same voxels as another case of its patient"
SAME_VOXELS = "has the same voxels as a case of another patient: both count as one patient"
SAME_PART = "has a part of its image in common with a case of another patient: if they are one, say so in cases.tsv"
# cases.csv, Cases.tsv, cases.tsv.txt, cases.tsv.dvc, case.tsv, patients.xlsx, "cases (1).tsv", participants.tsv (BIDS)
LIKE_A_LIST = re.compile(
    r"(?s)[^.~].*\.(tsv|csv|tab|txt|xlsx?|xlsm|ods|numbers|json|parquet)([^a-z0-9].*)?|(cases|patients)", re.IGNORECASE
)
LIST_WORDS = re.compile(
    r"(?<![a-z])(case|patient|paciente|participant|subject|pat)(s|en|lists?|s?[ _-]?ids?)?(?![a-z])", re.IGNORECASE
)
NOBODY = {"", "na", "n a", "nan", "nil", "none", "null", "unknown", "unbekannt"}  # by spelling, with the empty name


def read_list(root: Path, folders: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The rows of ``cases.tsv`` by case; empty if there is no list. Raises InputError for one that is not to be read:
    of another name or in one of the ``folders``, no file, without a column, a case or a patient, or with a case twice.
    """
    if not os.path.lexists(root / LIST):
        _refuse_other_lists(root, folders)
        return {}
    if not (root / LIST).is_file():
        raise InputError(f"{LIST} is no file, or a link to one that is gone: put the list itself there")
    rows = _rows(root / LIST)
    listed = {row["case"]: row for row in rows}
    if len(listed) < len(rows):
        twice = Counter(row["case"] for row in rows).most_common(1)[0][0]
        raise InputError(f"{LIST}: a case is listed more than once: keep one of its rows", detail=f"case {twice}")
    return listed


def _refuse_other_lists(root: Path, folders: tuple[str, ...]) -> None:
    for folder in (root, *(root / name for name in folders)):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if folder != root and path.name == LIST:
                raise InputError(f"{LIST} belongs beside the folders of images and labels: move it there", str(path))
            if LIKE_A_LIST.fullmatch(path.name) and LIST_WORDS.search(path.stem) and not path.is_dir():
                raise InputError(
                    f"a file looks like a list of patients, but only {LIST} is read, beside the folders of images and "
                    "labels: rename it (columns case and patient, parted by tabs), or move it away if it is none",
                    detail=str(path),
                )


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows with a case and a patient; headers in small letters without blanks, blank rows left out."""
    rows = [_tidy(row) for row in read_table(path)]
    rows = [row for row in rows if any(row.values())]
    if not rows:
        raise InputError(f"{LIST} lists no case: give each case a row, or move the file away", detail=str(path))
    for column in ("case", "patient"):
        if column not in rows[0]:
            raise InputError(
                f"{LIST}: no column {column!r} in its first line; cells are parted by tabs",
                detail=f"its columns are {', '.join(rows[0])}",
            )
    for row in rows:
        if not row["case"]:
            raise InputError(f"{LIST}: a row has no case: name one", detail=f"patient {row['patient']}")
        if spelling_key(row["patient"]) in NOBODY:
            raise InputError(
                f"{LIST}: a row has no patient: name one, or leave the case out; it would count as one of its own, or "
                "all such as one",
                detail=f"case {row['case']}, patient {row['patient']!a}",
            )
        if (role := row.get("role", "").lower()) not in ("", HOST):
            raise InputError(
                f"{LIST}: a role is {role!r}: write {HOST} for a case without marked lesions, else nothing",
                detail=f"case {row['case']}",
            )
    return [row | {"case": readable(row["case"]), "role": row.get("role", "").lower()} for row in rows]


def _tidy(row: dict) -> dict[str, str]:
    beyond = [cell for cell in row.get(None) or [] if cell.strip()]
    if beyond:
        raise InputError(f"{LIST}: a row has more cells than the header: look for a tab too many", detail=beyond[0])
    tidy: dict[str, str] = {}
    for key, cell in row.items():
        name = (key or "").strip().lower()
        if name in ("case", "patient", "split", "role") and name in tidy:
            raise InputError(f"{LIST}: two columns are called {name!r}: keep one")
        if key is not None:
            tidy[name] = (cell or "").strip()
    return tidy


def refuse_alike(patients: list[str], listed: bool) -> None:
    """Raise InputError if two of the patients' names differ in spelling only: they would count as two patients."""
    if pair := alike(patients):
        where = f"in {LIST}" if listed else f"in a {LIST}"
        raise InputError(
            "two patients' names differ only in spelling (letters, blanks, punctuation, zeros in front), and would "
            f"count as two patients: spell one patient in one way {where}, or give two patients names that differ in "
            "more",
            detail=f"{pair[0]!a} and {pair[1]!a}",
        )


def same_image(rows: list[dict]) -> list[dict]:
    """``rows`` with those patients made one (by the first of their names) whose cases have the same ``voxels``.

    Both cases get a warning, and so do those that have some in common (``parts``, see ``overlap``). Rows without
    ``voxels`` and ``parts`` share nothing.
    """
    shared = [group for group in _by(rows, "voxels").values() if len(group) > 1]
    pairs = [(rows[one], rows[other]) for one, other in overlapping([row.get("parts", ()) for row in rows])]
    one = _joined([{row["patient"] for row in group} for group in shared])
    kinds = [  # the last that holds is told
        (SAME_PATIENT, [group for group in shared if not _several(group)]),
        (SAME_PART, filter(_several, pairs)),
        (SAME_VOXELS, filter(_several, shared)),
    ]
    warning = {id(row): text for text, groups in kinds for group in groups for row in group}
    return [
        row
        | {"patient": one.get(row["patient"], row["patient"])}
        | {"warnings": _warned(row["warnings"], warning.get(id(row)))}
        for row in rows
    ]


def _several(rows: Iterable[dict]) -> bool:
    return len({row["patient"] for row in rows}) > 1


def _warned(warnings: list[str], another: str | None) -> list[str]:
    """``warnings`` and another; one that counts as a patient with another no longer counts as one of its own."""
    kept = [text for text in warnings if another != SAME_VOXELS or text != NO_LIST]
    return [*kept, another] if another else kept


def _by(rows: list[dict], key: str) -> dict[str, list[dict]]:
    groups = defaultdict(list)
    for row in rows:
        if row.get(key):
            groups[row[key]].append(row)
    return groups


def _joined(groups: list[set[str]]) -> dict[str, str]:
    """Each name of the groups -> the first name of all that it is joined with, be it through others."""
    sets: list[set[str]] = []
    for group in groups:
        meeting = [one for one in sets if one & group]
        sets = [one for one in sets if not one & group] + [group.union(*meeting)]
    return {name: min(one) for one in sets for name in one if len(one) > 1}


def refuse_two_splits(rows: list[dict]) -> None:
    """Raise InputError if the list gives different splits to patients who are one by their images (``same_image``);
    ``rows`` are those that are used."""
    for group in _by(rows, "patient_name").values():
        given = {row["split"]: row["name"] for row in group if row.get("split")}
        if len(given) > 1 and any(SAME_VOXELS in row["warnings"] for row in group):
            raise InputError(
                f"the same image stands in two splits ({', '.join(sorted(given))}), under two patients: {LIST} must "
                "give both the same split, or leave one out with cohort.exclude",
                detail="cases " + ", ".join(given[name] for name in sorted(given)),
            )
