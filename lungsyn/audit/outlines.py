"""Whose outlines are these? The train patient whose lungs and body a case has, however bent, moved or turned.

An *outline* is where body and lungs are, and nothing else: the share of both in each voxel of a coarse cube, float32
``[e e e]``, 0 outside the body, 1 in tissue, 2 in the lungs. The cube is the box around the lungs, so that a whole
chest is moved and scaled to the same frame; of cut-outs, whose lungs reach the border, it is the whole field of view.

Two outlines are compared in two stages. Coarse ones are compared in all 48 turns of a cube, and the ``CANDIDATES``
nearest patients are taken. Finer ones are then matched block by block: each neighbourhood may lie ``REACH`` voxels
beside, so that a bent copy still fits. The *distance* is the mean square of what is left.

How near is near depends on the outline: a flat wall is like many others. So the nearest patient is held against the
next one. Their distances' ratio d1 / d2 is near 1 for a stranger, whatever the outline, and near 0 for a copy. Where
patients are points of a space of D dimensions, D / 2 log(d2 / d1) of a stranger follows the exponential law, so that
the largest of many follows Gumbel's, as `chance.critical_value` asks. The table keeps r = sqrt(1 - d1 / d2), whose
`chance.evidence` is log(d2 / d1).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy import ndimage

from lungsyn.anatomy.shapes import are_cut_outs, frame, frame_of, occupancy
from lungsyn.audit.disguises import bends, displaced, mapped, rotation
from lungsyn.audit.memorisation import TURNS, names_of, turned
from lungsyn.errors import InputError
from lungsyn.random import stream
from lungsyn.volume.files import Case, open_case

OUTLINE = "outline"
EDGE = 36  # voxels of an outline as it is read, and bent
FINE, COARSE = 18, 9  # and as it is compared
SMOOTH = 0.5  # fine voxels: standard deviation of the Gaussian
REACH = 1  # fine voxels that a neighbourhood may lie beside
PLACES = tuple(product(range(-REACH, REACH + 1), repeat=3))
NEIGHBOURHOOD = 5  # fine voxels
CANDIDATES = 12  # patients whose outlines are compared finely
LEAST = 1e-6  # of a distance: less is rounding
COPIES = 20  # of each disguise
BEND_LENGTH = 1 / 6  # of the frame: over which a bend is smooth


def read_outline(case: Case, cut_out: bool) -> tuple[np.ndarray, float]:
    """The outline of a case, float32 ``[e e e]``, and the edge of its frame in mm. ``cut_out``: the frame is the field
    of view, not that of the lungs."""
    space, edge_mm = frame(case, cut_out, EDGE)
    return sum(occupancy(np.asarray(mask) > 0, case.affine, space) for mask in (case.body, case.lungs)), edge_mm


def pooled(outlines: np.ndarray, edge: int) -> np.ndarray:
    """Means of blocks of ``[n e e e]``: ``[n edge edge edge]``."""
    n, factor = len(outlines), outlines.shape[-1] // edge
    return outlines.reshape(n, *(edge, factor) * 3).mean(axis=(2, 4, 6))


@dataclass(frozen=True)
class Match:
    """The nearest reference: its ``index``, the distances ``d1`` to it and ``d2`` to the next patient's, and how the
    query was ``turn``\\ ed to fit it (index into TURNS)."""

    index: int
    d1: float
    d2: float
    turn: int

    @property
    def likeness(self) -> float:
        """0: no nearer than the next patient; 1: the same outline."""
        return float(np.sqrt(1 - (self.d1 + LEAST) / (self.d2 + LEAST)))


def find(outlines: np.ndarray, references: np.ndarray, owners: Sequence[str]) -> list[Match]:
    """The nearest of ``references`` ``[r e e e]`` for each outline ``[n e e e]``; ``owners``: the references' patients.
    Where a voxel of the outline or of any reference is no number, neither are the distances. Raises InputError if the
    patients are one only."""
    if len(set(owners)) < 2:
        raise InputError("outlines are compared with two patients or more: there is no next one to the nearest")
    fine = describe(references)
    coarse = pooled(fine, COARSE).reshape(len(fine), -1)
    no_number = Match(0, np.nan, np.nan, 0)
    if not np.isfinite(references).all():
        return [no_number] * len(outlines)
    return [
        _find(query, fine, coarse, owners) if np.isfinite(query).all() else no_number for query in describe(outlines)
    ]


def describe(outlines: np.ndarray) -> np.ndarray:
    """What is compared of outlines ``[n e e e]``: smooth, float32 ``[n f f f]``."""
    return ndimage.gaussian_filter(pooled(outlines, FINE), (0, *[SMOOTH] * 3), mode="nearest").astype(np.float32)


def _find(query: np.ndarray, fine: np.ndarray, coarse: np.ndarray, owners: Sequence[str]) -> Match:
    own = pooled(query[None], COARSE)[0]
    turns = np.stack([turned(own, t).ravel() for t in range(len(TURNS))])  # [48 c^3]
    distances = (coarse**2).sum(1)[:, None] + (turns**2).sum(1) - 2 * coarse @ turns.T  # [r 48]
    best = distances.argmin(1)
    found = sorted(
        (left_over(turned(query, best[i]), fine[i]), i, int(best[i])) for i in _first_of_each(distances.min(1), owners)
    )
    (d1, index, turn), (d2, *_) = found[:2]
    return Match(index, d1, d2, turn)


def _first_of_each(distance: np.ndarray, owners: Sequence[str]) -> list[int]:
    """The nearest case of each of the ``CANDIDATES`` nearest patients."""
    nearest: dict[str, int] = {}
    for i in np.argsort(distance, kind="stable"):
        nearest.setdefault(owners[i], int(i))
    return list(nearest.values())[:CANDIDATES]


def left_over(query: np.ndarray, reference: np.ndarray) -> float:
    """Mean square of what is left of a query ``[f f f]`` where each neighbourhood finds its best place in the
    reference, up to ``REACH`` voxels beside."""
    around = np.pad(reference, REACH, mode="edge")
    least = np.full(query.shape, np.inf, np.float32)
    for place in PLACES:
        window = around[tuple(slice(REACH + a, REACH + a + len(query)) for a in place)]
        np.minimum(least, ndimage.uniform_filter((query - window) ** 2, NEIGHBOURHOOD, mode="nearest"), out=least)
    return float(least.mean())


Disguise = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # outline, voxel in mm, draw


def as_it_is(outline: np.ndarray, voxel_mm: float, rng: np.random.Generator) -> np.ndarray:
    return turned(outline, int(rng.integers(len(TURNS))))


def bent(by_mm: float) -> Disguise:
    """By smooth random displacements of this standard deviation along each axis."""

    def make(outline: np.ndarray, voxel_mm: float, rng: np.random.Generator) -> np.ndarray:
        return displaced(outline, bends(outline.shape, EDGE * BEND_LENGTH, by_mm / voxel_mm, rng))

    return make


def scaled(by: float) -> Disguise:
    return lambda outline, voxel_mm, rng: mapped(outline, np.eye(3) / by)


def rotated(degrees: float) -> Disguise:
    """About a random axis through the middle."""
    return lambda outline, voxel_mm, rng: mapped(outline, rotation(degrees, rng))


def shifted(share: float) -> Disguise:
    """In a random direction, by this share of the frame."""

    def make(outline: np.ndarray, voxel_mm: float, rng: np.random.Generator) -> np.ndarray:
        move = rng.normal(size=3)
        return ndimage.shift(outline, share * EDGE * move / np.linalg.norm(move), order=1, mode="nearest")

    return make


AS_IT_IS = "an outline as it is, turned or mirrored"
TURNED_A_LITTLE, BENT_MORE = "an outline rotated by 10 degrees", "an outline bent by 3 mm"
DISGUISES: dict[str, Disguise] = {
    AS_IT_IS: as_it_is,
    "an outline bent by 1.5 mm": bent(1.5),
    BENT_MORE: bent(3.0),
    "an outline scaled by 0.9": scaled(0.9),
    "an outline scaled by 1.1": scaled(1.1),
    "an outline shifted by a tenth": shifted(0.1),
    TURNED_A_LITTLE: rotated(10.0),
}
REQUIRED = tuple(name for name in DISGUISES if name not in (TURNED_A_LITTLE, BENT_MORE))  # or the audit is blind


def disguise(name: str, outline: np.ndarray, edge_mm: float, cut_out: bool, rng: np.random.Generator) -> np.ndarray:
    """An outline ``[e e e]`` in this disguise; that of a whole chest is put into its own frame again, if it left it."""
    make = DISGUISES[name]
    if cut_out or name == AS_IT_IS:
        return make(outline, edge_mm / EDGE, rng).astype(np.float32)
    made = make(np.pad(outline, EDGE // 4, mode="edge"), edge_mm / EDGE, rng)
    centre, edge = frame_of(np.clip(made - 1, 0, 1), np.ones(3))
    step = edge / EDGE
    return ndimage.affine_transform(
        made, np.full(3, step), centre - step * (EDGE - 1) / 2, (EDGE,) * 3, order=1, mode="nearest"
    ).astype(np.float32)


def probe_outlines(synthetic: list[Path], known: list[Path], held_out: list[Path], seed: int) -> list[dict]:
    """One row of the audit's table for every case, real and synthetic, and for every planted copy.

    ``known``: the cases whose masks the set may have, the train cases and those that lent it masks."""
    groups = {"synthetic": synthetic, "held-out": held_out, "known": known}
    cases = {group: [open_case(folder) for folder in folders] for group, folders in groups.items()}
    cut_out = are_cut_outs(cases["known"])
    read = {group: [read_outline(case, cut_out) for case in found] for group, found in cases.items()}
    patients = {folder.name: case.about["patient"] for folder, case in zip(known, cases["known"], strict=True)}
    chosen = stream(seed, "planted outlines").permutation(len(known))
    chosen = [int(chosen[i % len(known)]) for i in range(COPIES)]
    rows = _about("synthetic", synthetic, [donor(case.about, "body_case", patients) for case in cases["synthetic"]])
    rows += _about("held-out", held_out, [case.about["patient"] for case in cases["held-out"]])
    queries = [outline for group in ("synthetic", "held-out") for outline, _ in read[group]]
    for name in DISGUISES:
        for copy, i in enumerate(chosen):
            queries.append(disguise(name, *read["known"][i], cut_out, stream(seed, "outline", name, copy)))
            source = {"source": known[i].name, "disguise": name, "copy": copy}
            rows += [row | source for row in _about("planted", [known[i]], [patients[known[i].name]])]
    owners = [patients[folder.name] for folder in known]
    matches = find(np.stack(queries), np.stack([outline for outline, _ in read["known"]]), owners)
    for row, match in zip(rows, matches, strict=True):
        found = {"correlation": match.likeness, "nearest": known[match.index].name}
        row |= found | {"compared": len(known) * len(TURNS)} | names_of(match.turn)
    return [row | {"kind": OUTLINE} for row in [*rows, *_about("train", known, owners)]]


def _about(group: str, folders: list[Path], patients: Sequence[str | None]) -> list[dict]:
    return [
        {"group": group, "case": folder.name, "place": folder.name, "patient": patient or folder.name}
        for folder, patient in zip(folders, patients, strict=True)
    ]


def donor(about: Mapping, key: str, patients: Mapping[str, str]) -> str | None:
    """Whose body (``key``: ``body_case``) or nodules (``nodule_case``) a synthetic case has, by its own account; None:
    nobody's. ``patients``: of cases, by name."""
    name = about.get("made", {}).get("row", {}).get(key)
    return patients.get(name, name)
