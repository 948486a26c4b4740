"""A generator and a source of masks of one's own are one new file each: another package's, through the workflow."""

import re
from pathlib import Path

import numpy as np
import pytest

from lungsyn.provenance import model_facts
from lungsyn.study.planning import measured
from lungsyn.volume.files import open_case
from lungsyn.volume.tables import read_table
from tests.conftest import ROOT

OVERLAY = """
generators:
  painted: {kind: mean_hu, noise_hu: 30}
sets:
  untargeted: {generator: painted, conditions: {kind: spheres, spacing_mm: 5, diameter_mm: 30}}
segmenters:
  unet: {arms: [real, synthetic]}
replicates: 1
"""


def code_of_the_docs(heading: str) -> str:
    """The Python of a section of docs/extend.md: all that a user writes."""
    section = (ROOT / "docs/extend.md").read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """An installed package of two files, and the entry points that name them."""
    folder = tmp_path / "packages"
    about = folder / "of_a_lab-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "paints.py").write_text(code_of_the_docs("A generator"), encoding="utf-8")
    (folder / "made_up.py").write_text(code_of_the_docs("A source of masks"), encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: of-a-lab\nVersion: 1.0\n", encoding="utf-8")
    entry_points = "[lungsyn.generators]\nmean_hu = paints\n\n[lungsyn.masks]\nspheres = made_up\n"
    (about / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.mark.slow
def test_a_generator_and_a_source_of_masks_of_a_user_make_a_study(package, snakemake, tmp_path):
    """The whole tiny study, to its report, without another generator; a second run has nothing to do."""
    overlay, folder = tmp_path / "overlay.yaml", tmp_path / "study"
    overlay.write_text(OVERLAY, encoding="utf-8")
    ended = snakemake(folder, "--configfile", "tests/workflow/tiny.yaml", str(overlay))
    assert ended.returncode == 0, ended.stdout[-4000:]
    results = folder / "results"
    assert [path.name for path in (results / "generator").iterdir()] == ["painted"]
    facts = model_facts(results / "generator/painted/100/model.safetensors")
    assert facts["generator"] == {"kind": "mean_hu", "noise_hu": 30.0} and facts["cost"]["seconds"] >= 0
    assert facts["recipe"].endswith("+mean_hu-1")

    rows = read_table(results / "conditions/untargeted/100.tsv", ["volume", "seed", "diameter_mm"])
    made = sorted((results / "synthetic/painted/untargeted/100").glob("*/*/case.json"))
    assert len(rows) == len(made) == 3
    for case in (open_case(path.parent) for path in made):
        assert case.ct.shape == (64, 44, 48) and case.space.spacing_mm == pytest.approx(5.0)
        assert np.max(case.nodules) == 2 and len(case.about["nodules"]) == 2
        assert case.ct[case.lungs > 0].mean() < -600 < -200 < case.ct[(case.body > 0) & (case.lungs == 0)].mean()
        assert np.std(case.ct[(case.lungs > 0) & (case.nodules == 0)]) == pytest.approx(30, abs=1)
        assert case.about["made"]["inputs"].keys() == {"model"}
    assert (results / "report.html").exists()
    rates = {of: seconds for (rule, of), (seconds, _) in measured(results).items() if rule == "train_generator"}
    assert list(rates.values()) == [facts["cost"]["seconds"]]  # what `lungsyn plan` expects the next time
    again = snakemake(folder, "--configfile", "tests/workflow/tiny.yaml", str(overlay))
    assert "Nothing to be done" in again.stdout, again.stdout[-2000:]
