"""Nearest real neighbours: the highest correlation of a cube with any of many others, over small shifts and turns.

Arrays are cubes ``[n e e e]``. A query's *core* is the cube less ``max_shift`` voxels on every side (edge c). It is
compared with every window of c voxels of a reference, (2 max_shift + 1)^3 of them, in all 48 *turns* of a cube (axes
exchanged and mirrored). Cores and windows have their mean removed and norm 1, so a correlation is a dot product and
all pairs are matrix products: cores ``[q c^3]`` times windows ``[r k c^3]``. References come block by block: memory
holds the queries and one block.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lungsyn.volume.patches import MIRRORS

# All 48: the order of the axes, then which of them are mirrored.
TURNS = tuple((order, axes) for order in permutations(range(3)) for axes in MIRRORS)
PLANTED_FRACTION, LEAST_PLANTED = 0.01, 20
PLANTED_NOISE = 0.5  # of the cube's own spread


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each query its best reference: ``correlation`` ``[q]``, ``index`` ``[q]``, where the core lies in it
    (``shift`` ``[q 3]`` voxels off the middle) and how it is turned (``turn`` ``[q]``, index into TURNS)."""

    correlation: np.ndarray
    index: np.ndarray
    shift: np.ndarray
    turn: np.ndarray


def nearest(
    queries: np.ndarray, references: Iterable[np.ndarray], max_shift: int, device="cpu", block_bytes: int = 2**26
) -> Nearest:
    """The best of all ``references`` (blocks of cubes ``[b e e e]``) for each of ``queries`` ``[q e e e]``.

    A correlation is no number (nan) where a query has a voxel that is none, and everywhere if a reference has one: that
    one may be the best."""
    offsets = 2 * max_shift + 1
    edge = queries.shape[-1] - 2 * max_shift
    middle = slice(max_shift, max_shift + edge)
    cores = unit(torch.from_numpy(queries[:, middle, middle, middle].copy()).to(device).flatten(1))  # [q c^3]
    best = torch.full((len(queries),), -torch.inf, device=device)
    place = torch.zeros(len(queries), 3, dtype=torch.long, device=device)  # reference, offset, turn
    step = max(1, block_bytes // (4 * offsets**3 * edge**3))
    first = 0
    for block in references:
        for part in torch.from_numpy(block).split(step):
            windows = unit(windows_of(part.to(device), edge).flatten(2))  # [r k c^3]
            whole = windows.unflatten(2, (edge,) * 3)  # [r k c c c]
            for turn, (order, axes) in enumerate(TURNS):
                turned = whole.permute(0, 1, *(2 + a for a in order)).flip([2 + a for a in axes]).reshape(-1, edge**3)
                value, at = (cores @ turned.T).max(dim=1)
                found = torch.stack([first + at // offsets**3, at % offsets**3, torch.full_like(at, turn)], dim=1)
                better = (value > best) | value.isnan()
                best, place = torch.where(better, value, best), torch.where(better[:, None], found, place)
            first += len(part)
    index, offset, turn = place.cpu().numpy().T
    shift = np.stack(np.unravel_index(offset, (offsets,) * 3), axis=1) - max_shift
    return Nearest(best.cpu().numpy(), index, shift, turn)


def windows_of(cubes: Tensor, edge: int) -> Tensor:
    """All windows of ``edge`` voxels: ``[n e e e]`` to ``[n k edge edge edge]``, offsets in C order."""
    for axis in (1, 2, 3):
        cubes = cubes.unfold(axis, edge, 1)
    return cubes.flatten(1, 3)


def unit(values: Tensor) -> Tensor:
    """Mean removed and norm 1 along the last axis; zero where there is nothing but a constant."""
    centred = values - values.mean(dim=-1, keepdim=True)
    norm = centred.norm(dim=-1, keepdim=True)
    return centred / norm.clamp(min=1e-6 * values.shape[-1] ** 0.5)  # a spread below 1e-6 HU is rounding


def aligned(reference: np.ndarray, shift, turn: int, max_shift: int) -> np.ndarray:
    """The window of a reference ``[e e e]`` that a query's core was found to match, turned like it: ``[c c c]``."""
    edge = reference.shape[-1] - 2 * max_shift
    box = tuple(slice(max_shift + int(s), max_shift + int(s) + edge) for s in shift)
    return turned(reference[box], turn)


def turned(cube: np.ndarray, turn: int) -> np.ndarray:
    """A cube in this turn (index into TURNS)."""
    order, axes = TURNS[turn]
    return np.flip(cube.transpose(order), axes)


def names_of(turn: int) -> dict[str, str]:
    """A turn as tables have it: the ``order`` of its axes, and those that it mirrors."""
    order, axes = TURNS[turn]
    return {"order": "".join("xyz"[axis] for axis in order), "mirror": "".join("xyz"[axis] for axis in axes)}


def turn_of(order: str, mirror: str) -> int:
    """The turn that has these names."""
    return TURNS.index(tuple(tuple("xyz".index(letter) for letter in letters) for letters in (order, mirror)))


def planted_count(queries: int) -> int:
    """How many copies an audit of so many queries plants: 1 %, but enough to tell a recall of 0.95 from a lower one."""
    return max(LEAST_PLANTED, round(PLANTED_FRACTION * queries))


def plant(
    hu: np.ndarray, masks: np.ndarray, spread: np.ndarray, max_shift: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Copies as a generator that memorised might make them: each cube moved by up to ``max_shift`` voxels and fractions
    of one, mirrored along random axes, with noise of ``PLANTED_NOISE`` times its ``spread`` ``[n]``. Masks go along.

    ``hu`` ``[n e e e]`` and ``masks`` ``[n 3 e e e]``; returns both, changed.
    """
    made = np.concatenate([hu[:, None], masks], axis=1)  # [n 4 e e e]
    for i, cube in enumerate(made):
        move = rng.uniform(-max_shift, max_shift, size=3)
        axes = MIRRORS[rng.integers(len(MIRRORS))]
        moved = [ndimage.shift(channel, move, order=1, mode="nearest") for channel in cube]
        made[i] = np.flip(moved, [1 + a for a in axes])
        made[i, 0] += rng.normal(0, PLANTED_NOISE * spread[i], size=hu.shape[1:])
    return made[:, 0], made[:, 1:]
