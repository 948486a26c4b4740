"""Snakemake as a user starts it: the command, the repository's Snakefile, a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def snakemake():
    """``snakemake(folder, *arguments)``: the ended process with its ``output``; configfiles are relative to ROOT."""

    def run(folder: Path, *arguments: str, cores: int = 2) -> subprocess.CompletedProcess:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", "Snakefile", "--directory", str(folder),
            "--cores", str(cores), *arguments,
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PATH": path}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def tiny_study(snakemake, tmp_path_factory) -> Path:
    """The folder of the tiny study after one run that nothing disturbed. To be read, or copied."""
    folder = tmp_path_factory.mktemp("tiny")
    ended = snakemake(folder, "--configfile", "tests/workflow/tiny.yaml")
    assert ended.returncode == 0, ended.stdout[-4000:]
    return folder
