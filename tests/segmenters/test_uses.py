"""Ways of using cases: what each puts into which patches, and that an arm without any learns as it always did."""

import dataclasses
import signal
from typing import get_args

import numpy as np
import pytest
import torch

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.random import stream
from lungsyn.registry import family
from lungsyn.seams import Run, Sampled
from lungsyn.segmenters.core import training
from lungsyn.segmenters.core.mixing import WAYS, Mixer, Second, Way, carvemix, cut, faded, pasted
from lungsyn.segmenters.core.patches import TrainingPatches, augment
from lungsyn.segmenters.core.texture import matching
from lungsyn.sets import as_case
from lungsyn.settings.arms import Mixing, Use
from lungsyn.settings.compute import Compute
from lungsyn.settings.segmenters import settings_of
from lungsyn.volume.files import open_case, write_case
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.patches import random_start, window
from lungsyn.volume.source import noise_hu
from tests.conftest import killed_at, make_case, without_lungs

CPU = Compute(device="cpu", precision="float32", segmenter_threads=1, checkpoint_seconds=3600)
EVERY = {"carvemix": Use(mixing=Mixing(way="carvemix")), "paste": Use(mixing=Mixing(way="paste")),
         "pretrain": Use(pretrain=0.5), "noise": Use(match_noise=True)}  # fmt: skip


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
    return cases[0], Second(other, 0.0)


def test_carvemix_brings_voxels_and_labels_of_one_region(two):
    """All HU and labels are one case's or the other's. The region is the other's nodule: half the time of up to half
    its depth less, half the time of up to its depth more."""
    case, (other, _) = two
    ball = sum((axis - 20.0) ** 2 for axis in np.ogrid[:40, :40, :40]) < 7.0**2
    about = {"nodules": [{"index": 1, "box": [[14, 27]] * 3}]}
    other = dataclasses.replace(other, ct=np.where(ball, 3020, 2200), about=about).with_labels(nodules=1 * ball)
    second = Second(other, 0.0)
    patch, radii = cut(case, (4, 12, 12), 40), []
    for seed in range(60):
        hu, nodule = carvemix(patch, second, np.random.default_rng(seed))
        came = hu > 1500
        assert np.array_equal(hu[~came], patch.hu[~came])
        assert np.array_equal(nodule[~came], patch.nodule[~came])
        assert np.array_equal(hu[came] == 3020, nodule[came])  # labels came with their voxels
        radii.append(np.cbrt(came.sum() * 3 / 4 / np.pi))
    radii = np.array(radii)
    assert 0.3 < (radii < 6.5).mean() < 0.6 and 0.3 < (radii > 7.5).mean() < 0.6
    assert 3.0 < radii.min() < 4.5 and 12.5 < radii.max() < 14.5


def test_pasting_puts_a_whole_nodule_into_the_lung_with_a_soft_edge(two):
    case, second = two
    patch, placed = cut(case, (0, 8, 8), 24), 0
    lungs = window(case.lungs, (0, 8, 8), 24, 0) > 0
    for seed in range(20):
        hu, nodule = pasted(patch, second, np.random.default_rng(seed))
        new = nodule & ~patch.nodule
        placed += bool(new.any())
        if new.any():
            assert (hu[new] > 1500).mean() > 0.9  # the other's HU
            assert lungs[new].mean() >= 0.95
            changed = hu != patch.hu
            assert changed.sum() > new.sum() and not changed.all()
            edge = changed & ~new & ~patch.nodule
            assert ((hu[edge] > -900) & (hu[edge] < 3000)).any()  # between the two
        assert np.array_equal(nodule & patch.nodule, patch.nodule)
    assert placed > 10
    assert np.array_equal(patch.hu, cut(case, (0, 8, 8), 24).hu)  # the case itself is as it was


def test_nothing_is_pasted_where_there_is_no_lung(two):
    case, second = two
    patch = cut(without_lungs(case), (4, 12, 12), 24)
    hu, nodule = pasted(patch, second, np.random.default_rng(0))
    assert hu is patch.hu and nodule is patch.nodule


@pytest.mark.parametrize("way", ["carvemix", "paste"])
def test_the_arm_s_share_of_real_patches_is_mixed_with_other_patients(case_folders, settings, way, monkeypatch):
    """Patches of synthetic cases are never mixed, nor lend they nodules."""
    seen = []

    def watching(patch, second, rng):
        seen.append((patch.case.about, second.case.about))
        return patch.hu, patch.nodule

    monkeypatch.setitem(WAYS, way, Way(WAYS[way].seconds, watching))
    use = Use(synthetic_share=0.5, mixing=Mixing(way=way, share=0.25))
    patches = TrainingPatches(case_folders[:3], case_folders[3:], use, settings, seed=0)
    for i in range(400):
        patches[i]
    assert 25 < len(seen) < 75  # a quarter of half of them
    names = {folder.name for folder in case_folders[:3]}
    assert all({own["case"], other["case"]} <= names and own["patient"] != other["patient"] for own, other in seen)


@pytest.mark.parametrize("way", ["carvemix", "paste"])
def test_mixing_leaves_all_other_draws_alone(case_folders, settings, way):
    """An arm with mixing differs from its control in the mixed patches and in nothing else."""
    plain = TrainingPatches(case_folders, [], Use(), settings, seed=0)
    mixed = TrainingPatches(case_folders, [], Use(mixing=Mixing(way=way)), settings, seed=0)
    alike = np.array([torch.equal(plain[i][0], mixed[i][0]) for i in range(60)])
    assert 0.3 < alike.mean() < 0.8
    assert all(torch.equal(plain[i][1], mixed[i][1]) for i in np.flatnonzero(alike))


def test_a_pasted_nodule_is_never_smaller_than_the_smallest_of_the_cases(case_folders):
    cases = [open_case(folder) for folder in case_folders]
    smallest, placed = min(fact["volume_mm3"] for case in cases for fact in case.about["nodules"]), 0
    mixer = Mixer(Mixing(way="paste", share=1.0), cases, [])
    for i in range(30):
        patch = cut(cases[i % 5], (0, 0, 0), 20)
        new = mixer.mixed(i % 5, patch, np.random.default_rng(i))[1] & ~patch.nodule
        placed += bool(new.any())
        assert not new.any() or new.sum() * 8 > 0.9 * smallest  # mm3 of a voxel; it may touch another one
    assert placed > 10


def test_one_patient_cannot_be_mixed(case_folders, settings):
    with pytest.raises(InputError, match=r"arms\.\*\.mixing, paste: there is no case to mix a real one with"):
        TrainingPatches(case_folders[:1], [], Use(mixing=Mixing(way="paste")), settings, seed=0)


# --------------------------------------------------------------------------------------------------------------- twins


@pytest.fixture
def twin(case_folders, tmp_path):
    """The twin of the first case: the same masks, all of its CT brighter."""
    case = open_case(case_folders[0])
    row = {"body_case": case.about["case"]}
    scene = family("masks", "twin").scene(row, lambda name: case)
    made = as_case(Sampled((np.asarray(case.ct) + 500).astype(np.int16)), scene)
    made.about["case"] = "twin-0000"
    write_case(tmp_path / "twin-0000", made)
    return tmp_path / "twin-0000"


def test_a_real_patch_and_its_twin_are_faded_under_one_mask(case_folders, twin):
    case, second = open_case(case_folders[0]), Second(open_case(twin), 0.0)
    patch, parts = cut(case, (2, 3, 1), 16), []
    for seed in range(20):
        hu, nodule = faded(patch, second, np.random.default_rng(seed))
        assert nodule is patch.nodule and hu.dtype == np.float32
        np.testing.assert_allclose(hu - patch.hu, (hu - patch.hu).mean(), atol=1e-3)  # one s for all voxels
        parts.append((hu - patch.hu).mean() / 500)
    assert min(parts) < 0.2 and max(parts) > 0.8 and min(parts) >= 0 and max(parts) <= 1


def test_only_cases_with_a_twin_are_faded_and_with_their_own(case_folders, twin, settings):
    """Beside a share of no synthetic patches, they are seen in no other way."""
    use = Use(synthetic_share=0.0, mixing=Mixing(way="twin", share=1.0))
    patches = TrainingPatches(case_folders, [twin], use, settings, seed=0)
    plain = TrainingPatches(case_folders, [twin], Use(synthetic_share=0.0), settings, seed=0)
    assert [[case.about["case"] for case in seconds] for seconds in patches.mixer.seconds] == [["twin-0000"], *[[]] * 4]
    pairs = [(patches[i], plain[i]) for i in range(40)]
    assert all(torch.equal(mixed[1], real[1]) for mixed, real in pairs)
    brighter = [bool((mixed[0] > real[0] + 1e-3).any()) for mixed, real in pairs]
    assert 3 < sum(brighter) < 20
    assert [torch.equal(mixed[0], real[0]) for mixed, real in pairs] == [not b for b in brighter]


# --------------------------------------------------------------------------------------------------------------- noise


def noisy(noise: float, seed: int, name: str):
    """A case whose soft tissue has white noise of so many HU."""
    case = make_case((48, 48, 30), seed=seed, name=name)
    tissue = np.where(case.body > 0, 40.0, -1000.0)
    return dataclasses.replace(
        case, ct=(tissue + np.random.default_rng(seed).normal(0, noise, tissue.shape)).astype(int)
    )


@pytest.mark.parametrize(("real", "synthetic"), [(40, 15), (32, 50), (20, 20)])
def test_synthetic_cases_get_the_noise_of_real_ones(real, synthetic):
    """They lack some, or have more than real ones: measured again, they have as much."""
    ours, theirs = ([noisy(hu, seed + 3 * k, "a") for seed in range(3)] for k, hu in enumerate((real, synthetic)))
    texture = matching(ours, theirs)
    assert bool(texture.blur_voxels) == (synthetic > real)
    again = noise_hu(texture.given(theirs[0].ct, np.random.default_rng(9)))
    assert again == pytest.approx(real, rel=0.08)


def test_where_there_is_no_tissue_nothing_is_changed():
    lung = make_case((20, 20, 20))
    lung = dataclasses.replace(lung, ct=np.full_like(lung.ct, -800))
    assert matching([lung], [lung]) == (0, 0) and matching([noisy(20, 0, "a")], []) == (0, 0)


def test_only_synthetic_patches_get_the_noise(case_folders, settings, tmp_path):
    quiet = tmp_path / "quiet"
    write_case(quiet, noisy(2, 0, "quiet"))
    loud = tmp_path / "loud"
    write_case(loud, noisy(60, 1, "loud"))
    matched = TrainingPatches([loud], [quiet], Use(synthetic_share=0.5, match_noise=True), settings, seed=0)
    plain = TrainingPatches([loud], [quiet], Use(synthetic_share=0.5), settings, seed=0)
    alike = np.array([torch.equal(matched[i][0], plain[i][0]) for i in range(40)])
    kinds = np.array([stream(0, "patch", i).random() < 0.5 for i in range(40)])  # synthetic
    assert np.array_equal(alike, ~kinds)
    assert all(torch.equal(matched[i][1], plain[i][1]) for i in range(40))
    assert torch.equal(matched[3][0], matched[3][0])


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
    assert len(list(tmp_path.iterdir())) == 6


def test_every_way_of_mixing_is_there():
    assert set(WAYS) == set(get_args(Mixing.model_fields["way"].annotation))
