"""The machine: device, precision, threads, memory. Chosen once per job, said in its log."""

import os
import platform
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lungsyn.errors import InputError
from lungsyn.machine import cpus, has_nvidia
from lungsyn.memory import keep_freed_memory, peak_host_mb
from lungsyn.settings.compute import Compute

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
    if has_nvidia() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        print("there is an NVIDIA GPU, but torch cannot use it (its driver is too old, or torch is a build for CPUs)")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(compute: Compute, device: torch.device, before: str | None = None) -> torch.dtype:
    """dtype of the network's convolutions.

    ``auto``: float32 where the device has no instructions for bfloat16; else what the training was ``before``, of which
    this is the continuation or the model; else bfloat16. Nothing is timed: on a busy machine two runs of one study
    would choose differently.
    """
    if compute.precision != "auto":
        if (compute.precision, device.type) == ("bfloat16", "mps"):
            raise InputError("compute.precision is bfloat16, in which MPS has no 3-D networks: set it to auto")
        return getattr(torch, compute.precision)
    if not has_bfloat16(device):
        return torch.float32
    return torch.bfloat16 if before is None else getattr(torch, before)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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


_PLAIN = nn.Conv3d._conv_forward


def _convolved(self: nn.Conv3d, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution whose gradient is right. Where an image has at most two voxels along its first axis, a CPU's
    gradient of the weights in bfloat16 holds memory that nobody wrote (torch 2.13 with oneDNN, seen with avx512_bf16):
    now and then no number, else a wrong one. Such small images take float32 while it learns."""
    small = image.shape[-3] <= 2 < self.kernel_size[0] and image.device.type == "cpu"
    if not (small and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
        return _PLAIN(self, image, weight, bias)
    with torch.autocast("cpu", enabled=False):
        return _PLAIN(self, image.float(), weight.float(), None if bias is None else bias.float())


def set_up(threads: int, device: torch.device, one_shape: bool = False) -> None:
    """Fix the thread count (the order of sums, hence the result, depends on it) and tune the allocators. ``one_shape``:
    all batches have one shape, so that CUDA may try which convolution is fastest."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    nn.Conv3d._conv_forward = _convolved
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
