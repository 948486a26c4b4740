"""Scores: one row per case and replicate, every measure of `dice` and `lesions`, nothing averaged yet."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lungsyn.errors import InputError
from lungsyn.evaluation.dice import dice, hd95_mm, normalised_surface_dice, surface_distances_mm
from lungsyn.evaluation.groups import ENSEMBLE
from lungsyn.evaluation.lesions import match_nodules
from lungsyn.volume.files import Case
from lungsyn.volume.tables import read_table

_NAMES = ["case", "patient", "split", "replicate"]
_COUNTS = ["n_nodules", "found_nodules", "false_positives"]
_MEASURES = ["dice", "nsd_1mm", "nsd_2mm", "hd95_mm", "volume_error_ml", "truth_ml", "predicted_ml"]
SCORE_COLUMNS = [*_NAMES, *_MEASURES, *_COUNTS, "lesion_dice"]


def score_arm(masks: Mapping[str, np.ndarray], case: Case, split: str) -> list[dict]:
    """One row per replicate, and one for their ensemble when there are several.

    ``masks``: ``{replicate: prediction}``. The ensemble is nodule where more than half of the replicates say
    so. Raises InputError when there is no prediction: the case would silently leave the study.
    """
    if not masks:
        raise InputError(f"case {case.about['case']!r} has no prediction: predict it before it is scored")
    rows = [score_case(mask, case, split, replicate) for replicate, mask in masks.items()]
    if len(masks) < 2:
        return rows
    votes = sum((np.asarray(mask) != 0).astype(np.uint16) for mask in masks.values())
    return [*rows, score_case(2 * votes > len(masks), case, split, ENSEMBLE)]


def score_case(prediction: np.ndarray, case: Case, split: str, replicate: str) -> dict:
    """The row of ``prediction`` (``[x y z]``, nodule where not 0) for ``case``.

    ``volume_error_ml`` is predicted minus true. ``lesion_dice`` is the mean over the case's nodules, missed
    ones 0; None when the case has none. Raises ValueError when the grids differ.
    """
    if prediction.shape != case.nodules.shape:
        raise ValueError(
            f"the prediction has shape {prediction.shape}, the case {case.nodules.shape}: predict it again"
        )
    predicted, truth = np.asarray(prediction) != 0, np.asarray(case.nodules) != 0
    space = case.space
    distances_mm = surface_distances_mm(predicted, truth, space.spacing_mm)
    truth_ml, predicted_ml = (float(np.count_nonzero(mask) * space.voxel_ml) for mask in (truth, predicted))
    nodules, false_positives = match_nodules(predicted, case.nodules, space.voxel_ml)
    return {
        "case": case.about["case"], "patient": case.about["patient"], "split": split, "replicate": replicate,
        "dice": dice(predicted, truth),
        "nsd_1mm": normalised_surface_dice(distances_mm, 1.0),
        "nsd_2mm": normalised_surface_dice(distances_mm, 2.0),
        "hd95_mm": hd95_mm(distances_mm, float(np.linalg.norm(space.spacing_mm * space.shape))),
        "volume_error_ml": predicted_ml - truth_ml, "truth_ml": truth_ml, "predicted_ml": predicted_ml,
        "n_nodules": len(nodules), "found_nodules": sum(nodule.found for nodule in nodules),
        "false_positives": false_positives,
        "lesion_dice": float(np.mean([nodule.dice for nodule in nodules])) if nodules else None,
    }  # fmt: skip


def read_scores(path: Path) -> list[dict]:
    """Rows as `score_case` made them: numbers are numbers again, an empty cell is None."""
    return [{key: _typed(key, row[key]) for key in SCORE_COLUMNS} for row in read_table(path)]


def _typed(key: str, cell: str):
    if key in _NAMES:
        return cell
    return None if cell == "" else int(cell) if key in _COUNTS else float(cell)
