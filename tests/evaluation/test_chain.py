"""From predictions on disk to tables and pictures, by the command line: four cases, two arms, three replicates."""

import json

import numpy as np
import pytest
import yaml

from lungsyn.cli import main
from lungsyn.errors import InputError
from lungsyn.evaluation import gallery
from lungsyn.evaluation.scores import read_arms
from lungsyn.volume.files import write_case, write_volume
from lungsyn.volume.predictions import write_predictions
from lungsyn.volume.space import Volume
from lungsyn.volume.tables import read_table, write_table
from tests.conftest import ROOT, make_case

# Names that look like something else: parsed out of a file's name they would be two per cent, or the arm at a size.
SEGMENTER, ARMS, SIZE = "unet-2", ("real", "real-100"), 50
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())


def section(name: str, **changes) -> str:
    return json.dumps({key: value for key, value in (CONFIG[name] | changes).items() if key != "viewer_cases"})


BENCHMARK = section("benchmark", segmenter=SEGMENTER, worst_cases=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each case has two nodules: `real` finds the first with two replicates of three, the other arm both with all."""
    folder = tmp_path_factory.mktemp("chain")
    rows, files = [{"case": "t", "patient": "t", "split": "train"}], {arm: [] for arm in ARMS}
    for k in range(4):
        case = make_case((34, 24, 20), seed=k, name=f"c{k}")
        write_case(folder / f"cases/c{k}", case)
        rows.append({"case": f"c{k}", "patient": f"c{k}", "split": "validation" if k == 0 else "test"})
        for arm in ARMS:
            for replicate in range(3):
                seen = case.nodules > 0 if arm != "real" else (case.nodules == 1) & (replicate < 2)
                percent = np.where(seen, 90, 5).astype(np.uint8)
                percent[:2, :2, :2] = 30 if replicate else 70  # a false alarm of the first replicate
                end = "nii" if arm == "real" else "nii.gz"  # as before, as now
                path = predictions_of(folder, arm) / f"{replicate}/c{k}.{end}"
                write_volume(path, Volume(percent, case.affine))
                files[arm].append((str(replicate), f"c{k}", path))
    write_table(folder / "cohort.tsv", rows, list(rows[0]))
    cases = [str(folder / f"cases/c{k}/case.json") for k in range(4)]
    for arm in ARMS:
        of = {"segmenter": SEGMENTER, "arm": arm, "size": SIZE}
        write_predictions(predictions_of(folder, arm), of, files[arm])
        tables = [str(table_of(folder, arm, kind)) for kind in ("", ".nodules", ".points")]
        run("score", "--predictions", predictions_of(folder, arm), "--cohort", folder / "cohort.tsv",
            "--out", tables[0], "--nodules", tables[1], "--points", tables[2], "--cases", *cases)  # fmt: skip
    return folder


def table_of(folder, arm: str, kind: str):
    return folder / f"scores/{ARMS.index(arm)}{kind}.tsv"  # not a word of what it is of


def predictions_of(folder, arm: str):
    return folder / f"predictions/{ARMS.index(arm)}"


def run(*arguments) -> None:
    assert main(["evaluation", *map(str, arguments)]) == 0


@pytest.fixture(scope="module")
def compared(folder):
    """The three tables of the comparison."""
    tables = {kind: [table_of(folder, arm, kind) for arm in ARMS] for kind in ("", ".nodules", ".points")}
    run("compare", "--scores", *tables[""], "--nodules", *tables[".nodules"], "--points", *tables[".points"],
        "--benchmark-scores", tables[""][0], "--out", folder / "compared.tsv", "--froc", folder / "froc.tsv",
        "--strata", folder / "strata.tsv", "--layers", folder / "layers.tsv", "--benchmark", BENCHMARK, "--evaluation",
        section("evaluation", bootstrap=200), "--seed", 1)  # fmt: skip
    return folder


def test_comparison(compared):
    """`real` finds one nodule of two with two replicates of three: a Dice that the other arm's is far above."""
    rows = {(row["arm"], row["group"]): row for row in read_table(compared / "compared.tsv")}
    assert float(rows["real-100", "test"]["mean_difference"]) > 0.3
    assert rows["real", "test"]["mean_difference"] == "" and rows["real", "worst validation"]["n_cases"] == "1"


def test_froc(compared):
    """One false alarm of more confidence than nothing else: it costs `real`, and no more than 1 per case."""
    at = {
        (row["arm"], row["replicate"], row["rate"]): float(row["sensitivity"])
        for row in read_table(compared / "froc.tsv")
    }
    assert at["real", "mean", "1"] == pytest.approx((0.5 + 0.5 + 0) / 3, abs=1e-5)
    assert at["real", "ensemble", "0.125"] == 0.5  # (90 + 90 + 5) / 3 = 61 %, before the alarm's 43 %
    assert at["real-100", "mean", ""] == 1.0


def test_strata(compared):
    rows = {(row["arm"], row["stratum"]): row for row in read_table(compared / "strata.tsv")}
    assert rows["real", "all nodules"]["n_nodules"] == "6" and rows["real", "all nodules"]["n_patients"] == "3"
    assert float(rows["real", "all nodules"]["sensitivity"]) == pytest.approx(1 / 3, abs=1e-5)
    assert float(rows["real-100", "all nodules"]["sensitivity_difference"]) == pytest.approx(2 / 3, abs=1e-5)
    assert ("real", "texture not rated") in rows and ("real", "solid") not in rows


def test_every_table_says_whose_it_is(compared):
    tables = [table_of(compared, arm, kind) for arm in ARMS for kind in ("", ".nodules", ".points")]
    for path in [*tables, *(compared / f"{name}.tsv" for name in ("compared", "froc", "strata", "layers"))]:
        rows = read_table(path)
        assert {(row["segmenter"], row["size"]) for row in rows} == {(SEGMENTER, str(SIZE))}, path
        assert {row["arm"] for row in rows} <= set(ARMS), path


def test_predictions_of_an_older_version_are_refused_in_a_sentence(folder, tmp_path, capsys):
    told = ["--cohort", folder / "cohort.tsv", "--cases", folder / "cases/c1/case.json", "--predictions", tmp_path]
    told += [word for name in ("out", "nodules", "points") for word in (f"--{name}", tmp_path / name)]
    assert main(["evaluation", "score", *map(str, told)]) == 2
    assert "delete the folder and give the same command again, which predicts" in capsys.readouterr().err


def test_scores_of_an_older_version_are_refused_in_a_sentence(compared, tmp_path, capsys):
    rows = read_table(table_of(compared, "real", ""))
    write_table(
        tmp_path / "old.tsv", rows, [column for column in rows[0] if column not in ("segmenter", "arm", "size")]
    )
    with pytest.raises(InputError, match=r"no column 'segmenter': delete it and give the command again that made it"):
        read_arms([tmp_path / "old.tsv"])


@pytest.fixture(scope="module")
def drawn(compared):
    """The pictures of the arms, all of one size, and their table."""
    folder, curve = compared, compared / "curve.jsonl"
    of = {"segmenter": SEGMENTER, "arm": "real-100", "size": SIZE, "replicate": 0}
    curve.write_text("".join(json.dumps(of | {"images_seen": k, "loss": 1 / k}) + "\n" for k in range(1, 9)))
    run("plot-arms", "--scores", *(table_of(folder, arm, "") for arm in ARMS), "--nodules",
        *(table_of(folder, arm, ".nodules") for arm in ARMS), "--predictions",
        *(predictions_of(folder, arm) for arm in ARMS), "--comparisons", folder / "compared.tsv", "--frocs",
        folder / "froc.tsv", "--curves", curve, "--cohort", folder / "cohort.tsv", "--cases",
        *(folder / f"cases/c{k}/case.json" for k in range(1, 4)), "--benchmark",
        BENCHMARK, "--evaluation", section("evaluation"), "--study",
        section("study"), "--figures", section("figures", dpi=50, case_arms=ARMS), "--pictures",
        folder / "figures/arms.tsv", "--out", folder / "figures")  # fmt: skip
    return folder / "figures"


def test_pictures(drawn):
    """Cases and nodules where both of their arms are. Learning curves need a second size."""
    sizes = {path.stem: path.stat().st_size for path in drawn.glob("*.png")}
    assert set(sizes) == {
        "ladder-unet-2", "froc-unet-2", "dice_difference-unet-2-50", "cases-unet-2-50", "turned-unet-2-50", "training",
    }  # fmt: skip
    assert min(sizes.values()) > 5000


def test_beside_each_picture_lie_its_numbers(drawn, compared):
    tables = {row["file"][:-4]: read_table(drawn / f"{row['file'][:-4]}.tsv") for row in read_table(drawn / "arms.tsv")}
    assert all(tables[name] for name in tables if not name.startswith("turned"))
    change = {(row["case"], row["arm"]): row for row in tables["dice_difference-unet-2-50"]}
    assert len(change) == 8 and {row["group"] for row in change.values()} == {"worst validation", "test"}
    for (case, arm), row in change.items():  # a second implementation: the scores as they were written
        means = {
            of: np.mean([float(r["dice"]) for r in read_table(table_of(compared, of, "")) if r["case"] == case
                         and r["replicate"] != "ensemble"]) for of in ARMS
        }  # fmt: skip
        assert float(row["dice"]) == pytest.approx(means[arm], rel=1e-5)
        assert float(row["difference"]) == pytest.approx(means[arm] - means["real"], abs=1e-5)
    assert [(row["arm"], row["group"]) for row in tables["ladder-unet-2"]] == [(arm, "test") for arm in ARMS]
    assert len(tables["training"]) == 8 and tables["training"][1]["loss"] == "0.5"
    assert len(tables["cases-unet-2-50"]) == 3 * 2 * 3
    assert {row["found_by"] for row in tables["turned-unet-2-50"]} == {"real-100"}  # the second nodule of each case


def test_a_picture_s_caption_says_what_it_shows_whatever_its_file_is_called(drawn, tmp_path):
    """A set called a-b-100 at half of the patients, a segmenter called unet-2 at no size."""
    (drawn / "ladder-unet-2.png").rename(drawn / "x.png")
    rows = [row | {"file": row["file"].replace("ladder-unet-2", "x")} for row in read_table(drawn / "arms.tsv")]
    write_table(drawn / "renamed.tsv", rows, gallery.COLUMNS)
    sets = [gallery.entry("contact_sheet", set_name="a-b-100", size=size) for size in (50, 100)]
    write_table(drawn / "sets.tsv", sets, gallery.COLUMNS)
    shown = gallery.read_pictures([drawn / "sets.tsv", drawn / "renamed.tsv"], SEGMENTER)
    captions = {row["file"].name: row["caption"] for row in shown}
    assert shown[0]["file"] == drawn / "dice_difference-unet-2-50.png"
    assert "segmenter unet-2, 50 % of the train patients." in captions["dice_difference-unet-2-50.png"]
    assert "segmenter unet-2. What" in captions["x.png"] and "2 % of" not in captions["x.png"]
    assert "set a-b-100, 50 % of the train patients with" in captions["contact_sheet-a-b-100-50.png"]
    assert [row["set"] + " " + row["size"] for row in shown if row["set"]] == ["a-b-100 100", "a-b-100 50"]
