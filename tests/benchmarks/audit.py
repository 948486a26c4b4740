"""The memorisation audit's search: all pairs of synthetic and real cubes, against a loop over the pairs."""

import itertools
import statistics

import numpy as np

from lungsyn.audit.memorisation import TURNS, nearest
from tests.benchmarks.claims import Bench, Claim, in_turns

SYNTHETIC, REAL = 1000, 10_000
EDGE_VOXELS, MAX_SHIFT = 20, 1
LOOPED_PAIRS = 2


def audit(bench: Bench) -> list[Claim]:
    """All shifts and turns of 1,000 synthetic against 10,000 real cubes; a part is timed, the rest multiplied."""
    synthetic, real = bench.audit_cubes
    rng = np.random.default_rng(0)
    queries, references = (
        rng.standard_normal((n, EDGE_VOXELS, EDGE_VOXELS, EDGE_VOXELS), dtype=np.float32) for n in (synthetic, real)
    )
    pairs = list(itertools.product(queries, references))[:LOOPED_PAIRS]
    times = in_turns(
        [
            lambda: nearest(queries, [references], MAX_SHIFT),
            lambda: [plain(*pair) for pair in pairs],
            lambda: [prepared(*pair) for pair in pairs],
        ],
        bench,
    )
    counts = (synthetic * real, len(pairs), len(pairs))
    ours, loop, better = ([t * SYNTHETIC * REAL / n for t in run] for run, n in zip(times, counts, strict=True))
    ratios = [b / a for a, b in zip(ours, loop, strict=True)]
    ratio = statistics.median(ratios)
    measured = (
        f"s for all pairs of {SYNTHETIC:,} x {REAL:,} cubes of {EDGE_VOXELS}^3, {(2 * MAX_SHIFT + 1) ** 3} shifts, 48 "
        f"turns; {synthetic} x {real} pairs and a loop of {len(pairs)} (np.corrcoef) timed, the rest multiplied; "
        f"{len(ratios)} rounds, ratios {min(ratios):.3g} to {max(ratios):.3g}"
    )
    detail = (
        f"a loop that normalises each window once: {statistics.median(better):,.0f} s, "
        f"ratio {statistics.median(b / a for a, b in zip(ours, better, strict=True)):.3g}"
    )
    return [
        Claim(
            "audit", statistics.median(ours), statistics.median(loop), ratio, measured, ">= 50x", ratio >= 50, [detail]
        )
    ]


def windows(reference: np.ndarray):
    """The reference's windows of a core's size."""
    edge = EDGE_VOXELS - 2 * MAX_SHIFT
    for start in itertools.product(range(2 * MAX_SHIFT + 1), repeat=3):
        yield reference[tuple(slice(a, a + edge) for a in start)]


def plain(query: np.ndarray, reference: np.ndarray) -> float:
    """What one writes first: a correlation for each shift and turn."""
    core = query[(slice(MAX_SHIFT, EDGE_VOXELS - MAX_SHIFT),) * 3]
    return max(
        np.corrcoef(np.flip(core.transpose(order), axes).ravel(), window.ravel())[0, 1]
        for window in windows(reference)
        for order, axes in TURNS
    )


def prepared(query: np.ndarray, reference: np.ndarray) -> float:
    """The same with all that can be done once done once: dot products of normalised vectors."""
    core = _unit(query[(slice(MAX_SHIFT, EDGE_VOXELS - MAX_SHIFT),) * 3])
    turned = np.stack([np.flip(core.transpose(order), axes).ravel() for order, axes in TURNS])  # [48 c^3]
    return max(float((turned @ _unit(window).ravel()).max()) for window in windows(reference))


def _unit(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean()
    return centred / np.linalg.norm(centred)
