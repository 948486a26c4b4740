"""A full or a read-only disk ends with one message that names the file and the way out.

The disks are mounted in a name space of the tested process, which takes them along when it ends.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
MOUNTS = {"full": "-t tmpfs -o size=40k tmpfs", "read-only": "-t tmpfs -o ro tmpfs"}


@pytest.fixture
def on_disk(tmp_path):
    """``on_disk(kind, folder, *command)``: the ended command, run while ``folder`` is such a disk; then its files."""

    def run(kind: str, folder: Path, *command) -> subprocess.CompletedProcess:
        folder.mkdir(parents=True, exist_ok=True)
        script = f'mount {MOUNTS[kind]} "{folder}" && "$@"; code=$?; ls -AR "{folder}"; exit $code'
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*UNSHARE, "sh", "-c", script, "sh", *map(str, command)], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    if run("full", tmp_path / "probe", "true").returncode:
        pytest.skip("no disk can be mounted here")
    return run


def lungsyn(*arguments) -> list:
    return [sys.executable, "-m", "lungsyn.cli", *arguments]


@pytest.mark.parametrize(("kind", "reason"), [("full", "the disk is full"), ("read-only", "the file system is read-")])
def test_volumes(on_disk, kind, reason, case_folders, tmp_path):
    out = tmp_path / "out"
    cases = [folder / "case.json" for folder in case_folders]
    ended = on_disk(kind, out, *lungsyn("cohort", "export", "--format", "nnunet", "--cases", *cases, "--out", out))
    assert ended.returncode == 2
    assert f"lungsyn cohort export: {out}/" in ended.stdout and f" cannot be written, {reason}" in ended.stdout
    assert "Traceback" not in ended.stdout
    assert not re.search(r"^\.\d+\.", ended.stdout, re.MULTILINE), "a temporary file is left"


SAVE = """
import sys, torch
from pathlib import Path
from lungsyn import checkpoint
from lungsyn.errors import InputError
try:
    checkpoint.save(Path(sys.argv[1]), {"w": torch.ones(100_000)}, {})
except InputError as error:
    print(error)
"""


def test_a_checkpoint(on_disk, tmp_path):
    path = tmp_path / "out/model.safetensors"
    ended = on_disk("full", path.parent, sys.executable, "-c", SAVE, path)
    assert ended.stdout.startswith(f"{path} cannot be written, the disk is full: free some space; then")
    assert ended.stdout.endswith(f"{path.parent}:\n"), "the disk has to be as empty as before"


def test_results_that_are_read_only_end_the_run_before_any_job(on_disk, tmp_path):
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--directory", tmp_path / "study"]
    ended = on_disk("read-only", tmp_path / "study/results", *command)
    assert ended.returncode == 1
    assert f"{tmp_path / 'study/results'} cannot be written: make it writable, or name another" in ended.stdout
    assert "Traceback" not in ended.stdout
