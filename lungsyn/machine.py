"""What this machine has, as far as the system says without torch: CPUs and a GPU."""

import os
import platform
import sys
from glob import glob


def cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_nvidia() -> bool:
    """Whether the system shows an NVIDIA GPU, whether or not torch can use it. ``dxg`` is WSL's."""
    return bool(glob("/dev/nvidia[0-9]*") or glob("/dev/dxg"))


def uses_gpu(device: str) -> bool:
    """Whether jobs with this ``compute.device`` take a GPU: ``auto`` does where one is."""
    is_here = has_nvidia() or (sys.platform, platform.machine()) == ("darwin", "arm64")
    return device in ("cuda", "mps") or (device == "auto" and is_here)
