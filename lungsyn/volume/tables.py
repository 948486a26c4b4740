"""Small tab-separated tables: rows are dicts of strings, written whole, opened by anything.

One row is one line, whatever its cells hold, and what is written is read back equal. Two things are written otherwise
than they are, and undone by ``read_table``: control characters and bytes that are no text, as ``\\u000a``; and a text
that a spreadsheet would run (``=1+1``), with an apostrophe before it.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.volume.files import whole_file

JOIN = " | "  # of several texts in a cell
# Line ends of any kind, what csv cannot read, and surrogates, which is what Python makes of odd bytes in names.
NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
ESCAPED = r"u(?:00[0189][0-9a-f]|007f|005c|202[89]|d[89a-f][0-9a-f]{2})"
FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20]")


def read_table(path: Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of a TSV with a header line. Raises InputError naming the file, also if one of ``columns`` is missing."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a mark
            reader = csv.DictReader(file, delimiter="\t")
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            rows = [_read(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table ({error}): save it as text in UTF-8, parted by tabs") from error
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}: delete it and give the command again that made it")
    return rows


def write_table(path: Path, rows: Iterable[Mapping], columns: list[str]) -> None:
    """Write ``rows`` with exactly ``columns``; floats with six significant digits, None as empty."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(row[key]) for key in columns})


def grouped(rows: Iterable[dict], words: str, of_fold: str = "") -> dict[str, list[dict]]:
    """Rows by what ``words``, with values of their columns in them, call them, and ``of_fold`` where they have a fold;
    in the order of their first."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        name = f"{words}, {of_fold}" if "fold" in row and of_fold else words
        found.setdefault(name.format(**row), []).append(row)
    return found


def _cell(value) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else _as_line(str(value))


def _as_line(text: str) -> str:
    text = re.sub(rf"\\(?={ESCAPED})", r"\\u005c", text)  # what looks like one of ours and is none
    text = NO_TEXT.sub(lambda letter: f"\\u{ord(letter[0]):04x}", text)
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf|nan", text, re.ASCII | re.IGNORECASE) is not None


def _read(row: dict) -> dict:
    """A row's cells as they were before writing; cells beyond the header are a list."""
    return {
        key: [_as_text(part) for part in cell] if isinstance(cell, list) else _as_text(cell)
        for key, cell in row.items()
    }


def _as_text(cell: str | None) -> str | None:
    if not cell:
        return cell
    if cell[0] == "'" and FORMULA.match(cell):
        cell = cell[1:]
    return re.sub(rf"\\({ESCAPED})", lambda code: chr(int(code[1][1:], 16)), cell)
