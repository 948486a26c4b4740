"""A small study's scores, simulated, and cases that can be drawn."""

import numpy as np
import pytest

from lungsyn.config import Evaluation
from lungsyn.evaluation.comparison import compare
from lungsyn.evaluation.groups import worst_cases
from lungsyn.volume.files import Case

EFFECTS = {"real": 0.0, "synthetic": -0.2, "real+synthetic": 0.1, "real-reseeded": 0.0}


@pytest.fixture(scope="session")
def scores() -> dict[str, list[dict]]:
    rng = np.random.default_rng(1)
    quality = {f"case{k:02d}": rng.uniform(0.4, 0.8) for k in range(32)}
    return {
        arm: [_row(k, case, value + effect, replicate, rng) for replicate in ("0", "1", "ensemble")
              for k, (case, value) in enumerate(quality.items())]
        for arm, effect in EFFECTS.items()
    }  # fmt: skip


def _row(number: int, case: str, value: float, replicate: str, rng) -> dict:
    dice = float(np.clip(value + 0.03 * rng.normal(), 0, 1))
    return {
        "case": case, "patient": case, "split": "validation" if number < 12 else "test",
        "replicate": replicate, "dice": dice, "nsd_1mm": dice, "nsd_2mm": dice, "hd95_mm": 10 * (1 - dice),
        "volume_error_ml": 0.0,
        "truth_ml": 1.0, "predicted_ml": 1.0, "n_nodules": 2, "found_nodules": 1, "false_positives": 1,
        "lesion_dice": dice / 2,
    }  # fmt: skip


@pytest.fixture(scope="session")
def worst(scores) -> list[str]:
    return worst_cases(scores["real"], 4)


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    return Evaluation(bootstrap=2000, confidence=0.95)


@pytest.fixture(scope="session")
def comparison(scores, worst, evaluation) -> list[dict]:
    return compare(scores, "real", worst, evaluation, seed=1)


@pytest.fixture
def drawable():
    """A factory of cases: two dark lungs in soft tissue and a round nodule, its centre set by the seed."""

    def make(seed: int, nodule: bool = True) -> Case:
        x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (40, 36, 32)], indexing="ij")
        lungs = (((np.abs(x) - 0.45) / 0.35) ** 2 + (y / 0.6) ** 2 + (z / 0.9) ** 2 < 1).astype(np.uint8)
        ct = np.where(lungs, -850, 40)
        offset = np.random.default_rng(seed).uniform(-0.2, 0.2, 3)
        inside = (x - 0.45 - offset[0]) ** 2 + (y - offset[1]) ** 2 + (z - offset[2]) ** 2 < 0.03
        nodules = (inside & nodule).astype(np.uint8)
        ct = np.where(nodules, 30, ct).astype(np.int16)
        return Case(ct, nodules, lungs, np.ones_like(lungs), np.diag([2.0, 2.0, 2.5, 1.0]), {})

    return make
