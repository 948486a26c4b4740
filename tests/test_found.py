"""Which synthetic cases an arm uses, by what the benchmark's segmenter finds in them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lungsyn import checkpoint, cli
from lungsyn.errors import InputError
from lungsyn.found import COLUMNS, found_dice, used
from lungsyn.provenance import model_facts
from lungsyn.seams import Segmenter
from lungsyn.segmenters.monai import Settings
from lungsyn.settings.arms import Found
from lungsyn.volume.files import write_case
from lungsyn.volume.tables import read_table, write_table
from tests.conftest import make_case

FOLDERS = [Path(name) for name in "abcdef"]
DICE = dict(zip("abcdef", (0.1, 0.9, 0.3, 0.5, 0.8, 0.29), strict=True))


def new_nodules(case, number):
    """The case as one that has so many new nodules."""
    return dataclasses.replace(case, about=case.about | {"new_nodules": number})


def percent(mask):
    return np.where(mask, np.uint8(90), np.uint8(0))


def test_the_score_is_the_mean_dice_of_the_new_nodules():
    """Of two nodules one is found exactly, the other not at all; in a real CT that was kept the first is its own."""
    case = make_case((40, 40, 40), seed=0)
    first, second, none = (percent(case.nodules == number) for number in (1, 2, 3))
    assert found_dice({"0": first}, new_nodules(case, 2)) == found_dice({"0": second}, new_nodules(case, 2)) == 0.5
    assert found_dice({"0": first}, new_nodules(case, 1)) == 0
    assert found_dice({"0": second}, new_nodules(case, 1)) == 1
    assert found_dice({"0": none}, case) == 0
    assert found_dice({"0": none}, case.with_labels(nodules=np.zeros_like(case.nodules))) == 0


def test_replicates_are_asked_together():
    """Their mean prediction counts: two of three find it."""
    case = make_case((40, 40, 40), seed=0)
    whole, none = percent(case.nodules > 0), percent(case.nodules > 9)
    assert found_dice({"0": whole, "1": whole, "2": none}, case) == 1
    assert found_dice({"0": whole, "1": none, "2": none}, case) == 0


@pytest.mark.parametrize(
    ("least", "times", "kept"), [(0.0, 1, "abcdef"), (0.3, 1, "bcde"), (0.9, 5, "b"), (0.3, 3, "bcccddde")]
)
def test_cases_that_are_found_are_used_and_the_harder_half_more_often(least, times, kept):
    found = Found(least_dice=least, hard_times=times)
    assert "".join(folder.name for folder in used(FOLDERS, DICE, found)) == kept


def test_a_threshold_that_keeps_none_says_what_the_best_one_is():
    with pytest.raises(InputError, match=r"finds no synthetic case with a Dice of 0\.95 .* the best one with 0\.90"):
        used(FOLDERS, DICE, Found(least_dice=0.95))


def test_a_case_that_nobody_looked_at_is_told():
    with pytest.raises(InputError, match="has no row of g: delete it"):
        used([*FOLDERS, Path("g")], DICE, Found(least_dice=0.3))


class Bright(Segmenter):
    """Finds whatever is brighter than lung, in cases whose nodules were not made dark."""

    def predict(self, case):
        return percent((case.ct > -100) & (case.lungs > 0))


@pytest.fixture
def made(tmp_path) -> list[Path]:
    """Four synthetic cases, of which two show no nodule where their masks have one."""
    folders = [tmp_path / f"batch/made-{i}" for i in range(4)]
    for i, folder in enumerate(folders):
        case = make_case((32, 32, 32), seed=i, name=folder.name)
        hidden = np.where(case.nodules > 0, -800, case.ct).astype(np.int16)
        write_case(folder, case if i < 2 else dataclasses.replace(case, ct=hidden))
    return folders


def test_a_segmenter_is_trained_on_what_another_one_found(made, case_folders, tmp_path, monkeypatch, capsys):
    """By the command line: the table of what is found, and the training that reads it."""
    monkeypatch.setattr("lungsyn.segmenters.core.prediction.load", lambda *_: Bright())
    model, table = tmp_path / "0/model.safetensors", tmp_path / "found.tsv"
    checkpoint.save(model, {"a": torch.zeros(1)}, {"segmenter": {}})
    told = ["--of", "set=made", "size=100", "--models", model, "--replicates", "0", "--inference", "{}"]
    told += ["--cases", tmp_path / "batch", "--out", table]
    assert cli.main(["segmentation", "find", *map(str, told)]) == 0
    rows = read_table(table, COLUMNS)
    assert [(row["set"], row["size"], row["case"]) for row in rows] == [("made", "100", f.name) for f in made]
    assert [float(row["dice"]) > 0.9 for row in rows] == [True, True, False, False]

    settings = Settings(channels=[4, 8], patch_voxels=16, steps=2, batch_patches=2).model_dump(mode="json")
    told = ["--of", "segmenter=u", "arm=a", "size=100", "replicate=0", "--segmenter", json.dumps(settings)]
    told += [
        "--seed",
        1,
        "--cases",
        *(folder / "case.json" for folder in case_folders[:2]),
        "--synthetic",
        tmp_path / "batch",
    ]
    told += ["--checkpoints", tmp_path / "c", "--model", tmp_path / "m.safetensors", "--curve", tmp_path / "curve"]
    told += ["--pretrain", "0.5", "--match-noise", "true", "--mixing", '{"way": "paste"}']
    told += ["--found", '{"least_dice": 0.5, "hard_times": 2}']
    assert cli.main(["segmentation", "train", *map(str, told)]) == 2
    assert "--finds is missing" in capsys.readouterr().err
    assert cli.main(["segmentation", "train", *map(str, told), "--finds", str(table)]) == 0
    facts = model_facts(tmp_path / "m.safetensors")
    assert sorted(set(facts["synthetic"])) == ["made-0", "made-1"] and len(facts["synthetic"]) == 3
    assert facts["match_noise"] is True and facts["mixing"] == {"way": "paste", "share": 0.5}
    assert facts["pretrain"] == 0.5 and facts["synthetic_share"] is None and facts["found"]["least_dice"] == 0.5
    assert "2 of 4 synthetic cases are used" in capsys.readouterr().out


def test_a_table_of_another_set_is_one_message(made, tmp_path):
    write_table(tmp_path / "t.tsv", [{"case": "y", "dice": "1"}], COLUMNS)
    rows = read_table(tmp_path / "t.tsv", COLUMNS)
    with pytest.raises(InputError, match="no row of made-0"):
        used(made, {row["case"]: float(row["dice"]) for row in rows}, Found(least_dice=0.5))
