"""The machine: device, precision, threads, memory. Chosen once per job, said in its log."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from glob import glob
from pathlib import Path

import torch

from lungsyn.errors import InputError
from lungsyn.machine import cpus
from lungsyn.memory import keep_freed_memory, peak_host_mb
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import read_json, write_json

TURNS = 8  # of the two precisions when they are measured
WORTH_IT = 1.5  # bfloat16 has to be so many times faster on a CPU
GPU_VOXELS, CPU_PATCHES = 2**22, 4  # denoised at once: 128 patches of 32^3 on a GPU
MOST_LOADERS = 15


def choose_device(compute: Compute) -> torch.device:
    """The device that ``auto`` means here: CUDA, else Apple's MPS, else the CPU."""
    if compute.device != "auto":
        there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
        if not there[compute.device]():
            raise InputError(f"compute.device is {compute.device}, but torch finds none here: set it to auto")
        return torch.device(compute.device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if glob("/dev/nvidia[0-9]*") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        print("there is an NVIDIA GPU, but torch cannot use it (its driver is too old, or torch is a build for CPUs)")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(
    compute: Compute, device: torch.device, before: str | None = None, notes: Path | None = None
) -> torch.dtype:
    """dtype of the network's convolutions.

    ``auto``: float32 where the device has no instructions for bfloat16; else what the training was ``before``, of which
    this is the continuation or the model; else bfloat16 on a GPU, and on a CPU if it is clearly faster when measured.
    A measurement is noisy and a study's arms must not differ by it, so what it decided is kept in the folder ``notes``
    and holds for this kind of processor from then on.
    """
    if compute.precision != "auto":
        if (compute.precision, device.type) == ("bfloat16", "mps"):
            raise InputError("compute.precision is bfloat16, in which MPS has no 3-D networks: set it to auto")
        return getattr(torch, compute.precision)
    if not has_bfloat16(device):
        return torch.float32
    if before is not None:
        return getattr(torch, before)
    return torch.bfloat16 if device.type == "cuda" else measured_precision(notes)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def measured_precision(notes: Path | None) -> torch.dtype:
    """What ``notes`` say about this processor, after measuring it if they do not; the first measurement holds."""
    machine = {"processor": processor(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    if notes is None:
        return getattr(torch, measure(machine)["precision"])
    name = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:12]
    path, mine = notes / f"precision-{name}.json", notes / f".{os.getpid()}.precision-{name}.json"
    if not path.exists():
        write_json(mine, measure(machine))
        try:
            os.link(mine, path)
        except FileExistsError:  # another job was first
            pass
        except OSError:  # no hard links here
            mine.replace(path)
        mine.unlink(missing_ok=True)
    return getattr(torch, read_json(path)["precision"])


def measure(machine: dict) -> dict:
    """Time one convolution in both precisions, in turns; the smallest time is the one least disturbed by others."""
    runs = {"float32": convolution(torch.float32), "bfloat16": convolution(torch.bfloat16)}
    times_ms = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times_ms[name].append(1000 * (time.perf_counter() - start))
    best_ms = {name: round(min(times[1:]), 3) for name, times in times_ms.items()}  # the first turn warms up
    gain = best_ms["float32"] / best_ms["bfloat16"]
    chosen = "bfloat16" if gain > WORTH_IT else "float32"
    print(f"a convolution, forward and backward: {best_ms['float32']:.1f} ms in float32, {best_ms['bfloat16']:.1f} ms "
          f"in bfloat16: {chosen}", flush=True)  # fmt: skip
    return machine | {"best_ms": best_ms, "precision": chosen}


def convolution(precision: torch.dtype, edge: int = 16) -> Callable[[], None]:
    """One 3x3x3 convolution as the networks do it: autocast, channels last, forward and backward; no random draw."""
    x, weight = (
        torch.full(shape, 0.01).to(memory_format=torch.channels_last_3d).requires_grad_()
        for shape in ((2, 32, edge, edge, edge), (32, 32, 3, 3, 3))
    )

    def run() -> None:
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            torch.nn.functional.conv3d(x, weight, padding=1).sum().backward()

    return run


def processor() -> str:
    """What the CPU calls itself, as far as the system says."""
    if platform.system() == "Linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def patches_at_once(compute: Compute, device: torch.device, patch_voxels: int) -> int:
    """Patches of this edge that a generator denoises in one batch. ``auto``: as many as fill a GPU; on a CPU few."""
    if compute.patches_per_batch != "auto":
        return compute.patches_per_batch
    return max(GPU_VOXELS // patch_voxels**3, 1) if device.type == "cuda" else CPU_PATCHES


def loader_processes(compute: Compute, device: torch.device) -> int:
    """Processes that make patches for a training. ``auto``: none on a CPU, which has nothing to wait for; for a GPU all
    other CPUs that this process may use, up to ``MOST_LOADERS``."""
    if compute.loader_processes != "auto":
        return compute.loader_processes
    here = cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes of one training, which share them
    return min(max(here - 1, 0), MOST_LOADERS) if device.type == "cuda" else 0


def compiled(network: Callable, compute: Compute, device: torch.device) -> Callable:
    """``network`` through torch.compile, if that is asked for and there is a CUDA GPU."""
    return torch.compile(network) if compute.compile and device.type == "cuda" else network


def name_of(precision: torch.dtype) -> str:
    """``float32`` or ``bfloat16``, as the config spells it."""
    return str(precision).removeprefix("torch.")


def set_up(threads: int, device: torch.device, one_shape: bool = False) -> None:
    """Fix the thread count (the order of sums, hence the result, depends on it) and tune the allocators. ``one_shape``:
    all batches have one shape, so that CUDA may try which convolution is fastest."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = one_shape


def describe(device: torch.device, precision: torch.dtype) -> str:
    """One line for the log: what this job runs on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type} ({name}), {name_of(precision)}, {torch.get_num_threads()} threads"


def peak_memory_mb(device: torch.device) -> dict[str, int]:
    """Highest memory of this process so far, host and (CUDA) device."""
    peak = {"host_mb": peak_host_mb()}
    if device.type == "cuda":
        peak["device_mb"] = torch.cuda.max_memory_allocated(device) // 1024**2
    return peak
