import os
import subprocess
import sys

import pytest
import torch

from lungsyn import compute
from lungsyn.errors import InputError
from lungsyn.settings.compute import Compute


def test_a_named_device_is_taken_and_auto_is_what_is_there(monkeypatch):
    assert compute.choose_device(Compute(device="cpu")).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute.choose_device(Compute(device="auto")).type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert compute.choose_device(Compute(device="auto")).type == "mps"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_told(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"compute.device is {device}, but torch finds none here: set it to auto"):
        compute.choose_device(Compute(device=device))


def test_processes_of_one_training_share_the_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    for processes, readers in ((1, 11), (4, 2), (12, 0), (16, 0)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert compute.loader_processes(Compute(), torch.device("cuda")) == readers


def test_auto_fills_a_gpu_and_lets_all_other_processors_make_its_patches(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(9)), raising=False)
    told, cpu, gpu = Compute(), torch.device("cpu"), torch.device("cuda")
    assert [compute.loader_processes(told, device) for device in (cpu, gpu)] == [0, 8]
    assert [compute.patches_at_once(told, gpu, edge) for edge in (32, 64, 512)] == [128, 16, 1]
    assert compute.patches_at_once(told, cpu, 32) < 10
    told = Compute(loader_processes=3, patches_per_batch=5)
    assert {compute.loader_processes(told, device) for device in (cpu, gpu)} == {3}
    assert {compute.patches_at_once(told, device, 64) for device in (cpu, gpu)} == {5}


CPU = torch.device("cpu")


@pytest.mark.parametrize("instructions", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_bfloat16_is_taken_where_the_processor_has_it_however_busy_it_is(monkeypatch, instructions):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda has=name == instructions: has)
    assert compute.choose_precision(Compute(), CPU) == torch.bfloat16
    assert compute.choose_precision(Compute(), CPU, before="float32") == torch.float32  # a training goes on in its own
    assert compute.choose_precision(Compute(precision="float32"), CPU, before="bfloat16") == torch.float32


def test_a_processor_without_instructions_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert compute.choose_precision(Compute(), CPU) == torch.float32
    assert compute.choose_precision(Compute(), CPU, before="bfloat16") == torch.float32
    assert compute.choose_precision(Compute(precision="bfloat16"), CPU) == torch.bfloat16


def test_a_job_does_not_report_the_memory_of_what_started_it():
    ballast = bytearray(400 * 1024**2)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "import torch; from lungsyn import compute; print(compute.peak_memory_mb(torch.device('cpu'))['host_mb'])"
    alone = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert int(alone.stdout) < 400 < compute.peak_memory_mb(torch.device("cpu"))["host_mb"]
    assert len(ballast)


def test_memory_is_counted_and_described():
    assert compute.peak_memory_mb(torch.device("cpu"))["host_mb"] > 50
    assert "float32" in compute.describe(torch.device("cpu"), torch.float32)


@pytest.mark.skipif(not compute.has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16")
@pytest.mark.parametrize("deep", [1, 2, 3, 4])
def test_gradients_of_small_images_hold_nothing_that_nobody_wrote(deep):
    """In bfloat16 they did, at two voxels: what was in memory before, here nan."""
    compute.set_up(1, torch.device("cpu"))
    torch.manual_seed(deep)
    layer, image = torch.nn.Conv3d(16, 16, 3, padding=1), torch.randn(2, 16, deep, 4, 4)
    layer(image).square().sum().backward()
    wanted = layer.weight.grad.clone()
    for _ in range(3):
        layer.zero_grad()
        left = [torch.full((1 << k,), float("nan"), dtype=torch.bfloat16) for k in range(8, 20) for _ in range(4)]
        with torch.autocast("cpu", torch.bfloat16):
            made = layer(image)
        del left
        made.float().square().sum().backward()
        assert (layer.weight.grad - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.skipif(not compute.has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16")
def test_what_learns_nothing_computes_as_it_did():
    """Patches at a volume's border are as small, and sampling asks for no gradient."""
    layer, image = torch.nn.Conv3d(16, 16, 3, padding=1), torch.randn(2, 16, 2, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = torch.nn.functional.conv3d(image, layer.weight, layer.bias, padding=1)
        compute.set_up(1, torch.device("cpu"))
        assert torch.equal(layer(image), plain)
