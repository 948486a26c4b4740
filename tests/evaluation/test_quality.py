"""The quality sheet: written, of the stated size, whatever was rejected."""

import numpy as np
import pytest

from lungsyn.evaluation.quality import Judged, plot_quality
from lungsyn.settings.study import Study
from tests.evaluation.test_figures import SETTINGS, check


def record(volume: str, value: float, rejected: bool) -> dict:
    faults = [{"measure": "lung_hu", "reason": f"median, is {value}; real train cases: -900 to -700"}] * rejected
    return {"volume": volume, "attempt": 0, "faults": faults, "measures": {"lung_hu": value}}


def test_a_pasted_set_has_nothing_to_show(tmp_path):
    plot_quality(Judged(), "a-set", Study(name="phantom", seed=1), SETTINGS, tmp_path / "a.png")
    check(tmp_path / "a.png", 11)


@pytest.mark.parametrize("rejected", [0, 1, 6])
def test_sheet(tmp_path, rejected):
    """Nothing rejected: no pictures. A value far out does not stretch its panel; a measure may not be judged."""
    rng = np.random.default_rng(0)
    ranges = {"lung_hu": {"low": -900.0, "high": -700.0}, "joint": {"low": None, "high": None}}
    values = {
        "lung_hu": {f"case-{i}": float(v) for i, v in enumerate(rng.normal(-800, 30, 20))},
        "joint": {"case-0": 1.0},
    }
    records = [record("good", -790.0, False)] + [record(f"bad{i}", 3000.0, True) for i in range(rejected)]
    slices = {f"ct_{k}": rng.normal(-800, 100, (30, 20 + k)) for k in range(3)}
    slices |= {f"nodules_{k}": slices[f"ct_{k}"] > -700 for k in range(3)}
    plot_quality(
        Judged({"measures": ranges, "values": values}, records, {(f"bad{i}", 0): slices for i in range(rejected)}),
        "a-set", Study(name="a $tudy", seed=1), SETTINGS, tmp_path / "a.png",
    )  # fmt: skip
    check(tmp_path / "a.png", 11)
