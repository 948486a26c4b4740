"""What a user sees who starts the workflow with a bad config: the message, no traceback, no job."""

import pytest
import yaml

from lungsyn.study.planning import write_made_up_cohort

BAD = {
    "unknown key": (
        {"synthesis": {"stepz": 3}, "study": {"seed": -1}},
        ["synthesis.stepz: unknown key; did you mean 'steps'?", "study.seed is -1: input should be greater than"],
    ),
    "patch too large": (
        {"generators": {"patch_ddpm": {"patch_voxels": 96}}},
        ["generators.patch_ddpm.patch_voxels is 96: at 3 mm that is 288 mm, more than a chest is deep"],
    ),
    "no such root": (
        {"study": {"name": "ours"}, "cohort": {"dataset": "lidc", "root": "nowhere/LIDC-IDRI"}},
        ["cohort.root is nowhere/LIDC-IDRI, and there is no such folder"],
    ),
    "a name that is a number": (
        {"cohort": {"exclude": {1: "too old"}}},
        ["cohort.exclude has the name 1, which YAML takes for a number: write it in quotes"],
    ),
    "no such table of masks": (
        {"sets": {"untargeted": {"conditions": {"kind": "made", "table": "nowhere.tsv"}}}},
        ["sets.untargeted.conditions.table is nowhere.tsv, and there is no such file"],
    ),
    "unknown set": (
        {"arms": {"synthetic": {"synthetic": "nosuch"}}},
        ["arms.synthetic.synthetic is 'nosuch', which does not exist: it must be one of targeted, untargeted"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_config_ends_before_any_job(name, snakemake, tmp_path):
    overlay, messages = BAD[name]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(overlay))
    ended = snakemake(tmp_path, "--configfile", str(tmp_path / "bad.yaml"))
    assert ended.returncode == 1
    assert all(message in ended.stdout for message in messages)
    assert "Traceback" not in ended.stdout
    assert "/site-packages/" not in ended.stdout
    assert len(ended.stdout.splitlines()) < 10
    assert not (tmp_path / "results").exists()


def test_a_cohort_table_of_an_older_version_ends_in_what_to_do(snakemake, tmp_path):
    table = tmp_path / "results/cohort.tsv"
    table.parent.mkdir()
    table.write_text("case\tpatient\tsplit\tstatus\tsource\tannotation\na\ta\ttrain\tincluded\ta/series\tuid\n")
    (tmp_path / "results/phantom/LIDC-IDRI").mkdir(parents=True)
    ended = snakemake(tmp_path, "--dry-run")
    assert ended.returncode == 1
    assert "cohort.tsv has no column train_rank" in ended.stdout and "delete it" in ended.stdout
    assert "Traceback" not in ended.stdout and "KeyError" not in ended.stdout


def test_too_few_validation_cases_are_told_before_any_training(snakemake, tmp_path):
    """As soon as the cases are listed: before that it cannot be known."""
    write_made_up_cohort(tmp_path / "results", {None: ["train", "validation", "test"]})
    (tmp_path / "results/phantom/LIDC-IDRI/series").mkdir(parents=True)
    for name in ("listing", "cohort"):  # newer than what they are made from
        (tmp_path / f"results/{name}.tsv").touch()
    (tmp_path / "more.yaml").write_text("benchmark: {worst_cases: 2}\n")
    ended = snakemake(tmp_path, "--configfile", str(tmp_path / "more.yaml"), "--dry-run")
    assert ended.returncode == 1
    assert "benchmark.worst_cases is 2, but the validation split has 1 cases: lower it" in ended.stdout


def test_a_relative_root_is_found_whatever_directory_the_results_go_to(snakemake, tmp_path):
    """From there, or from the folder of the Snakefile."""
    (tmp_path / "data").mkdir()
    for root, found in (("data", True), ("tests", True), ("nowhere", False)):
        config = "study={name: ours}", f"cohort={{dataset: nifti, root: {root}}}"
        ended = snakemake(tmp_path, "--config", *config, "--dry-run", "--", "results/cohort.tsv")
        assert ("there is no such folder" in ended.stdout) != found, ended.stdout[-2000:]
        assert (ended.returncode == 0) == found
