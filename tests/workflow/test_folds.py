"""Folds and draws through the rules: whose patients each job gets, told by dry run without data; and a run."""

import shutil
from collections import Counter

import pytest
import yaml

from lungsyn.folds import folds_in, in_fold, of_training_set
from lungsyn.provenance import model_facts
from lungsyn.settings.checking import check, read
from lungsyn.study import planning
from lungsyn.volume.files import read_json
from lungsyn.volume.tables import read_table
from tests.conftest import ROOT

TINY = ROOT / "tests/workflow/tiny.yaml"
FOLDS = {"cohort": {"split": {"folds": 3, "validation": 0.33}}}
LEARNS = ("train_generator", "reference", "train_segmenter")
AIMS = ("conditions", "synthesise")
IS_SCORED = ("predict", "score")
AUDITS = ("memorisation", "membership", "fidelity")
N_CASES = 12


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """``planned(**overlay)``: the study and the jobs of the tiny config with an overlay, and made-up cases."""
    monkeypatch.chdir(ROOT)

    def plan(**overlay):
        path = tmp_path / "overlay.yaml"
        path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
        files = [ROOT / "config.yaml", TINY, path]
        study = check(read(files))
        return study, planning.planned_jobs(files, study, N_CASES)

    return plan


def test_a_fold_s_jobs_get_its_own_patients(planned):
    study, jobs = planned(**FOLDS, training_percent=[50, 100])
    split_of = {fold: list(planning.splits(study, N_CASES, fold)) for fold in (1, 2, 3)}
    seen = set()
    for job in jobs:
        if job.rule.name not in LEARNS + AIMS + IS_SCORED + AUDITS:
            continue
        of = of_training_set(job.wildcards_dict["size"])
        cases = {path.split("/")[2] for path in map(str, job.input) if path.startswith("results/cases/")}
        splits = {split_of[of["fold"]][int(case.removeprefix("case-"))] for case in cases}
        seen.add((of["fold"], of["size"]))
        others = [path for path in map(str, job.input) if "-fold" in path]
        assert all(f"-fold{of['fold']}" in path for path in others), job
        if job.rule.name in LEARNS:
            assert splits == {"train"} or (job.wildcards_dict.get("arm") == "synthetic" and not splits), job
        elif job.rule.name in AIMS:
            assert "test" not in splits, job
        elif job.rule.name in IS_SCORED:
            assert splits == {"validation", "test"}, job
        else:
            assert splits == {"train", "validation", "test"} or job.wildcards_dict.get("set") == "targeted", job
    assert seen == {(fold, size) for fold in (1, 2, 3) for size in (50, 100)}


def test_each_fold_is_a_study_and_the_comparison_is_one(planned):
    _, alone = planned()
    _, jobs = planned(**FOLDS)
    count, once = (Counter(job.rule.name for job in of) for of in (jobs, alone))
    of_folds = {*LEARNS, *AIMS, *IS_SCORED, *AUDITS, "verdict"}
    assert {rule: n for rule, n in count.items() if rule in of_folds} == {rule: 3 * once[rule] for rule in of_folds}
    assert {rule: n for rule, n in count.items() if rule not in of_folds} == {
        rule: n for rule, n in once.items() if rule not in of_folds
    }


def test_one_split_has_no_fold(planned):
    _, jobs = planned()
    assert not [path for job in jobs for path in map(str, [*job.input, *job.output]) if "fold" in path]


def test_folds_and_draws_have_seeds_of_their_own(planned):
    _, jobs = planned(**FOLDS, replicates_draw="generator")
    for rule in ("train_generator", "conditions"):
        seeds = Counter(job.params.seed for job in jobs if job.rule.name == rule)
        per_seed = 2 if rule == "conditions" else 1  # two sets
        assert len(seeds) == 3 * 2 and set(seeds.values()) == {per_seed}
    assert len({job.params.seed for job in jobs if job.rule.name == "train_segmenter"}) == 3


@pytest.mark.parametrize(("draws", "volumes", "generators"), [("segmenter", 1, 1), ("set", 2, 1), ("generator", 2, 2)])
def test_replicates_draw_what_they_are_told_to(draws, volumes, generators, planned):
    """Jobs of each, and which draw a replicate learns from; the audit is of the first one."""
    _, jobs = planned(replicates_draw=draws)
    count = Counter(job.rule.name for job in jobs)
    assert count["synthesise"] == 3 * volumes and count["train_generator"] == generators
    assert count["verdict"] == 2 and count["membership"] == 1 and count["reference"] == 1
    for job in jobs:
        wildcards = job.wildcards_dict
        if job.rule.name == "train_segmenter":
            sets = {path.split("/")[4] for path in map(str, job.input) if path.startswith("results/synthetic/")}
            own = "100-draw1" if wildcards["replicate"] == "1" and draws != "segmenter" else "100"
            assert sets <= {own}, job
        if job.rule.name == "synthesise":
            model = f"100{'-draw1' if draws == 'generator' and 'draw' in wildcards['size'] else ''}"
            assert f"results/generator/patch_ddpm/{model}/model.safetensors" in map(str, job.input), job


def test_a_reseeded_arm_draws_other_sets(planned):
    _, jobs = planned(replicates_draw="set", arms={"real-reseeded": {"synthetic": "untargeted"}})
    of_arm = {
        arm: {path.split("/")[4] for job in jobs if job.rule.name == "train_segmenter" for path in map(str, job.input)
              if job.wildcards_dict["arm"] == arm and path.startswith("results/synthetic/")}
        for arm in ("synthetic", "real-reseeded")
    }  # fmt: skip
    assert of_arm == {"synthetic": {"100", "100-draw1"}, "real-reseeded": {"100-draw2", "100-draw3"}}


def test_the_choice_is_frozen_before_any_test_is_scored(planned):
    """It gets no test case, no arm with masks of validation cases, and no control; all scores wait for it."""
    _, jobs = planned(**FOLDS, freeze_choice=True)
    choose = next(job for job in jobs if job.rule.name == "choose")
    arms = {path.split("/")[3] for path in map(str, choose.input) if path.startswith("results/predictions/")}
    assert arms == {"real", "synthetic", "real+untargeted"}
    scores = [job for job in jobs if job.rule.name == "score"]
    assert len(scores) == 15 and all("results/choice.json" in map(str, job.input) for job in scores)
    assert not [path for path in map(str, choose.input) if path.startswith("results/scores")]
    _, without = planned(**FOLDS)
    assert not [path for job in without for path in map(str, [*job.input, *job.output]) if "choice" in path]


@pytest.mark.slow
def test_a_study_with_folds_to_its_report(tiny_study, snakemake, tmp_path):
    """Small: a generator that pastes, so that nothing but segmenters is trained. Every patient is tested once. Its
    cases are those of a study with one split: none is prepared again."""
    shutil.copytree(tiny_study, tmp_path / "study", ignore=shutil.ignore_patterns("scores"))  # nobody saw the test
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({
        "cohort": {"split": {"folds": 2, "validation": 0.17}},
        "generators": {"pasted": {"kind": "copy_paste"}},
        "sets": {"untargeted": {"generator": "pasted", "conditions": "inpainted", "volumes": 1}},
        "segmenters": {"unet": {"arms": ["real", "real+untargeted"], "steps": 2}},
        "figures": {"case_arms": ["real", "real+untargeted"], "viewer_cases": 1},
        "replicates_draw": "set", "freeze_choice": True,
    }))  # fmt: skip
    arguments = ("--configfile", str(TINY), str(overlay))
    ended = snakemake(tmp_path / "study", *arguments)
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert "checkpoint listing" in ended.stdout and "rule prepare" not in ended.stdout
    results = tmp_path / "study/results"
    cohort = read_table(results / "cohort.tsv")
    assert folds_in(cohort) == [1, 2]
    tested = [row["case"] for fold in (1, 2) for row in in_fold(cohort, fold) if row["split"] == "test"]
    assert sorted(tested) == sorted(row["case"] for row in cohort if row["status"] == "included")
    models = [model_facts(path) for path in results.glob("segmentation/*/*/100-fold*/*/model.safetensors")]
    assert len(models) == 8
    for facts in models:
        train = {row["case"] for row in in_fold(cohort, facts["of"]["fold"]) if row["split"] == "train"}
        assert set(facts["cases"]) == train
    rows = [row for path in sorted(results.glob("scores/unet/real/*.tsv")) if path.suffixes == [".tsv"]
            for row in read_table(path)]  # fmt: skip
    of_test = Counter(row["case"] for row in rows if row["split"] == "test")
    assert of_test == dict.fromkeys(tested, 3)  # two replicates and their ensemble
    test = [row for row in read_table(results / "comparison/unet.tsv") if row["group"] == "test"]
    assert {row["n_cases"] for row in test} == {"6"}
    layers = {(row["arm"], row["layer"]) for row in read_table(results / "comparison/unet.layers.tsv")}
    assert {layer for arm, layer in layers if arm == "real+untargeted"} == {
        "patients", "segmenter's seed", "synthetic set", "fold",
    }  # fmt: skip
    for fold in (1, 2):
        assert read_json(results / f"audit/untargeted/100-fold{fold}/verdict.json")["fold"] == fold
    html = (results / "report.html").read_text(encoding="utf-8")
    assert all(f"% of the train patients, fold {fold}" in html for fold in (1, 2))
    assert "Where the chance comes from" in html
    assert not read_json(results / "choice.json")["test_opened_before"] and "The test was opened after that" in html
    again = snakemake(tmp_path / "study", *arguments)
    assert "Nothing to be done" in again.stdout, again.stdout[-2000:]


def test_made_up_folds_are_those_of_the_config(planned):
    study, _ = planned(**FOLDS)
    splits = [Counter(planning.splits(study, 30, fold)) for fold in (1, 2, 3)]
    assert splits == [{"train": 10, "validation": 10, "test": 10}] * 3
    need, alone = planning.disk_mb(study, 30), planning.disk_mb(check(read([ROOT / "config.yaml", TINY])), 30)
    assert need["synthetic"] == pytest.approx(3 * alone["synthetic"]) and need["cases"] == alone["cases"]
    assert need["predictions"] == pytest.approx(alone["predictions"] * (1 + 3 * 0.33) / 0.5)
