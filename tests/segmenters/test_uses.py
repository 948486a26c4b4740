"""Ways of using cases: what each puts into which patches, and that an arm without any learns as it always did."""

import dataclasses
import signal

import numpy as np
import pytest
import torch

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.random import stream
from lungsyn.registry import family
from lungsyn.seams import Run
from lungsyn.segmenters.core import training
from lungsyn.segmenters.core.mixing import WAYS, Donor, carvemix, cut, pasted
from lungsyn.segmenters.core.patches import TrainingPatches, augment
from lungsyn.settings.arms import Mixing, Use
from lungsyn.settings.compute import Compute
from lungsyn.settings.segmenters import settings_of
from lungsyn.volume.files import open_case, write_case
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.patches import random_start, window
from tests.conftest import killed_at, make_case, without_lungs

CPU = Compute(device="cpu", precision="float32", segmenter_threads=1, checkpoint_seconds=3600)
EVERY = {"carvemix": Use(mixing=Mixing(way="carvemix")), "paste": Use(mixing=Mixing(way="paste")),
         "pretrain": Use(pretrain=0.5)}  # fmt: skip


@pytest.fixture(scope="module")
def settings(study):
    return settings_of(study.segmenters["unet"]).model_copy(
        update={"channels": [4, 8, 8], "patch_voxels": 16, "batch_patches": 2, "steps": 12}
    )


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """A synthetic case: it is told from the real ones by its brightness."""
    case = make_case(seed=9, name="bright")
    folder = tmp_path_factory.mktemp("synthetic") / "bright"
    write_case(folder, dataclasses.replace(case, ct=case.ct + 3000))
    return folder


def is_bright(patch) -> bool:
    return float(patch[0].mean()) > 0.4


# ------------------------------------------------------------------------------------------------ without any of them


@pytest.mark.parametrize("share", [None, 0.5])
def test_an_arm_without_ways_of_use_sees_the_patches_that_it_always_saw(case_folders, settings, share):
    """The same draws in the same order, written down once more and plainly: no result of an older study changes."""
    real, synthetic, seed = case_folders[:3], case_folders[3:], 7
    cases = [open_case(folder) for folder in case_folders]
    patches = TrainingPatches(real, synthetic, Use(synthetic_share=share), settings, seed)
    for i in range(20):
        rng = stream(seed, "patch", i)
        made = share is not None and rng.random() < share
        near = rng.random() < settings.nodule_patches
        number = rng.choice(range(5) if share is None else range(3, 5) if made else range(3))
        case, centre = cases[number], None
        if near:
            box = case.about["nodules"][rng.integers(2)]["box"]
            centre = [(a + b) // 2 for a, b in box]
        start = random_start(rng, case.ct.shape, 16, centre)
        image = to_model_range(window(case.ct, start, 16, -1000), settings.window_hu)
        nodule = (window(case.nodules, start, 16, 0) > 0).astype(np.float32)
        expected = augment(torch.from_numpy(np.stack([image, nodule])), rng)
        assert all(torch.equal(a, b) for a, b in zip(expected, patches[i], strict=True))


# --------------------------------------------------------------------------------------------------------- pretraining


@pytest.mark.parametrize(("pretrain", "steps"), [(0.5, 6), (0.25, 3), (0.99, 12), (0.01, 0)])
def test_synthetic_cases_come_first_and_then_only_real_ones(case_folders, settings, bright, pretrain, steps):
    patches = TrainingPatches(case_folders[:4], [bright], Use(pretrain=pretrain), settings, seed=0)
    batches = [[is_bright(patches[2 * step + k]) for k in range(2)] for step in range(settings.steps)]
    assert batches == [[True, True]] * steps + [[False, False]] * (12 - steps)


# -------------------------------------------------------------------------------------------------- mixing of patients


@pytest.fixture
def two():
    """A dark and a bright case of two patients: what comes from which is seen by its HU."""
    cases = [make_case((40, 40, 40), seed=seed, name=name) for seed, name in ((0, "own"), (1, "other"))]
    other = dataclasses.replace(cases[1], ct=cases[1].ct + 3000)
    return cases[0], Donor(other, other.about["nodules"][0], 0.0)


def test_carvemix_brings_voxels_and_labels_of_one_region(two):
    """All HU and labels are one case's or the other's. The region is the other's nodule: half the time of up to half
    its depth less, half the time of up to its depth more."""
    case, (other, *_) = two
    ball = sum((axis - 20.0) ** 2 for axis in np.ogrid[:40, :40, :40]) < 7.0**2
    other = dataclasses.replace(other, ct=np.where(ball, 3020, 2200)).with_labels(nodules=ball.astype(np.uint8))
    donor = Donor(other, {"index": 1, "box": [[14, 27]] * 3}, 0.0)
    patch, radii = cut(case, (4, 12, 12), 40), []
    for seed in range(60):
        mixed = carvemix(patch, donor, np.random.default_rng(seed))
        came = mixed.hu > 1500
        assert np.array_equal(mixed.hu[~came], patch.hu[~came])
        assert np.array_equal(mixed.nodule[~came], patch.nodule[~came])
        assert np.array_equal(mixed.hu[came] == 3020, mixed.nodule[came])  # labels came with their voxels
        radii.append(np.cbrt(came.sum() * 3 / 4 / np.pi))
    radii = np.array(radii)
    assert 0.3 < (radii < 6.5).mean() < 0.6 and 0.3 < (radii > 7.5).mean() < 0.6
    assert 3.0 < radii.min() < 4.5 and 12.5 < radii.max() < 14.5


def test_pasting_puts_a_whole_nodule_into_the_lung_with_a_soft_edge(two):
    case, donor = two
    patch, placed = cut(case, (0, 8, 8), 24), 0
    lungs = window(case.lungs, (0, 8, 8), 24, 0) > 0
    for seed in range(20):
        mixed = pasted(patch, donor, np.random.default_rng(seed))
        new = mixed.nodule & ~patch.nodule
        placed += bool(new.any())
        if new.any():
            assert (mixed.hu[new] > 1500).mean() > 0.9  # the other's HU
            assert lungs[new].mean() >= 0.95
            changed = mixed.hu != patch.hu
            assert changed.sum() > new.sum() and not changed.all()
            edge = changed & ~new & ~patch.nodule
            assert ((mixed.hu[edge] > -900) & (mixed.hu[edge] < 3000)).any()  # between the two
        assert np.array_equal(mixed.nodule & patch.nodule, patch.nodule)
    assert placed > 10
    assert np.array_equal(patch.hu, cut(case, (0, 8, 8), 24).hu)  # the case itself is as it was


def test_nothing_is_pasted_where_there_is_no_lung(two):
    case, donor = two
    patch = cut(without_lungs(case), (4, 12, 12), 24)
    assert pasted(patch, donor, np.random.default_rng(0)) is patch


@pytest.mark.parametrize("way", WAYS)
def test_the_arm_s_share_of_real_patches_is_mixed_with_other_patients(case_folders, settings, way, monkeypatch):
    """Each with a nodule of another patient's; patches of synthetic cases are never mixed, nor lend they nodules."""
    seen = []
    monkeypatch.setitem(WAYS, way, lambda patch, donor, rng: seen.append((patch.case, donor)) or patch)
    use = Use(synthetic_share=0.5, mixing=Mixing(way=way, share=0.25))
    patches = TrainingPatches(case_folders[:3], case_folders[3:], use, settings, seed=0)
    for i in range(400):
        patches[i]
    assert 25 < len(seen) < 75  # a quarter of half of them
    names = {folder.name for folder in case_folders[:3]}
    for case, donor in seen:
        assert {case.about["case"], donor.case.about["case"]} <= names
        assert case.about["patient"] != donor.case.about["patient"]


@pytest.mark.parametrize("way", WAYS)
def test_mixing_leaves_all_other_draws_alone(case_folders, settings, way):
    """An arm with mixing differs from its control in the mixed patches and in nothing else."""
    plain = TrainingPatches(case_folders, [], Use(), settings, seed=0)
    mixed = TrainingPatches(case_folders, [], Use(mixing=Mixing(way=way)), settings, seed=0)
    alike = np.array([torch.equal(plain[i][0], mixed[i][0]) for i in range(60)])
    assert 0.3 < alike.mean() < 0.8
    assert all(torch.equal(plain[i][1], mixed[i][1]) for i in np.flatnonzero(alike))


def test_a_pasted_nodule_is_never_smaller_than_the_smallest_of_the_cases(case_folders, settings):
    patches = TrainingPatches(case_folders, [], Use(mixing=Mixing(way="paste", share=1.0)), settings, seed=0)
    smallest = min(fact["volume_mm3"] for case in patches.cases for fact in case.about["nodules"])
    for i in range(30):
        number = i % 5
        patch = cut(patches.cases[number], (0, 0, 0), 20)
        new = patches._mixed(patch, number, stream(0, "mixing", i)).nodule & ~patch.nodule
        assert not new.any() or new.sum() * 8 > 0.9 * smallest  # mm3 of a voxel; it may touch another one


def test_one_patient_cannot_be_mixed(case_folders, settings):
    with pytest.raises(InputError, match=r"arms\.\*\.mixing takes nodules of other patients, and there are none"):
        TrainingPatches(case_folders[:1], [], Use(mixing=Mixing(way="paste")), settings, seed=0)


# ------------------------------------------------------------------------------------------------------------- restart


@pytest.mark.parametrize("way", EVERY)
def test_a_killed_training_ends_bit_equal(case_folders, settings, bright, tmp_path, monkeypatch, way):
    def trained(checkpoints):
        run = Run(3, CPU, checkpoints)
        return family("segmenters", "monai").fit(case_folders, [bright], EVERY[way], settings, run).tensors

    whole = trained(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(training, "TrainingPatches", killed_at(TrainingPatches, 14, signal.SIGUSR1))
        with pytest.raises(SystemExit):
            trained(tmp_path / "killed")
    assert 0 < checkpoint.load(next((tmp_path / "killed").glob("*/*.safetensors")))[1]["steps"] < settings.steps
    resumed = trained(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_another_way_of_use_starts_afresh(case_folders, settings, bright, tmp_path):
    """A checkpoint of one arm must not be taken for another's."""
    for use in (Use(), *EVERY.values(), Use(mixing=Mixing(way="paste", share=0.3))):
        family("segmenters", "monai").fit(
            case_folders, [bright], use, settings.model_copy(update={"steps": 1}), Run(3, CPU, tmp_path)
        )
    assert len(list(tmp_path.iterdir())) == 5
