"""`lungsyn plan`: the jobs are those of the study, the sums are right, and what does not fit is said before any job."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from lungsyn import cli
from lungsyn.errors import InputError
from lungsyn.settings.checking import check, merge, read
from lungsyn.settings.segmenters import settings_of
from lungsyn.settings.study import Config
from lungsyn.study import planning
from lungsyn.volume.tables import write_table
from tests.conftest import ROOT

FILES = [ROOT / "config.yaml", ROOT / "tests/workflow/tiny.yaml"]


@pytest.fixture(scope="module")
def tiny() -> Config:
    return check(read(FILES))


def test_jobs_are_counted_without_data(tiny, monkeypatch):
    monkeypatch.chdir(ROOT)
    jobs = planning.jobs_of(FILES, tiny, 6)
    count = Counter(rule for rule, _ in jobs)
    expected = {"phantom": 1, "cohort": 1, "prepare": 6, "train_generator": 1, "synthesise": 2 + 1, "conditions": 2,
                "train_segmenter": 5 * 2, "predict": 5, "score": 5, "compare": 1, "report": 1}  # fmt: skip
    assert expected.items() <= count.items()
    text = planning.plan(tiny, jobs, 6, Path("nowhere"))
    assert f"6 cases, {len(jobs)} jobs" in text and "cpu" not in text
    assert "disk: " in text and "train_generator" in text


def test_the_default_study_is_few_jobs(monkeypatch):
    """Each costs a start, and on a cluster a place in the queue: a study of 32 cases takes fewer than 80."""
    monkeypatch.chdir(ROOT)
    study = check(read(FILES[:1]))
    assert study.cohort.reader.expected_cases(study.cohort) == 32
    assert len(planning.jobs_of(FILES[:1], study, 32)) + 1 < 80  # "all" is counted as well


def test_too_few_cases_to_have_the_worst_ones_are_one_line(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(["plan", "--cases", "10"]) == 2
    assert "benchmark.worst_cases is 3, but the validation split has 2 cases: lower it" in capsys.readouterr().err


def test_the_splits_of_made_up_cases_follow_the_config(tiny):
    assert Counter(planning.splits(tiny, 100)) == {"train": 50, "validation": 30, "test": 20}


def test_disk_by_hand(tiny):
    """A chest of 26.7 litres at 5 mm: 213,840 voxels of two bytes and a packed rest; five synthetic ones."""
    need = planning.disk_mb(tiny, 6)
    assert need["cases"] == pytest.approx(6 * 2.06 * 0.21384)
    assert need["synthetic"] == pytest.approx(5 * 2.06 * 0.21384)
    assert need["predictions"] == pytest.approx(
        3 * 5 * 2 * 0.17 * 0.21384
    )  # half of six cases, five arms, two replicates


def test_a_packed_case_takes_no_more_than_is_planned(case_folders):
    """Tiny cases pack worst: a file's own bytes, and hardly a run of one value."""
    from lungsyn.volume.files import FILE_OF, open_case

    voxels = sum(open_case(folder).ct.size for folder in case_folders)
    sizes = {name: sum((folder / FILE_OF[name]).stat().st_size for folder in case_folders) for name in FILE_OF}
    assert sizes.pop("ct") / voxels == pytest.approx(planning.CT_BYTES, rel=0.02)
    assert sum(sizes.values()) / voxels < 5 * 3 * planning.LABEL_BYTES


def test_lidc_s_study_fits_on_a_small_disk():
    study = check(read([ROOT / "config.yaml", ROOT / "workflow/experiments/lidc.yaml"]))
    assert sum(planning.disk_mb(study, 1018).values()) < 150_000


def test_what_does_not_fit_is_said_before_the_run(tiny, tmp_path, monkeypatch):
    planning.check_disk(tiny, tmp_path)
    finest = tiny.cohort.model_copy(
        update={"preprocess": tiny.cohort.preprocess.model_copy(update={"spacing_mm": 0.02})}
    )
    with pytest.raises(InputError, match=r"needs about .* GB of disk .* GB free: make room"):
        planning.check_disk(tiny.model_copy(update={"cohort": finest}), tmp_path)


def test_scans_that_may_be_left_out_are_warned_of_and_listed_ones_counted(tiny, tmp_path, monkeypatch, capsys):
    for i in range(9):
        (tmp_path / f"LIDC-IDRI/{i}").mkdir(parents=True)
    cohort = tiny.cohort.model_copy(update={"dataset": "lidc", "root": tmp_path / "LIDC-IDRI"})
    study = tiny.model_copy(update={"cohort": cohort})
    free_mb = sum(planning.disk_mb(study, 9).values()) - 0.1
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6 * free_mb))
    planning.check_disk(study, tmp_path)
    assert "make room" in (said := capsys.readouterr().err) and "not known yet" in said
    rows = [{"case": i, "status": "excluded" if i < 3 else "included"} for i in range(9)]
    write_table(tmp_path / "results/cohort.tsv", rows, list(rows[0]))
    planning.check_disk(study, tmp_path)
    assert not capsys.readouterr().err
    write_table(tmp_path / "results/cohort.tsv", [row | {"status": "included"} for row in rows], list(rows[0]))
    with pytest.raises(InputError, match="make room"):
        planning.check_disk(study, tmp_path)


@pytest.mark.slow
def test_a_full_disk_ends_a_run_before_its_first_job(snakemake, tmp_path):
    overlay = tmp_path / "big.yaml"
    overlay.write_text("cohort: {phantom: {patients: 400, matrix: 512, max_slices: 2000000}}\n")
    ended = snakemake(tmp_path, "--configfile", str(overlay))
    assert ended.returncode == 1
    assert "GB of disk" in ended.stdout and "make room" in ended.stdout and "Traceback" not in ended.stdout
    assert not (tmp_path / "results/phantom").exists()


def test_hours_are_those_of_trainings_with_the_same_settings(tiny, tmp_path):
    """Whatever their length; of others, and of other rules, nothing is said."""
    from safetensors.numpy import save_file

    settings = tiny.generators["patch_ddpm"]
    path = tmp_path / "results/generator/patch_ddpm/100/model.safetensors"
    path.parent.mkdir(parents=True)
    about = {
        "generator": settings.model_dump(mode="json") | {"images": 7},
        "images_seen": settings.images // 2,
        "cost": {"seconds": 30},
        "ran_on": "cpu (x86_64), float32, 1 threads",
    }
    save_file({}, path, metadata={"about": json.dumps(about)})
    rates, wildcards = planning.measured(tmp_path / "results"), {"generator": "patch_ddpm"}
    assert planning.job_seconds("train_generator", wildcards, tiny, rates) == (pytest.approx(60), about["ran_on"])
    wider = tiny.model_copy(update={"generators": {"patch_ddpm": settings.model_copy(update={"blocks": 2})}})
    assert planning.job_seconds("train_generator", wildcards, wider, rates) is None
    assert planning.job_seconds("score", {}, tiny, rates) is None
    assert " 0.0  cpu (x86_64)" in planning.plan(tiny, [("train_generator", wildcards)], 6, tmp_path)


@pytest.mark.parametrize(("kind", "seconds"), [({"kind": "monai"}, 2.0), ({}, 2.0), ({"kind": "gone"}, None)])
def test_hours_of_segmenters_are_those_of_their_kind(tiny, tmp_path, kind, seconds):
    """A model of before families says none: it is of MONAI's. Of one whose package is gone nothing is said."""
    from safetensors.numpy import save_file

    settings = settings_of(tiny.segmenters["unet"]).model_dump(mode="json")
    path = tmp_path / "results/segmentation/unet/real/100/0/model.safetensors"
    path.parent.mkdir(parents=True)
    about = {"segmenter": settings | {"steps": 12}, "cost": {"seconds": 24}, "ran_on": "cpu"} | kind
    save_file({}, path, metadata={"about": json.dumps(about)})
    rates = planning.measured(tmp_path / "results")
    found = planning.job_seconds("train_segmenter", {"segmenter": "unet"}, tiny, rates)
    assert found == (seconds and (pytest.approx(seconds * settings["steps"]), "cpu"))


def test_a_users_table_is_not_looked_for_where_a_study_is_planned(tiny, monkeypatch):
    """It lies in the user's folder, and the plan is made in another."""
    monkeypatch.chdir(ROOT)
    made = {"generator": "patch_ddpm", "conditions": {"kind": "made", "table": "only_here.tsv"}, "volumes": 2}
    overlay = {"sets": {"made": made}, "arms": {"synthetic": {"synthetic": "made"}}}
    study = check(merge(read(FILES), overlay))
    jobs = planning.jobs_of(FILES, study, 6, overlay)
    assert ("conditions", {"set": "made", "size": "100"}) in jobs
