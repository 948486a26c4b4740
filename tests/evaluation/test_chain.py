"""From predictions on disk to tables and pictures, by the command line: four cases, two arms, three replicates."""

import json

import numpy as np
import pytest
import yaml

from lungsyn.cli import main
from lungsyn.volume.files import write_case, write_volume
from lungsyn.volume.space import Volume
from lungsyn.volume.tables import read_table, write_table
from tests.conftest import ROOT, make_case

ARMS = ("real", "real+synthetic")
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())


def section(name: str, **changes) -> str:
    return json.dumps(CONFIG[name] | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each case has two nodules: `real` finds the first with two replicates of three, the other arm both with all."""
    folder = tmp_path_factory.mktemp("chain")
    rows = [{"case": "t", "patient": "t", "split": "train"}]
    for k in range(4):
        case = make_case((34, 24, 20), seed=k, name=f"c{k}")
        write_case(folder / f"cases/c{k}", case)
        rows.append({"case": f"c{k}", "patient": f"c{k}", "split": "validation" if k == 0 else "test"})
        for arm in ARMS:
            for replicate in range(3):
                seen = case.nodules > 0 if arm != "real" else (case.nodules == 1) & (replicate < 2)
                percent = np.where(seen, 90, 5).astype(np.uint8)
                percent[:2, :2, :2] = 30 if replicate else 70  # a false alarm of the first replicate
                write_volume(folder / f"predictions/unet/{arm}/100/{replicate}/c{k}.nii", Volume(percent, case.affine))
    write_table(folder / "cohort.tsv", rows, list(rows[0]))
    cases = [str(folder / f"cases/c{k}/case.json") for k in range(4)]
    for arm in ARMS:
        tables = [str(table_of(folder, arm, kind)) for kind in ("", ".nodules", ".points")]
        run("score", "--predictions", folder / f"predictions/unet/{arm}/100", "--cohort", folder / "cohort.tsv",
            "--out", tables[0], "--nodules", tables[1], "--points", tables[2], "--cases", *cases)  # fmt: skip
    return folder


def table_of(folder, arm: str, kind: str):
    return folder / f"scores/unet/{arm}/100{kind}.tsv"


def run(*arguments) -> None:
    assert main(["evaluation", *map(str, arguments)]) == 0


@pytest.fixture(scope="module")
def compared(folder):
    """The three tables of the comparison."""
    tables = {kind: [table_of(folder, arm, kind) for arm in ARMS] for kind in ("", ".nodules", ".points")}
    run("compare", "--scores", *tables[""], "--nodules", *tables[".nodules"], "--points", *tables[".points"],
        "--benchmark-scores", tables[""][0], "--out", folder / "unet.tsv", "--froc", folder / "unet.froc.tsv",
        "--strata", folder / "unet.strata.tsv", "--benchmark", section("benchmark", worst_cases=1), "--evaluation",
        section("evaluation", bootstrap=200), "--seed", 1)  # fmt: skip
    return folder


def test_comparison(compared):
    """`real` finds one nodule of two with two replicates of three: a Dice that the other arm's is far above."""
    rows = {(row["arm"], row["group"]): row for row in read_table(compared / "unet.tsv")}
    assert float(rows["real+synthetic", "test"]["mean_difference"]) > 0.3
    assert rows["real", "test"]["mean_difference"] == "" and rows["real", "worst validation"]["n_cases"] == "1"


def test_froc(compared):
    """One false alarm of more confidence than nothing else: it costs `real`, and no more than 1 per case."""
    at = {
        (row["arm"], row["replicate"], row["rate"]): float(row["sensitivity"])
        for row in read_table(compared / "unet.froc.tsv")
    }
    assert at["real", "mean", "1"] == pytest.approx((0.5 + 0.5 + 0) / 3, abs=1e-5)
    assert at["real", "ensemble", "0.125"] == 0.5  # (90 + 90 + 5) / 3 = 61 %, before the alarm's 43 %
    assert at["real+synthetic", "mean", ""] == 1.0


def test_strata(compared):
    rows = {(row["arm"], row["stratum"]): row for row in read_table(compared / "unet.strata.tsv")}
    assert rows["real", "all nodules"]["n_nodules"] == "6" and rows["real", "all nodules"]["n_patients"] == "3"
    assert float(rows["real", "all nodules"]["sensitivity"]) == pytest.approx(1 / 3, abs=1e-5)
    assert float(rows["real+synthetic", "all nodules"]["sensitivity_difference"]) == pytest.approx(2 / 3, abs=1e-5)
    assert ("real", "texture not rated") in rows and ("real", "solid") not in rows


def test_pictures(compared):
    """All of one size; cases and nodules where both of their arms are. Learning curves need a second size."""
    folder, curve = compared, compared / "segmentation/unet/real/100/0/training.jsonl"
    curve.parent.mkdir(parents=True)
    curve.write_text("".join(f'{{"images_seen": {k}, "loss": {1 / k}}}\n' for k in range(1, 9)))
    run("plot-arms", "--scores", *(table_of(folder, arm, "") for arm in ARMS), "--nodules",
        *(table_of(folder, arm, ".nodules") for arm in ARMS), "--predictions",
        *(folder / f"predictions/unet/{arm}/100" for arm in ARMS), "--comparisons", folder / "unet.tsv", "--frocs",
        folder / "unet.froc.tsv", "--curves", curve, "--cohort", folder / "cohort.tsv", "--cases",
        *(folder / f"cases/c{k}/case.json" for k in range(1, 4)), "--benchmark", section("benchmark", worst_cases=1),
        "--evaluation", section("evaluation"), "--study", section("study"), "--figures",
        section("figures", dpi=50, case_arms=ARMS), "--out", folder / "figures")  # fmt: skip
    drawn = {path.stem: path.stat().st_size for path in (folder / "figures").iterdir()}
    assert set(drawn) == {
        "ladder-unet", "froc-unet", "dice_difference-unet-100", "cases-unet-100", "turned-unet-100", "training",
    }  # fmt: skip
    assert min(drawn.values()) > 5000
