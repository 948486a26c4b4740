"""A process's own memory: kept warm, and measured."""

import ctypes
import platform
import resource
from pathlib import Path


def keep_freed_memory() -> None:
    """Let the C library keep what the program frees: on Linux a step's activations, or the next slice of a scan, then
    reuse warm pages.

    By default every large array is a fresh mapping, whose pages the kernel zeroes at first touch, in every step.
    """
    if platform.system() != "Linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_arena_max, 1)


def peak_host_mb() -> int:
    """Highest memory of this process so far, MB.

    Linux: VmHWM, since ru_maxrss survives exec, so that a job would report the memory of what started it.
    """
    if platform.system() == "Linux":
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024**2 if platform.system() == "Darwin" else 1024)
