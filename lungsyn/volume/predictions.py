"""The table beside a folder's predictions: which file is which replicate's of which case. No file's name is parsed."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.volume.tables import read_table, write_table

NAME = "predictions.tsv"
OF = ["segmenter", "arm", "size"]  # whose predictions they are; size: training-set size, percent of the train patients
OF_A_FILE = ["replicate", "case", "file"]
COLUMNS = [*OF, *OF_A_FILE]


def write_predictions(folder: Path, of: Mapping, files: Iterable[tuple[str, str, Path]]) -> None:
    """``files``: the replicate, the case and the file (below ``folder``) of each; ``of``: values of the ``OF``, and of
    ``fold`` where there are folds."""
    rows = [
        {**of, "replicate": replicate, "case": case, "file": file.relative_to(folder).as_posix()}
        for replicate, case, file in files
    ]
    write_table(folder / NAME, rows, [*of, *OF_A_FILE])


def read_predictions(folder: Path) -> list[dict]:
    """Rows of ``COLUMNS`` with the full path as ``file``, ``size`` and ``fold``, if any, as numbers. Raises InputError
    where there is no such table, or nothing in it."""
    rows = read_table(folder / NAME, COLUMNS) if (folder / NAME).is_file() else []
    if not rows:
        raise InputError(
            f"{folder} has no table {NAME} of what is in it, as when an older version predicted: delete the folder and "
            "give the same command again, which predicts the cases again"
        )
    numbers = [name for name in ("size", "fold") if name in rows[0]]
    return [row | {name: int(row[name]) for name in numbers} | {"file": folder / row["file"]} for row in rows]


def of_case(rows: Iterable[Mapping], case: str) -> dict[str, Path]:
    """The file of each replicate's prediction of a case, in the order of the table."""
    return {row["replicate"]: row["file"] for row in rows if row["case"] == case}
