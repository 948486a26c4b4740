"""Copies that are planted in every audit: ways in which a patient's CT may come out of a generator, and still be his.

A disguise takes a train window and one of another patient whom the generator never saw, HU ``[e e e]`` and masks
``[3 e e e]`` (nodules, lungs, body), and makes of them the window that a leaking generator might make. The train
window has its nodule in the middle. Whoever cannot find a disguise must not say that there is none.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from lungsyn.random import stream

CUBE_MM = 30.0  # of a patient's CT, in another body
NOISE_HU = 20.0  # and half a voxel: as near as a network comes that knows a patient by heart
BESIDE_MM = 3.0
BEND_LENGTH_MM = 8.0  # over which a bend is smooth

Window = tuple[np.ndarray, np.ndarray]
Disguise = Callable[[Window, Window, float, np.random.Generator], Window]  # train, host, spacing in mm, draw


def nodule_in_host(rim_mm: float) -> Disguise:
    """The nodule and ``rim_mm`` around it, verbatim, in the host."""

    def make(train: Window, host: Window, spacing_mm: float, rng) -> Window:
        (hu, masks), (other, others) = train, host
        near = ndimage.distance_transform_edt(masks[0] < 0.5, sampling=spacing_mm) <= rim_mm
        made = np.where(near, masks, others)
        made[0] = masks[0]
        return np.where(near, hu, other), made

    return make


def cube_in_host(edge_mm: float) -> Disguise:
    """A cube from anywhere in the train window, verbatim anywhere in the host, under its masks."""

    def make(train: Window, host: Window, spacing_mm: float, rng) -> Window:
        (hu, _), (made, masks) = train, (host[0].copy(), host[1])
        n = min(round(edge_mm / spacing_mm), *hu.shape)
        here, there = (tuple(slice(a, a + n) for a in rng.integers(0, np.array(hu.shape) - n + 1)) for _ in range(2))
        made[there] = hu[here]
        return made, masks

    return make


def remembered_cube_in_host(train: Window, host: Window, spacing_mm: float, rng) -> Window:
    """A cube of ``CUBE_MM``, not verbatim: half a voxel beside in each direction, and with noise."""
    hu = ndimage.shift(train[0], 0.5, order=1, mode="nearest") + rng.normal(0, NOISE_HU, train[0].shape)
    return cube_in_host(CUBE_MM)((hu, train[1]), host, spacing_mm, rng)


def exchanged(train: Window, host: Window, spacing_mm: float, rng) -> Window:
    """x and y in each other's place."""
    return train[0].transpose(1, 0, 2).copy(), train[1].transpose(0, 2, 1, 3).copy()


def mask_beside(train: Window, host: Window, spacing_mm: float, rng) -> Window:
    """All as it is, but for the nodule's mask, which lies beside it."""
    masks = train[1].copy()
    masks[0] = np.roll(masks[0], max(1, round(BESIDE_MM / spacing_mm)), axis=rng.integers(3))
    return train[0], masks


def blended(share: float) -> Disguise:
    """So much of the train window, the rest of the host."""
    return lambda train, host, spacing_mm, rng: (share * train[0] + (1 - share) * host[0], train[1])


def scaled(by: float) -> Disguise:
    return lambda train, host, spacing_mm, rng: _deformed(train, np.eye(3) / by)


def rotated(degrees: float) -> Disguise:
    """About a random axis through the middle."""
    return lambda train, host, spacing_mm, rng: _deformed(train, rotation(degrees, rng))


def bent(by_mm: float) -> Disguise:
    """By smooth random displacements of this standard deviation along each axis."""

    def make(train: Window, host: Window, spacing_mm: float, rng) -> Window:
        moves = bends(train[0].shape, BEND_LENGTH_MM / spacing_mm, by_mm / spacing_mm, rng)
        return _moved(train, lambda channel: displaced(channel, moves))

    return make


def _deformed(window: Window, matrix: np.ndarray) -> Window:
    return _moved(window, lambda channel: mapped(channel, matrix))


def _moved(window: Window, move: Callable[[np.ndarray], np.ndarray]) -> Window:
    hu, masks = window
    moved = [move(channel) for channel in (hu, *masks)]
    return moved[0], np.rint(moved[1:])


def bends(shape: tuple[int, ...], length: float, by: float, rng: np.random.Generator) -> np.ndarray:
    """Displacements ``[3 x y z]`` of standard deviation ``by`` along each axis, smooth over ``length``, in voxels."""
    moves = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), length, mode="wrap") for _ in range(3)])
    return moves * (by / moves.std())


def displaced(cube: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """A cube whose voxels are taken from ``moves`` ``[3 x y z]`` beside."""
    return ndimage.map_coordinates(cube, np.indices(cube.shape) + moves, order=1, mode="nearest")


def rotation(degrees: float, rng: np.random.Generator) -> np.ndarray:
    """About a random axis: ``[3 3]``."""
    axis = rng.normal(size=3)
    return Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()


def mapped(cube: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A cube whose voxels are taken from where ``matrix`` leads from its middle."""
    middle = (np.array(cube.shape) - 1) / 2
    return ndimage.affine_transform(cube, matrix, middle - matrix @ middle, order=1, mode="nearest")


EIGHT_MM = "a nodule with 8 mm around it in another body"
PARTS: dict[str, Disguise] = {
    "a nodule with 2 mm around it in another body": nodule_in_host(2.0),
    EIGHT_MM: nodule_in_host(8.0),
    "a cube of 20 mm in another body": cube_in_host(20.0),
    "a cube of 30 mm in another body": cube_in_host(CUBE_MM),
    "a cube of 30 mm, half a voxel beside and with noise, in another body": remembered_cube_in_host,
    "a nodule's mask 3 mm beside its place": mask_beside,
}
WHOLES: dict[str, Disguise] = {  # they change whole volumes as well
    "x and y exchanged": exchanged,
    "half blended with another patient": blended(0.5),
    "scaled by 1.25": scaled(1.25),
    "rotated by 10 degrees": rotated(10.0),
    "rotated by 20 degrees": rotated(20.0),
    "bent by 2 mm": bent(2.0),
}
DISGUISES = PARTS | WHOLES
# These must be found, or the audit is blind. Of the others the verdict says whether they were.
VERBATIM = (EIGHT_MM, "a nodule's mask 3 mm beside its place", "x and y exchanged")
# Small cubes do not look for these.
DEFORMED = ("scaled by 1.25", "rotated by 10 degrees", "rotated by 20 degrees", "bent by 2 mm")


def disguise(name: str, train: Window, hosts: Window, spacing_mm: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each of the ``train`` windows (``[n e e e]``, ``[n 3 e e e]``) in this disguise, in one of the ``hosts``."""
    pairs = stream(seed, "hosts", name).integers(0, len(hosts[0]), len(train[0]))
    made = []
    for i, host in enumerate(pairs):
        rng = stream(seed, "disguise", name, i)
        windows = (train[0][i], train[1][i]), (hosts[0][host], hosts[1][host])
        made.append(DISGUISES[name](*windows, spacing_mm, rng))
    return tuple(np.stack(arrays).astype(np.float32) for arrays in zip(*made, strict=True))
