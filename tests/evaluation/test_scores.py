import numpy as np
import pytest

from lungsyn.errors import InputError
from lungsyn.evaluation.froc import POINT_COLUMNS
from lungsyn.evaluation.scores import NODULE_COLUMNS, SCORE_COLUMNS, read_scores, score_arm
from lungsyn.volume.tables import write_table
from tests.evaluation.conftest import case_of

EMPTY = np.zeros((16, 16, 16), dtype=np.uint8)


def two_nodules() -> np.ndarray:
    nodules = EMPTY.copy()
    nodules[2:6, 2:6, 2:6] = 1
    nodules[10:12, 10:12, 10:12] = 2
    return nodules


def sure(mask) -> np.ndarray:
    """A prediction that is sure of everything."""
    return np.where(mask, 100, 0).astype(np.uint8)


def score(percent, case, replicate="0") -> dict:
    return score_arm({replicate: percent}, case, "test")[0][0]


def test_a_case_by_hand():
    """One of two nodules predicted exactly, the other missed, one voxel of false alarm; voxels of 8 mm3."""
    case = case_of(two_nodules())
    prediction = sure(case.nodules == 1)
    prediction[15, 0, 0] = 50
    prediction[0, 15, 0] = 49  # not yet nodule
    row = score(prediction, case, "3")
    assert list(row) == SCORE_COLUMNS
    assert (row["case"], row["split"], row["replicate"]) == ("LIDC-IDRI-0001", "test", "3")
    assert row["dice"] == pytest.approx(2 * 64 / (65 + 72))
    assert (row["n_nodules"], row["found_nodules"], row["false_positives"], row["lesion_dice"]) == (2, 1, 1, 0.5)
    assert row["truth_ml"] == pytest.approx(0.576) and row["predicted_ml"] == pytest.approx(0.52)
    assert row["volume_error_ml"] == pytest.approx(-0.056)
    assert row["nsd_1mm"] == pytest.approx(2 * 56 / (57 + 64))


def test_empty_masks_leave_no_gap():
    empty = case_of(EMPTY)
    row = score(EMPTY, empty)
    assert (row["dice"], row["nsd_1mm"], row["hd95_mm"], row["lesion_dice"]) == (1.0, 1.0, 0.0, None)
    row = score(sure(EMPTY == 0), empty)
    assert (row["dice"], row["nsd_2mm"], row["false_positives"]) == (0.0, 0.0, 1)
    assert row["hd95_mm"] == pytest.approx(32 * np.sqrt(3))


def test_a_nodule_keeps_what_the_cohort_knows_of_it():
    """A ball of 8 mm3 voxels: its diameter and its place come from case.json, so do the readers' ratings."""
    case = case_of(two_nodules())
    case.about["nodules"][0] |= {"diameter_mm": 21.5, "ratings": {"texture": 1.5}}
    rows = score_arm({"0": sure(case.nodules == 2), "1": sure(case.nodules)}, case, "test")[1]
    assert all(list(row) == NODULE_COLUMNS for row in rows)
    assert [(row["replicate"], row["nodule"], row["found"], row["dice"]) for row in rows] == [
        ("0", 1, 0, 0.0), ("0", 2, 1, 1.0), ("1", 1, 1, 1.0), ("1", 2, 1, 1.0), ("ensemble", 1, 1, 1.0),
        ("ensemble", 2, 1, 1.0),
    ]  # fmt: skip
    assert [(row["diameter_mm"], row["stratum"], row["texture"]) for row in rows[:2]] == [
        (21.5, "> 20 mm", 1.5), (pytest.approx((6 * 64 / np.pi) ** (1 / 3), abs=1e-3), "< 6 mm", None),
    ]  # fmt: skip
    assert {row["touches_pleura"] for row in rows} == {1}  # this case has no lungs


def test_the_tables_return_what_was_written(tmp_path):
    case, empty = case_of(two_nodules()), case_of(EMPTY)
    tables = [first + second for first, second in zip(*(score_arm({"0": sure(case.nodules), "1": EMPTY}, c, "test")
                                                        for c in (case, empty)), strict=True)]  # fmt: skip
    assert [len(table) for table in tables] == [6, 6, 10]
    for table, columns in zip(tables, (SCORE_COLUMNS, NODULE_COLUMNS, POINT_COLUMNS), strict=True):
        write_table(tmp_path / "100.tsv", table, columns)
        for read, written in zip(read_scores(tmp_path / "100.tsv", columns), table, strict=True):
            for key in columns:
                value = written[key]
                assert read[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), key


def test_another_grid_is_refused():
    with pytest.raises(InputError, match=r"'LIDC-IDRI-0001': the prediction of replicate 2 has shape .* predict it"):
        score_arm({"2": np.zeros((4, 4, 4), np.uint8)}, case_of(two_nodules()), "test")


def test_the_ensemble_is_the_mean_probability():
    """One replicate is sure of the first nodule, another of both, the third is quite sure of neither: it is the
    probability that decides and not the votes. One replicate alone has no ensemble."""
    case = case_of(two_nodules())
    percents = {"0": sure(case.nodules == 1), "1": sure(case.nodules), "2": np.full_like(case.nodules, 48)}
    rows = score_arm(percents, case, "test")[0]
    assert [row["replicate"] for row in rows] == ["0", "1", "2", "ensemble"]
    assert [row["dice"] for row in rows] == pytest.approx([2 * 64 / (64 + 72), 1.0, 0.0, 2 * 64 / (64 + 72)])
    outvoted = {"0": sure(case.nodules), "1": np.full_like(case.nodules, 26), "2": np.full_like(case.nodules, 25)}
    assert score_arm(outvoted, case, "test")[0][-1]["dice"] == 1.0  # (100 + 26 + 25) / 3 > 50
    nearly = {str(i): np.where(case.nodules > 0, percent, 0).astype(np.uint8) for i, percent in enumerate((50, 50, 49))}
    assert score_arm(nearly, case, "test")[0][-1]["dice"] == 1.0  # each was rounded down: 50.7, 50.2, 49.9
    assert [row["replicate"] for row in score_arm({"0": percents["0"]}, case, "test")[0]] == ["0"]


def test_a_case_without_prediction_is_refused():
    with pytest.raises(InputError, match="'LIDC-IDRI-0001' has no prediction"):
        score_arm({}, case_of(two_nodules()), "test")
