"""A claim, the line that prints it, and the sizes at which it is measured."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lungsyn.compute import choose_device, patches_at_once
from lungsyn.generators import patch_ddpm
from lungsyn.segmenters.core.settings import SlidingWindow
from lungsyn.segmenters.monai import Settings
from lungsyn.settings.compute import Compute
from lungsyn.settings.synthesis import Synthesis
from lungsyn.steps import WARM_UP


@dataclass(frozen=True)
class Claim:
    """One line of the output. ``ratio`` is how many times better ours is, or what the name says; None: no peer."""

    name: str
    ours: float | None
    peer: float | None
    ratio: float | None
    measured: str  # unit, what was measured, what was multiplied
    bar: str = ""
    met: bool | None = None
    details: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = {True: ": met", False: ": NOT met", None: ""}[self.met]
        bar = f"; bar {self.bar}{verdict}" if self.bar else ""
        numbers = "  ".join(f"{_short(number):>10}" for number in (self.ours, self.peer, self.ratio))
        return "\n".join([f"{self.name:<30}{numbers}   ({self.measured}{bar})", *("    " + d for d in self.details)])


def wall_with_gpu() -> float:
    """Wall clock, read when the GPU has done all it was told to."""
    torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time, "gpu": wall_with_gpu}

HEADER = f"{'name':<30}{'ours':>10}  {'peer':>10}  {'ratio':>10}   (unit, what was measured; bar)"


def _short(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def skipped(name: str, needs: str) -> Claim:
    """The line of a claim that cannot be measured here, and what it would take."""
    return Claim(name, None, None, None, f"skipped: {needs}")


@dataclass(frozen=True)
class Bench:
    """What is measured: the study's settings, and how much work it takes."""

    generator: patch_ddpm.Settings
    synthesis: Synthesis
    compute: Compute
    segmenter: Settings
    inference: SlidingWindow
    volume_voxels: int = 128  # edge of the timed volume
    studies: int = 4000  # that are simulated
    rounds: int = 3  # turns of ours and the peer
    peer_steps: int = 2  # sampling steps of the peer that are timed; the rest is multiplied
    memory_shapes: tuple[tuple[int, int, int], ...] = ((128, 128, 128), (512, 512, 320))
    whole_forward_voxels: tuple[int, ...] = (64, 96, 128)
    audit_cubes: tuple[int, int] = (1000, 64)  # synthetic and real ones that are timed
    growth_cases: tuple[int, ...] = (10, 100, 1000, 10_000)
    images: int = 0  # training length of claims about quality; 0: they are skipped
    cases: int = 2
    step_counts: tuple[int, ...] = (5, 10, 20, 50, 250, 1000)
    results: Path | None = None
    work: Path | None = None  # where trainings and long measurements are kept, to go on from; None: nowhere
    clock: Callable[[], float] = time.perf_counter

    @property
    def device(self) -> torch.device:
        return choose_device(self.compute)

    @property
    def patches_at_once(self) -> int:
        return patches_at_once(self.compute, self.device, self.generator.patch_voxels)


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """How long one call takes."""
    start = clock()
    run()
    return clock() - start


def warm_up(run: Callable[[], object], bench: Bench) -> None:
    """Run once, or on a GPU until training steps are recorded."""
    for _ in range(WARM_UP + 1 if bench.device.type == "cuda" else 1):
        run()


def in_turns(runs: list[Callable[[], object]], bench: Bench, warm: bool = True) -> list[list[float]]:
    """Seconds of each of ``runs`` in each round, measured in turns: ``[run][round]``."""
    for run in runs if warm else []:
        warm_up(run, bench)
    rounds = [[seconds(run, bench.clock) for run in runs] for _ in range(bench.rounds)]
    return [list(column) for column in zip(*rounds, strict=True)]


def compare(name: str, ours: list[float], peer: list[float], unit: str, measured: str, bar: float) -> Claim:
    """A claim from costs (smaller is better) measured in turns; the range of the ratios shows the noise."""
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    ratio = statistics.median(ratios)
    noise = f"{len(ratios)} rounds, ratios {min(ratios):.3g} to {max(ratios):.3g}"
    return Claim(
        name, statistics.median(ours), statistics.median(peer), ratio, f"{unit}; {measured}; {noise}",
        f">= {bar:,g}x", ratio >= bar,
    )  # fmt: skip
