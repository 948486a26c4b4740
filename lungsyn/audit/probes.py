"""The audit's experiment: which real cubes are nearest to the synthetic ones, and to others for which that is known.

*Probes* are the cubes that look for their nearest neighbour among those of the train cases: the ``synthetic`` ones;
``held-out`` real ones, of patients whom the generator never saw, so that what they find is chance; and ``planted``
ones, disguised copies of train cubes, which must be found or the audit is blind. Synthetic probes look among the
held-out cubes too.
"""

from pathlib import Path

import numpy as np

from lungsyn.audit import memorisation
from lungsyn.audit.memorisation import Nearest
from lungsyn.audit.patches import (
    Cutter,
    Place,
    cut,
    nodule_cutter,
    nodule_places,
    residuals,
    unexplained,
    volume_cutter,
    volume_places,
)
from lungsyn.config import Probing
from lungsyn.errors import InputError
from lungsyn.volume.patches import MIRRORS

KINDS = ("nodule", "volume")
COLUMNS = ["kind", "group", "place", "patient", "source", "correlation", "nearest", "shift", "mirror",
           "held_out_correlation", "held_out_nearest", "held_out_shift", "held_out_mirror"]  # fmt: skip


def find_places(kind: str, folders: list[Path]) -> list[Place]:
    return nodule_places(folders) if kind == "nodule" else volume_places(folders)


def choose_cutter(kind: str, places: list[Place], settings: Probing) -> Cutter:
    """The same cubes for every group."""
    if kind == "volume":
        return volume_cutter(places, settings.window_hu)
    return nodule_cutter(places[0], settings.patch_mm, settings.max_shift_voxels, settings.window_hu)


def probe(
    kind: str, synthetic: list[Path], train: list[Path], held_out: list[Path], settings: Probing, seed: int, device
) -> list[dict]:
    """One row (``COLUMNS``) for every probe, and one of group ``train`` for every cube that they looked among."""
    groups = {"synthetic": synthetic, "held-out": held_out, "train": train}
    places = {group: find_places(kind, folders) for group, folders in groups.items()}
    if empty := [group for group, found in places.items() if not found]:
        raise InputError(f"no {kind} in the {empty[0]} cases: the audit needs some in each group")
    cutter = choose_cutter(kind, [place for found in places.values() for place in found], settings)
    sources = _planted_sources(places["train"], len(places["synthetic"]), seed)
    synthetic_cubes, held_out_cubes = (
        np.concatenate(list(residuals(places[group], cutter))) for group in ("synthetic", "held-out")
    )
    cubes = np.concatenate([synthetic_cubes, held_out_cubes, _planted(sources, cutter, settings, seed)])
    in_train = memorisation.nearest(cubes, residuals(places["train"], cutter), settings.max_shift_voxels, device)
    elsewhere = memorisation.nearest(synthetic_cubes, [held_out_cubes], settings.max_shift_voxels, device)

    probes = [(group, place, "") for group in ("synthetic", "held-out") for place in places[group]]
    probes += [("planted", place, place.name) for place in sources]
    rows = []
    for i, (group, place, source) in enumerate(probes):
        row = {"kind": kind, "group": group, "place": place.name, "patient": place.patient, "source": source}
        row |= _found(in_train, i, places["train"], "")
        rows.append(row | (_found(elsewhere, i, places["held-out"], "held_out_") if group == "synthetic" else {}))
    rows += [
        {"kind": kind, "group": "train", "place": place.name, "patient": place.patient} for place in places["train"]
    ]
    return [dict.fromkeys(COLUMNS) | row for row in rows]


def _planted_sources(train: list[Place], probes: int, seed: int) -> list[Place]:
    """Random train places, each once if there are enough."""
    count = memorisation.planted_count(probes)
    rng = np.random.default_rng([seed, 5])
    rounds = [rng.permutation(len(train)) for _ in range(-(-count // len(train)))]
    return [train[i] for i in np.concatenate(rounds)[:count]]


def _planted(sources: list[Place], cutter: Cutter, settings: Probing, seed: int) -> np.ndarray:
    """Disguised copies, which go through everything that a synthetic cube goes through: ``[n e e e]``."""
    hu, masks = cut(sources, cutter)
    spread = unexplained(hu, masks).std(axis=(1, 2, 3))
    rng = np.random.default_rng([seed, 6])
    return unexplained(*memorisation.plant(hu, masks, spread, settings.max_shift_voxels, rng))


def _found(nearest: Nearest, i: int, places: list[Place], prefix: str) -> dict:
    found = {
        "correlation": float(nearest.correlation[i]),
        "nearest": places[nearest.index[i]].name,
        "shift": " ".join(str(n) for n in nearest.shift[i]),
        "mirror": "".join("xyz"[axis] for axis in MIRRORS[nearest.mirror[i]]),
    }
    return {prefix + key: value for key, value in found.items()}
