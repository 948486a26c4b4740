"""`lungsyn why`: a study of two files and the records that Snakemake would have written."""

import base64
import json
import time

import pytest

from lungsyn import cli
from lungsyn.cohort import private
from lungsyn.errors import InputError
from lungsyn.recipes import recipe_of
from lungsyn.volume.files import open_case, write_case
from lungsyn.why import explain

RECIPE = recipe_of("evaluation", "score")


def write_record(folder, name: str, recipe: str, checksums: dict, before: str = "") -> None:
    encoded = base64.urlsafe_b64encode(name.encode()).decode()
    pieces = [encoded[i : i + 254] for i in range(0, len(encoded), 254)]
    path = folder.joinpath(".snakemake/metadata", *(f"@{piece}" for piece in pieces[:-1]), pieces[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    now = time.time()
    record = {
        "rule": "score", "starttime": now - 90, "endtime": now, "log": ["results/logs/score.log"],
        "shellcmd": before + "lungsyn evaluation score --evaluation '{\"bootstrap\":200}' --seed 7 --out x > log 2>&1",
        "params": [f"'{recipe}'", "7"], "input": ["a.tsv", "b.nii"], "input_checksums": checksums,
    }  # fmt: skip
    path.write_text(json.dumps(record))


@pytest.fixture
def study(tmp_path):
    (tmp_path / "results/logs").mkdir(parents=True)
    (tmp_path / "results/scores.tsv").write_text("case\n")
    (tmp_path / "results/logs/score.log").write_text("first line\nsecond\nlungsyn evaluation score: done in 3 s\n")
    write_record(tmp_path, "results/scores.tsv", RECIPE, {"a.tsv": "sha256:" + "0123456789abcdef" * 4})
    return tmp_path


def test_a_table_is_explained_from_the_records(study):
    text = explain(study / "results/scores.tsv")
    for part in [
        "rule       score", "after 90 s", "lungsyn evaluation score", 'evaluation  {"bootstrap": 200}', "seed  7",
        "a.tsv  0123456789ab", "b.nii", f"{RECIPE}, as it is now", "done in 3 s", "first line",
    ]:  # fmt: skip
        assert part in text, text
    assert "second" not in text


def test_a_training_on_several_gpus_is_explained_too(study):
    torchrun = "torchrun --standalone --nproc-per-node 2 --no-python "
    write_record(study, "results/scores.tsv", RECIPE, {}, torchrun)
    text = explain(study / "results/scores.tsv")
    assert "lungsyn evaluation score" in text and f"{RECIPE}, as it is now" in text


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("score-0", f"score-0; it is {RECIPE} now"),
        ("score-1+family-1", "score-1+family-1; there is no such job now"),
    ],
)
def test_a_recipe_that_changed_since_is_said(study, recipe, said):
    write_record(study, "results/scores.tsv", recipe, {})
    assert said in explain(study / "results/scores.tsv")


def test_a_file_in_a_folder_that_one_job_made(study):
    name = "results/" + "long/" * 60 + "predictions"  # long enough for Snakemake to cut it
    (study / name / "0").mkdir(parents=True)
    (study / name / "0/a.nii").write_text("x")
    write_record(study, name, RECIPE, {})
    assert "rule       score" in explain(study / name / "0/a.nii")


def test_a_case_describes_itself(study, case_folders):
    assert "voxels of case-1" in explain(case_folders[1] / "ct.nii")


def test_numbers_are_told_apart_locally(study, case_folders):
    """Cases whose names are not public are numbers everywhere; who has the study's own table sees the files."""
    folder = study / "results/cases/case-0002"
    write_case(folder, open_case(case_folders[1]))
    rows = [
        dict.fromkeys(private.COLUMNS, name) | {"case": case, "source": f"images/{name}.nii", "annotation": "label"}
        for case, name in (("case-0001", "SMITH"), ("case-0002", "JONES"))
    ]
    private.write_names(study / "results/private/names.tsv", rows)
    text = explain(folder / "ct.nii")
    assert "case-0002  images/JONES.nii label" in text and "SMITH" not in text


@pytest.mark.parametrize(
    ("name", "message"), [("results/other.tsv", "nothing says what made it"), ("results/none.tsv", "no such file")]
)
def test_an_unknown_file_is_an_error_with_a_way_out(study, name, message, capsys):
    (study / "results/other.tsv").write_text("x")
    with pytest.raises(InputError, match=message):
        explain(study / name)
    assert cli.main(["why", str(study / name)]) == 2
    assert "Traceback" not in capsys.readouterr().err
