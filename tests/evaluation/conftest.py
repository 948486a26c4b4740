"""A small study's scores, simulated, and cases that can be drawn."""

import numpy as np
import pytest

from lungsyn.evaluation.comparison import compare
from lungsyn.evaluation.froc import froc_rows
from lungsyn.evaluation.groups import worst_cases
from lungsyn.evaluation.strata import strata_rows
from lungsyn.settings.evaluation import Evaluation
from lungsyn.volume.files import Case
from lungsyn.volume.nodules import nodule_facts
from lungsyn.volume.space import Space
from tests.conftest import labelled_case

EFFECTS = {"real": 0.0, "synthetic": -0.2, "real+synthetic": 0.1, "real-reseeded": 0.0}


def line(text: str) -> np.ndarray:
    """A volume of one row of voxels: digits are indices, '.' is 0."""
    return np.array([0 if c == "." else int(c) for c in text], dtype=np.uint8)[:, None, None]


def case_of(nodules: np.ndarray) -> Case:
    """A case with these nodules and nothing else, of voxels of 2 mm."""
    zeros, affine = np.zeros_like(nodules), np.diag([2.0, 2.0, 2.0, 1.0])
    about = {
        "case": "LIDC-IDRI-0001",
        "patient": "p1",
        "nodules": nodule_facts(nodules, zeros, Space(nodules.shape, affine)),
    }
    return labelled_case(zeros.astype(np.int16), nodules, zeros, zeros, affine, about)


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
    return compare(scores, "real", worst, evaluation)


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
        return labelled_case(ct, nodules, lungs, np.ones_like(lungs), np.diag([2.0, 2.0, 2.5, 1.0]), {})

    return make


ARMS_AT = {  # arm -> what it adds to the Dice of each case at 25, 50 and 100 % of the patients
    "real": (-0.25, -0.1, 0.0), "synthetic": (-0.32, -0.2, -0.14), "real+targeted": (-0.1, -0.03, 0.02),
    "real+untargeted": (-0.14, -0.05, 0.01), "real+copy-paste": (-0.2, -0.09, 0.0),
    "real-reseeded": (-0.25, -0.1, 0.0),
}  # fmt: skip
N_TRAIN = {25: 13, 50: 26, 100: 52}


def simulated_nodules(size: int, rng) -> dict[str, list[dict]]:
    """Nodule tables of a simulated study: small nodules and ground glass are found less often."""
    tables = {arm: [] for arm in ARMS_AT}
    for case in range(24):
        for index in range(1, 1 + int(rng.integers(1, 4))):
            diameter_mm, texture = float(rng.uniform(4, 25)), float(rng.uniform(1, 5))
            ease = 0.5 + 0.03 * (diameter_mm - 8) + 0.08 * (texture - 3) + 0.15 * rng.normal()
            for arm, effects in ARMS_AT.items():
                for replicate in ("0", "1", "2", "ensemble"):
                    dice = ease + effects[list(N_TRAIN).index(size)] + 0.25 + 0.08 * rng.normal()
                    tables[arm].append({
                        "case": f"case{case:02}", "patient": f"case{case:02}", "split": "test",
                        "replicate": replicate, "nodule": index, "diameter_mm": diameter_mm, "texture": texture,
                        "touches_pleura": int(case % 3 == 0), "found": int(dice > 0.4),
                        "dice": float(np.clip(dice, 0, 0.95)) if dice > 0.4 else 0.0,
                    })  # fmt: skip
    return tables


def simulated_points(nodules: dict[str, list[dict]], rng) -> dict[str, list[dict]]:
    """Operating points that go with the nodule tables: finds by their Dice, false alarms at random."""
    points = {}
    for arm, rows in nodules.items():
        by_case: dict[tuple, list] = {}
        for row in rows:
            by_case.setdefault((row["case"], row["replicate"]), []).append(row)
        points[arm] = []
        for (case, replicate), members in by_case.items():
            name = {"case": case, "patient": case, "split": "test", "replicate": replicate, "n_nodules": len(members)}
            candidates = [(int(40 + 60 * row["dice"]), True) for row in members if row["found"]]
            candidates += [(int(c), False) for c in rng.integers(10, 80, size=rng.poisson(4))]
            points[arm].append(name | {"threshold": 101, "found_nodules": 0, "false_positives": 0})
            for threshold in sorted({c for c, _ in candidates}, reverse=True):
                kept = [hit for c, hit in candidates if c >= threshold]
                points[arm].append(name | {"threshold": threshold, "found_nodules": sum(kept),
                                           "false_positives": len(kept) - sum(kept)})  # fmt: skip
    return points


@pytest.fixture(scope="session")
def big_study(evaluation) -> dict[str, list[dict]]:
    """The tables of a simulated study of six arms and three training-set sizes: comparison, froc, strata."""
    rng, evaluation = np.random.default_rng(5), evaluation.model_copy(update={"bootstrap": 200})
    quality = {f"case{k:02d}": rng.uniform(0.5, 0.95) for k in range(36)}
    found = {"comparison": [], "froc": [], "strata": []}
    for at, size in enumerate(N_TRAIN):
        scores = {
            arm: [_row(k, case, value + effects[at] + 0.05 * rng.normal(), replicate, rng)
                  for k, (case, value) in enumerate(quality.items()) for replicate in ("0", "1", "2", "ensemble")]
            for arm, effects in ARMS_AT.items()
        }  # fmt: skip
        nodules = simulated_nodules(size, rng)
        settings = (evaluation.bootstrap, evaluation.confidence, 1)
        rows = compare(scores, "real", worst_cases(scores["real"], 4), evaluation)
        found["comparison"] += [row | {"size": size} for row in rows]
        points = froc_rows(simulated_points(nodules, rng), "real", *settings)
        found["froc"] += [row | {"size": size} for row in points]
        found["strata"] += [row | {"size": size} for row in strata_rows(nodules, "real", evaluation.confidence)]
    return found
