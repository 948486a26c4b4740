"""Scores: every measure of `dice`, `lesions` and `froc` for each case and replicate, nothing averaged yet.

Each row of a table says whose scores it holds, in the columns ``OF`` before all others.

A prediction is the probability of nodule in whole percent, uint8 ``[x y z]``, rounded down: from
``NODULE_PERCENT`` on, a voxel is nodule. The ensemble of the replicates is their mean probability.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lungsyn.errors import InputError
from lungsyn.evaluation.dice import dice, hd95_mm, normalised_surface_dice, surface_distances_mm
from lungsyn.evaluation.froc import operating_points
from lungsyn.evaluation.groups import ENSEMBLE
from lungsyn.evaluation.lesions import Nodule, match_nodules
from lungsyn.evaluation.strata import diameter_stratum
from lungsyn.volume.files import Case
from lungsyn.volume.tables import read_table

NODULE_PERCENT = 50
OF = ["segmenter", "arm", "size"]  # size: percent of the train patients; beside it the fold, where there are folds
_NAMES = ["case", "patient", "split", "replicate"]
_MEASURES = ["dice", "nsd_1mm", "nsd_2mm", "hd95_mm", "volume_error_ml", "truth_ml", "predicted_ml"]
SCORE_COLUMNS = [*_NAMES, *_MEASURES, "n_nodules", "found_nodules", "false_positives", "lesion_dice"]
NODULE_COLUMNS = [*_NAMES, "nodule", "diameter_mm", "stratum", "texture", "touches_pleura", "found", "dice"]
_TEXTS = {*_NAMES, "segmenter", "stratum", "arm", "group", "layer", "set", "generator", "verdict", "outlines", "real"}
Scores = Mapping[str, Sequence[Mapping]]  # arm -> rows of its table


def nodule_mask(percent: np.ndarray) -> np.ndarray:
    """Where a prediction says nodule (bool)."""
    return np.asarray(percent) >= NODULE_PERCENT


def with_ensemble(percents: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``{replicate: prediction}`` and, of several, their mean under the name ``ENSEMBLE`` (uint8, rounded)."""
    if len(percents) < 2:
        return dict(percents)
    total = sum(np.asarray(percent).astype(np.uint16) for percent in percents.values())
    # Each was rounded down, by half a percent on average.
    return {**percents, ENSEMBLE: ((2 * total + len(percents)) // (2 * len(percents))).astype(np.uint8)}


def score_arm(
    percents: Mapping[str, np.ndarray], case: Case, split: str
) -> tuple[list[dict], list[dict], list[dict]]:  # fmt: skip
    """One case's rows of ``SCORE_COLUMNS``, ``NODULE_COLUMNS`` and ``POINT_COLUMNS``, for every replicate.

    ``percents``: ``{replicate: prediction}``; of several, the ensemble is scored as well. Raises InputError when
    there is no prediction (the case would silently leave the study), and when one has another grid.
    """
    if not percents:
        raise InputError(f"case {case.about['case']!r} has no prediction: predict it before it is scored")
    for replicate, percent in percents.items():
        if percent.shape != case.nodules.shape:
            raise InputError(
                f"case {case.about['case']!r}: the prediction of replicate {replicate} has shape {percent.shape}, "
                f"the case {case.nodules.shape}: predict it again"
            )
    scores, nodule_rows, points = [], [], []
    for replicate, percent in with_ensemble(percents).items():
        name = {"case": case.about["case"], "patient": case.about["patient"], "split": split, "replicate": replicate}
        mask = nodule_mask(percent)
        nodules, false_positives = match_nodules(mask, case.nodules)
        scores.append(name | _voxel_measures(mask, case) | _lesion_measures(nodules, false_positives))
        nodule_rows += [name | row for row in _described(nodules, case)]
        points += [
            name | {"n_nodules": len(nodules), "threshold": threshold, "found_nodules": found, "false_positives": false}
            for threshold, found, false in operating_points(percent, case.nodules)
        ]
    return scores, nodule_rows, points


def _voxel_measures(predicted: np.ndarray, case: Case) -> dict:
    """``volume_error_ml`` is predicted minus true."""
    truth, space = np.asarray(case.nodules) != 0, case.space
    distances_mm = surface_distances_mm(predicted, truth, space.spacing_mm)
    truth_ml, predicted_ml = (float(np.count_nonzero(mask) * space.voxel_ml) for mask in (truth, predicted))
    return {
        "dice": dice(predicted, truth),
        "nsd_1mm": normalised_surface_dice(distances_mm, 1.0),
        "nsd_2mm": normalised_surface_dice(distances_mm, 2.0),
        "hd95_mm": hd95_mm(distances_mm, float(np.linalg.norm(space.spacing_mm * space.shape))),
        "volume_error_ml": predicted_ml - truth_ml, "truth_ml": truth_ml, "predicted_ml": predicted_ml,
    }  # fmt: skip


def _lesion_measures(nodules: Sequence[Nodule], false_positives: int) -> dict:
    """``lesion_dice`` is the mean over the case's nodules, missed ones 0; None when the case has none."""
    return {
        "n_nodules": len(nodules), "found_nodules": sum(nodule.found for nodule in nodules),
        "false_positives": false_positives,
        "lesion_dice": float(np.mean([nodule.dice for nodule in nodules])) if nodules else None,
    }  # fmt: skip


def _described(nodules: Sequence[Nodule], case: Case) -> list[dict]:
    """What became of each nodule, beside what ``case.json`` knows of it; ``texture`` None where nobody rated it."""
    known = {facts["index"]: facts for facts in case.about["nodules"]}
    return [
        {
            "nodule": nodule.index, "diameter_mm": known[nodule.index]["diameter_mm"],
            "stratum": diameter_stratum(known[nodule.index]["diameter_mm"]),
            "texture": known[nodule.index].get("ratings", {}).get("texture"),
            "touches_pleura": int(known[nodule.index]["touches_pleura"]),
            "found": int(nodule.found), "dice": nodule.dice,
        }
        for nodule in nodules
    ]  # fmt: skip


def read_scores(path: Path, columns: Sequence[str] = SCORE_COLUMNS) -> list[dict]:
    """Rows of a table of scores, or of what is made of them: numbers are numbers again, an empty cell is None.

    They have ``fold`` beside ``columns`` where the table has."""
    rows = read_table(path, columns)
    kept = [*(key for key in ("fold",) if rows and key in rows[0]), *columns]
    return [{key: _typed(key, row[key]) for key in kept} for row in rows]


def read_arms(paths: Iterable[Path], columns: Sequence[str] = SCORE_COLUMNS) -> dict[tuple[str, int], Scores]:
    """The tables of several arms by segmenter and size, as their rows say it: {(segmenter, size): {arm: rows}}.

    Those of all folds of an arm are one: every patient is tested in one of them. All three in the order in which they
    first occur. Raises InputError for a table that does not say whose it is.
    """
    found: dict[tuple[str, int], dict[str, list[dict]]] = {}
    for path in paths:
        for row in read_scores(path, [*OF, *columns]):
            found.setdefault((row["segmenter"], row["size"]), {}).setdefault(row["arm"], []).append(row)
    return found


def _typed(key: str, cell: str):
    if key in _TEXTS:
        return cell
    return None if cell == "" else int(cell) if cell.lstrip("-").isdigit() else float(cell)
