"""The whole chain at its smallest: run as a user would, then its files opened as any other program would."""

import csv
import html
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from lungsyn.provenance import model_facts
from lungsyn.volume.files import open_case, volume_file
from lungsyn.volume.tables import read_table
from tests.conftest import ROOT

TINY = "tests/workflow/tiny.yaml"
PARTS = ("ct", "nodules", "lungs", "body")
ARMS = ["real", "synthetic", "real+synthetic", "real+untargeted", "real-reseeded"]
GROUPS = ["worst validation", "other validation", "test"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tiny_study) -> Path:
    return tiny_study / "results"


def table(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def real_cases(results: Path) -> list[Path]:
    return sorted((results / "cases").iterdir())


def synthetic_cases(results: Path) -> list[Path]:
    return sorted(path.parent for path in (results / "synthetic").glob("*/*/*/*/*/case.json"))


def every_case(results: Path) -> list[Path]:
    return real_cases(results) + synthetic_cases(results)


def arrays(case: Path) -> dict[str, np.ndarray]:
    return {name: np.asanyarray(nib.load(volume_file(case, name)).dataobj) for name in PARTS}


def test_as_many_cases_as_were_asked_for(results):
    assert len(real_cases(results)) == 6
    assert len(synthetic_cases(results)) == 3 + 2


def test_the_files_of_a_case_share_one_grid(results):
    for case in every_case(results):
        images = [nib.load(volume_file(case, name)) for name in PARTS]
        assert {image.shape for image in images} == {images[0].shape}, case
        assert all(np.array_equal(image.affine, images[0].affine) for image in images), case
        assert np.allclose(images[0].header.get_zooms(), 5.0), case
        assert nib.aff2axcodes(images[0].affine) == ("R", "A", "S"), case
        assert [image.get_data_dtype() for image in images] == [np.int16, np.uint8, np.uint8, np.uint8], case
        assert min(images[0].shape) > 20, case


def test_a_prepared_case_holds_the_digest_of_its_voxels(results):
    """Snakemake looks at the content of small files: case.json must not be the same when the volume is another."""
    for case in real_cases(results):
        assert json.loads((case / "case.json").read_text())["digest"] == open_case(case).digest


def test_values_are_hu(results):
    for case in every_case(results):
        hu = arrays(case)["ct"]
        assert -1024 <= hu.min() < -900, case
        assert 0 < hu.max() <= 3071, case


def test_masks_have_their_values(results):
    for case in every_case(results):
        found = arrays(case)
        known = [nodule["index"] for nodule in json.loads((case / "case.json").read_text())["nodules"]]
        assert known and np.unique(found["nodules"]).tolist() == [0, *known], case
        assert np.unique(found["lungs"]).tolist() == [0, 1, 2], case
        assert np.unique(found["body"]).tolist() == [0, 1], case


def test_nodules_lie_in_the_lungs_and_lungs_in_the_body(results):
    for case in every_case(results):
        found = arrays(case)
        assert (found["lungs"][found["nodules"] > 0] > 0).mean() > 0.5, case
        assert (found["body"][found["lungs"] > 0] > 0).mean() > 0.99, case


def test_splits_share_no_patient(results):
    rows = table(results / "cohort.tsv")
    patients = {split: {row["patient"] for row in rows if row["split"] == split} for split in ("train", "validation")}
    patients["test"] = {row["patient"] for row in rows if row["split"] == "test"}
    assert [len(patients[split]) for split in ("train", "validation", "test")] == [3, 2, 1]
    assert len(set.union(*patients.values())) == 6


def test_the_generator_saw_train_cases_only(results):
    rows = table(results / "cohort.tsv")
    train = sorted(row["case"] for row in rows if row["split"] == "train")
    assert sorted(model_facts(results / "generator/patch_ddpm/100/model.safetensors")["cases"]) == train


def test_a_set_follows_its_conditions(results):
    split = {row["case"]: row["split"] for row in table(results / "cohort.tsv")}
    for name, wanted, volumes in (("untargeted", "train", 3), ("targeted", "validation", 2)):
        rows = table(results / f"conditions/{name}/100.tsv")
        assert len(rows) == volumes
        assert {split[row["nodule_case"]] for row in rows} == {wanted}


def test_every_model_says_what_made_it(results):
    tiny = yaml.safe_load((ROOT / TINY).read_text())
    generator = model_facts(results / "generator/patch_ddpm/100/model.safetensors")
    assert tiny["generators"]["patch_ddpm"].items() <= generator["generator"].items()
    assert generator["seed"] == 2024
    segmenters = [
        model_facts(path) for path in sorted((results / "segmentation/unet").glob("*/100/*/model.safetensors"))
    ]
    assert len(segmenters) == len(ARMS) * 2
    for facts in segmenters:
        assert tiny["segmenters"]["unet"].items() <= facts["segmenter"].items()
    assert len({facts["seed"] for facts in segmenters}) == 4  # two replicates, and two of the reseeded arm
    for facts in [generator, *segmenters]:
        assert facts["versions"]["torch"] and len(facts["code"]) == 12 and facts["cost"]["seconds"] > 0


def test_scores_hold_every_case_and_replicate(results):
    split = {row["case"]: row["split"] for row in table(results / "cohort.tsv")}
    watched = {case for case, name in split.items() if name in ("validation", "test")}
    for arm in ARMS:
        rows = table(results / f"scores/unet/{arm}/100.tsv")
        found = [(row["case"], row["replicate"]) for row in rows]
        assert sorted(found) == sorted((case, k) for case in watched for k in ("0", "1", "ensemble"))
        assert all(0 <= float(row["dice"]) <= 1 and row["split"] == split[row["case"]] for row in rows)


def test_the_comparison_has_every_arm_in_every_group(results):
    rows = table(results / "comparison/unet.tsv")
    assert [(row["group"], row["arm"]) for row in rows] == [(group, arm) for group in GROUPS for arm in ARMS]
    assert {row["n_cases"] for row in rows} == {"1"}
    assert all(row["mean_difference"] == "" for row in rows if row["arm"] == "real")
    assert all(row["mean_difference"] != "" for row in rows if row["arm"] != "real")


def test_every_made_volume_is_accounted_for(results):
    """Three train cases are too few for ranges; that a value is a number, and that there is a nodule, is asked."""
    for name, volumes in (("untargeted", 3), ("targeted", 2)):
        total, *by_measure = table(results / f"quality/{name}/100.tsv")
        assert int(total["judged"]) - int(total["rejected"]) + int(total["kept"]) == volumes
        assert [row["measure"] for row in by_measure if row["judged"] != "0"] == ["finite", "nodules"]
        cases = [json.loads((case / "case.json").read_text()) for case in synthetic_cases(results)]
        assert all(case["quality"]["measures"]["finite"] == 1 for case in cases)


def test_pictures_are_not_blank(results):
    pictures = sorted((results / "figures").glob("*.png"))
    assert {path.stem for path in pictures} >= {
        "nearest-targeted-100", "nearest-untargeted-100", "fidelity-targeted-100", "fidelity-untargeted-100",
        "dice_difference", "dice_difference-unet-100", "ladder-unet", "froc-unet", "cases-unet-100", "turned-unet-100",
        "contact_sheet-targeted-100", "contact_sheet-untargeted-100", "training",
        "quality-targeted-100", "quality-untargeted-100",
    }  # fmt: skip
    for path in pictures:
        grey = np.asarray(Image.open(path).convert("L"), dtype=float)
        assert min(grey.shape) > 100 and grey.std() > 5, path


def test_every_picture_is_listed_with_what_it_shows(results):
    rows = [row for name in ("arms", "beside", "set-targeted-100", "set-untargeted-100")
            for row in table(results / f"figures/{name}.tsv")]  # fmt: skip
    drawn = {path.name for path in (results / "figures").glob("*.png")} - {"dice_difference.png"}
    assert {row["file"] for row in rows} == drawn
    assert {(row["segmenter"], row["set"]) for row in rows} == {
        ("", ""), ("unet", ""), ("", "targeted"), ("", "untargeted"),
    }  # fmt: skip
    page = html.unescape((results / "report.html").read_text())
    assert all(f'alt="{row["caption"]}"' in page for row in rows)


def test_every_job_of_more_than_seconds_says_what_it_cost(results):
    rows = table(results / "costs.tsv")
    assert Counter(f"{row['stage']} {row['verb']}" for row in rows) == {
        "cohort phantom": 1, "cohort prepare": 6, "generation train": 1, "generation reference": 1,
        "generation synthesise": 3, "segmentation train": 10, "segmentation predict": 5, "evaluation score": 5,
        "audit memorisation": 2, "audit membership": 1, "audit fidelity": 2, "evaluation plot-arms": 1,
        "evaluation plot-set": 2,
    }  # fmt: skip
    assert all(float(row["seconds"]) > 0 and int(row["host_mb"]) > 0 and row["ran_on"] for row in rows)
    for verb in ("train", "predict", "score"):
        of = {(row["segmenter"], row["arm"], row["size"]) for row in rows if row["verb"] == verb and row["segmenter"]}
        assert of == {("unet", arm, "100") for arm in ARMS}, verb
    assert {row["set"] for row in rows if row["verb"] == "synthesise"} == {"targeted", "untargeted"}


def test_each_set_has_a_verdict(results):
    """So few patients cannot show anything: the audit says that it is blind, or found something, but never 'pass'."""
    for name, splits in (("untargeted", ["validation", "test"]), ("targeted", ["test"])):
        verdict = json.loads((results / f"audit/{name}/100/verdict.json").read_text())
        assert (verdict["set"], verdict["size"], verdict["held_out_splits"]) == (name, 100, splits)
        checks = {check["check"]: check["result"] for check in verdict["checks"]}
        assert list(checks) == [
            *(f"{kind}: {check}" for kind in ("nodule", "volume") for check in ("copies", "beyond", "closer")),
            "part: copies",
            *(f"outline: {check}" for check in ("copies", "closer", "donors")),
            "disguises",
            "membership",
        ]
        assert verdict["result"] in ("blind", "fail") and checks["membership"] == "blind"
        assert (
            f"{name}, 100 % of" in (results / "report.html").read_text().split("Can the synthetic sets be shared?")[1]
        )


def test_the_answer_for_a_terminal_is_that_of_the_report(results):
    """Tables of other studies may lie beside it; none of them is this study's answer."""
    text = (results / "answer.txt").read_text()
    assert text.count("claims rest on this group") == 1
    for row in read_table(results / "comparison/unet.tsv"):
        if row["group"] == "test":
            assert re.search(rf"\n  {re.escape(row['arm'])} +{float(row['mean_dice']):.3f} ", text), row["arm"]


def test_the_report_links_to_the_viewer_and_brings_the_numbers_of_its_pictures(results):
    page, study = (results / "report.html").read_text(), (results / "viewer/study.js").read_text()
    assert 'href="viewer/index.html"' in page and (results / "viewer/index.html").is_file()
    assert '"Synthetic set \\u201cuntargeted\\u201d"' in study and "phantom" in study
    assert page.count("data:text/tab-separated-values;base64,") == page.count("data:image/png;base64,")


def test_the_report_says_phantom(results):
    page = (results / "report.html").read_text()
    assert "phantom, tiny" in page
    assert all(arm in page for arm in ARMS)
    assert page.count("data:image/png;base64,") >= 5


def test_snakemake_s_own_report_shows_the_main_results_with_captions(results, snakemake, tmp_path):
    ended = snakemake(results.parent, "--configfile", TINY, "--report", str(tmp_path / "report.html"))
    assert ended.returncode == 0, ended.stdout[-2000:]
    page = (tmp_path / "report.html").read_text()
    for words in (
        "Does it help?",
        "How real is it?",
        "Can it be shared?",
        "Claims rest on the test panel",
        "chosen by rule",
    ):
        assert words in page, words


def test_logs_say_how_it_ended(results):
    logs = sorted((results / "logs").rglob("*.log"))
    assert len(logs) > 30
    assert all("done in" in path.read_text().splitlines()[-1] for path in logs)


def test_a_second_run_has_nothing_to_do(results, snakemake):
    ended = snakemake(results.parent, "--configfile", TINY)
    assert ended.returncode == 0
    assert "Nothing to be done" in ended.stdout


def test_a_list_of_cases_that_comes_out_the_same_trains_and_compares_nothing_again(results, snakemake, tmp_path):
    """Only the run itself tells: a dry run cannot know what the list will be, and shows all that depends on it."""
    shutil.copytree(results.parent, tmp_path / "again")
    ended = snakemake(tmp_path / "again", "--configfile", TINY, "--forcerun", "cohort")
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert set(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$", ended.stdout, re.M)) <= {"cohort", "report", "all"}


def test_one_core_gives_the_same_table(results, snakemake, tmp_path):
    """Generator, synthesis and the arms that use it again, on one core, from nothing but the prepared cases."""
    shutil.copytree(results.parent, tmp_path / "again")
    again = tmp_path / "again/results"
    shutil.rmtree(again / "checkpoints")
    ended = snakemake(
        tmp_path / "again", "--configfile", TINY, "--forcerun", "train_generator", "--",
        "results/comparison/unet.tsv", cores=1,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-4000:]
    weights = "generator/patch_ddpm/100/model.safetensors"
    assert (again / weights).stat().st_mtime > (results / weights).stat().st_mtime
    for name in ("scores/unet/synthetic/100.tsv", "scores/unet/real+synthetic/100.tsv", "comparison/unet.tsv"):
        assert (again / name).read_bytes() == (results / name).read_bytes(), name
