"""A dataset of one's own is one new file: a reader that another installed package brings, through the workflow."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from lungsyn.volume.files import open_case
from lungsyn.volume.tables import read_table
from tests.conftest import ROOT, make_case


def reader_of_the_docs() -> str:
    """The Python of docs/extend.md on datasets: all that a user writes."""
    section = (ROOT / "docs/extend.md").read_text(encoding="utf-8").partition("## A dataset")[2]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def write_package(folder: Path) -> None:
    """An installed package of one file: its module, and the entry point that names it."""
    (folder / "toys-1.0.dist-info").mkdir(parents=True)
    (folder / "toys-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (folder / "toys-1.0.dist-info/entry_points.txt").write_text("[lungsyn.readers]\nnpz = reads_npz\n")
    (folder / "reads_npz.py").write_text(reader_of_the_docs())


def write_npz(path: Path, seed: int) -> None:
    case = make_case(shape=(30, 34, 28), seed=seed)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, ct=case.ct, nodules=case.nodules, airway=case.ct < -850, spacing_mm=case.space.spacing_mm[0])


@pytest.mark.slow
def test_a_reader_of_another_package_is_one_new_file(snakemake, tmp_path, monkeypatch):
    """The workflow lists and prepares its cases, and prepares one again whose file is another, and no other."""
    write_package(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    for seed, name in enumerate("abc"):
        write_npz(tmp_path / f"raw/{name}.npz", seed)
    cohort = {"dataset": "npz", "root": str(tmp_path / "raw"), "labels": ["airway"]}
    part = {"preprocess": {"spacing_mm": 2.0, "margin_mm": 0, "field_of_view": "part"}}
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump({"study": {"name": "toys"}, "cohort": cohort | part}))
    arguments = ["--configfile", "tests/workflow/tiny.yaml", str(tmp_path / "toys.yaml"), "--", "results/cohort.tsv"]
    ended = snakemake(tmp_path, *arguments)
    assert ended.returncode == 0, ended.stdout[-4000:]
    rows = read_table(tmp_path / "results/cohort.tsv")
    assert [(row["case"], row["status"], row["n_nodules"]) for row in rows] == [(c, "included", "2") for c in "abc"]
    case, raw = open_case(tmp_path / "results/cases/b"), np.load(tmp_path / "raw/b.npz")
    assert np.array_equal(case.ct, raw["ct"]) and np.array_equal(case.nodules, raw["nodules"])
    assert np.array_equal(case.labels["airway"], raw["airway"]) and case.about["dataset"] == "npz"
    write_npz(tmp_path / "raw/b.npz", 7)
    ended = snakemake(tmp_path, *arguments)
    assert ended.returncode == 0, ended.stdout[-4000:]
    prepared = {line.split()[-1] for line in ended.stdout.splitlines() if "wildcards: case=" in line}
    assert prepared == {"case=b"}
