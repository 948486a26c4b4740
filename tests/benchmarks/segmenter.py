"""Speed and memory of the segmenter, against MONAI's plain loop with the same network: in turns, in fresh processes."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lungsyn.compute import loader_processes
from lungsyn.volume.files import write_case
from tests.benchmarks.claims import Bench, Claim, compare
from tests.conftest import make_case

CASES = 6


def segmenter(bench: Bench) -> list[Claim]:
    """Three lines: seconds per optimiser step, seconds per predicted case, peak memory."""
    voxels = bench.volume_voxels
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, f"case-{i}") for i in range(CASES)]
        for i, folder in enumerate(folders):
            write_case(folder, make_case((voxels,) * 3, seed=i, name=folder.name))
        turns = [[measured(who, folders, bench) for who in ("ours", "plain")] for _ in range(bench.rounds)]
    s = bench.segmenter
    what = (
        f"{s.network} {s.channels}, {s.batch_patches} patches of {s.patch_voxels}^3, {CASES} cases of {voxels}^3, "
        f"float32, {loader_processes(bench.compute, bench.device)} loader processes; "
        f"peer: MONAI's transforms, loader and loop"
    )
    lines = {
        "segmenter-train": ("step_s", f"s per optimiser step of {s.steps}"),
        "segmenter-predict": ("case_s", f"s per case, overlap {bench.inference.overlap:g}"),
        "segmenter-memory": ("peak_mb", "peak MB of the process"),
    }
    return [compare(name, *([run[key] for run in runs] for runs in zip(*turns, strict=True)), unit, what, 1)
            for name, (key, unit) in lines.items()]  # fmt: skip


def told(contestant: str, folders: list[Path], bench: Bench) -> dict:
    """What the process is told, as JSON."""
    here = {"precision": "float32", "segmenter_threads": 1, "checkpoint_seconds": 3600, "compile": False}
    return {
        "compute": bench.compute.model_copy(update=here).model_dump(mode="json"),
        "contestant": contestant, "clock": "cpu" if bench.clock is time.process_time else "wall",
        "segmenter": bench.segmenter.model_dump(mode="json"), "inference": bench.inference.model_dump(mode="json"),
        "cases": [str(folder) for folder in folders],
    }  # fmt: skip


def measured(contestant: str, folders: list[Path], bench: Bench) -> dict:
    """One run of one contestant in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.segmenting", json.dumps(told(contestant, folders, bench))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
