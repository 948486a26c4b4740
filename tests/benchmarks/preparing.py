"""What tests.benchmarks.cohort runs in fresh processes: ``python -m tests.benchmarks.preparing CONTESTANT ROOT UID``.

Apart, so that a contestant's memory is its own and nothing is warm. Prints one line of JSON. Imports are not in the
time: they are mostly pylidc's, the same in both. They are in the peak memory.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SPACING_MM = 1.0
UNION = {"consensus_level": 0.5, "min_readers": 1, "min_diameter_mm": 3}


Work = Callable[[Path, str], int | None]  # one contestant's, its imports done; may return a number of files


def ours() -> Work:
    from lungsyn.cohort import annotations
    from lungsyn.cohort.table import prepare_case
    from lungsyn.settings.cohort import Preparation

    annotations._pylidc()
    preprocess = {"spacing_mm": SPACING_MM, "margin_mm": 10, "field_of_view": "chest"}
    settings = Preparation(dataset="lidc", nodules=UNION, preprocess=preprocess)

    def work(root: Path, uid: str) -> None:
        row = {"case": "chest", "patient": "LIDC-IDRI-0001", "source": ".", "annotation": uid}
        case = prepare_case(row, settings, root)
        assert case.nodules.any() and case.lungs.any()

    return work


def plain() -> Work:
    from scipy.ndimage import zoom

    from lungsyn.cohort import annotations

    utils = annotations._pylidc().utils

    def work(root: Path, uid: str) -> None:
        scan = annotations.find_scan(uid)
        type(scan).get_path_to_dicom_files = lambda self: str(next(root.rglob("*.dcm")).parent)
        hu = scan.to_volume(verbose=False)
        mask = np.zeros(hu.shape, dtype=bool)
        for cluster in scan.cluster_annotations(verbose=False):
            part, box, _ = utils.consensus(cluster, clevel=UNION["consensus_level"])
            mask[box] |= part
        factors = [scan.pixel_spacing / SPACING_MM] * 2 + [scan.slice_spacing / SPACING_MM]
        assert zoom(hu, factors, order=1).shape == zoom(mask.astype(np.uint8), factors, order=1).shape

    return work


def headers() -> Work:
    from lungsyn.cohort.dicom import find_series

    return lambda root, _: sum(len(found) for found in find_series(root)[0].values())


def whole() -> Work:
    import pydicom

    return lambda root, _: sum(bool(pydicom.dcmread(path).PixelData) for path in sorted(root.rglob("*.dcm")))


def run(contestant: Callable[[], Work], root: Path, uid: str) -> dict:
    work = contestant()
    started, started_cpu = time.perf_counter(), time.process_time()
    files = work(root, uid)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    from lungsyn.memory import peak_host_mb

    return {"files_per_s": files / seconds} if files else {
        "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gb": peak_host_mb() * 2**20 / 1e9,
    }  # fmt: skip


if __name__ == "__main__":
    name, folder, uid = sys.argv[1:]
    contestants = {"ours": ours, "plain": plain, "headers": headers, "whole": whole}
    print(json.dumps(run(contestants[name], Path(folder), uid)))
