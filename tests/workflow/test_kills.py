"""Two disturbances of `make stress`: a study that is stopped in a training, and one that is killed; then the same
command again. One arm of the study, from its prepared cases on: a generator, volumes, two segmenters, their scores."""

import os
import shutil
import signal

import pytest

from tests.workflow import stress
from tests.workflow.stress import Disturbance

TABLE = "results/scores/unet/synthetic/100.tsv"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def disturbed(tiny_study, tmp_path_factory):
    """The study's folder and what was hit, by way of killing; it has ended well."""
    folder = tmp_path_factory.mktemp("disturbed")
    for part in (".snakemake", "results/phantom", "results/cases"):
        shutil.copytree(tiny_study / part, folder / part, symlinks=True)
    shutil.copy2(tiny_study / "results/cohort.tsv", folder / "results/cohort.tsv")
    hits = {
        how: stress.disturb(folder, Disturbance(how, seconds, in_training=True), "--", TABLE)
        for how, seconds in (("terminate everything", 0.0), ("kill everything", 0.3))
    }
    locked = list((folder / ".snakemake/locks").iterdir())
    stress.run_to_the_end(folder, "--", TABLE)
    return folder, hits, locked


def test_trainings_were_hit_and_went_on(disturbed):
    folder, hits, _ = disturbed
    assert all("generation train" in hit or "segmentation train" in hit for hit in hits.values())
    assert stress.continued(folder)


def test_the_lock_of_the_killed_run_was_in_the_way_and_was_removed(disturbed):
    folder, _, locked = disturbed
    assert locked
    assert "its lock is removed" in (folder / "said.txt").read_text()


def test_every_file_is_whole(disturbed):
    stress.check_whole(disturbed[0])


def test_the_result_is_the_same(disturbed, tiny_study):
    stress.check_same(disturbed[0], tiny_study)


def test_a_live_run_keeps_its_lock(tiny_study, tmp_path):
    """A second command beside a run is refused, and leaves the first one's lock where it is."""
    folder = shutil.copytree(tiny_study, tmp_path / "study", symlinks=True)
    forced = ("--forcerun", "train_generator", "--", "results/generator/patch_ddpm/100/model.safetensors")
    first, held = stress.start(folder, *forced), []
    try:
        stress.wait_for(first, lambda: bool(stress.trainings(first)))
        held += stress.trainings(first)
        for process in held:  # so that the first run lasts longer than the second one's start
            os.kill(process, signal.SIGSTOP)
        second = stress.start(folder, *forced)
        assert second.wait() == 1
        assert "Directory cannot be locked" in (folder / "said.txt").read_text()
        assert list((folder / ".snakemake/locks").iterdir())
    finally:
        for process in held:
            os.kill(process, signal.SIGCONT)
        first.terminate()
        first.wait()
