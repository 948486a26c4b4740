"""Made up nodules: what is known of those of train cases, what is wanted of new ones, and their places in the lungs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from scipy import ndimage

from lungsyn.anatomy import shapes
from lungsyn.errors import InputError
from lungsyn.masks.core.rows import OWN
from lungsyn.random import stream
from lungsyn.volume.files import Case
from lungsyn.volume.space import Space
from lungsyn.volume.tables import read_table

SIZES = (0.9, 1.1)  # random scaling of a train nodule's diameter and of its distance to the wall
TABLE_COLUMNS = ("diameters_mm", "walls_mm", "lungs_l")
MOST = {"diameters_mm": 200.0, "walls_mm": 200.0, "lungs_l": 20.0}

Range = tuple[float, float]


@dataclass(frozen=True)
class Wanted:
    """What a volume is to have: nodules as (diameter, distance of the middle to the lungs' border), both mm, and the
    volume of the lungs in litres (None: as it comes)."""

    nodules: list[tuple[float, float]]
    lungs_l: float | None = None


def nodules_of(case: Case) -> list[dict]:
    """Diameter, distance of the middle to the lungs' border, and roughness of each nodule of a case."""
    found, spacing_mm = [], case.space.spacing_mm
    for fact in case.about["nodules"]:
        box = tuple(slice(a, b) for a, b in fact["box"])
        mask = np.asarray(case.nodules[box]) == fact["index"]
        found.append({
            "diameter_mm": fact["diameter_mm"], "wall_mm": shapes.wall_mm(case.lungs, fact["box"], spacing_mm),
            "powers": shapes.star_powers(mask, spacing_mm),
        })  # fmt: skip
    return found


def in_turn(items: Sequence, seed: int, what: str) -> Iterator:
    """The items without end, each as often as the others, in random order: more of them only go on."""
    for again in count():
        for i in stream(seed, what, again).permutation(len(items)):
            yield items[i]


def wanted_of(known: Iterator[dict], least_mm: float, number: int, settings, given: dict, rng) -> Wanted:
    """What a volume is to have: as a line of the user's table says (``given``), else from the settings' ranges, else
    as train nodules are (``known``, none smaller than ``least_mm``)."""
    diameters, walls = given.get("diameters_mm"), given.get("walls_mm")
    low, high = settings.nodules or (number, number)
    number = len(diameters or walls or ()) or max(int(rng.integers(low, high + 1)), 1)
    likes = [next(known) for _ in range(number)]

    def drawn(name: str, within: Range | None, least: float = 0.0) -> list[float]:
        if within:
            return [float(rng.uniform(*within)) for _ in likes]
        return [max(like[name] * float(rng.uniform(*SIZES)), least) for like in likes]

    diameters = diameters or drawn("diameter_mm", settings.diameter_mm, least_mm)
    walls = walls or drawn("wall_mm", settings.wall_mm)
    lungs = given.get("lungs_l") or ([float(rng.uniform(*settings.lungs_l))] if settings.lungs_l else [None])
    return Wanted(list(zip(diameters, walls, strict=True)), lungs[0])


def read_wanted(path: Path) -> list[dict[str, list[float]]]:
    """The lines of a user's table, one a volume: the numbers of each filled cell. Raises InputError where it has no
    line or says what no volume can be."""
    lines = read_table(path)
    if not lines or not set(lines[0]) & set(TABLE_COLUMNS):
        raise InputError(
            f"{path}: no line that asks for anything: it has one line a volume, and one or more of the columns "
            f"{', '.join(TABLE_COLUMNS)}"
        )
    return [_line(path, number, line) for number, line in enumerate(lines, start=2)]


def _line(path: Path, number: int, line: dict) -> dict[str, list[float]]:
    given: dict[str, list[float]] = {}
    unknown = [str(name) for name in line if name not in (*TABLE_COLUMNS, "volume")]
    if unknown:
        raise InputError(f"{path}: a column {unknown[0]!r}: it may have {', '.join((*TABLE_COLUMNS, 'volume'))}")
    for name in TABLE_COLUMNS:
        try:
            values = [float(text) for text in (line.get(name) or "").split()]
        except ValueError:
            values = [-1.0]
        if any(not 0 < value <= MOST[name] for value in values):
            raise InputError(
                f"{path}, line {number}: {name} is {line[name]!r}: it must be numbers above 0 and up to "
                f"{MOST[name]:g}, parted by blanks"
            )
        if values:
            given[name] = values
    if len(given.get("lungs_l", [0])) > 1:
        raise InputError(f"{path}, line {number}: lungs_l has several numbers: a volume has one")
    counts = {len(given[name]) for name in ("diameters_mm", "walls_mm") if name in given}
    if len(counts) > 1:
        raise InputError(
            f"{path}, line {number}: diameters_mm and walls_mm have different numbers of nodules: give both for each"
        )
    return given


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
        free = (depth_mm > 0) & (nodules == 0)
        if not free.any() or any(n > m for n, m in zip(mask.shape, lungs.shape, strict=True)):
            continue
        middle = np.array(lungs.shape) // 2 if place == OWN else at_depth(depth_mm, free, wall, rng)
        start = np.clip(middle - np.array(mask.shape) // 2, 0, np.array(lungs.shape) - mask.shape)
        where = tuple(slice(a, a + n) for a, n in zip(start, mask.shape, strict=True))
        nodules[where][mask & (nodules[where] == 0)] = number
    return nodules


def at_depth(depth_mm: np.ndarray, free: np.ndarray, wall: float, rng: np.random.Generator) -> np.ndarray:
    """A random one of the ``free`` voxels as deep as ``wall`` mm, or nearly so."""
    beside = np.abs(depth_mm - wall)
    slack = max(float(beside[free].min()), 1.0) + 0.5
    fitting = np.flatnonzero(free & (beside <= slack))
    return np.array(np.unravel_index(fitting[rng.integers(len(fitting))], depth_mm.shape))
