"""Shapes of body and lungs as signed distances, and new ones that are nobody's.

A *field* is the signed distance to a mask's surface in voxels of its frame, positive inside, cut off at ``FAR``:
float32 ``[e e e]``. The *frame* is a cube: the field of view of a cut-out, the middle and spread of the lungs of a
whole chest, so that fields of different patients lie on each other.

A new shape is a weighted sum of the fields of a few patients. Weights that sum to 1, and whose squares do as well, give
sums with the mean and the covariance of the patients' fields, whatever these are: it is the statistical shape model
(Cootes et al. 1995; of distances: Leventon et al. 2000) without its modes, which few patients determine badly.

Arrays are ``[x y z]``.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage, special

from lungsyn.volume.files import Case
from lungsyn.volume.resample import resample
from lungsyn.volume.space import Space, Volume

AROUND = 3.2  # edge of a chest's frame, in spreads of the lungs: the longest chests fit
FAR = 0.35  # of the frame: where distances are cut off
DEGREES = range(2, 5)  # of spherical harmonics by which a nodule is no ball; degree 1 would only move it
REACH_MM = 25.0  # around a nodule's middle, in which the lungs' border is looked for
FEWEST_VOXELS = 60  # of a nodule whose shape is measured


def reaches_border(lungs: np.ndarray) -> bool:
    """Whether the lungs go on beyond three of the volume's six faces or more, as in a cut-out."""
    faces = [np.take(lungs, side, axis) for axis in range(3) for side in (0, -1)]
    return sum(bool(face.any()) for face in faces) >= 3


def are_cut_outs(cases: Iterable[Case]) -> bool:
    """Whether most of these cases are no whole chests."""
    return float(np.mean([reaches_border(np.asarray(case.lungs) > 0) for case in cases])) > 0.5


def frame_of(lungs: np.ndarray, spacing_mm: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (voxels ``[3]``) and edge (mm) of the cube around the lungs: their middle, ``AROUND`` times their spread.
    Means move less than the ends of a box, when a mask is bent or cut into coarser voxels."""
    centre, square_mm2 = np.empty(3), 0.0
    for axis in range(3):
        profile = lungs.sum(axis=tuple(k for k in range(3) if k != axis), dtype=float)
        place = np.arange(len(profile))
        centre[axis] = np.average(place, weights=profile)
        square_mm2 += np.average((place - centre[axis]) ** 2, weights=profile) * spacing_mm[axis] ** 2
    return centre, float(AROUND * np.sqrt(square_mm2))


def frame(case: Case, cut_out: bool, voxels: int) -> tuple[Space, float]:
    """The frame of a case as a grid of ``voxels``^3, and its edge in mm."""
    lungs = np.asarray(case.lungs) > 0
    spacing_mm = case.space.spacing_mm
    if cut_out or not lungs.any():
        centre, edge_mm = (np.array(lungs.shape) - 1) / 2, float((lungs.shape * spacing_mm).max())
    else:
        centre, edge_mm = frame_of(lungs, spacing_mm)
    step = edge_mm / voxels / spacing_mm  # voxels of the case, per voxel of the frame
    to_case = np.diag([*step, 1.0])
    to_case[:3, 3] = centre - step * (voxels - 1) / 2
    return Space((voxels,) * 3, case.affine @ to_case), edge_mm


def occupancy(mask: np.ndarray, affine: np.ndarray, space: Space) -> np.ndarray:
    """How much of each voxel of ``space`` the mask fills: float32, 0 beyond the mask's volume."""
    return resample(Volume(np.asarray(mask).astype(np.uint8), affine), space, fill=0.0)


def signed_distance(filled: np.ndarray) -> np.ndarray:
    """The field of an ``occupancy``: half full is the surface, where the distance is exact to a part of a voxel."""
    inside = filled >= 0.5
    far = FAR * max(filled.shape)
    if inside.all() or not inside.any():
        return np.full(filled.shape, far if inside.all() else -far, np.float32)
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    steps = distance - 0.5 * np.sign(distance)  # from the middle of a voxel to the face between two
    near = np.abs(steps) < 1
    return np.clip(np.where(near, filled - 0.5, steps), -far, far).astype(np.float32)


def mixing_weights(count: int, largest: float, rng: np.random.Generator) -> np.ndarray:
    """Weights of ``count`` patients: their sum is 1, that of their squares too, none is above ``largest`` in size.

    Raises ValueError where there are no such weights: with three patients one has two thirds at least."""
    if count < 4:
        raise ValueError(f"{count} patients: a shape that is nobody's is mixed from four or more")
    for _ in range(1000):
        direction = rng.standard_normal(count)
        direction -= direction.mean()
        weights = 1 / count + np.sqrt(1 - 1 / count) * direction / np.linalg.norm(direction)
        if np.abs(weights).max() <= largest:
            return weights
    raise ValueError(f"no weights of {count} patients are all below {largest}: mix more of them")


def mixed(fields: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted sum of fields, in memory for one at a time."""
    total = np.zeros_like(fields[0])
    for field, weight in zip(fields, weights, strict=True):
        total += np.float32(weight) * field
    return total


def filled_like(mixture: np.ndarray, fields: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """A mixture whose surface is moved until its volume is the weighted geometric mean of its patients' (no less and
    no more than any has): what is thin in each of them, at another place, is lost in their sum."""
    volumes = np.array([max((field > 0).sum(), 1) for field in fields])
    wanted = np.clip(np.exp(weights @ np.log(volumes)), volumes.min(), volumes.max())
    return mixture - np.float32(np.quantile(mixture, 1 - wanted / mixture.size))


def on_grid(field: np.ndarray, shape: Iterable[int], step: np.ndarray, first: np.ndarray) -> np.ndarray:
    """A field at the voxels of a finer grid, linear: voxel i lies at ``first + step * i`` of the frame."""
    return ndimage.affine_transform(field, np.asarray(step), np.asarray(first), tuple(shape), order=1, mode="nearest")


def roughened(field: np.ndarray, rough: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """A field whose surface moves at random by ``rough`` voxels (standard deviation), smooth over ``length`` voxels."""
    if rough <= 0:
        return field
    noise = ndimage.gaussian_filter(rng.standard_normal(field.shape, dtype=np.float32), length, mode="wrap")
    return field + noise * np.float32(rough / noise.std())


def largest_pieces(mask: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` largest connected pieces."""
    pieces, found = ndimage.label(mask)
    if found <= count:
        return mask
    sizes = np.bincount(pieces.ravel())[1:]
    return np.isin(pieces, 1 + np.argsort(-sizes, kind="stable")[:count])


def harmonics(directions: np.ndarray, degree: int) -> np.ndarray:
    """Real spherical harmonics of one degree at unit vectors ``[n 3]``: ``[n 2 degree + 1]``, of mean square 1."""
    polar, azimuth = np.arccos(np.clip(directions[:, 2], -1, 1)), np.arctan2(directions[:, 1], directions[:, 0])
    values = [special.sph_harm_y(degree, m, polar, azimuth) for m in range(degree + 1)]
    real = [values[0].real] + [np.sqrt(2) * part for v in values[1:] for part in (v.real, v.imag)]
    return np.stack(real, axis=1) * np.sqrt(4 * np.pi)


def wall_mm(lungs, box: Sequence[Sequence[int]], spacing_mm: np.ndarray) -> float:
    """From the middle of a nodule's ``box`` ([first, past last] per axis) to the nearest voxel outside the lungs, in a
    box of ``REACH_MM`` around it; that much where all of it is lung. ``lungs``: an array or a map of one."""
    middle = np.mean(box, axis=1)
    reach = np.ceil(REACH_MM / spacing_mm).astype(int)
    low = np.maximum(middle.astype(int) - reach, 0)
    inside = np.asarray(lungs[tuple(slice(a, b) for a, b in zip(low, middle.astype(int) + reach + 1, strict=True))]) > 0
    if inside.all():
        return REACH_MM
    depth = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    return float(depth[tuple(np.minimum(middle.astype(int) - low, np.array(inside.shape) - 1))])


def star_powers(nodule: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray | None:
    """How far a nodule is from a ball: variance of the logarithm of its radius, by degree (``DEGREES``). None for one
    that is too small to tell."""
    if nodule.sum() < FEWEST_VOXELS:
        return None
    wide = np.pad(nodule, 1)
    surface = np.argwhere(wide & ~ndimage.binary_erosion(wide)) * spacing_mm
    arms = surface - np.argwhere(wide).mean(axis=0) * spacing_mm
    radius = np.linalg.norm(arms, axis=1)
    seen = radius > 0
    directions = arms[seen] / radius[seen, None]
    columns = [harmonics(directions, degree) for degree in (0, 1, *DEGREES)]
    basis = np.concatenate(columns, axis=1)
    ridge = 0.02 * len(basis) * np.eye(basis.shape[1])  # directions without a voxel say nothing
    found = np.linalg.solve(basis.T @ basis + ridge, basis.T @ np.log(radius[seen]))
    ends = np.cumsum([part.shape[1] for part in columns])
    return np.array([(part**2).sum() for part in np.split(found, ends[:-1])[2:]])


def star_nodule(diameter_mm: float, powers: np.ndarray, spacing_mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A nodule's mask in its own box: a star-shaped body of this diameter (that of the ball of equal volume), whose
    logarithm of the radius has random harmonics with the variance ``powers`` of each of ``DEGREES``."""
    reach = np.ceil(diameter_mm / spacing_mm).astype(int) + 1
    place = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1) * spacing_mm
    place = place + rng.uniform(-0.5, 0.5, 3) * spacing_mm
    radius = np.linalg.norm(place, axis=-1).ravel()
    directions = place.reshape(-1, 3) / np.maximum(radius, 1e-6)[:, None]
    log_radius = np.zeros(len(radius))
    for degree, power in zip(DEGREES, powers, strict=True):
        terms = rng.standard_normal(2 * degree + 1) * np.sqrt(power / (2 * degree + 1))
        log_radius += harmonics(directions, degree) @ terms
    depth = (np.log(np.maximum(radius, 1e-6)) - log_radius).reshape(place.shape[:-1])  # lowest in the middle
    voxels = max(1, round(np.pi / 6 * diameter_mm**3 / np.prod(spacing_mm)))
    mask = np.zeros(depth.shape, bool)
    mask.flat[np.argsort(depth, axis=None, kind="stable")[:voxels]] = True
    return mask[ndimage.find_objects(mask.astype(np.uint8))[0]]
