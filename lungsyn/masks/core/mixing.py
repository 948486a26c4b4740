"""Bodies and lungs mixed from those of several train cases, near to none of them.

They are weighted sums of signed distances (`anatomy.shapes`). Cut-outs are mirrored at random first, since they have no
up and down. A mixture is drawn again if its nearest train case stands out against the next one more than a train case's
nearest does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lungsyn.anatomy import shapes
from lungsyn.errors import InputError
from lungsyn.volume.files import Case
from lungsyn.volume.patches import MIRRORS
from lungsyn.volume.space import bounding_box

VOXELS = 48  # of a frame's edge
LARGEST_WEIGHT = 0.6
NEAREST_QUANTILE = 0.05  # of how near the nearest of a train case is, as a share of the next: no mixture is below it
DRAWS = 100
DEEP_VOXELS = 1.0  # inside the lungs, in which the middle of a cut-out lies
DEPTH_SLACK = 1.0  # voxels of the frame, by which the lungs' border may be nearer or farther than is wanted
UPRIGHT = [turn for turn, axes in enumerate(MIRRORS) if 2 not in axes]  # lungs are wider below than above
SMOOTH_VOXELS = 2.0  # of the finer grid, over which what is put back of a surface's roughness is smooth
SMOOTH_CUT_OUT = 2.0  # voxels of the frame: sums of many surfaces are rougher than one
MARGIN_MM = 9.0  # around the lungs of a made chest


class Mixture(NamedTuple):
    """Cases, their weights, and how each is mirrored (index into MIRRORS)."""

    cases: list[str]
    weights: np.ndarray
    turns: list[int]


class Bank:
    """What mixtures are drawn from: the lungs' field of one case of each patient. ``voxel_mm``: of the fields."""

    def __init__(self, fields: dict[str, np.ndarray], cut_out: bool, voxel_mm: float):
        self.fields, self.cut_out, self.voxel_mm = fields, cut_out, voxel_mm
        self.names = sorted(fields)
        self.every = np.stack([compared(field) for field in fields.values()])
        shares = [
            nearest_share(np.delete(self.every, i, axis=0), field, cut_out) for i, field in enumerate(fields.values())
        ]
        self.least = float(np.quantile(shares, NEAREST_QUANTILE))

    def draw(self, count: int, depth_mm: float | None, rng: np.random.Generator) -> Mixture:
        """A mixture of ``count`` cases whose nearest is no nearer than is usual; in the middle the lungs' border is
        ``depth_mm`` away, if one is given, or as nearly so as any of ``DRAWS``. Raises InputError if none is found."""
        nearly: tuple[float, Mixture] | None = None
        for _ in range(DRAWS):
            chosen = [str(name) for name in rng.permutation(self.names)[:count]]
            weights = shapes.mixing_weights(count, LARGEST_WEIGHT, rng).round(4)
            turns = [int(turn) for turn in rng.choice(UPRIGHT, size=count)] if self.cut_out else [0] * count
            field = shapes.mixed(
                [turned(self.fields[name], turn) for name, turn in zip(chosen, turns, strict=True)], weights
            )
            if self.cut_out and field[(VOXELS // 2,) * 3] < DEEP_VOXELS:
                continue
            off = 0.0 if depth_mm is None else abs(depth_of_middle(field) - depth_mm / self.voxel_mm)
            if (nearly and off >= nearly[0]) or nearest_share(self.every, field, self.cut_out) < self.least:
                continue
            nearly = off, Mixture(chosen, weights, turns)
            if off <= DEPTH_SLACK:
                break
        if nearly is None:
            raise InputError(f"no mixture of {count} train cases is like none of them: take more patients")
        return nearly[1]


def depth_of_middle(field: np.ndarray) -> float:
    """How far the nearest voxel outside is from the middle of a field, voxels; beyond its sides nothing is known."""
    outside = np.argwhere(field <= 0) - np.array(field.shape) // 2
    return float(np.linalg.norm(outside, axis=1).min()) if len(outside) else min(field.shape) / 2


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


def compared(field: np.ndarray) -> np.ndarray:
    """A field's voxels on a coarse grid: ``[n]``."""
    return field[1::3, 1::3, 1::3].ravel()


def nearest_share(every: np.ndarray, field: np.ndarray, cut_out: bool) -> float:
    """Distance of the nearest of ``every`` ``[cases n]`` as a share of that of the next; mirrored if that is nearer."""
    turns = range(len(MIRRORS)) if cut_out else (0,)
    distances = [np.linalg.norm(every - compared(turned(field, turn)), axis=1) for turn in turns]
    first, second = np.sort(np.min(distances, axis=0))[:2]
    return float(first / second)


def cut_out_of(cases: Sequence[Case], weights: np.ndarray, turns: Sequence[int]) -> dict[str, np.ndarray]:
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
    return layers


def chest_of(cases: Sequence[Case], weights: np.ndarray, lungs_l: float | None, rng) -> dict[str, np.ndarray]:
    """Lungs and body of a whole chest, in a box with ``MARGIN_MM`` around the lungs, of the first case's spacing.
    ``lungs_l``: the volume that the chest is scaled to, litres."""
    every, edges_mm = zip(
        *((fields_of(case, False), shapes.frame(case, False, VOXELS)[1]) for case in cases), strict=True
    )
    spacing_mm = cases[0].space.spacing_mm
    fields = {name: shapes.mixed([fields[name] for fields in every], weights) for name in every[0]}
    for side in ("right", "left"):
        fields[side] = shapes.filled_like(fields[side], [fields[side] for fields in every], weights)
    both = np.maximum(fields["right"], fields["left"]) > 0
    edge_mm = float(np.exp(weights @ np.log(edges_mm)))
    if lungs_l is not None:
        edge_mm = VOXELS * float(np.cbrt(lungs_l * 1e6 / both.sum()))
    step = spacing_mm * VOXELS / edge_mm
    low, high = bounding_box(both)
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
    return {"lungs": lungs, "body": body.astype(np.uint8)}


def lost_roughness(case: Case, edge_mm: float) -> float:
    """How far the lungs' surface lies from what a frame's voxels can show of it: voxels of the case, about a standard
    deviation."""
    lungs = np.asarray(case.lungs[:, :, case.lungs.shape[2] // 2]) > 0
    sigma = edge_mm / VOXELS / case.space.spacing_mm[:2] / 2
    smooth = ndimage.gaussian_filter(lungs.astype(np.float32), sigma) >= 0.5
    rim = lungs & ~ndimage.binary_erosion(lungs)
    return float(1.25 * (smooth != lungs).sum() / max(rim.sum(), 1))
