"""Memory: of a whole volume, in a process of its own, and of the activations that training keeps.

Run as ``python -m tests.benchmarks.memory WHAT X Y Z`` it is that process: it loads a network, does one thing, and
prints by how many bytes its resident memory rose at most. WHAT is a mode of synthesis (with a network so small that
the volume's own state dominates) or ``forward`` (the study's network on the whole volume as a single patch).
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lungsyn.compute import choose_precision, name_of, set_up
from lungsyn.generators import patch_ddpm
from lungsyn.generators.core.canvas import How, make_canvas
from lungsyn.generators.core.learning import predict
from lungsyn.generators.core.synthesis import synthesise
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.intensity import to_hu
from tests.benchmarks import peers
from tests.benchmarks.claims import Bench, Claim, skipped
from tests.benchmarks.generator import random_batch
from tests.benchmarks.peers import build

ROOT = Path(__file__).parents[2]
MODES = ("fused", "shifted")
STEPS = 3


def memory_volume(bench: Bench) -> list[Claim]:
    """Peak memory per voxel of sampling, masks to HU, and its slope between two sizes. Three steps: from the second on
    the estimate before is there, too."""
    if bench.device.type == "cpu" and not sys.platform.startswith("linux"):
        return [skipped("memory-volume", "Linux, whose resident memory is read from /proc")]
    claims = []
    for mode in MODES:
        peaks = [peak_bytes(mode, shape, bench) for shape in bench.memory_shapes]
        voxels = [int(np.prod(shape)) for shape in bench.memory_shapes]
        (small, large), (few, many) = (peaks[0], peaks[-1]), (voxels[0], voxels[-1])
        slope = (large - small) / (many - few)
        each = ", ".join(
            f"{'x'.join(map(str, s))}: {p / 2**20:,.0f} MiB = {p / v:.1f} B/voxel"
            for s, p, v in zip(bench.memory_shapes, peaks, voxels, strict=True)
        )
        measured = (
            f"bytes per voxel above the loaded model, slope between two sizes, {STEPS} steps, tiny network, own "
            f"process, masks read to HU out; {each}"
        )
        claims.append(Claim(f"memory-volume {mode}", slope, None, None, measured, "<= 20", slope <= 20))
    return [*claims, _whole_forward(bench)]


def _whole_forward(bench: Bench) -> Claim:
    """The alternative to patches: one forward pass of the study's network over the whole volume."""
    if bench.device.type == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    edge, per_voxel = None, 0.0
    for voxels in sorted(bench.whole_forward_voxels):
        if per_voxel * voxels**3 > free / 2:
            break
        edge, per_voxel = voxels, peak_bytes("forward", (voxels,) * 3, bench) / voxels**3
    measured = f"bytes per voxel, the study's network on {edge}^3 as a single patch, no gradients"
    return Claim("memory-volume whole forward", None, per_voxel, None, measured)


def peak_bytes(what: str, shape: tuple[int, int, int], bench: Bench) -> int:
    """Measure one shape in a process of its own."""
    settings = json.dumps(
        {
            "generator": bench.generator.model_dump(mode="json"),
            "synthesis": bench.synthesis.model_dump(mode="json"),
            "threads": bench.compute.generator_threads,
            "device": str(bench.device),
            "patches_per_batch": bench.patches_at_once,
            "precision": name_of(choose_precision(bench.compute, bench.device)),
        }
    )
    command = [sys.executable, "-m", "tests.benchmarks.memory", what, *map(str, shape)]
    done = subprocess.run(command, input=settings, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def measure(what: str, shape: tuple[int, ...], told: dict) -> int:
    """In the fresh process: how far memory rises above the loaded model, bytes; the GPU's where there is one, else what
    is resident."""
    device = torch.device(told["device"])
    set_up(told["threads"], device)
    precision = getattr(torch, told["precision"])
    settings = patch_ddpm.Settings.model_validate(told["generator"])
    synthesis = Synthesis.model_validate(told["synthesis"])
    if what != "forward":
        settings = settings.model_copy(update={"channels": [8], "blocks": 1})
    network = build(settings).to(device).eval()
    at_once = told["patches_per_batch"]
    one_patch = (settings.patch_voxels,) * 3
    few_steps(network, one_patch, settings, synthesis, "fused", precision, at_once)  # libraries, buffers
    before = memory_now(device)
    if what == "forward":
        whole_forward(network, shape, settings, precision)
    else:
        few_steps(network, shape, settings, synthesis, what, precision, at_once)
    return highest_memory(device) - before


def memory_now(device: torch.device) -> int:
    """Bytes that this process holds on the device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return resident_bytes("VmRSS")


def highest_memory(device: torch.device) -> int:
    """The most that it held, bytes."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else resident_bytes("VmHWM")


def resident_bytes(line: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (highest) of this process. ``ru_maxrss`` would include the parent's, before exec."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{line}:\s+(\d+) kB", status)[1]) * 1024


def few_steps(
    network, shape, settings: patch_ddpm.Settings, synthesis: Synthesis, mode: str, precision, patches_per_batch: int
) -> np.ndarray:
    """Masks to HU of one volume with a few sampling steps of ``mode``, as a synthetic case is made."""
    masks = np.zeros((3, *shape), np.uint8)
    masks[2] = 1
    canvas = make_canvas(masks, 1.0, settings, next(network.parameters()).device)
    plan = synthesis.model_copy(update={"mode": mode, "steps": STEPS, "fused_steps": 0})
    volume = synthesise(network, canvas, settings, plan, 0, How(patches_per_batch, precision))
    return to_hu(volume.cpu().numpy(), settings.window_hu)


@torch.no_grad()
def whole_forward(network: nn.Module, shape, settings: patch_ddpm.Settings, precision: torch.dtype) -> None:
    """One forward pass with the whole volume as the patch."""
    device = next(network.parameters()).device
    batch = random_batch(settings.model_copy(update={"patch_voxels": shape[0], "batch_patches": 1}), device)
    predict(network, batch, device, precision)


def memory_train(bench: Bench) -> list[Claim]:
    """Activations that the forward pass keeps for the backward pass, per patch voxel."""
    precision = choose_precision(bench.compute, bench.device)
    theirs = peers.equal_settings(bench.generator)
    ours, peer = (saved_bytes_per_voxel(settings, bench.device, precision) for settings in (bench.generator, theirs))
    measured = f"saved activations, bytes per patch voxel, {precision}; MONAI {theirs.channels} at equal parameters"
    return [Claim("memory-train", ours, peer, peer / ours, measured, "<= 1,024", ours <= 1024)]


def saved_bytes_per_voxel(settings: patch_ddpm.Settings, device: torch.device, precision: torch.dtype) -> float:
    """From the difference of two batch sizes, so that copies of the weights do not count."""
    network = build(settings).to(device).train()
    few, many = (saved_bytes(network, settings, device, precision, patches) for patches in (1, 2))
    return (many - few) / settings.patch_voxels**3


def saved_bytes(network: nn.Module, settings: patch_ddpm.Settings, device, precision: torch.dtype, patches: int) -> int:
    """Bytes of all distinct storages that autograd keeps for one batch, parameters left out."""
    batch = random_batch(settings.model_copy(update={"batch_patches": patches}), device)
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = []  # holding on to them, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = predict(network, batch, device, precision)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    del output
    return sum(size for address, size in storages.items() if address not in parameters)


if __name__ == "__main__":
    print(measure(sys.argv[1], tuple(map(int, sys.argv[2:5])), json.loads(sys.stdin.read())))
