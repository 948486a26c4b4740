"""A recipe chosen on validation patients and frozen before the test is scored.

Whoever looks at the test and then picks the best arm picks luck, too. A choice that was written down before is free of
that: its arm is one comparison, and needs no correction for the others. The file holds what was chosen, what it was
chosen among, the settings of it all, and a digest over that; scoring asks for the file and holds it against its digest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.evaluation.groups import TEST
from lungsyn.volume.files import read_json
from lungsyn.volume.tables import read_table


def choose(validation: Sequence[Mapping], settings: Mapping, opened: bool, folds: bool = False) -> dict:
    """The choice, as it is frozen: of rows with ``segmenter``, ``arm``, ``size`` and ``dice`` (the mean over validation
    cases) the best one; of equals the first. ``settings``: of the recipes; ``opened``: whether the test was scored
    before; ``folds``: whether validation patients are tested in other folds, so that the choice knows test patients.
    Raises InputError where there is nothing to choose."""
    if not validation:
        raise InputError(
            "no arm can be chosen on validation patients: all are controls, or have masks of validation cases"
        )
    best = max(validation, key=lambda row: row["dice"])
    frozen = {"chosen": dict(best), "among": [dict(row) for row in validation], "settings": settings,
              "test_opened_before": opened, "of_folds": folds}  # fmt: skip
    return frozen | {"digest": digest(frozen)}


def digest(choice: Mapping) -> str:
    """Of all that the choice says but its own digest: 64 hexadecimal digits."""
    said = {key: value for key, value in choice.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_choice(path: Path) -> dict:
    """A frozen choice. Raises InputError where there is none, or where it was changed after it was frozen."""
    if not path.is_file():
        raise InputError(
            f"{path}: no recipe is frozen yet, and the test is scored only after that: run lungsyn evaluation choose, "
            "or set freeze_choice to false"
        )
    choice = read_json(path)
    if choice.get("digest") != digest(choice):
        raise InputError(f"{path}: it is not as it was frozen: delete it and give the same command again")
    return choice


def was_opened(tables: Iterable[Path]) -> bool:
    """Whether any of these tables of scores has a test case."""
    return any(row.get("split") == TEST for path in sorted(tables) for row in read_table(path))
