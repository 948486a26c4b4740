"""The tables beside the pictures of a set; those of the arms are looked at in test_chain."""

import pytest

from lungsyn.evaluation import data
from lungsyn.volume.tables import read_table


def test_measures_of_every_case_and_attempt_with_their_range():
    reference = {
        "values": {"lung_hu": {"a": -800, "b": -820}, "airway_mm": {}},
        "measures": {"lung_hu": {"low": -900, "high": -700}, "airway_mm": {"low": None, "high": None}},
    }
    records = [
        {"volume": "0000", "attempt": 0, "faults": [{}], "measures": {"lung_hu": -500}},
        {"volume": "0000", "attempt": 1, "faults": [], "measures": {"lung_hu": -790, "airway_mm": 90}},
    ]
    rows = [tuple(row.get(key) for key in data.MEASURE) for row in data.measured(reference, records)]
    assert rows == [
        ("lung_hu", -900, -700, "real train", "a", None, -800), ("lung_hu", -900, -700, "real train", "b", None, -820),
        ("lung_hu", -900, -700, "rejected", "0000", 0, -500), ("lung_hu", -900, -700, "accepted", "0000", 1, -790),
        ("airway_mm", None, None, "accepted", "0000", 1, 90),
    ]  # fmt: skip
    assert data.measured({"values": {}}, []) == []  # a pasted set


def test_distances_stand_beside_their_floor_and_curves_are_whole(tmp_path):
    estimate = {name: {"value": k, "low": None, "high": None} for k, name in enumerate(("synthetic", "floor"))}
    found = {
        "views": {"axial": {"frechet": estimate, "kid": estimate}, "nodules": None},
        "spectrum": {"frequency_per_mm": [0.1, 0.2], "power": {"train": [5.0, 4.0]}},
        "tissues": {"lung": {"first_hu": -1000, "bin_hu": 10, "histograms": {"train": [0.25, 0.75]}}, "bone": None},
    }
    data.write_data(tmp_path / "fidelity.png", data.distances(found), data.FIDELITY)
    rows = [(row["measure"], row["of"], row["at"], row["value"]) for row in read_table(tmp_path / "fidelity.tsv")]
    assert rows == [
        *[(f"{name}, axial", of, "", str(k)) for name in ("frechet", "kid") for k, of in enumerate(estimate)],
        ("noise power, HU2 mm2, at 1/mm", "train", "0.1", "5"), ("noise power, HU2 mm2, at 1/mm", "train", "0.2", "4"),
        ("share of lung, at HU", "train", "-995", "0.25"), ("share of lung, at HU", "train", "-985", "0.75"),
    ]  # fmt: skip
    assert data.distances(found | {"spectrum": None, "views": {}, "tissues": {}}) == []


@pytest.mark.parametrize("kinds", [("nodule", "volume"), ("outline",)])
def test_planted_copies_are_not_among_the_nearest(kinds):
    rows = [{"kind": kind, "group": group, "correlation": str(c)} for kind in ("nodule", "volume", "outline")
            for group in ("synthetic", "held-out", "planted", "train") for c in (0.1, 0.9)]  # fmt: skip
    found = [(row["group"], row["kind"], row["correlation"]) for row in data.probed(rows, kinds)]
    assert found == [(group, kind, c) for group in ("held-out", "synthetic") for kind in kinds for c in ("0.9", "0.1")]
