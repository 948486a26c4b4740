"""The audit's experiment: which real cubes are nearest to the synthetic ones, and to others for which that is known.

*Probes* are the cubes that look for their nearest neighbour among those of the train cases: the ``synthetic`` ones;
``held-out`` real ones, of patients whom the generator never saw, so that what they find is chance; and ``planted``
ones, disguised copies of train cubes, which must be found or the audit is blind. Synthetic probes look among the
held-out cubes too. Of the kinds ``nodule`` and ``volume`` a probe is one cube; of the kind ``part`` it is a whole case
with all its small cubes, of which the best counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from lungsyn.audit import disguises, memorisation, parts
from lungsyn.audit.memorisation import TURNS, Nearest
from lungsyn.audit.outlines import OUTLINE, donor
from lungsyn.audit.patches import (
    Cutter,
    Place,
    cut,
    nodule_cutter,
    nodule_places,
    residuals,
    spacing_of,
    unexplained,
    volume_cutter,
    volume_places,
)
from lungsyn.errors import InputError
from lungsyn.masks.core.placing import region_to_make
from lungsyn.random import stream
from lungsyn.settings.audit import Probing
from lungsyn.volume.files import open_case, read_json
from lungsyn.volume.tables import read_table

KINDS = ("nodule", "volume")  # cubes that can be shown side by side
PART = "part"
COPIES = 20  # of each disguise
WINDOW_PATCHES = 1.5  # edge of the window in which they are made, in audit.patch_mm
NOISY = "noise, shifted and mirrored"
COLUMNS = ["kind", "group", "case", "place", "patient", "source", "disguise", "copy", "correlation", "nearest", "shift",
           "order", "mirror", "held_out_correlation", "held_out_nearest", "held_out_shift", "held_out_order",
           "held_out_mirror", "compared"]  # fmt: skip

Folders = Mapping[str, list[Path]]  # of cases, by group: "synthetic", "held-out" and "train"


def read_probes(path: Path, synthetic: Sequence[str]) -> list[dict[str, str]]:
    """The table that `probe`, `probe_parts` and `outlines.probe_outlines` made of these synthetic cases, in all kinds.
    Raises InputError for one of other cases: a verdict on them would be one on these."""
    rows = read_table(path, COLUMNS)
    probed = {
        kind: {row["case"] for row in rows if (row["kind"], row["group"]) == (kind, "synthetic")}
        for kind in (*KINDS, PART, OUTLINE)
    }
    whole = all(probed[kind] == set(synthetic) for kind in ("volume", PART, OUTLINE))
    if not synthetic or not probed["nodule"] <= set(synthetic) or not whole:
        raise InputError(
            f"{path} is not about the {len(synthetic)} synthetic cases given: run lungsyn audit memorisation on them"
        )
    return rows


def find_places(kind: str, folders: list[Path]) -> list[Place]:
    return nodule_places(folders) if kind == "nodule" else volume_places(folders)


def choose_cutter(kind: str, places: list[Place], settings: Probing) -> Cutter:
    """The same cubes for every group."""
    if kind == "volume":
        return volume_cutter(places, settings.window_hu)
    return nodule_cutter(places[0], settings.patch_mm, settings.max_shift_voxels, settings.window_hu)


def probe(kind: str, folders: Folders, settings: Probing, seed: int, device) -> list[dict]:
    """One row (``COLUMNS``) for every probe, and one of group ``train`` for every cube that they looked among. Of a set
    in which no nodule was made there is no synthetic one: the verdict on its nodules is blind."""
    places = {group: find_places(kind, found) for group, found in folders.items()}
    if empty := [group for group, found in places.items() if not found and group != "synthetic"]:
        raise InputError(f"no {kind} in the {empty[0]} cases: the audit needs some in each group")
    cutter = choose_cutter(kind, [place for found in places.values() for place in found], settings)
    planted, cubes = _planted(kind, places, cutter, settings, seed)
    held_out_cubes = np.concatenate(list(residuals(places["held-out"], cutter)))
    synthetic_cubes = np.concatenate([held_out_cubes[:0], *residuals(places["synthetic"], cutter)])
    cubes = np.concatenate([synthetic_cubes, held_out_cubes, cubes])
    in_train = memorisation.nearest(cubes, residuals(places["train"], cutter), settings.max_shift_voxels, device)
    elsewhere = memorisation.nearest(synthetic_cubes, [held_out_cubes], settings.max_shift_voxels, device)
    compared = len(places["train"]) * (2 * settings.max_shift_voxels + 1) ** 3 * len(TURNS)

    rows = _about_probes(kind, folders, places)
    for i, row in enumerate([*rows, *planted]):
        row |= {"compared": compared} | _found(in_train, i, places["train"], "")
        row |= _found(elsewhere, i, places["held-out"], "held_out_") if row["group"] == "synthetic" else {}
    return _complete(kind, [*rows, *planted], places["train"])


def probe_parts(folders: Folders, settings: Probing, seed: int, device) -> list[dict]:
    """The same for small cubes from anywhere in a case: one row for every case."""
    synthetic, held_out, train = (folders[group] for group in ("synthetic", "held-out", "train"))
    places = {group: volume_places(found) for group, found in folders.items()}
    sources = {folder.name: folder for folder in train}
    rows = _about_probes(PART, folders, places)

    def queries() -> Iterator[Tensor]:
        """One after the other: all of them at once would take 3 MB each."""
        yield from (_parts(folder, settings, sources) for folder in synthetic)
        yield from (_parts(folder, settings) for folder in held_out)
        for name, hu, masks, copied in _windows(nodule_places(train), nodule_places(held_out), settings, seed):
            if name not in disguises.DEFORMED:
                rows.extend(_about_planted(name, copied))
                yield from (parts.cubes(*window) for window in zip(hu, masks, strict=True))

    found = parts.search(queries(), [_parts(folder, settings) for folder in train], device)
    for i, best in enumerate(found):
        rows[i] |= {"correlation": best.correlation, "nearest": train[best.index].name, "compared": best.compared}
    return _complete(PART, rows, places["train"])


def _parts(folder: Path, settings: Probing, sources: dict[str, Path] | None = None):
    """A case's small cubes: of an inpainted one (of ``sources``, by name) those that were made."""
    case = open_case(folder)
    hu = np.clip(case.ct, *settings.window_hu).astype(np.float32)
    masks = np.stack([np.asarray(mask) > 0 for mask in (case.nodules, case.lungs, case.body)])
    made = None
    if sources and (known := case.about.get("known_case")):
        made = masks[2] & (region_to_make(case.nodules, open_case(sources[known])) > 0)
    return parts.cubes(hu, masks, made)


def _about_probes(kind: str, folders: Folders, places: dict[str, list[Place]]) -> list[dict]:
    """A synthetic probe belongs to the patient from whom it has its masks: those of one are not independent."""
    patients = {
        folder.name: read_json(folder / "case.json")["patient"] for folder in [*folders["train"], *folders["held-out"]]
    }
    key = "nodule_case" if kind == "nodule" else "body_case"
    owner = {
        folder: donor(read_json(folder / "case.json"), key, patients) or folder.name for folder in folders["synthetic"]
    }
    return [
        _about(group, place) | {"patient": owner.get(place.folder, place.patient)}
        for group in ("synthetic", "held-out")
        for place in places[group]
    ]


def _about(group: str, place: Place) -> dict:
    return {"group": group, "case": place.folder.name, "place": place.name, "patient": place.patient}


def _about_planted(name: str, sources: list[Place]) -> list[dict]:
    return [
        _about("planted", place) | {"source": place.name, "disguise": name, "copy": i}
        for i, place in enumerate(sources)
    ]


def _complete(kind: str, rows: list[dict], train: list[Place]) -> list[dict]:
    rows = rows + [_about("train", place) for place in train]
    return [dict.fromkeys(COLUMNS) | row | {"kind": kind} for row in rows]


def _planted(
    kind: str, places: dict[str, list[Place]], cutter: Cutter, settings: Probing, seed: int
) -> tuple[list[dict], np.ndarray]:
    """What is known of the disguised copies, and their cubes, made as those of a synthetic case are."""
    sources = _chosen(places["train"], memorisation.planted_count(len(places["synthetic"])), seed)
    rows, cubes = _about_planted(NOISY, sources), [_noisy(sources, cutter, settings, seed)]
    folders = [list(dict.fromkeys(place.folder for place in places[group])) for group in ("train", "held-out")]
    nodules = [nodule_places(found) for found in folders]
    if not all(nodules):
        return rows, cubes[0]
    made = _windows(*nodules, settings, seed) if kind == "nodule" else _coarse(*nodules, cutter, seed)
    for name, hu, masks, copied in made:
        middle = slice((first := hu.shape[-1] // 2 - cutter.edge // 2), first + cutter.edge)
        box = (..., middle, middle, middle)
        cubes.append(unexplained(np.ascontiguousarray(hu[box]), np.ascontiguousarray(masks[box])))
        rows += _about_planted(name, copied)
    return rows, np.concatenate(cubes)


def _chosen(places: list[Place], count: int, seed: int) -> list[Place]:
    """Random places, each once if there are enough."""
    rng = stream(seed, "planted places")
    rounds = [rng.permutation(len(places)) for _ in range(-(-count // len(places)))]
    return [places[i] for i in np.concatenate(rounds)[:count]]


def _noisy(sources: list[Place], cutter: Cutter, settings: Probing, seed: int) -> np.ndarray:
    """Copies with noise, shifted and mirrored: ``[n e e e]``."""
    hu, masks = cut(sources, cutter)
    spread = unexplained(hu, masks).std(axis=(1, 2, 3))
    rng = stream(seed, "planted copies")
    return unexplained(*memorisation.plant(hu, masks, spread, settings.max_shift_voxels, rng))


def _windows(train: list[Place], held_out: list[Place], settings: Probing, seed: int):
    """Every disguise of the same train nodules in their surroundings: its name, HU, masks and the nodules."""
    spacing_mm = spacing_of(train[0])
    cutter = Cutter(round(WINDOW_PATCHES * settings.patch_mm / spacing_mm), 1, settings.window_hu)
    sources, hosts = (_chosen(places, COPIES, seed) for places in (train, held_out))
    windows = cut(sources, cutter), cut(hosts, cutter)
    for name in disguises.DISGUISES:
        yield name, *disguises.disguise(name, *windows, spacing_mm, seed), sources


def _coarse(train: list[Place], held_out: list[Place], cutter: Cutter, seed: int):
    """The disguises that change whole volumes, of the same nodules' cases."""
    sources, hosts = (
        [Place(place.folder, place.patient, 0, None) for place in _chosen(places, COPIES, seed)]
        for places in (train, held_out)
    )
    windows = cut(sources, cutter), cut(hosts, cutter)
    coarse_mm = cutter.factor * spacing_of(train[0])
    for name in disguises.WHOLES:
        yield name, *disguises.disguise(name, *windows, coarse_mm, seed), sources


def _found(nearest: Nearest, i: int, places: Sequence[Place], prefix: str) -> dict:
    found = {
        "correlation": float(nearest.correlation[i]),
        "nearest": places[nearest.index[i]].name,
        "shift": " ".join(str(n) for n in nearest.shift[i]),
        **memorisation.names_of(nearest.turn[i]),
    }
    return {prefix + key: value for key, value in found.items()}
