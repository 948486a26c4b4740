"""What runs on a GPU does what it does on the CPU: the CPU is the oracle. Skipped where there is no CUDA GPU."""

import signal

import numpy as np
import pytest
import torch

from lungsyn import checkpoint
from lungsyn.compute import set_up
from lungsyn.generators.core import synthesis as syn
from lungsyn.generators.core import training
from lungsyn.generators.core.canvas import How, make_canvas
from lungsyn.generators.core.patches import TrainingPatches
from lungsyn.registry import family
from lungsyn.seams import Run
from lungsyn.segmenters.core.settings import SlidingWindow
from lungsyn.settings.arms import Use
from lungsyn.settings.compute import Compute
from lungsyn.settings.segmenters import settings_of
from lungsyn.steps import Steps
from lungsyn.volume.files import open_case
from tests.conftest import killed_at, network_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")

CPU = Compute(
    device="cpu", precision="float32", generator_threads=1, segmenter_threads=1, checkpoint_seconds=3600,
    loader_processes=0,
)  # fmt: skip
CUDA = CPU.model_copy(update={"device": "cuda"})
MONAI = family("segmenters", "monai")


def losses(records: list[dict]) -> np.ndarray:
    return np.array([record["loss"] for record in records])


def losses_on_both(folders, settings, tmp_path, on_cuda=CUDA) -> list[np.ndarray]:
    """Of the same generator's training on the CPU and on the GPU."""
    return [losses(training.train(folders, settings, Run(7, c, tmp_path / c.device))[2]) for c in (CPU, on_cuda)]


@pytest.fixture(scope="module")
def on_cpu(case_folders, generator_settings, tmp_path_factory):
    """A generator trained on the CPU: weights and records."""
    weights, _, records = training.train(case_folders, generator_settings, Run(7, CPU, tmp_path_factory.mktemp("cpu")))
    return weights, records


def test_steps_that_are_computed_twice_can_be_recorded(case_folders, generator_settings, tmp_path):
    checkpointing = generator_settings.model_copy(update={"activation_checkpointing": True})
    found = losses_on_both(case_folders, checkpointing, tmp_path)
    assert found[1] == pytest.approx(found[0], rel=0.02)


@pytest.mark.parametrize("changed", [{}, {"precision": "bfloat16"}, {"precision": "auto", "compile": True}])
def test_latents_are_learned_as_on_the_cpu(case_folders, latent_settings, tmp_path, changed):
    found = losses_on_both(case_folders, latent_settings, tmp_path, CUDA.model_copy(update=changed))
    assert found[1] == pytest.approx(found[0], rel=0.05)


@pytest.mark.parametrize("changed", [{}, {"precision": "bfloat16"}, {"precision": "auto", "compile": True}])
def test_a_gan_learns_what_it_learns_on_the_cpu(case_folders, gan_settings, tmp_path, changed):
    found = losses_on_both(case_folders, gan_settings, tmp_path, CUDA.model_copy(update=changed))
    assert found[1] == pytest.approx(found[0], rel=0.05)


@pytest.mark.parametrize(
    ("changed", "tolerance"),
    [
        ({}, 0.01),
        ({"loader_processes": 2}, 0.01),
        ({"compile": True}, 0.01),
        ({"precision": "bfloat16"}, 0.05),
        ({"precision": "auto", "compile": True, "loader_processes": 2}, 0.05),
    ],
)
def test_a_generator_learns_what_it_learns_on_the_cpu(
    case_folders, generator_settings, tmp_path, on_cpu, changed, tolerance
):
    compute = CUDA.model_copy(update=changed)
    _, facts, records = training.train(case_folders, generator_settings, Run(7, compute, tmp_path))
    assert losses(records) == pytest.approx(losses(on_cpu[1]), rel=tolerance)
    assert [r["validation"] for r in records] == pytest.approx([r["validation"] for r in on_cpu[1]], rel=tolerance)
    assert facts["ran_on"].startswith("cuda")
    assert facts["cost"]["device_mb"] > 0


def test_a_killed_training_goes_on_on_the_gpu(case_folders, generator_settings, tmp_path, on_cpu, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(training, "TrainingPatches", killed_at(TrainingPatches, 20, signal.SIGTERM))
        with pytest.raises(SystemExit):
            training.train(case_folders, generator_settings, Run(7, CUDA, tmp_path))
    saved = checkpoint.load(next(tmp_path.glob("*/checkpoint.safetensors")))[1]
    assert 0 < saved["images_seen"] < generator_settings.images
    _, _, records = training.train(case_folders, generator_settings, Run(7, CUDA, tmp_path))
    assert losses(records) == pytest.approx(losses(on_cpu[1]), rel=0.01)


@pytest.mark.parametrize("mode", ["fused", "shifted"])
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 0.01), (torch.bfloat16, 0.05)])
def test_a_volume_is_the_one_that_the_cpu_makes(
    case_folders, generator_settings, study, on_cpu, monkeypatch, mode, precision, tolerance
):
    """Of the same noise: drawn on the CPU for both."""

    def noise_adder(generator):
        cpu = torch.Generator().manual_seed(generator.initial_seed())

        def add(x, scale):
            x.add_(torch.randn(x.shape, generator=cpu).to(x.device), alpha=scale)

        return add

    monkeypatch.setattr(syn, "noise_adder", noise_adder)
    set_up(1, torch.device("cuda"))
    case = open_case(case_folders[0])
    masks = np.stack([case.nodules, case.lungs, case.body])
    plan = study.synthesis.model_copy(update={"mode": mode, "steps": 4, "fused_steps": 1})
    volumes = []
    for name, dtype in (("cpu", torch.float32), ("cuda", precision)):
        device = torch.device(name)
        network = network_of(generator_settings)
        network.load_state_dict(on_cpu[0])
        canvas = make_canvas(masks, 2.0, generator_settings, device)
        volume = syn.synthesise(network.to(device).eval(), canvas, generator_settings, plan, 3, How(2, dtype))
        assert volume.device.type == name
        volumes.append(volume.cpu())
    assert (volumes[1] - volumes[0]).norm() / volumes[0].norm() < tolerance


def test_a_volume_takes_at_most_twenty_bytes_per_voxel(generator_settings, study):
    """The bar of the bench, on the GPU: state, blended x_0, masks."""
    device, settings = torch.device("cuda"), generator_settings.model_copy(update={"channels": [8], "blocks": 1})
    network = network_of(settings).to(device).eval()
    plan = study.synthesis.model_copy(update={"steps": 3, "fused_steps": 0})
    peaks, voxels = [], []
    for edge in (64, 128):
        masks = np.zeros((3, edge, edge, edge), np.uint8)
        masks[2] = 1
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        syn.synthesise(network, make_canvas(masks, 1.0, settings, device), settings, plan, 0, How(4))
        peaks.append(torch.cuda.max_memory_allocated() - before)
        voxels.append(edge**3)
    assert (peaks[1] - peaks[0]) / (voxels[1] - voxels[0]) <= 20


def test_steps_are_recorded_and_replayed():
    """Against the same steps one by one, the last with a smaller batch; what changes from step to step is a tensor."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    batches = [{"x": torch.randn(4 if i < 9 else 2, 8)} for i in range(10)]
    found = []
    for record in (False, True):
        weight, rate = torch.ones(8, device=device), torch.zeros((), device=device)

        def step(batch, weight=weight, rate=rate):
            weight.lerp_(batch["x"].mean(dim=0), rate)
            return (weight.sum(),)

        take, sums = Steps(step, device, record), []
        for i, batch in enumerate(batches):
            rate.fill_(1 / (i + 1))
            sums.append(float(take(batch)[0]))
        found.append(sums)
        assert (take.graph is not None) == record
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("kind", ["unet", "dynunet", "swin_unetr"])
def test_a_segmenter_of_any_kind_can_be_recorded(case_folders, study, tmp_path, kind):
    channels, patch = {"unet": ([4, 8, 8], 16), "dynunet": ([4, 8, 8], 16), "swin_unetr": ([12], 32)}[kind]
    settings = settings_of(study.segmenters["unet"]).model_copy(
        update={"network": kind, "channels": channels, "patch_voxels": patch, "batch_patches": 1, "steps": 8}
    )
    found = [
        losses(MONAI.fit(case_folders, [], Use(), settings, Run(3, compute, tmp_path / compute.device)).records)
        for compute in (CPU, CUDA)
    ]
    assert found[1] == pytest.approx(found[0], rel=0.05)


@pytest.mark.parametrize("changed", [{}, {"compile": True, "loader_processes": 2}])
def test_a_segmenter_learns_and_predicts_what_it_does_on_the_cpu(case_folders, study, tmp_path, changed):
    settings = settings_of(study.segmenters["unet"]).model_copy(
        update={"channels": [4, 8, 8], "patch_voxels": 16, "batch_patches": 2, "steps": 10}
    )
    model, found = tmp_path / "model.safetensors", []
    for compute in (CPU, CUDA.model_copy(update=changed)):
        trained = MONAI.fit(case_folders, [], Use(), settings, Run(3, compute, tmp_path / compute.device))
        found.append(losses(trained.records))
        if compute.device == "cpu":
            checkpoint.save(model, trained.tensors, {"segmenter": settings.model_dump(mode="json")})
    assert found[1] == pytest.approx(found[0], rel=0.02)

    inference, case = SlidingWindow(overlap=0.25), open_case(case_folders[0])
    percents = [MONAI.load(model, compute, inference).predict(case).astype(int) for compute in (CPU, CUDA)]
    assert abs(percents[0] - percents[1]).max() <= 2
