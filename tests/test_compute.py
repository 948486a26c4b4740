import subprocess
import sys

import pytest
import torch

from lungsyn import compute
from lungsyn.config import Compute


def test_a_named_device_is_taken_and_auto_is_what_is_there(monkeypatch):
    assert compute.choose_device(Compute(device="cpu")).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute.choose_device(Compute(device="auto")).type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert compute.choose_device(Compute(device="auto")).type == "mps"


@pytest.mark.parametrize(("instructions", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_follows_the_processor(monkeypatch, instructions, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert compute.choose_precision(Compute(), torch.device("cpu")) == expected
    assert compute.choose_precision(Compute(precision="float32"), torch.device("cpu")) == torch.float32


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
