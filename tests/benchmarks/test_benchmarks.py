"""Every benchmark runs, at minuscule sizes, through the code that makes the published numbers."""

import numpy as np
import pytest
import torch

from lungsyn.config import Compute
from lungsyn.generation.network import build
from lungsyn.volume.tables import write_table
from tests.benchmarks import audit, generator, memory, peers, quality
from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.claims import Bench, Claim, compare
from tests.conftest import make_case


@pytest.fixture(scope="module")
def bench(generator_settings, study) -> Bench:
    return Bench(
        generator_settings,
        study.synthesis.model_copy(update={"steps": 3, "fused_steps": 1}),
        Compute(device="cpu", precision="float32", generator_threads=1),
        volume_voxels=24, rounds=1, peer_steps=1, memory_shapes=((24, 24, 24), (48, 48, 48)),
        whole_forward_voxels=(16,), step_counts=(2, 3), audit_cubes=(3, 2),
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
    return dataclasses.replace(bench, results=results, images=8)


OF_ONE_SIZE = {"memory-volume", "prepare-vs-plain", "index"}  # too long for a test


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


def test_the_audit_and_its_loops_agree():
    rng = np.random.default_rng(0)
    query, reference = rng.normal(size=(2, 20, 20, 20)).astype(np.float32)
    found = audit.nearest(query[None], [reference[None]], audit.MAX_SHIFT).correlation[0]
    assert audit.plain(query, reference) == pytest.approx(found, abs=1e-5)
    assert audit.prepared(query, reference) == pytest.approx(found, abs=1e-5)


def test_memory_is_measured_in_a_process_of_its_own(bench):
    assert 0 < memory.peak_bytes("shifted", (48, 48, 48), bench) < 200 * 2**20


def test_the_peer_has_as_many_parameters(study):
    ours = study.generators["patch_ddpm"]
    theirs = peers.equal_settings(ours)
    assert peers.parameters(build(theirs)) == pytest.approx(peers.parameters(build(ours)), rel=0.05)


def test_patches_are_counted_as_the_sliding_window_lays_them():
    assert peers.patch_count(128, 32, 0.5) == 7**3
    assert peers.patch_count(128, 32, 0.25) == 5**3
    assert peers.patch_count(20, 32, 0.25) == 1


def test_convolutions_of_a_step_are_all_found(bench):
    network = build(bench.generator)
    step = generator.training_step(network, bench.generator, torch.float32)
    calls = generator.convolution_calls(network, step)
    assert len(calls) == sum(isinstance(m, generator.CONVOLUTIONS) for m in network.modules())
    assert [needs for *_, needs in calls].count(False) == 1  # the stem reads data


def test_saved_bytes_of_a_known_layer(bench, monkeypatch):
    """A square keeps its input, once, however often it is used: 4 bytes per voxel."""

    class Squares(torch.nn.Module):
        def forward(self, x, masks, coarse, t, spacing_mm):
            x = x * torch.ones(1, requires_grad=True)  # keeps the single one, and x: float32
            return x * x + x * x  # keeps the product once

    monkeypatch.setattr(memory, "build", lambda settings: Squares())
    assert memory.saved_bytes_per_voxel(bench.generator, torch.float32) == pytest.approx(8)


def test_a_planted_seam_is_seen_and_its_absence_too(generator_settings, study):
    volume, body = np.random.default_rng(0).normal(0, 0.1, (64, 64, 64)), np.ones((64, 64, 64), bool)
    ratio = lambda: np.exp(np.mean(quality.seam_logs(volume, body, generator_settings, study.synthesis)))  # noqa: E731
    assert ratio() == pytest.approx(1, abs=0.02)
    patch = generator_settings.patch_voxels
    starts = quality.axis_starts(64, patch, quality.stride_voxels(generator_settings, study.synthesis))
    planes = quality.border_planes(starts, patch, 64)
    assert {p for p, *_ in planes} <= {p + k for p in starts for k in (0, patch)}
    for plane, *far in planes:
        assert not {p for p, *_ in planes} & set(far)
        volume[plane:] += 0.5
    assert ratio() > 1.3


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
