"""Who is who: the study's own numbers for cases and patients whose names are not public, and the one table that tells.

File and folder names of hospitals hold patients' names. Everything after the index therefore knows ``case-0012`` and
``patient-0007`` only, and so do pictures, the report, models, synthetic cases and Snakemake's records. In
``results/private`` (mode 700) lie ``names.tsv``, which says which raw files a case comes from, and ``key``, with
which digests of patients' data are keyed: who holds a scan cannot look its digest up in a shared model.

Names of LIDC-IDRI and of the phantom are public; they stay as they are, and no key is made (``cohort.public_names``).
"""

import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from lungsyn.cohort.split import order
from lungsyn.errors import InputError
from lungsyn.settings.cohort import NUMBERED_CASE
from lungsyn.volume.files import whole_file
from lungsyn.volume.tables import read_table, write_table

COLUMNS = ["case", "patient", "name", "patient_name", "role", "source", "annotation", "detail"]
KEY = "key"


def numbered(rows: list[dict], known: Iterable[Mapping[str, str]], seed: int) -> list[dict]:
    """``rows`` with numbers for ``case`` and ``patient``, from their ``name`` and ``patient_name``.

    Names that are ``known`` (rows of an earlier ``names.tsv``) keep their numbers, so that one more file renames
    nobody. New ones follow in an order that tells nothing of the alphabet.
    """
    known = list(known)
    cases = _numbers("case", {row["name"] for row in rows}, {row["name"]: row["case"] for row in known}, seed)
    patients = _numbers(
        "patient", {row["patient_name"] for row in rows}, {row["patient_name"]: row["patient"] for row in known}, seed
    )
    return [row | {"case": cases[row["name"]], "patient": patients[row["patient_name"]]} for row in rows]


def is_number(case: str) -> bool:
    """Whether a case goes by a number, since its name is not public."""
    return re.fullmatch(NUMBERED_CASE, case) is not None


def _numbers(kind: str, names: set[str], known: Mapping[str, str], seed: int) -> dict[str, str]:
    """A number for each of ``names``, that of ``known`` where it is one: {name: ``kind``-0001}."""
    numbers = {name: number for name, number in known.items() if re.fullmatch(rf"{kind}-\d+", number)}
    last = max((int(number.rpartition("-")[2]) for number in numbers.values()), default=0)
    new = sorted(names - numbers.keys(), key=lambda name: order(seed, name, "number"))
    return numbers | {name: f"{kind}-{number:04d}" for number, name in enumerate(new, start=last + 1)}


def read_names(path: Path) -> list[dict[str, str]]:
    """The rows of ``names.tsv``; none before the first index."""
    return [{"role": ""} | row for row in read_table(path)] if Path(path).exists() else []  # none before hosts were


def row_of(path: Path, case: str) -> dict[str, str]:
    """The row of ``names.tsv`` of one case. Raises InputError if there is none."""
    found = [row for row in read_names(path) if row["case"] == case]
    if not found:
        raise InputError(
            f"{path}: no row of case {case}: delete results/listing.tsv and results/cohort.tsv, and give the same "
            "command again"
        )
    return found[0]


def write_names(path: Path, rows: Iterable[Mapping], earlier: Iterable[Mapping] = ()) -> None:
    """Write ``names.tsv``: the cases of ``rows``, then those of ``earlier`` tables that have no number among them since
    their files are gone or names are public now: their numbers are not given to others, and are theirs again."""
    rows = list(rows)
    there = {row["name"] for row in rows if is_number(row["case"])}
    gone = [row for row in earlier if row["name"] not in there and is_number(row["case"])]
    path = Path(path)
    _private(path.parent)
    write_table(path, [*rows, *gone], COLUMNS)
    path.chmod(0o600)


def make_key(folder: Path) -> None:
    """Draw the study's secret, once."""
    _private(folder)
    if not (folder / KEY).exists():
        with whole_file(folder / KEY) as temporary:
            temporary.write_text(secrets.token_hex(32), encoding="ascii")
            temporary.chmod(0o600)


def keyed(folder: Path, digest: str, numbered: bool = False) -> str:
    """``digest`` of a patient's data in a form that may be shared: twelve hex digits of its HMAC-SHA256 under the
    study's key; as it is where names are public and there is no key. Raises InputError if a ``numbered`` case has none:
    the key was lost."""
    try:
        key = (folder / KEY).read_bytes()
    except FileNotFoundError:
        if numbered:
            raise InputError(
                f"{folder / KEY} is gone, without which digests of patients' data must not be written: put it back, or "
                "delete results/listing.tsv and give the same command again (all is made again)"
            ) from None
        return digest
    return hmac.new(key, digest.encode(), "sha256").hexdigest()[:12]


def _private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
