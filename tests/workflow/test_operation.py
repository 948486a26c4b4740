"""How a run starts, whoever starts it and wherever: each is the real command, on a folder that holds no cases."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOBODY = "import pwd\n\ndef getpwuid(uid):\n    raise KeyError(uid)\n\npwd.getpwuid = getpwuid\n"


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Snakemake by its path with this environment alone, for a data set that cannot be used; umask as usual."""
    (folder / "raw").mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "snakemake", "--directory", folder, "--cores", "1", *arguments,
        "--config", "study={name: ours}", f"cohort={{dataset: nifti, root: {folder}/raw}}", "--", "results/listing.tsv",
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, umask=0o022
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder and the run of a user without a name, whose environment is not active."""
    folder = tmp_path_factory.mktemp("nobody")
    (folder / "home").mkdir()
    (folder / "home/sitecustomize.py").write_text(NOBODY)
    home = str(folder / "home")
    return folder, start(folder, PATH="/usr/bin:/bin", HOME=home, PYTHONPATH=home)


def test_the_environment_need_not_be_active(ended):
    _, run = ended
    assert "not found" not in run.stdout.split("1 job failed.")[0]
    assert "lungsyn cohort index: " in run.stdout, run.stdout[-3000:]


def test_a_user_without_a_name_can_run_it(ended):
    _, run = ended
    assert "Traceback" not in run.stdout, run.stdout[-3000:]


def test_nothing_that_a_run_writes_is_for_everybody(ended):
    """Snakemake's own log is written before the workflow is read; the folder around it is closed."""
    folder, _ = ended
    assert not (folder / ".snakemake").stat().st_mode & 0o007
    written = [*(folder / "results").rglob("*")]
    assert any(path.name == "listing.log" for path in written)
    assert [path for path in written if path.stat().st_mode & 0o007] == []


@pytest.mark.parametrize(("part", "records", "refused"), [("generator", False, True), ("generator", True, False),
                                                          ("cases", False, True), ("logs", False, False)])  # fmt: skip
def test_results_without_their_records_are_not_taken_for_finished(tmp_path, part, records, refused):
    (tmp_path / "results" / part / "a").mkdir(parents=True)
    (tmp_path / "results" / part / "a/ct.nii").write_bytes(b"voxels")
    if records:
        (tmp_path / ".snakemake/metadata").mkdir(parents=True)
        (tmp_path / ".snakemake/metadata/cmVzdWx0cw==").write_text("{}")
    run = start(tmp_path, "--dry-run", **os.environ)
    assert ("has no record" in run.stdout) == refused
    assert (run.returncode != 0) == refused
    assert "Traceback" not in run.stdout
    if refused:
        assert "--touch" in run.stdout
        assert "has no record" not in start(tmp_path, "--touch", **os.environ).stdout


@pytest.mark.parametrize("dataset", ["nifti", "lidc"])
@pytest.mark.parametrize("name", ["site {x}", "site <x>"])
def test_a_folder_of_raw_data_with_braces_works_or_is_one_sentence(tmp_path, dataset, name):
    (tmp_path / name / "images").mkdir(parents=True)
    (tmp_path / "study.yaml").write_text(
        f"study: {{name: ours}}\ncohort: {{dataset: {dataset}, root: '{tmp_path}/{name}'}}\n"
    )
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--directory",
        tmp_path,
        "--configfile",
        tmp_path / "study.yaml",
        "-n",
    ]
    run = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert "Traceback" not in run.stdout
    if dataset == "nifti":
        assert run.returncode == 0, run.stdout
    else:
        assert f"{name}: Snakemake takes braces" in run.stdout
