"""The machine: device, precision, threads, memory. Chosen once per job, said in its log."""

import ctypes
import platform

import torch

from lungsyn.config import Compute
from lungsyn.provenance import peak_host_mb


def choose_device(compute: Compute) -> torch.device:
    """The device that ``auto`` means here: CUDA, else Apple's MPS, else the CPU."""
    if compute.device != "auto":
        return torch.device(compute.device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(compute: Compute, device: torch.device) -> torch.dtype:
    """dtype of the network's convolutions. ``auto``: bfloat16 where the processor has instructions for it."""
    if compute.precision != "auto":
        return getattr(torch, compute.precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    has_instructions = device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.bfloat16 if has_instructions else torch.float32


def set_up(threads: int, device: torch.device) -> None:
    """Fix the thread count (the order of sums, hence the result, depends on it) and tune the allocators."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # one static patch shape


def keep_freed_memory() -> None:
    """Let the C library keep what the program frees: on Linux a step's activations then reuse warm pages.

    By default every large tensor is a fresh mapping, whose pages the kernel zeroes at first touch, in every step.
    """
    if platform.system() != "Linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_arena_max, 1)


def describe(device: torch.device, precision: torch.dtype) -> str:
    """One line for the log: what this job runs on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type} ({name}), {str(precision).removeprefix('torch.')}, {torch.get_num_threads()} threads"


def peak_memory_mb(device: torch.device) -> dict[str, int]:
    """Highest memory of this process so far, host and (CUDA) device."""
    peak = {"host_mb": peak_host_mb()}
    if device.type == "cuda":
        peak["device_mb"] = torch.cuda.max_memory_allocated(device) // 1024**2
    return peak
