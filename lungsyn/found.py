"""Which synthetic cases the benchmark's segmenter finds: its own score of each, and the cases that an arm uses by it.

The segmenter learned from train patients only, so nothing of the validation and test patients reaches the choice.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lungsyn.errors import InputError
from lungsyn.evaluation.lesions import match_nodules
from lungsyn.evaluation.scores import nodule_mask, with_ensemble
from lungsyn.settings.arms import Found
from lungsyn.volume.files import Case

COLUMNS = ["case", "dice"]  # of the table of a set, beside what it is of; dice: `found_dice`


def found_dice(percents: Mapping[str, np.ndarray], case: Case) -> float:
    """How well the nodules of a synthetic case are found: their mean Dice (missed: 0) in the replicates' mean
    prediction; 0 where there is none. ``percents``: ``{replicate: prediction}``.

    In a case that keeps a real CT only the new nodules count, which have the highest numbers: its own ones are found
    by who was trained on them."""
    *_, mean = with_ensemble(percents).values()  # the last one, or the only one
    nodules, _ = match_nodules(nodule_mask(mean), case.nodules)
    new = nodules[-case.about.get("new_nodules", 0) :]  # -0: all of them
    return float(np.mean([nodule.dice for nodule in new])) if new else 0.0


def used(folders: Sequence[Path], dice: Mapping[str, float], found: Found) -> list[Path]:
    """The folders of the cases that ``found`` keeps; the harder half of them stands ``hard_times`` times.

    ``dice``: by the name of the case. Raises InputError where a case is unknown or none is kept."""
    if unknown := [folder.name for folder in folders if folder.name not in dice]:
        raise InputError(f"the table of what was found has no row of {unknown[0]}: delete it, it is made again")
    kept = [folder for folder in folders if dice[folder.name] >= found.least_dice]
    if not kept:
        best = max(dice.values(), default=0.0)
        raise InputError(
            f"the benchmark finds no synthetic case with a Dice of {found.least_dice:g} or more, the best one with "
            f"{best:.2f}: lower arms.*.found.least_dice, or train the generator for longer"
        )
    hard = set(sorted(kept, key=lambda folder: (dice[folder.name], folder.name))[: len(kept) // 2])
    return [folder for folder in kept for _ in range(found.hard_times if folder in hard else 1)]
