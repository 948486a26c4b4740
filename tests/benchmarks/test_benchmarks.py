"""Every benchmark runs, at minuscule sizes, through the code that makes the published numbers."""

import sys

import numpy as np
import pytest
import torch
import yaml

from lungsyn import codedigest
from lungsyn.generators import patch_ddpm
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.canvas import How, make_canvas
from lungsyn.generators.core.learning import predict
from lungsyn.generators.networks.patch_unet import Denoising
from lungsyn.segmenters.core.settings import SlidingWindow
from lungsyn.settings.compute import Compute
from lungsyn.settings.segmenters import settings_of
from lungsyn.volume.tables import write_table
from tests.benchmarks import audit, generator, growing, growth, memory, peers, quality, segmenter, segmenting
from tests.benchmarks.__main__ import BENCHMARKS, arguments, bench_of
from tests.benchmarks.claims import Bench, Claim, compare
from tests.benchmarks.peers import build
from tests.benchmarks.stitched import stitched
from tests.conftest import make_case, without_zeros


@pytest.fixture(scope="module")
def bench(generator_settings, study) -> Bench:
    return Bench(
        generator_settings,
        study.synthesis.model_copy(update={"steps": 3, "fused_steps": 1}),
        Compute(device="cpu", precision="float32", generator_threads=1),
        settings_of(study.segmenters["unet"]).model_copy(
            update={"channels": [4, 8, 8], "patch_voxels": 16, "batch_patches": 2, "steps": 2}
        ),
        SlidingWindow(overlap=0.25),
        volume_voxels=24, rounds=1, peer_steps=1, memory_shapes=((24, 24, 24), (48, 48, 48)),
        whole_forward_voxels=(16,), studies=20, step_counts=(2, 3), audit_cubes=(3, 2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def with_results(bench, case_folders, tmp_path_factory) -> Bench:
    """A results folder of five cases, three of them to train on."""
    import dataclasses

    results = tmp_path_factory.mktemp("results")
    (results / "cases").symlink_to(case_folders[0].parent)
    splits = ["train", "train", "train", "validation", "test"]
    rows = [{"case": folder.name, "split": split} for folder, split in zip(case_folders, splits, strict=True)]
    write_table(results / "cohort.tsv", rows, ["case", "split"])
    return dataclasses.replace(bench, results=results, work=results / "benchmarks", images=8)


OF_ONE_SIZE = {"growth", "memory-volume", "prepare-vs-plain", "index", "segmenter"}  # too long for a test


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - OF_ONE_SIZE))
def test_each_prints_its_claims(name, with_results):
    claims = BENCHMARKS[name](with_results)
    assert claims
    for claim in claims:
        assert claim.name.startswith(name)
        assert "skipped" not in claim.measured
        assert np.isfinite([claim.ours, claim.peer, claim.ratio]).all()
        assert claim.name in str(claim)


@pytest.mark.parametrize("name", ["seam", "context", "steps"])
def test_without_a_model_it_says_what_it_needs(name, bench):
    assert [claim.measured.split(":")[0] for claim in BENCHMARKS[name](bench)] == ["skipped"]


def test_the_generator_that_is_measured_is_the_patch_model(study, latent_settings, tmp_path, monkeypatch):
    """Not one that stands beside it, though the config may name that first."""
    told = study.model_dump(mode="json")
    others = {"copy_paste": {"kind": "copy_paste"}, "latent_ddpm": latent_settings.model_dump(mode="json")}
    told["generators"] = others | told["generators"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--config", str(tmp_path / "config.yaml")])
    assert bench_of(arguments()).generator == study.generators["patch_ddpm"]


def test_the_audit_and_its_loops_agree():
    rng = np.random.default_rng(0)
    query, reference = rng.normal(size=(2, 20, 20, 20)).astype(np.float32)
    found = audit.nearest(query[None], [reference[None]], audit.MAX_SHIFT).correlation[0]
    assert audit.plain(query, reference) == pytest.approx(found, abs=1e-5)
    assert audit.prepared(query, reference) == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("contestant", ["ours", "plain"])
def test_both_segmenters_train_and_predict(contestant, bench, case_folders):
    found = segmenting.main(segmenter.told(contestant, case_folders, bench))
    assert set(found) == {"step_s", "case_s", "peak_mb"} and min(found.values()) > 0


@pytest.mark.parametrize("stage", sorted(set(growing.STAGES) - {"planning"}))  # which tests/workflow measures, too
def test_each_stage_is_measured(stage):
    assert min(growing.measured(stage, 40).values()) > 0


def test_the_power_of_known_growth(tmp_path):
    sizes = (10, 100, 1000)
    assert growth.power([1.0, 3 * 100, 3 * 1000], sizes) == pytest.approx(1)
    assert growth.power([1.0, 3 * 100**2, 3 * 1000**2], sizes) == pytest.approx(2)
    growth.draw({"index": [{"seconds": n, "peak_mb": n} for n in sizes]}, sizes, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_memory_is_measured_in_a_process_of_its_own(bench):
    assert 0 < memory.peak_bytes("shifted", (48, 48, 48), bench) < 200 * 2**20


def test_the_peer_has_as_many_parameters(study):
    ours = study.generators["patch_ddpm"]
    theirs = peers.equal_settings(ours)
    assert peers.parameters(build(theirs)) == pytest.approx(peers.parameters(build(ours)), rel=0.05)


@pytest.mark.parametrize(("position", "context"), [(True, 2), (False, 0), (True, 0)])
def test_the_peer_is_given_what_ours_is_and_learns_in_the_same_way(generator_settings, position, context):
    ours = generator_settings.model_copy(update={"position": position, "context_factor": context})
    theirs = peers.Settings(**ours.model_dump(exclude={"kind"}))
    batch = generator.random_batch(theirs, torch.device("cpu"))
    output = predict(build(theirs), batch, torch.device("cpu"), torch.float32)
    assert output.shape == (theirs.batch_patches, 1, *[theirs.patch_voxels] * 3)
    assert (theirs.learning().abar == ours.learning().abar).all()


def test_a_patch_that_is_stitched_knows_nothing_of_the_others(generator_settings, study):
    """Neither those of its batch nor those beside it: where it lies alone, it is the same without them."""
    settings = generator_settings.model_copy(update={"position": False})  # which would tell of the volume
    network = without_zeros(build(settings), 0.05)
    plan = study.synthesis.model_copy(update={"steps": 3, "sampler": "ddpm"})
    masks = np.zeros((3, 40, 30, 25), np.uint8)
    masks[2, :, 2:] = 1

    def volume(end: int, batch: int) -> torch.Tensor:
        canvas = make_canvas(masks[:, :end], 2.0, settings, torch.device("cpu"))
        return stitched(network, canvas, settings, plan, 5, How(batch))

    whole, first = volume(40, 1), volume(16, 7)
    assert whole.shape == (40, 30, 25)
    assert (whole[:, :2] == -1).all()  # air
    assert torch.allclose(whole, volume(40, 7), atol=1e-4)
    assert torch.allclose(whole[:12], first[:12], atol=1e-4)  # the next patches begin at 12
    assert not torch.allclose(whole[12:16], first[12:], atol=1e-2)


def test_patches_are_counted_as_the_sliding_window_lays_them():
    assert peers.patch_count(128, 32, 0.5) == 7**3
    assert peers.patch_count(128, 32, 0.25) == 5**3
    assert peers.patch_count(20, 32, 0.25) == 1


def test_convolutions_of_a_step_are_all_found(bench):
    network = build(bench.generator)
    step = generator.training_step(network, bench.generator, bench.device, torch.float32)
    calls = generator.convolution_calls(network, step)
    assert len(calls) == sum(isinstance(m, generator.CONVOLUTIONS) for m in network.modules())
    assert [needs for *_, needs in calls].count(False) == 1  # the stem reads data


def test_saved_bytes_of_a_known_layer(bench, monkeypatch):
    """A square keeps its input, once, however often it is used: 4 bytes per voxel."""

    class Squares(torch.nn.Module):
        def forward(self, x, masks, coarse, t, spacing_mm):
            x = inner(x).clone() * torch.ones(1, requires_grad=True)  # keeps the single one, and x: float32
            return x * x + x * x  # keeps the product once

    monkeypatch.setattr(Denoising, "build", lambda learning: Squares())
    assert memory.saved_bytes_per_voxel(bench.generator, bench.device, torch.float32) == pytest.approx(8)


def planes_of_noise(settings, study, step: float, smoother: float = 1.0):
    """Logs for two volumes of the same anatomy and noise of their own, with ``step`` added behind every border."""
    rng, shape = np.random.default_rng(0), (64, 64, 64)
    anatomy = rng.normal(0, 0.5, (64, 1, 1)).cumsum(axis=0)
    grids = [quality.border_planes(shape, offset, settings, study.synthesis) for offset in ((4, 8, 0), (8, 0, 4))]
    volumes = [anatomy + rng.normal(0, noise, shape) for noise in (1.0, smoother)]
    for volume, grid in zip(volumes, grids, strict=True):
        for axis, planes in enumerate(grid):
            for plane in planes:
                np.moveaxis(volume, axis, 0)[plane:] += step
    return quality.plane_logs(volumes, grids, np.ones(shape, bool))


def test_a_planted_seam_is_seen_and_anatomy_or_a_smoother_volume_is_not(generator_settings, study):
    for smoother in (1.0, 0.8):
        logs = planes_of_noise(generator_settings, study, 0.0, smoother)
        value, error = quality.ratio([logs["border"]])
        assert abs(value - 1) < 3 * error < 0.03
    seen = planes_of_noise(generator_settings, study, 1.0)
    value, error = quality.ratio([seen["border"]])
    assert value > 1 + 5 * error
    assert quality.ratio([seen["control"]])[0] == pytest.approx(1, abs=0.01)


def test_the_standard_error_of_a_seam_ratio_is_that_of_repeated_draws():
    rng = np.random.default_rng(0)
    draws = [
        quality.ratio([(rng.normal(0.3, 0.1, 8).tolist(), rng.normal(-0.3, 0.2, 12).tolist()) for _ in range(2)])
        for _ in range(400)
    ]
    values, errors = np.array(draws).T
    assert values.mean() == pytest.approx(1, abs=0.01)
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.1)


def test_a_grid_at_an_offset_still_tells_the_network_where_it_is_in_the_case(with_results, generator_settings):
    """A network that answers with the coordinates: the volume is the same wherever the grid begins."""

    class Place(torch.nn.Module):
        def forward(self, x, masks, coarse, t, spacing_mm):
            place = coarse[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
            return place.expand(-1, 1, -1, -1, -1)

    settings = generator_settings.model_copy(update={"prediction": "sample"})
    model = quality.Trained(Place(), settings, 0.0, "a test")
    case = quality.unseen_cases(with_results)[0]
    synthesis = with_results.synthesis.model_copy(update={"sampler": "ddim", "mode": "fused", "eta": 0.0})
    plain, moved = (
        quality.make_volume(model, case, synthesis, 0, with_results, offset) for offset in ((0, 0, 0), (8, 4, 12))
    )
    assert plain.shape == moved.shape == case.ct.shape
    assert np.abs(plain - moved)[np.asarray(case.body) > 0].max() < 0.05


def test_a_bench_that_was_broken_off_measures_only_what_is_missing(with_results, monkeypatch, tmp_path):
    import dataclasses

    bench = dataclasses.replace(with_results, work=tmp_path)
    whole = quality.steps(bench)
    monkeypatch.setattr(quality, "make_volume", None)  # no volume is made again
    assert [claim.ours for claim in quality.steps(bench)] == [claim.ours for claim in whole]


def test_a_training_of_other_code_is_not_taken_for_this_one_s(with_results, monkeypatch, tmp_path):
    import dataclasses

    bench, trainings = dataclasses.replace(with_results, work=tmp_path), []
    for code in ("one", "two", "one"):
        monkeypatch.setattr(quality, "code_of", lambda *_, code=code: code)
        quality.trained(bench, bench.generator)
        trainings.append(len(list(tmp_path.glob("**/checkpoint.safetensors"))))
    assert trainings == [1, 2, 2]


def test_the_code_that_is_noted_is_that_of_networks_and_of_how_volumes_are_made():
    codes = {quality.code_of(*used) for used in ((), (peers.Settings,), (stitched,), (quality.synthesise,))}
    assert len(codes) == 3  # what the study itself does is always in it
    reached = codedigest.reached((patch_ddpm.__name__, "Family"), (peers.__name__, "Settings"))
    assert {("lungsyn.generators.networks.patch_unet", "PatchUNet"), (peers.__name__, "MonaiUNet")} <= reached


def test_the_distance_of_volumes_is_zero_to_itself_and_grows():
    case = make_case((30, 30, 30))
    rng = np.random.default_rng(0)
    same = quality.descriptors(case.ct / 1000, case.body)
    near, far = (quality.descriptors(case.ct / 1000 + rng.normal(0, s, case.ct.shape), case.body) for s in (0.05, 0.5))
    assert quality.sliced_wasserstein(same, same) == 0
    assert 0 < quality.sliced_wasserstein(same, near) < quality.sliced_wasserstein(same, far)


def test_a_claim_compares_costs_round_by_round():
    claim = compare("x", [1.0, 2.0, 4.0], [10.0, 20.0, 80.0], "s", "what", 10)
    assert (claim.ratio, claim.met) == (10.0, True)
    assert ": NOT met" in str(compare("x", [1.0], [2.0], "s", "what", 10))
    assert str(Claim("x", None, None, None, "skipped: y")).count("-") == 3
