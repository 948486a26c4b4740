"""What tests.benchmarks.growth runs in fresh processes: ``python -m tests.benchmarks.growing STAGE CASES``.

Each stage gets made-up data of so many cases and does with them what the study does. Prints one line of JSON: its
processor time without that of making the data, and the process's peak memory with its imports.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
Work = Callable[[], object]
ARMS, REPLICATES, SYNTHETIC = ("real", "synthetic", "real+synthetic"), 3, 100


def planning(folder: Path, cases: int) -> Work:
    """``lungsyn plan``: the list of cases and two dry runs of Snakemake."""
    from lungsyn.settings.checking import check, read
    from lungsyn.study.planning import jobs_of

    files = [ROOT / "config.yaml", ROOT / "tests/workflow/tiny.yaml"]
    return lambda: jobs_of(files, check(read(files)), cases)


def index(folder: Path, cases: int) -> Work:
    """The list of a NIfTI cohort: one in ten images stands there twice, under two patients."""
    import nibabel as nib

    from lungsyn.cohort import table
    from lungsyn.settings.cohort import Listing

    label = np.zeros((16, 16, 16), np.uint8)
    label[4:10, 4:10, 4:10] = 1
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for k in range(cases):
        hu = np.random.default_rng(k - (k % 10 == 1)).integers(-1000, 200, label.shape).astype(np.int16)
        for part, data in (("images", hu), ("labels", label)):
            nib.save(nib.Nifti1Image(data, np.eye(4)), folder / part / f"scan{k:05d}.nii")
    settings = Listing(
        dataset="nifti", public_names=True, max_slice_thickness_mm=3.0,
        nodules={"consensus_level": 0.5, "min_readers": 1, "min_diameter_mm": 3},
        split={"train": 0.5, "validation": 0.25, "test": 0.25},
    )  # fmt: skip
    return lambda: table.index(settings, folder, seed=1)


def cohort(folder: Path, cases: int) -> Work:
    """The table of cases after all were prepared."""
    from lungsyn.cli import main
    from lungsyn.study.planning import write_made_up_cohort
    from lungsyn.volume.files import write_json

    write_made_up_cohort(folder, {None: list(_splits(cases))})
    folders = [folder / "cases" / f"case-{k}" for k in range(cases)]
    for path in folders:
        write_json(path / "case.json", {"nodules": [], "warnings": ["odd in one way"]})
    arguments = [
        "--listing",
        folder / "listing.tsv",
        "--out",
        folder / "cohort.tsv",
        "--cases",
        *(path / "case.json" for path in folders),
    ]
    return lambda: main(["cohort", "table", *map(str, arguments)])


def audit(folder: Path, cases: int) -> Work:
    """The nearest of so many real cubes for each of 100 synthetic ones: a set's size does not depend on the cohort."""
    from lungsyn.audit.memorisation import nearest

    rng, shape = np.random.default_rng(0), (10, 10, 10)
    queries = rng.standard_normal((SYNTHETIC, *shape), dtype=np.float32)

    def blocks():
        for first in range(0, cases, 32):
            yield rng.standard_normal((min(32, cases - first), *shape), dtype=np.float32)

    return lambda: nearest(queries, blocks(), max_shift=1)


def verdict(folder: Path, cases: int) -> Work:
    """The checks of a set of 100 against as many train and held-out cases."""
    from lungsyn.audit.probes import NOISY
    from lungsyn.audit.verdict import verdict
    from lungsyn.settings.audit import Thresholds

    rng = np.random.default_rng(0)
    counts = {"synthetic": SYNTHETIC, "held-out": cases, "train": cases, "planted": max(20, cases // 100)}
    rows = [
        {"kind": kind, "group": group, "place": f"{group}-{k}", "patient": f"{group}-{k}",
         "nearest": f"train-{k % cases}",
         "source": f"train-{k % cases}", "copy": k, "correlation": rng.uniform(0.1, 0.3), "disguise": NOISY,
         "nearest_patient": f"train-{k % cases}", "held_out_correlation": rng.uniform(0.1, 0.3),
         "held_out_nearest": f"held-out-{k % cases}"}
        for kind in ("nodule", "volume") for group, count in counts.items() for k in range(count)
    ]  # fmt: skip
    losses = [{"patient": f"{group}-{k}", "group": group, "log_loss": rng.normal()}
              for group in ("train", "unseen") for k in range(cases)]  # fmt: skip
    return lambda: verdict(rows, losses, Thresholds(), seed=1)


def comparison(folder: Path, cases: int) -> Work:
    """Three arms of three replicates, one case a patient: their tables read and compared."""
    from lungsyn.evaluation.comparison import compare
    from lungsyn.settings.evaluation import Evaluation

    for seed, arm in enumerate(ARMS):
        write_scores(folder / f"{arm}.tsv", cases, seed)
    return lambda: compare(_scores(folder), ARMS[0], [], Evaluation(bootstrap=100, confidence=0.95))


def report(folder: Path, cases: int) -> Work:
    """The page, with the figure of each case's difference in it."""
    from lungsyn.evaluation.figures import Frame, plot_dice_difference
    from lungsyn.evaluation.report import Findings, build
    from lungsyn.settings.checking import check, read
    from lungsyn.settings.section import as_json

    compare, settings = comparison(folder, cases), as_json(check(read([ROOT / "config.yaml"])))
    rows, scores, figure = compare(), _scores(folder), folder / "dice_difference-unet-100.png"
    shown = {"file": figure, "caption": ""}
    listed = [
        {"case": f"case-{k}", "patient": f"patient-{k}", "split": split, "n_nodules": "1", "status": "included",
         "reason": "", "warnings": f"odd in way {k % 50}"} for k, split in enumerate(_splits(cases))
    ]  # fmt: skip

    def work() -> str:
        plot_dice_difference(scores, rows, [], Frame(ARMS[0], [], "growth", 60), figure)
        return build("growth", settings, Findings({"unet": rows}, cohort=listed, pictures=[shown]))

    return work


def _scores(folder: Path) -> dict[str, list[dict]]:
    from lungsyn.evaluation.scores import read_scores

    return {arm: read_scores(folder / f"{arm}.tsv") for arm in ARMS}


def write_scores(path: Path, cases: int, seed: int) -> None:
    from lungsyn.evaluation.groups import ENSEMBLE
    from lungsyn.evaluation.scores import SCORE_COLUMNS
    from lungsyn.volume.tables import write_table

    rng, splits = np.random.default_rng(seed), _splits(cases)
    rows = [
        dict.fromkeys(SCORE_COLUMNS, 1.0) | {
            "case": f"case-{k}", "patient": f"patient-{k}", "split": split, "replicate": replicate,
            "dice": float(rng.uniform(0.3, 0.9)), "n_nodules": 1, "found_nodules": 1, "false_positives": 2,
        }
        for k, split in enumerate(splits) for replicate in (*range(REPLICATES), ENSEMBLE) if split != "train"
    ]  # fmt: skip
    write_table(path, rows, SCORE_COLUMNS)


def _splits(cases: int) -> list[str]:
    """Half train; validation and test a quarter each."""
    return [("train", "train", "validation", "test")[k % 4] for k in range(cases)]


STAGES = {
    "planning": planning, "index": index, "cohort": cohort, "audit": audit, "verdict": verdict,
    "comparison": comparison, "report": report,
}  # fmt: skip


def measured(stage: str, cases: int) -> dict[str, float]:
    """What one stage costs in this process."""
    from lungsyn.memory import peak_host_mb

    with tempfile.TemporaryDirectory() as folder:
        work = STAGES[stage](Path(folder), cases)
        began = time.process_time()
        work()
        return {"seconds": time.process_time() - began, "peak_mb": peak_host_mb()}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]))))
