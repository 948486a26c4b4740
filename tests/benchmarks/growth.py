"""How each stage's time and memory grow with the number of cases: none may grow faster than its data.

A stage runs in a process of its own at each size. Its *power* is the slope of log time over log cases between the two
largest sizes: 1 is as fast as its data. What it costs to start hides growth at small sizes, so those do not count.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.claims import Bench, Claim
from tests.benchmarks.growing import ROOT, STAGES

LARGEST_POWER = 1.2  # a logarithm, a cache that is left, a busy machine
FIGURE = ROOT / "docs/growth.png"


def growth(bench: Bench) -> list[Claim]:
    """One line a stage: CPU seconds at the largest size and its power. Draws ``docs/growth.png``."""
    sizes = bench.growth_cases
    costs = {stage: [cost(stage, cases) for cases in sizes] for stage in STAGES}
    draw(costs, sizes, FIGURE)
    return [_claim(stage, found, sizes) for stage, found in costs.items()]


def cost(stage: str, cases: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.growing", stage, str(cases)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(ended.stdout.splitlines()[-1])


def power(seconds: list[float], sizes: tuple[int, ...]) -> float:
    """The slope of log time over log cases between the two largest sizes."""
    return math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])


def _claim(stage: str, found: list[dict[str, float]], sizes: tuple[int, ...]) -> Claim:
    seconds = [one["seconds"] for one in found]
    slope = power(seconds, sizes)
    each = "; ".join(f"{n:,} cases: {one['seconds']:.3g} s, {one['peak_mb']:,} MB"
                     for n, one in zip(sizes, found, strict=True))  # fmt: skip
    what = f"CPU s at {sizes[-1]:,} cases; ratio: power of the number of cases"
    return Claim(
        f"growth {stage}", seconds[-1], None, slope, what, f"<= {LARGEST_POWER}", slope <= LARGEST_POWER, [each]
    )


def draw(costs: dict[str, list[dict[str, float]]], sizes: tuple[int, ...], out: Path) -> None:
    """Time and memory of every stage over the number of cases, and the slope of what grows as its data do."""
    from lungsyn.evaluation.figures import INK, save

    def layout(figure) -> None:
        for axis, key, what in zip(figure.subplots(1, 2), ("seconds", "peak_mb"), ("CPU time, s", "peak memory, MB"),
                                   strict=True):  # fmt: skip
            for stage, found in costs.items():
                axis.loglog(sizes, [one[key] for one in found], "o-", ms=3, lw=1.2, label=stage)
            axis.set_xlabel("cases")
            axis.set_ylabel(what)
            if key == "seconds":
                axis.loglog(sizes, [n / sizes[-1] for n in sizes], ":", color=INK, lw=1, label="as the data")
                axis.legend(frameon=False, fontsize=8)

    save(8, 3.6, 110, out, layout)
