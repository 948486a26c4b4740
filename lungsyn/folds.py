"""Folds: every patient is tested in one, and in each of the others it is a train or a validation patient.

What a *training set* is of is a size (percent of the train patients) and, where there are any, a fold and a draw; as a
word, which names folders, it is ``100``, ``100-fold2`` or ``100-fold2-draw1``. A table of cases has ``split_1``,
``train_rank_1``, ``split_2`` and so on in place of ``split`` and ``train_rank``. One split is a fold without a number:
None.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

OF_A_PATIENT = ("split", "train_rank")  # columns of a table of cases; with folds there are as many of each
TRAINING_SET = r"\d+(-fold\d+)?(-draw\d+)?"


def training_set(size: int, fold: int | None = None, draw: int | None = None) -> str:
    """The word for a training set."""
    parts = {"fold": fold, "draw": draw}
    return "-".join([str(size), *(f"{name}{number}" for name, number in parts.items() if number is not None)])


def of_training_set(word: str) -> dict[str, int]:
    """What a training set is of: ``size`` and, if it has them, ``fold`` and ``draw``. Raises ValueError.

    >>> of_training_set("50-fold2")
    {'size': 50, 'fold': 2}
    """
    if not re.fullmatch(TRAINING_SET, word):
        raise ValueError(f"{word!r} is no training set: a size in percent, as 100, 100-fold2 or 100-draw1")
    size, *parts = word.split("-")
    return {"size": int(size)} | {part[:4]: int(part[4:]) for part in parts}


def folds_in(rows: Sequence[Mapping]) -> list[int] | list[None]:
    """The folds that a table of cases has columns of."""
    found = [int(name[6:]) for name in (rows[0] if rows else ()) if re.fullmatch(r"split_\d+", name)]
    return sorted(found) or [None]


def columns_of(folds: Iterable[int | None]) -> list[str]:
    """The columns of a table of cases that say what a patient is."""
    return [_column(name, fold) for fold in folds for name in OF_A_PATIENT]


def _column(name: str, fold: int | None) -> str:
    return name if fold is None else f"{name}_{fold}"


def in_fold(rows: Iterable[Mapping], fold: int | None) -> list[dict]:
    """Rows of a table of cases with ``split`` and ``train_rank`` of the fold."""
    if fold is None:
        return [dict(row) for row in rows]
    return [{**row, **{name: row[_column(name, fold)] for name in OF_A_PATIENT}} for row in rows]
