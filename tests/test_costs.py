"""What a job says of itself on the command line, and what it cost: written beside its result, added up by stage."""

import json

import pytest

from lungsyn import cli, costs, recipes
from lungsyn.cli import arguments
from lungsyn.errors import InputError
from lungsyn.volume.tables import read_table, write_table

OF = ["--of", "generator=real-100", "set=a-b-100", "size=50"]


@pytest.fixture
def verbs(monkeypatch):
    """Two verbs that cost something: one knows no better, one was stopped and went on."""
    known = {"short": None, "long": {"seconds": 7200.0, "host_mb": 9, "ran_on": "cuda (H200), bfloat16, 4 threads"}}
    for name, cost in known.items():

        def run(args, cost=cost):
            """Do nothing, for this test."""
            return cost

        told = lambda parser: arguments.add_of(parser, "generator", "set", "size")  # noqa: E731
        monkeypatch.setitem(arguments.VERBS, ("generation", name), (run, told))
        monkeypatch.setitem(recipes.OF_VERBS, ("generation", name), recipes.Recipe(1))
        monkeypatch.setattr(cli, "of_verb", lambda *rule: "0" * 12)


def test_a_job_writes_what_it_took_and_what_it_is_of(verbs, tmp_path):
    assert cli.main(["generation", "short", *OF, "--cost", str(tmp_path / "cost.json")]) == 0
    cost = json.loads((tmp_path / "cost.json").read_text())
    said = {"stage": "generation", "verb": "short", "generator": "real-100", "set": "a-b-100", "size": 50}
    assert said.items() <= cost.items()
    assert 0 <= cost["seconds"] < 60 and cost["host_mb"] > 10 and cost["ran_on"].startswith(("cpu (", "cuda ("))


def test_a_training_that_went_on_counts_from_its_beginning(verbs, tmp_path):
    assert cli.main(["generation", "long", *OF, "--cost", str(tmp_path / "cost.json")]) == 0
    assert json.loads((tmp_path / "cost.json").read_text())["seconds"] == 7200.0


def test_of_several_processes_one_writes_it_and_nobody_who_is_not_asked(verbs, tmp_path, monkeypatch):
    assert cli.main(["generation", "short", *OF]) == 0
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["generation", "short", *OF, "--cost", str(tmp_path / "cost.json")]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("told", "words"),
    [(["set=a", "size=50"], "generator=... set=... size=..., not set=a size=50"),
     (["generator=g", "set=a", "size=half"], "whole numbers"),
     (["generator=g", "set=a", "size=50", "arm=b"], "not generator=g set=a size=50 arm=b")],
)  # fmt: skip
def test_what_a_result_is_of_is_told_in_full(verbs, told, words, capsys):
    with pytest.raises(SystemExit):
        cli.main(["generation", "short", "--of", *told])
    assert words in capsys.readouterr().err


def test_costs_are_rows_of_one_table_and_add_up(tmp_path):
    jobs = [
        {"stage": "cohort", "verb": "prepare", "case": "a", "seconds": 2.5, "host_mb": 300, "ran_on": "cpu"},
        {"stage": "generation", "verb": "train", "generator": "g", "size": 50, "seconds": 100.0, "host_mb": 900,
         "device_mb": 70, "ran_on": "cuda"},
        {"stage": "generation", "verb": "synthesise", "generator": "g", "set": "s", "size": 50, "batch": 0,
         "seconds": 10.0, "host_mb": 800, "device_mb": 90, "ran_on": "cuda"},
        {"stage": "generation", "verb": "synthesise", "generator": "g", "set": "s", "size": 50, "batch": 1,
         "seconds": 20.0, "host_mb": 80, "ran_on": "cpu"},
    ]  # fmt: skip
    for i, job in enumerate(jobs):
        (tmp_path / f"{i}.json").write_text(json.dumps(job))
    rows = costs.read_costs(tmp_path / f"{i}.json" for i in range(len(jobs)))
    write_table(tmp_path / "costs.tsv", rows, costs.COLUMNS)
    assert [row["batch"] for row in read_table(tmp_path / "costs.tsv")] == ["", "", "0", "1"]
    found = [(row["stage"], row["verb"], row["of"], row["jobs"], row["seconds"], row["peak_mb"])
             for row in costs.totals(rows)]  # fmt: skip
    assert found == [
        ("cohort", None, None, 1, 2.5, 300), ("cohort", "prepare", "", 1, 2.5, 300),
        ("generation", None, None, 3, 130.0, 90), ("generation", "train", "g", 1, 100.0, 70),
        ("generation", "synthesise", "s", 2, 30.0, 90),
    ]  # fmt: skip


def test_a_damaged_cost_is_named(tmp_path):
    (tmp_path / "cost.json").write_text("made for")
    with pytest.raises(InputError, match=r"cost\.json: not a readable JSON file"):
        costs.read_costs([tmp_path / "cost.json"])
