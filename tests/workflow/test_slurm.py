"""A real Slurm of one node on this machine, with a GPU that does not exist: the tiny study through the shipped profile.

The generator's training is cancelled once and hits its time limit once. Both come as a cluster sends them: the process
gets SIGTERM, saves, and is submitted again. To be hit for certain it is stopped (SIGSTOP) in the middle of its work
and woken for the signal: by Slurm itself when it cancels, by Slurm or the test when the time is up.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.workflow import stress

SCRIPTS = ROOT / "tests/workflow/slurm"
PROFILE = ROOT / "workflow/profiles/slurm/config.yaml"
CONFIG = (  # two arms, one of each kind; and the same precision in both runs, whatever each would measure
    *stress.CONFIG, "--config", "segmenters={unet: {arms: [real, synthetic]}}", "compute={precision: float32}",
)  # fmt: skip
TABLE = "results/comparison/unet.tsv"
LOG = "results/logs/train_generator/patch_ddpm/100.log"
SMALL = {  # what a cluster's users would set, and waits of seconds instead of minutes
    "cores": 1,
    "latency-wait": 10,
    "seconds-between-status-checks": 3,
    "slurm-init-seconds-before-status-checks": 3,
    "group-components": {"prepare": 6},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Path:
    """The folder of a running Slurm."""
    missing = [command for command in ("munged", "slurmctld", "slurmd", "sinfo") if not shutil.which(command)]
    if missing or os.geteuid() != 0:
        pytest.skip("no Slurm to start: needs root and the packages that tests/workflow/slurm/up.sh names")
    if not find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("the Slurm plugin is not installed: make slurm")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        started = subprocess.run([SCRIPTS / "up.sh", folder], capture_output=True, text=True)
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        subprocess.run([SCRIPTS / "down.sh", folder])


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    """The shipped profile with the partitions it names, and SMALL."""
    shipped = yaml.safe_load(PROFILE.read_text())
    for resources in (shipped["default-resources"], *shipped["set-resources"].values()):
        resources["mem_mb"] = "attempt * 2000"
    shipped["set-threads"] = dict.fromkeys(shipped["set-threads"], 1)
    shipped["set-resources"]["synthesise"] |= {"gpu": 0, "gres": "'gpu:1' if input.model else ''"}  # the other way
    folder = tmp_path_factory.mktemp("profile")
    (folder / "config.yaml").write_text(yaml.safe_dump(shipped | SMALL))
    return folder


@pytest.fixture(scope="module")
def local_study(slurm, snakemake, tmp_path_factory) -> Path:
    """The same study after a run on this machine alone."""
    folder = tmp_path_factory.mktemp("local")
    ended = snakemake(folder, *CONFIG, "--", TABLE)
    assert ended.returncode == 0, ended.stdout[-4000:]
    return folder


def squeue(rule: str, *columns: str, states: str = "all") -> list[list[str]]:
    """One row per Slurm job of a rule or group, by the plugin's comment on it."""
    wide = ",".join(f"{column}:200" for column in ("Comment", *columns))
    listed = subprocess.check_output(["squeue", "--noheader", f"--states={states}", "--Format", wide], text=True)
    rows = [[line[i : i + 200].strip() for i in range(0, len(line), 200)] for line in listed.splitlines()]
    return [row[1:] for row in rows if f"rule_{rule}" in row[0]]


def wait_for(what, run: subprocess.Popen, seconds: float = 1800):
    """The first true answer of ``what``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and run.poll() is None:
        if found := what():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what.__name__} did not come to be; the run's exit code is {run.poll()}")


def stop_in_training(study: Path, run: subprocess.Popen, attempt: int) -> tuple[str, int]:
    """Stop the generator's training of this attempt where it learns. Returns the numbers of job and process."""

    def slurm_job():
        rows = squeue("train_generator", "JobID", states="running")
        return rows and len(squeue("train_generator", "JobID")) == attempt and rows[0][0]

    def learning():
        process, log = training(study), study / LOG
        return process and log.exists() and re.search(r"^generator: \d", log.read_text(), re.MULTILINE) and process

    job = wait_for(slurm_job, run)
    process = wait_for(learning, run)
    os.kill(process, signal.SIGSTOP)
    return job, process


def training(study: Path) -> int:
    """The process of the generator's training, or 0."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"generation\0train" in (process / "cmdline").read_bytes() and (process / "cwd").resolve() == study:
                return int(process.name)
        except OSError:
            pass
    return 0


def went_on_at(study: Path) -> int:
    """Patches that the generator's training had behind it when it was started last."""
    found = re.search(r"training on .*, from (\d+) of", (study / LOG).read_text())
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def study(slurm, profile, local_study, tmp_path_factory):
    """The study after a run through Slurm that was disturbed twice, with what happened. It starts with two cases to
    prepare; the others are taken from the local run."""
    folder = tmp_path_factory.mktemp("clustered").resolve()
    for part in (".snakemake/metadata", ".snakemake/incomplete", "results/phantom", "results/private", "results/cases"):
        shutil.copytree(local_study / part, folder / part, symlinks=True)
    for name in ("listing", "cohort"):
        shutil.copy2(local_study / f"results/{name}.tsv", folder / f"results/{name}.tsv")
    for case in sorted((folder / "results/cases").iterdir())[:2]:
        shutil.rmtree(case)
    command = [
        sys.executable, "-m", "snakemake", "--workflow-profile", profile, "--directory", folder, *CONFIG, "--", TABLE,
    ]  # fmt: skip
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with open(folder / "said.txt", "w") as said:
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        try:
            cancelled, _ = stop_in_training(folder, run, 1)
            subprocess.run(["scancel", cancelled], check=True)
            too_long, process = stop_in_training(folder, run, 2)
            after_cancelling = went_on_at(folder)
            subprocess.run(["scontrol", "update", f"JobId={too_long}", "EndTime=now"], check=True)
            wait_for(lambda: dict(squeue("train_generator", "JobID", "State"))[too_long] != "RUNNING", run)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)  # where Slurm did not: its SIGTERM is waiting for it
            run.wait(timeout=3000)
        finally:
            run.kill()
            run.wait()
    jobs = {"cancelled": cancelled, "too long": too_long, "after cancelling": after_cancelling}
    return folder, jobs, run.returncode


def test_a_run_through_slurm_gives_the_tables_of_a_local_run(study, local_study):
    folder, _, code = study
    assert code == 0, (folder / "said.txt").read_text()[-4000:]
    for path in (TABLE, "results/cohort.tsv"):
        assert (folder / path).read_bytes() == (local_study / path).read_bytes()


def test_a_cancelled_and_a_too_long_training_went_on(study):
    folder, jobs, _ = study
    states = dict(squeue("train_generator", "JobID", "State"))
    assert states.pop(jobs["cancelled"]) == "CANCELLED"
    assert states.pop(jobs["too long"]) == "TIMEOUT"
    assert list(states.values()) == ["COMPLETED"]
    assert 0 < jobs["after cancelling"] < went_on_at(folder)


def test_a_retry_gets_more_memory(study):
    assert [row[0] for row in sorted(squeue("train_generator", "MinMemory", "JobID"), key=lambda row: int(row[1]))] == [
        "2000M", "4000M", "6000M",
    ]  # fmt: skip


def test_gpu_jobs_are_on_the_gpu_partition_and_got_a_gpu(study):
    partition_of = dict.fromkeys(("train_generator", "synthesise", "train_segmenter", "predict"), "gpu")
    partition_of |= {"prepare": "cpu", "reference": "cpu", "score": "cpu"}
    for rule, wanted in partition_of.items():
        rows = squeue(rule, "Partition", "tres-per-job", "tres-per-node")
        assert rows, rule
        for partition, *resources in rows:
            assert partition == wanted, rule
            assert ("gpu:1" in " ".join(resources)) == (wanted == "gpu"), rule


def test_cases_are_prepared_in_one_job_and_glue_in_none(study):
    assert len(squeue("prepare", "JobID")) == 1
    assert squeue("compare", "JobID") == squeue("conditions", "JobID") == []


def test_another_slurm_s_jobs_are_left_alone(tmp_path):
    """Without a Slurm that up.sh started in its folder, down.sh cancels nothing."""
    called = tmp_path / "called"
    (tmp_path / "scancel").write_text(f"#!/bin/sh\ntouch {called}\n")
    (tmp_path / "scancel").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([SCRIPTS / "down.sh", tmp_path / "no Slurm"], env=environment)
    assert not called.exists()
