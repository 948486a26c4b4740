"""What the masks of a set are like, beside those of the train cases: size and profile of the lungs, number, diameter
and place of nodules; and what was asked for, where a source of masks says so.

How far a set's distribution of a number is from that of the train cases is Wasserstein's distance, in the unit of the
number. Beside it stands its floor: that of held-out patients, with equally many of each (`floor.beside_floor`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import wasserstein_distance

from lungsyn.anatomy.shapes import wall_mm
from lungsyn.audit.floor import beside_floor
from lungsyn.hosts import is_host
from lungsyn.volume.files import Case, open_case

MEASURES = {
    "lungs_l": "volume of the lungs, litres",
    "lung_share": "share of the body that is lung",
    "lung_share_low": "the same, lowest third of the slices",
    "lung_share_middle": "the same, middle third",
    "lung_share_high": "the same, highest third",
    "lungs_surface_cm2": "surface of the lungs, square centimetres, counted in faces of voxels",
    "nodules": "number of nodules",
    "diameter_mm": "diameter of a nodule, mm",
    "wall_mm": "from a nodule's middle to the lungs' border, mm",
}
COLUMNS = ("measure", "what", "train", "train_sd", "held_out", "held_out_sd", "synthetic", "synthetic_sd", "floor",
           "distance", "difference_low", "difference_high", "asked", "asked_sd", "off")  # fmt: skip
OF_NODULES = ("diameter_mm", "wall_mm")

Numbers = Mapping[str, Sequence[float]]  # of a case, by measure


def numbers_of(case: Case) -> dict[str, list[float]]:
    """Every measure of a case; those of nodules have a number for each, by index."""
    lungs, body = np.asarray(case.lungs) > 0, np.asarray(case.body) > 0
    spacing_mm, facts = case.space.spacing_mm, case.about["nodules"]
    thirds = zip(np.array_split(lungs, 3, axis=2), np.array_split(body, 3, axis=2), strict=True)
    low, middle, high = (_share(*third) for third in thirds)
    return {
        "lungs_l": [float(lungs.sum()) * case.space.voxel_ml / 1000],
        "lung_share": [_share(lungs, body)],
        "lung_share_low": [low], "lung_share_middle": [middle], "lung_share_high": [high],
        "lungs_surface_cm2": [_surface_cm2(lungs, spacing_mm)],
        "nodules": [] if is_host(case.about) else [float(len(facts))],
        "diameter_mm": [fact["diameter_mm"] for fact in facts],
        "wall_mm": [wall_mm(lungs, fact["box"], spacing_mm) for fact in facts],
    }  # fmt: skip


def _share(lungs: np.ndarray, body: np.ndarray) -> float:
    return float(lungs.sum() / max(body.sum(), 1))


def _surface_cm2(mask: np.ndarray, spacing_mm: np.ndarray) -> float:
    """Faces between a voxel of the mask and one that is not."""
    faces = [np.count_nonzero(np.diff(mask, axis=axis)) for axis in range(3)]
    return float(np.dot(faces, spacing_mm.prod() / spacing_mm) / 100)


def asked_of(case: Case, made: Numbers) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What a synthetic case's masks were to be, and how far off what was ``made`` is (absolute): by measure. A nodule
    that found no place counts for the number of nodules alone."""
    asked = case.about.get("asked")
    if not asked:
        return {}, {}
    index = {fact["index"]: place for place, fact in enumerate(case.about["nodules"])}
    wanted: dict[str, list[float]] = {name: list(asked[name]) for name in OF_NODULES if name in asked}
    off = {
        name: [abs(made[name][index[i]] - value) for i, value in enumerate(values, start=1) if i in index]
        for name, values in wanted.items()
    }
    single = {"lungs_l": asked["lungs_l"]} if "lungs_l" in asked else {}
    if "diameter_mm" in asked:
        single["nodules"] = float(len(asked["diameter_mm"]))
    for name, value in single.items():
        wanted[name], off[name] = [value], [abs(made[name][0] - value)]
    return wanted, off


def compare(train: Sequence[Path], held_out: Sequence[Path], synthetic: Sequence[Path], seed: int) -> list[dict]:
    """A row of ``COLUMNS`` for each measure; None where nothing can be said."""
    sets: dict[str, list[tuple[str, Numbers]]] = {}
    asked = []
    for name, folders in (("train", train), ("held_out", held_out), ("synthetic", synthetic)):
        sets[name] = []
        for case in map(open_case, folders):
            numbers = numbers_of(case)
            sets[name].append((case.about["case" if name == "synthetic" else "patient"], numbers))
            asked += [asked_of(case, numbers)] if name == "synthetic" else []
    return [_row(measure, sets, asked, seed) for measure in MEASURES]


def _row(measure: str, sets: Mapping[str, list[tuple[str, Numbers]]], asked, seed: int) -> dict:
    row: dict = dict.fromkeys(COLUMNS) | {"measure": measure, "what": MEASURES[measure]}
    units = {name: _by_unit((unit, numbers[measure]) for unit, numbers in found) for name, found in sets.items()}
    for name, found in units.items():
        row[name], row[f"{name}_sd"] = _mean_and_spread(np.concatenate(found or [np.empty(0)]))
    if min(map(len, units.values())) > 1:
        n_units = {name: len(found) for name, found in units.items()}
        found = beside_floor(_distance(units, "synthetic"), _distance(units, "held_out"), n_units, seed)
        row |= {"floor": found["floor"]["value"], "distance": found["synthetic"]["value"]}
        row |= {f"difference_{end}": found["difference"][end] for end in ("low", "high")}
    wanted = [value for one, _ in asked for value in one.get(measure, ())]
    if wanted:
        row["asked"], row["asked_sd"] = _mean_and_spread(np.array(wanted))
        row["off"] = _mean_and_spread(np.array([value for _, off in asked for value in off.get(measure, ())]))[0]
    return row


def _mean_and_spread(values: np.ndarray) -> tuple[float | None, float | None]:
    return (float(values.mean()), float(values.std())) if len(values) else (None, None)


def _by_unit(found: Iterable[tuple[str, Sequence[float]]]) -> list[np.ndarray]:
    """The values of each patient or synthetic case that has any."""
    units: dict[str, list[float]] = {}
    for unit, values in found:
        units.setdefault(unit, []).extend(values)
    return [np.array(values) for values in units.values() if values]


def _distance(units: Mapping[str, list[np.ndarray]], name: str):
    """Wasserstein's distance of the train cases' values to those of a set, by the weights of their units."""
    reference, other = (np.concatenate(units[one]) for one in ("train", name))
    sizes, sizes_other = ([len(values) for values in units[one]] for one in ("train", name))
    return lambda w, v: wasserstein_distance(reference, other, np.repeat(w, sizes), np.repeat(v, sizes_other))
