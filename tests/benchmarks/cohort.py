"""Getting data in, against the plain route. Contestants run in turns, each time in a fresh process.

*prepare-vs-plain*: one phantom chest of 512 x 512 x 300 at an LIDC-IDRI scan's identity, DICOM to 1 mm. Ours is
``lungsyn cohort prepare`` less the writing: pixels, HU, the readers' consensus, resampling without aliasing, body,
lungs, crop. The plain route is what pylidc's manual leads to: ``to_volume``, ``consensus``, ``scipy.ndimage.zoom`` of
order 1 for image and mask; it finds no body and no lungs. pylidc is repaired for numpy 2 as in ``cohort.annotations``,
and told where the files are; nothing else of it is changed.

*index*: the headers of one series' files, as ``lungsyn cohort index`` reads them, against reading whole files. They are
taken out of the system's cache before each turn: a cohort on a disk is not in it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.claims import Bench, Claim
from tests.benchmarks.preparing import SPACING_MM, UNION

SLICES = 300


def prepare_vs_plain(bench: Bench) -> list[Claim]:
    """Two lines: seconds and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        uid = write_chest(Path(folder))
        turns = [[measured(name, folder, uid) for name in ("ours", "plain")] for _ in range(bench.rounds)]
    clock = "cpu_seconds" if bench.clock is time.process_time else "seconds"
    seconds, peaks = ([[run[key] for run in turn] for turn in turns] for key in (clock, "peak_gb"))
    what = f"512 x 512 x {SLICES} DICOM to {SPACING_MM:g} mm; peer: pylidc to_volume, consensus, scipy zoom"
    return [
        _claim(
            "prepare-vs-plain",
            seconds,
            f"{clock}, {what}; ours finds body and lungs too",
            ">= 3",
            lambda o, p: p >= 3 * o,
        ),
        _claim("prepare-memory", peaks, f"peak GB, {what}", "<= 1.5 GB", lambda o, p: o <= 1.5),
    ]


def index(bench: Bench) -> list[Claim]:
    """One line: files per second, headers against whole files."""
    with tempfile.TemporaryDirectory() as folder:
        write_chest(Path(folder))

        def rate(name: str) -> float:
            forget(Path(folder))
            return measured(name, folder, "")["files_per_s"]

        turns = [[rate(name) for name in ("headers", "whole")] for _ in range(bench.rounds)]
    headers, whole = (statistics.median(column) for column in zip(*turns, strict=True))
    ratio = statistics.median(a / b for a, b in turns)
    return [Claim("index", headers, whole, ratio, "files/s, headers of one series; peer: whole files by pydicom")]


def _claim(name: str, turns: list[list[float]], what: str, bar: str, met: Callable[[float, float], bool]) -> Claim:
    ours, plain = (statistics.median(column) for column in zip(*turns, strict=True))
    return Claim(name, ours, plain, statistics.median(b / a for a, b in turns), what, bar, met(ours, plain))


def measured(contestant: str, folder: str, uid: str) -> dict:
    """One run of one contestant in a fresh process: seconds without, peak memory with its imports."""
    command = [sys.executable, "-m", "tests.benchmarks.preparing", contestant, str(folder), uid]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def forget(root: Path) -> None:
    """Ask the system to drop the files below ``root`` from its cache, where it can be asked."""
    for path in root.rglob("*.dcm"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # what is not on the disk yet stays in the cache
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_chest(root: Path) -> str:
    """A simulated chest in about ``SLICES`` slices, the nearest that LIDC-IDRI has: its series UID."""
    from lungsyn.cohort import annotations, phantom
    from lungsyn.settings.cohort import Nodules, Phantom

    scans = [s for s in annotations.all_scans() if annotations.evenly_spaced(annotations.slice_z_mm(s))]
    scans = sorted(scans, key=lambda s: (abs(len(s.slice_zvals) - SLICES), s.id))
    scan, found = next((s, n) for s in scans if (n := annotations.nodules(s, Nodules(**UNION))))
    settings = Phantom(patients=6, matrix=512, slice_thickness_mm=(0.5, 3), max_slices=900, noise_hu=25)
    hu, _, affine = phantom.simulate(scan, settings, found, seed=1)
    phantom.write_series(root / scan.patient_id / "series", scan, hu, affine)
    return scan.series_instance_uid
