"""Masks on disk: bytes a voxel and a patch's reading time, in blocks, as one gzip file, and plain by memory map."""

import gzip
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lungsyn.volume.files import map_volume, read_volume, write_volume
from lungsyn.volume.patches import random_start, window
from lungsyn.volume.space import Volume
from tests.benchmarks.claims import Bench, Claim, in_turns
from tests.conftest import make_case

PATCHES = 10  # a turn, each from a file of its own: a training never reads one case twice in a row
PATCH_VOXELS = 36  # 32 and the generator's halo


def disk(bench: Bench) -> list[Claim]:
    """One line: a patch of two lungs' mask against reading all of a gzip file."""
    lungs = make_case((bench.volume_voxels,) * 3).lungs
    rng = np.random.default_rng(0)
    starts = [random_start(rng, lungs.shape, PATCH_VOXELS) for _ in range(PATCHES)]
    with tempfile.TemporaryDirectory() as name:
        plain, packed, whole = (Path(name) / file for file in ("plain.nii", "blocks.nii.gz", "whole.nii.gz"))
        for path in (plain, packed):
            write_volume(path, Volume(lungs, np.eye(4)))
        whole.write_bytes(gzip.compress(plain.read_bytes(), 6))
        mapped, blocks = map_volume(plain).data, map_volume(packed).data
        ours, peer, memory_map = in_turns(
            [reading(starts, lambda: blocks), reading(starts, lambda: read_volume(whole).data),
             reading(starts, lambda: mapped)], bench,
        )  # fmt: skip
        sizes = ", ".join(f"{path.name} {path.stat().st_size / lungs.size:.4f}" for path in (plain, packed, whole))
    ratio = statistics.median(b / a for a, b in zip(ours, peer, strict=True))
    ms = [statistics.median(times) / PATCHES * 1000 for times in (ours, peer, memory_map)]
    what = f"ms a patch of {PATCH_VOXELS}^3 of a mask of {bench.volume_voxels}^3; peer: all of a gzip file"
    return [Claim("disk", *ms[:2], ratio, what, details=[f"memory map {ms[2]:.3g} ms; bytes a voxel: {sizes}"])]


def reading(starts: list, opened: Callable) -> Callable[[], object]:
    from lungsyn.volume import blocks

    def read() -> None:
        for start in starts:
            blocks._unpack.cache_clear()
            window(opened(), start, PATCH_VOXELS, 0)

    return read
