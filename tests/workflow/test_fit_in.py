"""The workflow among others: as a module, in the catalogue of Snakemake workflows, in conda and in containers."""

import re
import tomllib

import pytest
import yaml

from tests.conftest import ROOT

TINY = "tests/workflow/tiny.yaml"
USER = f"""
configfile: "{ROOT}/config.yaml"
configfile: "{ROOT}/{TINY}"

module lungsyn:
    snakefile: "{ROOT}/Snakefile"
    config: config

use rule * from lungsyn as lungsyn_*

rule letter:
    default_target: True
    input: "results/report.html"
    output: "letter.txt"
    shell: "cp {{input}} {{output}}"
"""


def counts(text: str) -> dict[str, int]:
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}


def test_another_workflow_uses_it_as_a_module(snakemake, tmp_path):
    (tmp_path / "Snakefile").write_text(USER)
    ended = snakemake(tmp_path, "--snakefile", str(tmp_path / "Snakefile"), "--dry-run", "--printshellcmds")
    assert ended.returncode == 0, ended.stdout[-2000:]
    jobs = counts(ended.stdout)
    assert jobs["letter"] == jobs["lungsyn_report"] == 1 and jobs["lungsyn_train_segmenter"] == 10
    assert "--names results/private/names.tsv" in ended.stdout  # names in commands are the module's


def test_a_name_that_both_workflows_have_is_refused(snakemake, tmp_path):
    (tmp_path / "Snakefile").write_text('NAMES = ["a"]\n' + USER)
    ended = snakemake(tmp_path, "--snakefile", str(tmp_path / "Snakefile"), "--dry-run")
    assert ended.returncode == 1 and "has a NAMES of its own: rename it there" in ended.stdout


def test_the_catalogue_s_snakefile_is_the_same_workflow_also_with_sdm_conda(snakemake, tmp_path):
    arguments = ("--configfile", TINY, "--dry-run")
    same = snakemake(tmp_path, "--snakefile", "workflow/Snakefile", "--sdm", "conda", *arguments)
    assert same.returncode == 0, same.stdout[-2000:]
    jobs = counts(same.stdout)
    assert jobs["study"] == jobs["report"] == 1 and jobs["train_segmenter"] == 10


def test_the_catalogue_finds_what_it_asks_for():
    """The rules of snakemake-workflow-catalog, "Adding workflows"."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme and "workflow" in readme
    assert (ROOT / "config/README.md").is_file() and (ROOT / "workflow/Snakefile").is_file()
    assert list((ROOT / "workflow/rules").glob("*.smk"))
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert {"conda", "apptainer", "apptainer+conda", "report"} == usage["software-stack-deployment"].keys()
    option, profile = usage["mandatory-flags"]["flags"].split()
    assert option == "--workflow-profile" and (ROOT / profile / "config.yaml").is_file()


def recipe(name: str) -> str:
    return (ROOT / "envs" / name).read_text(encoding="utf-8")


def base_of(name: str) -> str:
    return re.search(r"^from:? (\S+)$", recipe(name), re.IGNORECASE | re.MULTILINE)[1]


def test_containers_have_one_pinned_python_and_the_lock():
    image = base_of("Dockerfile")
    assert image == base_of("lungsyn.def")
    version = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", image)[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f">={version}" == project["requires-python"] and f"python ={version}" in recipe("lungsyn.yaml")
    for name in ("Dockerfile", "lungsyn.def"):
        installs = re.findall(r"pip install (.*)", recipe(name))
        assert len(installs) == 2 and "--requirement envs/requirements.lock" in installs[0]
        assert "--no-deps --editable ." in installs[1]


@pytest.mark.parametrize("lock", ["requirements.lock", "docs.lock", "slurm.lock"])
def test_locks_pin_every_package(lock):
    lines = [line for line in recipe(lock).splitlines() if line and not line.startswith(("#", "--"))]
    assert lines and all(re.match(r"[\w.\[\]-]+==[\w.+!]+", line) for line in lines)


def test_what_containers_copy_is_there():
    copied = re.findall(r"^COPY (\S+) \S+$", recipe("Dockerfile"), re.MULTILINE)
    copied += re.findall(r"^ {4}(\S+) /lungsyn/\S+$", recipe("lungsyn.def"), re.MULTILINE)
    assert len(copied) > 6 and all((ROOT / path).exists() for path in copied)
    ignored = recipe("Dockerfile.dockerignore").splitlines()
    assert {".venv", ".git", ".snakemake", "results/*"} <= set(ignored)  # no patient in an image
