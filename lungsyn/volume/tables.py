"""Small tab-separated tables: rows are dicts of strings, written whole, opened by anything."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.volume.files import whole_file

JOIN = " | "  # of several texts in a cell


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a TSV with a header line. Raises InputError naming the file."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a mark
            return list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable tab-separated table ({error})") from error


def write_table(path: Path, rows: Iterable[Mapping], columns: list[str]) -> None:
    """Write ``rows`` with exactly ``columns``; floats with six significant digits, None as empty."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(row[key]) for key in columns})


def _cell(value) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
