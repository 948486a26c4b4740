import numpy as np
import pytest

from lungsyn.errors import InputError
from lungsyn.evaluation.scores import SCORE_COLUMNS, read_scores, score_arm, score_case
from lungsyn.volume.files import Case
from lungsyn.volume.tables import write_table

NUMBERS = SCORE_COLUMNS[4:-1]
ABOUT = {"case": "LIDC-IDRI-0001", "patient": "p1"}


def case_of(nodules: np.ndarray) -> Case:
    zeros = np.zeros_like(nodules)
    return Case(zeros.astype(np.int16), nodules, zeros, zeros, np.diag([2.0, 2.0, 2.0, 1.0]), ABOUT)


def two_nodules() -> np.ndarray:
    nodules = np.zeros((16, 16, 16), dtype=np.uint8)
    nodules[2:6, 2:6, 2:6] = 1
    nodules[10:12, 10:12, 10:12] = 2
    return nodules


def test_a_case_by_hand():
    """One of two nodules predicted exactly, the other missed, one voxel of false alarm; voxels of 8 mm3."""
    case = case_of(two_nodules())
    prediction = (case.nodules == 1).astype(np.uint8)
    prediction[15, 0, 0] = 1
    row = score_case(prediction, case, "test", "3")
    assert list(row) == SCORE_COLUMNS
    assert (row["case"], row["split"], row["replicate"]) == ("LIDC-IDRI-0001", "test", "3")
    assert row["dice"] == pytest.approx(2 * 64 / (65 + 72))
    assert (row["n_nodules"], row["found_nodules"], row["false_positives"], row["lesion_dice"]) == (
        2,
        1,
        1,
        0.5,
    )
    assert row["truth_ml"] == pytest.approx(0.576) and row["predicted_ml"] == pytest.approx(0.52)
    assert row["volume_error_ml"] == pytest.approx(-0.056)
    assert row["nsd_1mm"] == pytest.approx(2 * 56 / (57 + 64))


def test_empty_masks_leave_no_gap():
    empty = case_of(np.zeros((8, 8, 8), dtype=np.uint8))
    row = score_case(np.zeros((8, 8, 8)), empty, "test", "ensemble")
    assert (row["dice"], row["nsd_1mm"], row["hd95_mm"], row["lesion_dice"]) == (1.0, 1.0, 0.0, None)
    row = score_case(np.ones((8, 8, 8)), empty, "test", "0")
    assert (row["dice"], row["nsd_2mm"], row["false_positives"]) == (0.0, 0.0, 1)
    assert row["hd95_mm"] == pytest.approx(16 * np.sqrt(3))


def test_the_table_returns_what_was_written(tmp_path):
    case = case_of(two_nodules())
    empty = case_of(np.zeros((16, 16, 16), dtype=np.uint8))
    rows = [score_case(case.nodules > 0, c, "test", r) for c, r in ((case, "0"), (empty, "ensemble"))]
    write_table(tmp_path / "real.tsv", rows, SCORE_COLUMNS)
    assert [row["lesion_dice"] for row in rows] == [1.0, None]
    for read, written in zip(read_scores(tmp_path / "real.tsv"), rows, strict=True):
        for key in SCORE_COLUMNS:
            assert type(read[key]) is type(written[key])
            assert read[key] == (pytest.approx(written[key], rel=1e-5) if key in NUMBERS else written[key])


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match="predict it again"):
        score_case(np.zeros((4, 4, 4)), case_of(two_nodules()), "test", "0")


def test_the_ensemble_is_the_majority():
    """Three replicates; only the first nodule has the votes of two. One replicate alone has no ensemble."""
    case = case_of(two_nodules())
    masks = {"0": case.nodules == 1, "1": case.nodules > 0, "2": np.zeros_like(case.nodules)}
    rows = score_arm(masks, case, "test")
    assert [row["replicate"] for row in rows] == ["0", "1", "2", "ensemble"]
    assert [row["dice"] for row in rows] == pytest.approx([2 * 64 / (64 + 72), 1.0, 0.0, 2 * 64 / (64 + 72)])
    assert [row["replicate"] for row in score_arm({"0": masks["0"]}, case, "test")] == ["0"]


def test_a_case_without_prediction_is_refused():
    with pytest.raises(InputError, match="'LIDC-IDRI-0001' has no prediction"):
        score_arm({}, case_of(two_nodules()), "test")
