"""Masks that are nobody's: mixed bodies and lungs, made up nodules; the kind ``made``.

Body and lungs are mixed from the signed distances of a few train cases (`anatomy.shapes`). Cut-outs are turned and
mirrored at random first, since they have no up and down. A mixture is drawn again if its nearest train case stands out
against the next one more than a train case's nearest does. Nodules are star-shaped bodies whose size, roughness and
distance to the wall are drawn from those of the train cases, or from the ranges of the settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from lungsyn.anatomy import shapes
from lungsyn.errors import InputError
from lungsyn.hosts import is_host
from lungsyn.masks.core.rows import ANYWHERE, OWN, usual_place
from lungsyn.random import seed_of, stream
from lungsyn.seams import MaskSource, Scene
from lungsyn.settings.section import Section
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.labels import LabelMap
from lungsyn.volume.patches import MIRRORS
from lungsyn.volume.source import source_of
from lungsyn.volume.space import Space, bounding_box

VOXELS = 48  # of a frame's edge
LARGEST_WEIGHT = 0.6
NEAREST_QUANTILE = 0.05  # of how near the nearest of a train case is, as a share of the next: no mixture is below it
DRAWS = 50
DEEP_VOXELS = 1.0  # inside the lungs, in which the middle of a cut-out lies
SIZES = (0.9, 1.1)  # random scaling of a train nodule's diameter
SMOOTH_VOXELS = 2.0  # of the finer grid, over which what is put back of a surface's roughness is smooth
SMOOTH_CUT_OUT = 1.0  # voxels of the frame: sums of many surfaces are rougher than one
MARGIN_MM = 9.0  # around the lungs of a made chest
TRIES = 300

Range = tuple[float, float]


class Settings(Section):
    """What is made; what is not said here is drawn from the train cases."""

    kind: Literal["made"] = Field(default="made", description="Source of the masks")
    patients: int = Field(
        default=8, ge=5, le=32, description="Train cases of which a body is mixed, of one patient each"
    )
    nodules: tuple[int, int] | None = Field(
        default=None, description="Fewest and most nodules of a volume; null: as in train cases"
    )
    diameter_mm: Range | None = Field(
        default=None, description="Least and largest diameter of nodules, drawn evenly; null: as in train cases"
    )
    wall_mm: Range | None = Field(
        default=None, description="Least and largest distance of a nodule's middle to the lungs' border, drawn evenly; "
        "null: as in train cases",
    )  # fmt: skip


@dataclass(frozen=True)
class Population:
    """What of the train cases decides a row: one case of each patient and its lungs' field, how near the nearest may
    be, all nodules and how many a case has, whether they are cut-outs, and where nodules lie."""

    names: list[str]
    fields: dict[str, np.ndarray]
    least: float
    nodules: list[dict]
    counts: list[int]
    cut_out: bool
    place: str


def row_of(i: int, seed: int, train: Population, settings: Settings) -> dict:
    """Row ``i``: which cases are mixed and how, and which nodules lie in them."""
    rng, known = stream(seed, "made"), train.nodules
    chosen, weights, turns = mixture(train.names, train.fields, train.least, settings.patients, train.cut_out, rng)
    powers = np.mean([nodule["powers"] for nodule in known if nodule["powers"] is not None] or [[0.02] * 3], axis=0)
    few = settings.nodules
    count = rng.integers(few[0], few[1] + 1) if few else rng.choice(train.counts)
    drawn = [draw_nodule(known, settings, rng) for _ in range(max(int(count), 1))]
    return {
        "volume": f"{i:04d}",
        "cases": " ".join(chosen),
        "weights": " ".join(f"{weight:.4f}" for weight in weights),
        "turns": " ".join(map(str, turns)),
        "cut_out": int(train.cut_out),
        "nodules": " ".join(f"{diameter:.2f}:{wall:.2f}" for diameter, wall in drawn),
        "powers": " ".join(f"{power:.5f}" for power in powers),
        "place": train.place,
        "seed": seed,
    }


class Family(MaskSource):
    """Shapes of no patient; the row says which cases are mixed, and how."""

    Settings = Settings
    recipe = 2
    columns = ("volume", "cases", "weights", "turns", "cut_out", "nodules", "powers", "place", "seed")

    def rows(self, cases, volumes, seed, settings, worst=()):
        opened = {folder.name: open_case(folder) for folder in cases}
        cut_out = shapes.are_cut_outs(opened.values())
        of_patient: dict[str, str] = {}
        for name, case in opened.items():
            of_patient.setdefault(case.about["patient"], name)
        names = sorted(of_patient.values())
        if len(names) < settings.patients:
            raise InputError(
                f"{len(names)} train patients, but conditions.patients asks for {settings.patients} to be mixed: "
                "lower it, or take more patients"
            )
        known = [nodule for case in opened.values() for nodule in nodules_of(case)]
        if not known:
            raise InputError("no nodule in the train cases: their sizes are what made nodules are drawn from")
        fields = {name: fields_of(opened[name], cut_out)["lungs"] for name in names}
        place = usual_place(opened.values()) if cut_out else ANYWHERE
        counts = [len(case.about["nodules"]) for case in opened.values() if not is_host(case.about)]
        train = Population(names, fields, usual_share(fields, cut_out), known, counts, cut_out, place)
        return [row_of(i, seed_of(seed, "volume", "made", i), train, settings) for i in range(volumes)]

    def uses(self, row):
        return set(row["cases"].split())

    def scene(self, row: dict, open_case: Callable[[str], Case]) -> Scene:
        rng = stream(int(row["seed"]), "masks")
        cut_out = row["cut_out"] == "1"
        cases = [open_case(name) for name in row["cases"].split()]
        weights = np.array(row["weights"].split(), dtype=float)
        turns = [int(turn) for turn in row["turns"].split()]
        layers, affine = (cut_out_of if cut_out else chest_of)(cases, weights, turns, rng)
        powers = np.array(row["powers"].split(), dtype=float)
        sizes = (nodule.split(":") for nodule in row["nodules"].split())
        wanted = [(float(diameter), float(wall)) for diameter, wall in sizes]
        nodules = place_nodules(layers["lungs"], wanted, powers, affine, row["place"], rng)
        layers["lungs"] = np.where((nodules > 0) & (layers["lungs"] == 0), 1, layers["lungs"]).astype(np.uint8)
        layers["body"] = np.maximum(layers["body"], nodules > 0).astype(np.uint8)
        most = cases[int(np.argmax(weights))]
        return Scene(LabelMap({"nodules": nodules, **layers}), affine, source=source_of(most))


def fields_of(case: Case, cut_out: bool) -> dict[str, np.ndarray]:
    """The fields of a case: the lungs together, each of both, and the body."""
    space, _ = shapes.frame(case, cut_out, VOXELS)
    lungs = np.asarray(case.lungs)
    masks = {"lungs": lungs > 0, "body": np.asarray(case.body) > 0}
    if not cut_out:
        masks |= {"right": lungs == 1, "left": lungs == 2}
    return {name: shapes.signed_distance(shapes.occupancy(mask, case.affine, space)) for name, mask in masks.items()}


def turned(field: np.ndarray, turn: int) -> np.ndarray:
    return np.flip(field, MIRRORS[turn])


def mixture(
    names: Sequence[str], fields: dict[str, np.ndarray], least: float, count: int, cut_out: bool, rng
) -> tuple[list[str], np.ndarray, list[int]]:
    """Cases, weights and mirrorings of a body whose nearest of ``fields`` has at ``least`` that share of the distance
    to the next. Raises InputError if none is found."""
    every = np.stack([compared(field) for field in fields.values()])
    for _ in range(DRAWS):
        chosen = [str(name) for name in rng.permutation(names)[:count]]
        weights = shapes.mixing_weights(count, LARGEST_WEIGHT, rng).round(4)
        turns = [int(turn) for turn in rng.integers(len(MIRRORS), size=count)] if cut_out else [0] * count
        field = shapes.mixed([turned(fields[name], turn) for name, turn in zip(chosen, turns, strict=True)], weights)
        if cut_out and field[(VOXELS // 2,) * 3] < DEEP_VOXELS:
            continue
        if nearest_share(every, field, cut_out) >= least:
            return chosen, weights, turns
    raise InputError(f"no mixture of {count} train cases is like none of them: take more patients")


def compared(field: np.ndarray) -> np.ndarray:
    """A field's voxels on a coarse grid: ``[n]``."""
    return field[1::3, 1::3, 1::3].ravel()


def nearest_share(every: np.ndarray, field: np.ndarray, cut_out: bool) -> float:
    """Distance of the nearest of ``every`` ``[cases n]`` as a share of that of the next; mirrored if that is nearer."""
    turns = range(len(MIRRORS)) if cut_out else (0,)
    distances = [np.linalg.norm(every - compared(turned(field, turn)), axis=1) for turn in turns]
    first, second = np.sort(np.min(distances, axis=0))[:2]
    return float(first / second)


def usual_share(fields: dict[str, np.ndarray], cut_out: bool) -> float:
    """The ``NEAREST_QUANTILE`` of the train cases' own `nearest_share` among the others."""
    every = np.stack([compared(field) for field in fields.values()])
    shares = [nearest_share(np.delete(every, i, axis=0), field, cut_out) for i, field in enumerate(fields.values())]
    return float(np.quantile(shares, NEAREST_QUANTILE))


def nodules_of(case: Case) -> list[dict]:
    """Diameter, distance of the middle to the lungs' border, and roughness of each nodule of a case."""
    found, spacing_mm = [], case.space.spacing_mm
    for fact in case.about["nodules"]:
        box = tuple(slice(a, b) for a, b in fact["box"])
        mask = np.asarray(case.nodules[box]) == fact["index"]
        found.append({
            "diameter_mm": fact["diameter_mm"], "wall_mm": wall_mm(case, fact),
            "powers": shapes.star_powers(mask, spacing_mm),
        })  # fmt: skip
    return found


def wall_mm(case: Case, fact: dict) -> float:
    """From a nodule's middle to the nearest voxel outside the lungs, in a box of 25 mm around it."""
    spacing_mm = case.space.spacing_mm
    middle = np.mean(fact["box"], axis=1)
    reach = np.ceil(25 / spacing_mm).astype(int)
    low = np.maximum(middle.astype(int) - reach, 0)
    lungs = (
        np.asarray(case.lungs[tuple(slice(a, b) for a, b in zip(low, middle.astype(int) + reach + 1, strict=True))]) > 0
    )
    if lungs.all():
        return 25.0
    depth = ndimage.distance_transform_edt(lungs, sampling=spacing_mm)
    return float(depth[tuple(np.minimum(middle.astype(int) - low, np.array(lungs.shape) - 1))])


def draw_nodule(known: list[dict], settings: Settings, rng: np.random.Generator) -> tuple[float, float]:
    """Diameter and distance to the wall, both mm: as a train nodule's, or evenly from the settings' ranges."""
    like = known[rng.integers(len(known))]
    varied = max(like["diameter_mm"] * rng.uniform(*SIZES), min(nodule["diameter_mm"] for nodule in known))
    diameter = rng.uniform(*settings.diameter_mm) if settings.diameter_mm else varied
    wall = rng.uniform(*settings.wall_mm) if settings.wall_mm else like["wall_mm"] * rng.uniform(*SIZES)
    return float(diameter), float(wall)


def cut_out_of(cases, weights, turns, rng) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Lungs and body of a cut-out on the grid of the first case."""
    every = [
        {name: turned(f, turn) for name, f in fields_of(case, True).items()}
        for case, turn in zip(cases, turns, strict=True)
    ]
    shape = cases[0].ct.shape
    step = VOXELS / max(shape)
    first = (VOXELS - 1) / 2 - step * (np.array(shape) - 1) / 2
    layers = {}
    for name in ("lungs", "body"):
        field = ndimage.gaussian_filter(shapes.mixed([fields[name] for fields in every], weights), SMOOTH_CUT_OUT)
        layers[name] = (shapes.on_grid(field, shape, np.full(3, step), first) > 0).astype(np.uint8)
    layers["lungs"] &= layers["body"]
    return layers, np.diag([*cases[0].space.spacing_mm, 1.0])  # where a patient lay is his


def chest_of(cases, weights, turns, rng) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Lungs and body of a whole chest, in a box with ``MARGIN_MM`` around the lungs, of the first case's spacing."""
    every, edges_mm = zip(
        *((fields_of(case, False), shapes.frame(case, False, VOXELS)[1]) for case in cases), strict=True
    )
    spacing_mm = cases[0].space.spacing_mm
    edge_mm = float(np.exp(weights @ np.log(edges_mm)))
    step = spacing_mm * VOXELS / edge_mm
    fields = {name: shapes.mixed([fields[name] for fields in every], weights) for name in every[0]}
    for side in ("right", "left"):
        fields[side] = shapes.filled_like(fields[side], [fields[side] for fields in every], weights)
    low, high = bounding_box(np.maximum(fields["right"], fields["left"]) > 0)
    margin = MARGIN_MM * VOXELS / edge_mm
    first = low - margin
    shape = np.maximum(np.round((high - low + 2 * margin) / step).astype(int), 1)
    fine = {name: shapes.on_grid(field, shape, step, first) / step.mean() for name, field in fields.items()}
    rough = lost_roughness(cases[0], edge_mm)
    noise = shapes.roughened(np.zeros(tuple(shape), np.float32), rough, SMOOTH_VOXELS, rng)
    right, left = fine["right"] + noise, fine["left"] + noise
    lungs = np.where(np.maximum(right, left) > 0, np.where(right >= left, 1, 2), 0).astype(np.uint8)
    lungs *= shapes.largest_pieces(lungs == 1, 1) | shapes.largest_pieces(lungs == 2, 1)
    body = (fine["body"] > 0) | (lungs > 0)
    return {"lungs": lungs, "body": body.astype(np.uint8)}, np.diag([*spacing_mm, 1.0])


def lost_roughness(case: Case, edge_mm: float) -> float:
    """How far the lungs' surface lies from what a frame's voxels can show of it: voxels of the case, about a standard
    deviation."""
    lungs = np.asarray(case.lungs[:, :, case.lungs.shape[2] // 2]) > 0
    sigma = edge_mm / VOXELS / case.space.spacing_mm[:2] / 2
    smooth = ndimage.gaussian_filter(lungs.astype(np.float32), sigma) >= 0.5
    rim = lungs & ~ndimage.binary_erosion(lungs)
    return float(1.25 * (smooth != lungs).sum() / max(rim.sum(), 1))


def place_nodules(
    lungs: np.ndarray, wanted: Sequence[Sequence[float]], powers: np.ndarray, affine: np.ndarray, place: str, rng
) -> np.ndarray:
    """Made up nodules in the lungs, as many as fit: uint8 ``[x y z]`` of their indices. ``wanted``: diameter and
    distance to the wall of each, mm."""
    spacing_mm = Space(lungs.shape, affine).spacing_mm
    depth_mm = ndimage.distance_transform_edt(np.pad(lungs > 0, 1, mode="edge"), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    nodules = np.zeros(lungs.shape, np.uint8)
    for number, (diameter, wall) in enumerate(wanted, start=1):
        mask = shapes.star_nodule(diameter, powers, spacing_mm, rng)
        middle = np.array(lungs.shape) // 2 if place == OWN else _at_depth(depth_mm, nodules, wall, rng)
        if middle is None or any(n > m for n, m in zip(mask.shape, lungs.shape, strict=True)):
            continue
        start = np.clip(middle - np.array(mask.shape) // 2, 0, np.array(lungs.shape) - mask.shape)
        where = tuple(slice(a, a + n) for a, n in zip(start, mask.shape, strict=True))
        nodules[where][mask & (nodules[where] == 0)] = number
    return nodules


def _at_depth(depth_mm: np.ndarray, nodules: np.ndarray, wall: float, rng) -> np.ndarray | None:
    """A random voxel of the lungs as far from their border as is asked for, or nearly so."""
    free = (depth_mm > 0) & (nodules == 0)
    if not free.any():
        return None
    beside = np.abs(depth_mm - wall)
    slack = max(float(beside[free].min()), 1.0) + 0.5
    fitting = np.flatnonzero(free & (beside <= slack))
    return np.array(np.unravel_index(fitting[rng.integers(len(fitting))], depth_mm.shape))
