"""A recipe is frozen before the test is opened: what was opened first, or changed after, is told."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from lungsyn import cli
from lungsyn.errors import InputError
from lungsyn.evaluation import report
from lungsyn.evaluation.choice import choose, digest, read_choice
from lungsyn.evaluation.scores import OF, SCORE_COLUMNS
from lungsyn.volume.files import read_json, write_case, write_json, write_volume
from lungsyn.volume.predictions import write_predictions
from lungsyn.volume.space import Volume
from lungsyn.volume.tables import write_table
from tests.conftest import labelled_case

ROWS = [
    {"segmenter": "unet", "arm": arm, "size": 100, "cases": 2, "dice": dice}
    for arm, dice in (("real", 0.5), ("mixed", 0.6), ("synthetic", 0.2))
]


def test_the_best_on_validation_is_chosen_and_its_digest_is_of_all_that_is_said():
    choice = choose(ROWS, {"arms": {}}, opened=False)
    assert choice["chosen"]["arm"] == "mixed" and choice["digest"] == digest(choice)
    assert choose(ROWS, {"arms": {"mixed": 1}}, opened=False)["digest"] != choice["digest"]
    assert choose(ROWS[::-1], {"arms": {}}, opened=False)["chosen"] == choice["chosen"]
    with pytest.raises(InputError, match="all are controls, or have masks of validation cases"):
        choose([], {}, opened=False)


@pytest.fixture
def study(tmp_path):
    """Two validation cases and a test case; arm ``mixed`` finds all of the former and nothing of the latter."""
    folders, nodules, empty = {}, np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    nodules[2:5, 2:5, 2:5] = 1
    for name in ("a", "b", "t"):
        about = {"case": name, "patient": name, "nodules": [
            {"index": 1, "diameter_mm": 3.0, "touches_pleura": False, "volume_mm3": 27.0}]}  # fmt: skip
        folders[name] = tmp_path / "cases" / name
        write_case(folders[name], labelled_case(empty.astype(np.int16), nodules, empty, empty, np.eye(4), about))
    rows = [{"case": name, "split": "test" if name == "t" else "validation"} for name in folders]
    write_table(tmp_path / "cohort.tsv", rows, ["case", "split"])
    predictions = []
    for arm, found in (("real", "t"), ("mixed", "ab")):
        place, files = tmp_path / "predictions" / arm, []
        for name in folders:
            files.append(("0", name, place / "0" / f"{name}.nii.gz"))
            write_volume(files[-1][-1], Volume((100 * nodules * (name in found)).astype(np.uint8), np.eye(4)))
        write_predictions(place, {"segmenter": "unet", "arm": arm, "size": 100}, files)
        predictions.append(str(place))

    def choose_now() -> dict:
        arguments = ["evaluation", "choose", "--cohort", tmp_path / "cohort.tsv", "--scores", tmp_path / "scores",
                     "--predictions", *predictions, "--cases", *(folders[name] / "case.json" for name in "abt"),
                     "--recipes", json.dumps({"arms": {}}), "--out", tmp_path / "choice.json"]  # fmt: skip
        assert cli.main([str(part) for part in arguments]) == 0
        return read_json(tmp_path / "choice.json")

    def score(arm: str) -> int:
        out = tmp_path / "scores/unet" / arm
        arguments = ["evaluation", "score", "--predictions", tmp_path / "predictions" / arm, "--cohort",
                     tmp_path / "cohort.tsv", "--cases", *(folders[name] / "case.json" for name in folders),
                     "--choice", tmp_path / "choice.json", "--out", out / "100.tsv",
                     "--nodules", out / "100.nodules.tsv", "--points", out / "100.points.tsv"]  # fmt: skip
        return cli.main([str(part) for part in arguments])

    return SimpleNamespace(choose=choose_now, score=score, folder=tmp_path)


def test_a_choice_sees_validation_cases_alone(study):
    """By the test case the other arm would be the better one."""
    choice = study.choose()
    assert choice["chosen"] == {"segmenter": "unet", "arm": "mixed", "size": 100, "cases": 2, "dice": 1.0}
    assert [row["dice"] for row in choice["among"]] == [0.0, 1.0]
    assert not choice["test_opened_before"]


def test_the_test_is_not_scored_before_a_choice_is_frozen(study, capsys):
    assert study.score("real") == 2
    assert "no recipe is frozen yet, and the test is scored only after that" in capsys.readouterr().err
    assert not (study.folder / "scores").exists()
    study.choose()
    assert study.score("real") == 0


def test_a_choice_that_was_changed_after_it_was_frozen_is_refused(study, capsys):
    choice = study.choose()
    choice["chosen"]["arm"] = "real"
    write_json(study.folder / "choice.json", choice)
    with pytest.raises(InputError, match="is not as it was frozen"):
        read_choice(study.folder / "choice.json")
    assert study.score("real") == 2 and "is not as it was frozen" in capsys.readouterr().err


def test_a_choice_after_the_test_was_opened_says_so(study):
    study.choose()
    assert study.score("mixed") == 0
    again = study.choose()
    assert again["test_opened_before"] and read_choice(study.folder / "choice.json") == again


def test_scores_without_a_test_case_open_nothing(study):
    row = dict.fromkeys([*OF, *SCORE_COLUMNS], "1") | {"split": "validation"}
    write_table(study.folder / "scores/unet/real/100.tsv", [row], [*OF, *SCORE_COLUMNS])
    assert not study.choose()["test_opened_before"]


def test_the_report_says_what_was_frozen_or_that_nothing_was(comparison):
    rows = [row | {"segmenter": "unet"} for row in comparison]
    told = report.told_choice(report.Findings({"unet": rows}))
    assert "Nothing was chosen before the test was opened" in told
    row = next(row for row in rows if row["group"] == "test" and row["arm"] == "synthetic")
    chosen = [{"segmenter": "unet", "arm": "synthetic", "size": 100, "cases": 9, "dice": 0.7}]
    blind = choose(chosen, {}, opened=False)
    told = report.told_choice(report.Findings({"unet": rows}, choice=blind))
    assert f"frozen as {blind['digest'][:16]}" in told and f"{row['mean_difference']:+.3f} Dice, p" in told
    told = report.told_choice(report.Findings({"unet": rows}, choice=choose(chosen, {}, opened=False, folds=True)))
    assert "after Holm: with folds, validation patients are tested in other folds" in told
    seen = report.told_choice(report.Findings({"unet": rows}, choice=choose(chosen, {}, opened=True)))
    assert "no blind choice" in seen and "+" not in seen
