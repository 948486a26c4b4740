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
                write_volume(folder / f"predictions/{arm}/100/{replicate}/c{k}.nii", Volume(percent, case.affine))
    write_table(folder / "cohort.tsv", rows, list(rows[0]))
    cases = [str(folder / f"cases/c{k}/case.json") for k in range(4)]
    for arm in ARMS:
        tables = [str(table_of(folder, arm, kind)) for kind in ("", ".nodules", ".points")]
        run("score", "--predictions", folder / f"predictions/{arm}/100", "--cohort", folder / "cohort.tsv", "--out",
            tables[0], "--nodules", tables[1], "--points", tables[2], "--cases", *cases)  # fmt: skip
    return folder


def table_of(folder, arm: str, kind: str):
    return folder / f"scores/unet/{arm}/100{kind}.tsv"


def run(*arguments) -> None:
    assert main(["evaluation", *map(str, arguments)]) == 0


def test_summaries(folder):
    """The comparison is written, read and drawn."""
    scores = [table_of(folder, arm, "") for arm in ARMS]
    settings = section("evaluation", bootstrap=200)
    run("compare", "--scores", *scores, "--benchmark-scores", scores[0], "--out", folder / "unet.tsv", "--seed", 1,
        "--benchmark", section("benchmark", worst_cases=1), "--evaluation", settings)  # fmt: skip
    for verb in ("plot-ladder", "plot-learning"):
        drawn(folder, verb, folder / "unet.tsv")


def compared(folder, verb: str, kind: str) -> list[dict]:
    tables = [table_of(folder, arm, f".{kind}") for arm in ARMS]
    run(verb, f"--{kind}", *tables, "--out", folder / f"{verb}.tsv", "--benchmark", section("benchmark"),
        "--evaluation", section("evaluation", bootstrap=200), "--seed", 1)  # fmt: skip
    return read_table(folder / f"{verb}.tsv")


def test_froc(folder):
    """One false alarm of more confidence than nothing else: it costs `real`, and no more than 1 per case."""
    at = {
        (row["arm"], row["replicate"], row["rate"]): float(row["sensitivity"])
        for row in compared(folder, "froc", "points")
    }
    assert at["real", "mean", "1"] == pytest.approx((0.5 + 0.5 + 0) / 3, abs=1e-5)
    assert at["real", "ensemble", "0.125"] == 0.5  # (90 + 90 + 5) / 3 = 61 %, before the alarm's 43 %
    assert at["real+synthetic", "mean", ""] == 1.0


def test_strata(folder):
    rows = {(row["arm"], row["stratum"]): row for row in compared(folder, "strata", "nodules")}
    assert rows["real", "all nodules"]["n_nodules"] == "6" and rows["real", "all nodules"]["n_patients"] == "3"
    assert float(rows["real", "all nodules"]["sensitivity"]) == pytest.approx(1 / 3, abs=1e-5)
    assert float(rows["real+synthetic", "all nodules"]["sensitivity_difference"]) == pytest.approx(2 / 3, abs=1e-5)
    assert ("real", "texture not rated") in rows and ("real", "solid") not in rows


def test_pictures_of_cases(folder):
    cases = [folder / f"cases/c{k}/case.json" for k in range(1, 4)]
    common = ["--predictions", *(folder / f"predictions/{arm}/100" for arm in ARMS), "--cases", *cases, "--study",
              section("study"), "--figures", section("figures", dpi=50, case_arms=ARMS)]  # fmt: skip
    for verb, table, kind in (("plot-cases", "--scores", ""), ("plot-turned", "--nodules", ".nodules")):
        run(verb, table, *(table_of(folder, arm, kind) for arm in ARMS), *common, "--out", folder / f"{verb}.png")
        assert (folder / f"{verb}.png").stat().st_size > 5000


def test_picture_of_the_froc(folder):
    compared(folder, "froc", "points")
    drawn(folder, "plot-froc", folder / "froc.tsv")


def drawn(folder, verb: str, table) -> None:
    run(verb, "--table", table, "--cohort", folder / "cohort.tsv", "--benchmark", section("benchmark"), "--evaluation",
        section("evaluation"), "--study", section("study"), "--figures", section("figures", dpi=50), "--out",
        folder / f"{verb}.png")  # fmt: skip
    assert (folder / f"{verb}.png").stat().st_size > 5000
