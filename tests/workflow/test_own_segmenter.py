"""A user's own segmenters take part in a study: one file of another package, found by its entry point; two commands."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from lungsyn.provenance import model_facts
from lungsyn.volume.files import Case, open_case, read_volume
from lungsyn.volume.predictions import read_predictions
from lungsyn.volume.tables import read_table
from tests.conftest import ROOT

TINY = "tests/workflow/tiny.yaml"
OVERLAY = r"""
segmenters:
  dense: {kind: threshold, sure_percent: 80, arms: [real, synthetic]}
  copied:  # the CT itself for a mask: nodule is what is above 0 HU
    kind: command
    train: ls "$DATA/imagesTr" > "$MODEL/names"
    predict: for f in "$IMAGES"/*.nii; do cp "$f" "$OUT/$(basename "$f" _0000.nii).nii"; done
    arms: [real]
    keep_lungs: false
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """The file of docs/extend.md on segmenters, installed as its own package would be."""
    section = (ROOT / "docs/extend.md").read_text(encoding="utf-8").partition("## A segmenter")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    folder = tmp_path / "packages"
    about = folder / "of_a_lab-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "of_a_lab.py").write_text(code, encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: of-a-lab\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[lungsyn.segmenters]\nthreshold = of_a_lab\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def predicted(results: Path, segmenter: str) -> list[tuple[Case, np.ndarray]]:
    """Each case that the first training of the arm ``real`` has predicted, and the prediction."""
    folder = results / f"predictions/{segmenter}/real/100"
    rows = [row for row in read_predictions(folder) if row["replicate"] == "0"]
    assert len(rows) == 3
    return [(open_case(results / "cases" / row["case"]), read_volume(row["file"]).data) for row in rows]


@pytest.mark.slow
def test_segmenters_of_a_user_take_part_in_a_study(tiny_study, package, snakemake, tmp_path):
    """Beside the study's own, of which nothing runs again."""
    folder, overlay = tmp_path / "study", tmp_path / "overlay.yaml"
    shutil.copytree(tiny_study, folder, symlinks=True)
    overlay.write_text(OVERLAY, encoding="utf-8")
    ended = snakemake(folder, "--configfile", TINY, str(overlay))
    assert ended.returncode == 0, ended.stdout[-4000:]
    trained = set(re.findall(r"segmenter=(\w+), arm=(\S+), size=100, replicate", ended.stdout))
    assert trained == {("dense", "real"), ("dense", "synthetic"), ("copied", "real")}

    results = folder / "results"
    model = results / "segmentation/dense/real/100/0/model.safetensors"
    facts = model_facts(model)
    assert facts["kind"] == "threshold" and facts["segmenter"] == {"weight": 0.5} and facts["cost"]["seconds"] >= 0
    assert facts["recipe"] == "train-1+threshold-1"
    scored = {row["case"] for row in read_table(results / "scores/dense/real/100.tsv")}
    assert scored == {row["case"] for row in read_table(results / "scores/unet/real/100.tsv")}
    assert (results / "comparison/dense.tsv").exists()
    for case, percent in predicted(results, "dense"):
        assert set(np.unique(percent)) == {0, 80} and not percent[case.body == 0].any()
    for case, percent in predicted(results, "copied"):
        assert np.array_equal(percent, np.where(case.ct > 0, 100, 0))
    assert "Segmenter: dense" in (results / "report.html").read_text(encoding="utf-8")
    assert os.environ["PYTHONPATH"] == str(package)  # nothing was installed
