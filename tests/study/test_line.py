"""One line for a run: what it counts, how long it says that it takes, and what else is shown."""

import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake_interface_logger_plugins.common import LogEvent

from lungsyn import progress
from lungsyn.settings.checking import check, read
from lungsyn.study import forecast, line, planning, running
from lungsyn.study.forecast import Outlook
from tests.conftest import ROOT


def test_what_is_left_by_hand():
    outlook = Outlook({"prepare": 4, "train": 2}, {"prepare": 10, "train": 100}, cores=2)
    assert outlook.left() == (120, [])
    assert outlook.left([("train", 30)]) == ((40 + 100 + 70) / 2, [])
    outlook.finished("prepare", 20)  # twice as slow as expected, so trainings will be, too
    assert outlook.of_job("train") == 200 and outlook.left() == ((3 * 20 + 2 * 200) / 2, [])
    assert (outlook.done, outlook.total) == (1, 6)


def test_the_longest_job_takes_as_long_as_it_takes():
    assert Outlook({"train": 1}, {"train": 100}, cores=8).left()[0] == 100


def test_jobs_on_one_gpu_follow_one_another():
    jobs, seconds = {"train_segmenter": 10, "score": 10}, {"train_segmenter": 60, "score": 10}
    assert Outlook(jobs, seconds, cores=16).left()[0] == 60
    assert Outlook(jobs, seconds, cores=16, gpus=1).left()[0] == 600


def test_rules_that_were_never_timed_are_named():
    outlook = Outlook({"prepare": 1, "train": 1}, {"prepare": 10}, cores=1)
    assert outlook.left() == (10, ["train"])
    assert line.left_in_words(*outlook.left()) == "at least 0:10 left"
    assert line.not_timed(outlook.left()[1]) == " (train: not timed here yet)"
    assert line.not_timed(["a", "b", "c"]) == " (3 kinds of jobs: not timed here yet)"
    assert outlook.left([("train", 5)])[1] == ["train"]


def test_the_phantom_study_says_from_the_start_how_long_it_takes(monkeypatch, tmp_path):
    """Who changes its trainings in config.yaml runs it and notes what it took: `forecast.reference_of`."""
    monkeypatch.chdir(ROOT)
    study = check(read([Path("config.yaml")]))
    jobs = planning.jobs_of([Path("config.yaml")], study, study.cohort.phantom.patients)
    seconds = forecast.seconds_of(study, jobs, tmp_path)
    assert not {rule for rule, _ in jobs} - set(seconds)
    assert 300 < Outlook(Counter(rule for rule, _ in jobs), seconds, 2).left()[0] < 1200
    hospital = study.model_copy(update={"cohort": SimpleNamespace(reader=SimpleNamespace(simulates=False))})
    assert forecast.seconds_of(hospital, jobs, tmp_path) == {}


def test_what_snakemake_noted_is_known_by_rule(tmp_path):
    folder = tmp_path / ".snakemake/metadata/a"
    folder.mkdir(parents=True)
    for i, (start, end) in enumerate([(0, 10), (0, 10), (5, 25), (7, None)]):  # the second: another output of a job
        text = f'{{"rule": "prepare", "starttime": {start}, "endtime": {end or "null"}}}'
        (folder / str(i)).write_text(text)
    (folder / "odd").write_text("{")
    assert forecast.recorded(tmp_path) == {"prepare": 15}


def test_how_far_a_job_is_comes_from_what_it_says_itself(capsys):
    progress.Progress("generator", 3600, "patches").update(900, loss=0.1)
    assert progress.share_done("") == progress.share_done("lungsyn cohort index: done in 1.0 s") == ""
    said = capsys.readouterr().err or "generator: 900/3600 patches  17.5/s  3:26 left  loss 0.2"
    assert progress.share_done(said) == " 25%"


@pytest.fixture
def handler(monkeypatch):
    """A handler of a study of two cases and a training whose list of cases is not there yet, on no terminal."""
    seconds = {"listing": 1, "prepare": 5, "cohort": 1, "train_generator": 100}
    expected = {"listing": 1, "prepare": 2, "cohort": 1, "train_generator": 1}
    monkeypatch.setattr(line.Start, "outlook", Outlook(expected, seconds, cores=2))
    monkeypatch.setattr(line.Start, "settled", False)
    made = line.LogHandler(None, None)
    yield made
    made.over.set()


def send(handler, event=None, level=logging.INFO, message="", **facts):
    record = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    vars(record).update(facts | ({"event": event} if event else {}))
    handler.handle(record)


def begin(handler, jobid, rule, log="", **wildcards):
    send(handler, LogEvent.JOB_INFO, jobid=jobid, rule_name=rule, wildcards=wildcards, log=[log] if log else [])


def test_the_line_counts_jobs_that_snakemake_does_not_know_of_yet(handler, capsys, tmp_path):
    send(handler, message="Building DAG of jobs...")
    send(handler, LogEvent.RUN_INFO, stats={"listing": 1, "cohort": 1, "all": 1, "total": 3})
    assert capsys.readouterr().err.startswith("5 jobs on 2 CPU cores: about 1:40 left\nwhile the generator learns")
    begin(handler, 1, "listing")
    send(handler, LogEvent.JOB_FINISHED, job_id=1)
    log = tmp_path / "log"
    log.write_text("lungsyn ...\ngenerator: 900/3600 patches  17.5/s  3:26 left  loss 0.2")
    begin(handler, 2, "prepare", case="case-1")
    begin(handler, 3, "train_generator", str(log), generator="patch_ddpm", size="100")
    assert handler.line().startswith("1 of 5 jobs  about ")
    assert handler.line().endswith("prepare case-1, train_generator patch_ddpm 100 25%")
    assert not capsys.readouterr().err


def test_cases_that_are_left_out_are_not_waited_for(handler):
    send(handler, LogEvent.RUN_INFO, stats={"listing": 1, "cohort": 1, "all": 1, "total": 3})
    for jobid, rule in enumerate(["listing", "prepare", "cohort"]):
        begin(handler, jobid, rule)
        send(handler, LogEvent.JOB_FINISHED, job_id=jobid)
    assert handler.line().startswith("3 of 4 jobs")


def test_what_has_to_be_known_stands_above_the_line(handler, capsys):
    send(handler, LogEvent.RUN_INFO, stats={"prepare": 2})
    capsys.readouterr()
    send(handler, level=logging.WARNING, message="sets.x is in no arm")
    begin(handler, 1, "prepare", case="case-1")
    send(handler, LogEvent.ERROR, logging.ERROR, "RuleException:\nCalledProcessError in file cohort.smk: Command ...")
    send(handler, LogEvent.JOB_ERROR, logging.ERROR, "Error in rule prepare", jobid=1, rule_name="prepare")
    send(handler, LogEvent.ERROR, logging.ERROR, "At least one job did not complete successfully.")
    assert capsys.readouterr().err == f"sets.x is in no arm\nfailed: prepare case-1; {line.AGAIN}\n"
    assert ", 1 failed" in handler.line()
    begin(handler, 1, "prepare", case="case-1")  # a retry
    assert "failed" not in handler.line()


def test_an_error_before_any_job_is_shown(handler, capsys):
    send(handler, LogEvent.ERROR, logging.ERROR, "WorkflowError:\nthe config is not usable")
    assert "the config is not usable" in capsys.readouterr().err


def test_on_a_terminal_the_line_is_written_over_itself_and_no_wider(handler, capsys, monkeypatch):
    monkeypatch.setattr(line.shutil, "get_terminal_size", lambda: os.terminal_size((40, 20)))
    handler.live = True
    send(handler, LogEvent.RUN_INFO, stats={"prepare": 2})
    begin(handler, 1, "prepare", case="a-very-long-name-of-a-case")
    last = capsys.readouterr().err.split(line.ERASE)[-1]
    assert last.endswith("\r") and "\n" not in last and len(last) == 40


@pytest.mark.parametrize(("results", "settled"), [([], False), (["cohort.tsv"], True)])
def test_a_run_is_planned_before_it_starts(tmp_path, monkeypatch, results, settled):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(line.Start, "outlook", None)
    monkeypatch.setattr(line.Start, "settled", None)
    for name in results:
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / name).write_text("case\tstatus\n" + "a\tincluded\n" * 6)
    given = ["--configfile", "tests/workflow/tiny.yaml", "--directory", str(tmp_path), "--cores", "3"]
    running.prepare(running.parsed([*given, "--config", "replicates=3"])[1])
    outlook = line.Start.outlook
    assert outlook.cores == 3 and line.Start.settled == settled
    assert (outlook.expected["prepare"], outlook.expected["train_segmenter"]) == (6, 15)
    assert outlook.seconds["phantom"] > 0 and "train_generator" not in outlook.seconds  # with other settings


def run(tmp_path, *arguments):
    command = [sys.executable, "-m", "lungsyn.cli", "run", "--directory", str(tmp_path), "--cores", "2", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_failed_run_ends_with_the_reason_and_says_where_the_log_is(tmp_path):
    (tmp_path / "raw").mkdir()
    overlay = {"study": {"name": "x"}, "cohort": {"dataset": "nifti", "root": str(tmp_path / "raw")}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(overlay))
    ended = run(tmp_path, "--configfile", str(tmp_path / "study.yaml"))
    assert ended.returncode == 1
    assert "failed: listing" in ended.stdout and "1 job failed." in ended.stdout
    assert "listing: lungsyn cohort index: no .nii or .nii.gz in images/" in ended.stdout
    assert not any(text in ended.stdout for text in ("Select jobs to execute", "CalledProcessError", "\r"))
    log = ended.stdout.partition("all that Snakemake says: ")[2].partition("\n")[0]
    assert "Select jobs to execute" in Path(log).read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "nonsense=1"], "nonsense: unknown key"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--dry-run", "--", "results/listing.tsv"], "checkpoint listing:"),
    ],
)
def test_what_snakemake_says_before_or_without_a_run_is_said(tmp_path, arguments, said):
    assert said in run(tmp_path, *arguments).stdout
