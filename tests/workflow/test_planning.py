"""`lungsyn plan`: the jobs are those of the study, the sums are right, and what does not fit is said before any job."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from lungsyn import cli, planning
from lungsyn.errors import InputError
from lungsyn.settings.checking import check, read
from lungsyn.settings.study import Config
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
    assert f"6 cases, {len(jobs)} jobs" in text and "measured here" not in text
    assert "disk: " in text and "train_generator" in text


def test_the_default_study_is_few_jobs(monkeypatch):
    """Each costs a start, and on a cluster a place in the queue: a study of 32 cases takes fewer than 80."""
    monkeypatch.chdir(ROOT)
    study = check(read(FILES[:1]))
    assert planning.expected_cases(study) == 32
    assert len(planning.jobs_of(FILES[:1], study, 32)) + 1 < 80  # "all" is counted as well


def test_too_few_cases_to_have_the_worst_ones_are_one_line(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(["plan", "--cases", "10"]) == 2
    assert "benchmark.worst_cases is 3, but the validation split has 2 cases: lower it" in capsys.readouterr().err


def test_the_splits_of_made_up_cases_follow_the_config(tiny):
    assert Counter(planning.splits(tiny, 100)) == {"train": 50, "validation": 30, "test": 20}


def test_work_follows_the_settings(tiny):
    settings = tiny.generators["patch_ddpm"]
    twice = settings.model_copy(update={"images": 2 * settings.images, "blocks": 2})
    assert planning.generator_work(twice) == 4 * planning.generator_work(settings)
    by_network = {
        name: planning.width(tiny.segmenters["unet"].model_copy(update={"network": name, "channels": [8, 16, 32]}))
        for name in ("unet", "dynunet")
    }
    assert by_network["dynunet"] == 8 * by_network["unet"]  # which begins at half resolution


def test_disk_by_hand(tiny):
    """A chest of 26.7 litres at 5 mm: 213,840 voxels of 5 bytes; five synthetic ones."""
    need = planning.disk_mb(tiny, 6)
    assert need["cases"] == pytest.approx(6 * 5 * 0.21384)
    assert need["synthetic"] == pytest.approx(5 * 5 * 0.21384)
    assert need["predictions"] == pytest.approx(3 * 5 * 2 * 0.21384)  # half of six cases, five arms, two replicates


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


@pytest.mark.parametrize(
    ("ran_on", "seconds"),
    [("cpu (x86_64), float32, 1 threads", 60), ("cuda (NVIDIA H100), bfloat16, 1 threads, 2 processes",
                                               60 * 2 * planning.GPU_SPEEDUP)],
)  # fmt: skip
def test_rates_are_measured_where_results_recorded_them(tiny, tmp_path, ran_on, seconds):
    from safetensors.numpy import save_file

    settings = tiny.generators["patch_ddpm"]
    path = tmp_path / "generator/patch_ddpm/100/model.safetensors"
    path.parent.mkdir(parents=True)
    about = {
        "generator": settings.model_dump(mode="json"),
        "images_seen": settings.images // 2,
        "cost": {"seconds": 30},
        "ran_on": ran_on,
    }
    save_file({}, path, metadata={"about": json.dumps(about)})
    rates, measured = planning.seconds_per_work(tmp_path)
    assert measured == {"train_generator"}
    assert planning.job_seconds("train_generator", {"generator": "patch_ddpm"}, tiny, 3, rates) == pytest.approx(
        seconds
    )
