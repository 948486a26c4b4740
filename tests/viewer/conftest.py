"""A small study and its viewer, as the verb writes it."""

import json

import numpy as np
import pytest

from lungsyn.cli import main
from lungsyn.evaluation.scores import OF, SCORE_COLUMNS
from lungsyn.volume.files import write_case, write_volume
from lungsyn.volume.predictions import write_predictions
from lungsyn.volume.space import Volume
from lungsyn.volume.tables import write_table
from tests.conftest import make_case

HOST = "unmarked-a"
ARMS, SEGMENTER, SIZE = ("real", "real+synthetic"), "unet", 100
SPLITS = {"train-a": "train", "train-b": "train", "test-a": "test", "test-b": "test", "test-c": "test", HOST: "train"}
FAULT = {"reason": "HU of the lungs is too high"}
NEAREST = [  # kind, case, place, correlation, nearest
    ("nodule", "made-0", "made-0/1", 0.4, "train-a/1"), ("nodule", "made-0", "made-0/2", 0.9, "train-a/2"),
    ("volume", "made-0", "made-0", 0.3, "train-b"), ("volume", "made-1", "made-1", 0.6, "train-a"),
    ("outline", "made-0", "made-0", 0.99, "train-b"), ("outline", "made-1", "made-1", 0.97, HOST),
]  # fmt: skip


def nearest_row(kind: str, case: str, place: str, correlation: float, nearest: str) -> dict:
    return {"set": "untargeted", "size": SIZE, "kind": kind, "group": "synthetic", "case": case, "place": place,
            "correlation": correlation, "nearest": nearest, "held_out_correlation": 0.5 if kind == "nodule" else None,
            "held_out_nearest": "test-a/1" if kind == "nodule" else None}  # fmt: skip


def write_study(folder) -> list[str]:
    """The files of a study of six real cases (one is a host), two synthetic ones and two arms; the verb's arguments."""
    rows = [
        {"case": name, "patient": name, "split": split, "role": "host" if name == HOST else "marked"}
        for name, split in SPLITS.items()
    ]
    write_table(folder / "cohort.tsv", rows, ["case", "patient", "split", "role"])
    for k, name in enumerate(SPLITS):
        write_case(folder / "cases" / name, make_case((34, 28, 24), seed=k, name=name))
    for k in range(2):
        case = make_case((30, 26, 22), seed=10 + k, name=f"made-{k}")
        case.about.update(set="untargeted", size=SIZE, quality={"faults": [FAULT] * k})
        write_case(folder / "synthetic/0" / f"made-{k}", case)
    write_table(folder / "nearest.tsv", [nearest_row(*row) for row in NEAREST], list(nearest_row(*NEAREST[0])))
    for arm in ARMS:
        of, files, scores = dict(zip(OF, (SEGMENTER, arm, SIZE), strict=True)), [], []
        for k, name in enumerate(name for name, split in SPLITS.items() if split == "test"):
            case = make_case((34, 28, 24), seed=2 + k, name=name)
            for replicate in ("0", "1"):
                path = folder / "predictions" / arm / replicate / f"{name}.nii.gz"
                write_volume(path, Volume(np.where(case.nodules == 1, 90, 5).astype(np.uint8), case.affine))
                files.append((replicate, name, path))
                row = dict.fromkeys(SCORE_COLUMNS, 0) | {"case": name, "patient": name, "split": "test"}
                better = k * (arm == ARMS[1]) / 10  # test-c changes most
                scores.append(of | row | {"replicate": replicate, "dice": 0.5 + better})
        write_predictions(folder / "predictions" / arm, of, files)
        write_table(folder / "scores" / f"{arm}.tsv", scores, [*OF, *SCORE_COLUMNS])
    paths = {
        "cohort": ["cohort.tsv"], "out": ["viewer"], "cases": [f"cases/{name}/case.json" for name in SPLITS],
        "scores": [f"scores/{arm}.tsv" for arm in ARMS], "predictions": [f"predictions/{arm}" for arm in ARMS],
        "synthetic": ["synthetic/0"], "neighbours": ["nearest.tsv"],
    }  # fmt: skip
    figures = {"window_hu": [-1000, 300], "case_arms": ARMS, "viewer_cases": 2}
    given = ["--study", json.dumps({"name": "a study", "seed": 1}), "--figures", json.dumps(figures)]
    return [
        *given,
        *[part for key, values in paths.items() for part in (f"--{key}", *(str(folder / v) for v in values))],
    ]


@pytest.fixture(scope="session")
def viewer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    assert main(["viewer", "write", *write_study(folder)]) == 0
    return folder / "viewer"
