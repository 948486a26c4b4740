"""Body and lungs from HU alone, no trained weights: thresholds, connected components, closing.

In a chest: the *body* is what the skin encloses, up to the image's border where that cuts the chest. The *lungs* are
the air in it, less the airway that leads to them and less bowel gas, closed by a ball so that vessels and nodules at
the pleura are inside; each nodule known is inside by rule. Coarse grids do: shapes are found at ``WORKING_MM`` or
coarser and interpolated, which keeps a case at seconds.

In a cut-out (``part_mask``) no skin is to be seen, so there is no telling sides or airways: lung is what is aerated.

Arrays are ``[x y z]``, RAS+ (x to the patient's right, z up), isotropic. The order of steps follows Hu, Hoffman and
Reinhardt 2001 (IEEE TMI 20:490): threshold, components, airway by following its sections down, separation, smoothing.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lungsyn.volume.intensity import AERATED_HU
from lungsyn.volume.morphology import IN_PLANE, within
from lungsyn.volume.resample import empty, resample, resample_mask, slabs
from lungsyn.volume.space import Space, Volume, bounding_box

RIGHT, LEFT = 1, 2
WORKING_MM = 2.0  # shapes of lungs need no finer grid
FILL_HU = -1024  # the value of a stored zero; what is as dark or darker is no air, but no image
GAS_HU = -960  # a cavity whose median is below holds no lung tissue: bowel, outside air
SHEET_MM = 4.0  # half of what an aerated layer outside the body must be thick to be lung
# Share of it between tissue: of lung that is cut all around at least 0.32, of real mattresses at most 0.16.
ENCLOSED = 0.25
OPEN_LUNG_ML = 200  # lung without a neighbour in the body is at least so large
GAS_LUNG_ML = 400  # a lung of gas is so large, or a quarter of the other one
CLOSING_MM = 8.0  # bridges vessels at the hilum and dents of nodules at the pleura
AIRWAY_HU = -880  # a trachea's median is below, a lung's top above
AIRWAY_MM2 = 800  # largest section of a trachea (normal up to 25 mm wide), in the axial plane
AIRWAY_MM = 25  # a shorter run of sections is no trachea
MIDLINE_MM = 35  # how far a trachea's top may lie from the middle of the body


@dataclass(frozen=True, eq=False)
class Coarse:
    """A chest where its shapes are found: HU, body (bool) and lungs (0, 1 right, 2 left; marked nodules in them)."""

    hu: np.ndarray
    body: np.ndarray
    lung: np.ndarray
    marked: np.ndarray
    space: Space
    factor: int  # of its voxels to the case's


def find_chest(ct: Volume, space: Space, nodules: np.ndarray) -> Coarse:
    """Body and lungs of ``ct`` (HU, on any grid) for the case's grid ``space``, coarsely.

    ``nodules`` (bool ``[x y z]``, on ``space``, isotropic) are in the lungs always.
    """
    factor = max(1, int(WORKING_MM / space.spacing_mm[0] + 0.01))
    coarse = _coarser(space, factor)
    hu = without_padding(resample(ct, coarse, fill=-1000.0))
    marked = _any_in_block(nodules, factor, coarse.shape)
    body = body_mask(hu, coarse)
    return Coarse(hu, body, lung_mask(hu, body, coarse, marked), marked, coarse, factor)


def chest_masks(
    chest: Coarse, space: Space, nodules: np.ndarray, margin_mm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The box of ``space`` around lungs and nodules, its first and past-last index, and in it body (bool) and lungs
    (uint8: 0, 1 right, 2 left), both ``[x y z]``.

    Every marked nodule (bool, on ``space``) is lung by rule, not body. At least ``margin_mm`` are kept around the
    lungs, as far as there is image; without any lung the box is the whole image.
    """
    factor, lung = chest.factor, chest.lung
    start, stop = np.zeros(3, dtype=int), np.array(space.shape)
    if lung.any():
        margin = np.ceil(margin_mm / space.spacing_mm).astype(int)
        first, last = bounding_box(lung)  # half of a coarse voxel's lung never reaches beyond it
        start, stop = np.maximum(first * factor - margin, 0), np.minimum(last * factor + margin, space.shape)
    box = space.crop(start, stop)
    inside, lung = _refined(chest.body, lung, chest.space, box)
    lost = nodules[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] & (lung == 0)
    lung[lost] = sides(lung > 0, box)[lost] if lost.any() and lung.any() else RIGHT
    return start, stop, inside, lung


def _coarser(space: Space, factor: int) -> Space:
    """The grid whose voxels are ``factor``^3 blocks of those of ``space``, first corner on first corner."""
    affine = space.affine @ np.diag([factor] * 3 + [1.0])
    affine[:3, 3] = space.crop([(factor - 1) / 2] * 3, space.shape).affine[:3, 3]
    return Space(tuple(-(-n // factor) for n in space.shape), affine)


def _refined(body: np.ndarray, lung: np.ndarray, coarse: Space, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Body (bool) and lungs (uint8) interpolated from the coarse grid to a box of the fine one."""
    if np.allclose(coarse.spacing_mm, space.spacing_mm):
        start = np.rint(np.linalg.solve(coarse.affine, space.affine[:, 3])[:3]).astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(start, space.shape, strict=True))
        return body[box], lung[box].copy()
    inside = resample_mask(Volume(body, coarse.affine), space)
    result = empty(space, np.uint8)
    both = (slabs(Volume(lung == side, coarse.affine), space, fill=0.0) for side in (RIGHT, LEFT))
    for (part, right), (_, left) in zip(*both, strict=True):
        result[:, :, part] = np.where(right >= left, RIGHT, LEFT) * (right + left >= 0.5)
    return inside, result


def _any_in_block(mask: np.ndarray, factor: int, shape) -> np.ndarray:
    """Whether any voxel is set in each block of ``factor``^3 voxels; cut or padded to ``shape``."""
    result = np.zeros(shape, dtype=bool)
    where = np.unravel_index(np.flatnonzero(mask), mask.shape)
    result[tuple(np.minimum(at // factor, n - 1) for at, n in zip(where, shape, strict=True))] = True
    return result


def body_mask(hu: np.ndarray, space: Space) -> np.ndarray:
    """Everything inside the skin (bool ``[x y z]``): the largest piece of tissue, in each axial slice filled.

    Tissue is opened by 3 mm first, so that the table and clothes that touch the skin come off. Lung that this leaves
    open, since the image ends in it or the wall has a gap, is told from the room by its HU (``open_lung``).
    """
    radius = max(1.0, 3.0 / space.spacing_mm[0])
    dense = hu > AERATED_HU
    core = _largest(~within(~dense, radius))
    tissue = within(core, radius + 1) & dense
    body = ndimage.binary_fill_holes(tissue, IN_PLANE)
    gas = is_gas(hu)
    lung = open_lung(body, tissue, dense, gas, space) & (hu > FILL_HU)
    if not lung.any():
        return body
    wall = within(lung, radius + 1) & dense  # a wall thinner than the opening is no core
    return _filled_to_the_border(body | lung | wall, dense)


def without_padding(hu: np.ndarray) -> np.ndarray:
    """``hu`` with air where the image was padded with zeros (registration, circles): exactly 0 in whole blocks that
    meet the image's border, and what resampling mixed of it. Noise leaves no such block of the patient."""
    zero = hu == 0
    blocks = ndimage.binary_erosion(zero, np.ones((3, 3, 3)), border_value=1)
    if not blocks.any():
        return hu
    pieces, _ = ndimage.label(zero)
    padding = np.isin(pieces, np.setdiff1d(pieces[blocks & _border(hu.shape)], 0))
    return np.where(within(padding, 1) & (hu > AERATED_HU), np.float32(FILL_HU), hu)


def _border(shape: tuple[int, ...]) -> np.ndarray:
    """The outermost voxels of an array (bool)."""
    border = np.ones(shape, dtype=bool)
    border[1:-1, 1:-1, 1:-1] = False
    return border


def is_gas(hu: np.ndarray) -> np.ndarray:
    """Where the mean of 3^3 voxels is gas, as in the room, and not lung: bool.

    The mean, since a sharp kernel's noise is as large as what parts them. Fill values darker than air count as air.
    """
    return ndimage.uniform_filter(np.maximum(hu, FILL_HU), 3) <= GAS_HU


def open_lung(body: np.ndarray, tissue: np.ndarray, dense: np.ndarray, gas: np.ndarray, space: Space) -> np.ndarray:
    """Lung that ``body`` does not hold (bool): as aerated as lung, between tissue, and large or a continuation of the
    air inside."""
    aerated = ~dense & ~gas
    pieces, sizes, enclosed = pieces_beyond(aerated & ~body, tissue, space)
    if len(sizes) == 1:
        return np.zeros_like(body)
    known = sizes * space.voxel_ml >= OPEN_LUNG_ML
    known[np.unique(pieces[within(aerated & body, 1)])] = True
    chosen = known & (enclosed > ENCLOSED)
    return within(chosen[pieces], 2) & aerated & ~body if chosen.any() else np.zeros_like(body)


def pieces_beyond(beyond: np.ndarray, tissue: np.ndarray, space: Space) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The thick pieces of the air ``beyond`` the body, numbered; by number their voxels, and the share of each that has
    ``tissue`` on both sides. Number 0 is the rest, and its share 0."""
    flanked = between(tissue)
    if not _any_thick(beyond & flanked, space):  # the usual case, and much faster
        return np.zeros(beyond.shape, dtype=np.int32), np.array([beyond.size]), np.zeros(1)
    pieces, count = ndimage.label(thick(beyond, space))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    enclosed = np.bincount(pieces[flanked], minlength=count + 1) / np.maximum(sizes, 1)
    enclosed[0] = 0
    return pieces, sizes, enclosed


def _any_thick(mask: np.ndarray, space: Space) -> bool:
    """Whether ``thick`` may find anything: a voxel of ``mask`` with others of it as far away along x and y."""
    far = max(1, int(SHEET_MM / space.spacing_mm[0]))
    inner = mask.copy()
    for axis in (0, 1):
        line, inside = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        inside[far:] &= line[:-far]
        inside[:-far] &= line[far:]
    return bool(inner.any())


def thick(mask: np.ndarray, space: Space) -> np.ndarray:
    """``mask`` opened by ``SHEET_MM`` in each axial plane: without the skin's edge, sheets and clothes."""
    radius = SHEET_MM / space.spacing_mm[0]
    return within(~within(~mask, radius, (0, 1)), radius, (0, 1)) & mask


def between(tissue: np.ndarray) -> np.ndarray:
    """What has tissue on both sides, right and left or front and back (bool)."""
    found = np.zeros(tissue.shape, dtype=bool)
    for axis in (0, 1):
        before = np.logical_or.accumulate(tissue, axis)
        after = np.flip(np.logical_or.accumulate(np.flip(tissue, axis), axis), axis)
        found |= before & after
    return found


def _filled_to_the_border(body: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """``body`` filled in each axial slice, and what it parts from the room that is mostly tissue: vessels and nodules
    that the image's border cuts."""
    body = ndimage.binary_fill_holes(body, IN_PLANE)
    pieces, count = ndimage.label(~body, IN_PLANE)
    tissue = np.bincount(pieces.ravel(), weights=dense.ravel(), minlength=count + 1)
    closed_off = tissue > 0.7 * np.bincount(pieces.ravel(), minlength=count + 1)
    closed_off[0] = True
    return closed_off[pieces]


def lung_mask(hu: np.ndarray, body: np.ndarray, space: Space, nodules: np.ndarray | None = None) -> np.ndarray:
    """Lungs in a chest: uint8 ``[x y z]``, 0, 1 right, 2 left; all zero if there is no aerated lung in the body."""
    air = (hu < AERATED_HU) & body
    air &= ~airway(air, hu, body, space)
    lung = _lung_components(air, hu, space)
    result = np.zeros(hu.shape, dtype=np.uint8)
    if not lung.any():
        return result
    side = sides(lung, space)
    solid = lung if nodules is None else lung | nodules
    for name in (RIGHT, LEFT):
        one = solid & (side == name)
        if one.any():
            result[closed(one, CLOSING_MM, space) & body & (result == 0)] = name
    if nodules is not None:
        result[nodules & (result == 0)] = side[nodules & (result == 0)]
    return result


def airway(air: np.ndarray, hu: np.ndarray, body: np.ndarray, space: Space) -> np.ndarray:
    """Trachea and main bronchi (bool): sections followed from slice to slice, downwards, while they stay small.

    A bronchus ends where its section runs into the lung's, which is far larger than ``AIRWAY_MM2``.
    """
    found = np.zeros(air.shape, dtype=bool)
    if not air.any():
        return found
    sections, _ = ndimage.label(air, IN_PLANE)
    area_mm2 = np.bincount(sections.ravel()) * space.spacing_mm[0] * space.spacing_mm[1]
    small = area_mm2 <= AIRWAY_MM2
    small[0] = False
    middle = np.flatnonzero(body.any(axis=(1, 2))).mean()
    run, longest = [], []  # section numbers per slice, downwards
    for z in reversed(range(air.shape[2])):
        plane = sections[:, :, z]
        touched = np.unique(plane[np.isin(sections[:, :, z + 1], run[-1])]) if run else np.zeros(0, dtype=int)
        here = touched[small[touched]]
        if not len(here):
            longest = max(longest, run, key=len)
            if len(longest) * space.spacing_mm[2] >= AIRWAY_MM:
                break
            here, run = _trachea_section(plane, hu[:, :, z], small & (area_mm2 >= 50), middle, space), []
        if len(here):
            run.append(here)
    longest = max(longest, run, key=len)
    if len(longest) * space.spacing_mm[2] >= AIRWAY_MM:
        found = np.isin(sections, np.concatenate(longest))
    return found


def _trachea_section(plane, hu, candidates, middle: float, space: Space) -> np.ndarray:
    """The dark section of this slice that is nearest to the midline, as an array of one number, or of none."""
    best, best_mm = [], MIDLINE_MM
    for n in np.unique(plane[candidates[plane]]):
        offset_mm = abs(np.nonzero(plane == n)[0].mean() - middle) * space.spacing_mm[0]
        if offset_mm < best_mm and np.median(hu[plane == n]) < AIRWAY_HU:
            best, best_mm = [n], offset_mm
    return np.array(best, dtype=int)


def _lung_components(air: np.ndarray, hu: np.ndarray, space: Space) -> np.ndarray:
    """The pieces of ``air`` that are lung: at least a tenth of the largest; of pure gas only a lung of gas."""
    pieces, count = ndimage.label(air)
    if not count:
        return air
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    large = np.flatnonzero(sizes >= 0.1 * sizes.max())
    gas = [n for n in large if np.median(hu[pieces == n]) <= GAS_HU]
    aerated = np.setdiff1d(large, gas)
    return np.isin(pieces, [*aerated, *_gas_lungs(pieces, sizes * space.voxel_ml, gas, aerated)])


def _gas_lungs(pieces: np.ndarray, sizes_ml: np.ndarray, gas: list[int], aerated: np.ndarray) -> list[int]:
    """Which pieces of ``gas`` are lungs (pneumothorax, emphysema) and not bowel: large, and reaching into the upper
    half of the lungs' height, where neither stomach nor colon does. Without aerated lung the large ones tell it."""
    least_ml = min([GAS_LUNG_ML, *sizes_ml[aerated] / 4])
    gas = [n for n in gas if sizes_ml[n] >= least_ml]
    if not gas:
        return []
    height = {n: np.flatnonzero((pieces == n).any(axis=(0, 1))) for n in [*aerated, *gas]}
    known = [height[n] for n in (aerated if len(aerated) else gas)]
    middle = (min(z[0] for z in known) + max(z[-1] for z in known)) / 2
    return [n for n in gas if height[n][-1] > middle]


def sides(lung: np.ndarray, space: Space) -> np.ndarray:
    """Which lung every voxel is nearest to: uint8 ``[x y z]`` of 1 (right) and 2 (left), also outside the lungs.

    Lungs that touch are parted by shrinking them until they fall apart (at most 12 mm). Every second voxel will do.
    One lung alone, which may fall into its lobes, is told by the midline.
    """
    sparse = lung[::2, ::2, ::2]
    depth_mm = ndimage.distance_transform_edt(sparse) * space.spacing_mm[0] * 2
    for shrink_mm in np.arange(0.0, 13.0, 2.0):
        pieces, _ = ndimage.label(depth_mm > shrink_mm)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        if len(sizes) < 3:
            continue
        first, second = np.argsort(sizes)[-2:][::-1]
        if sizes[second] >= 0.2 * sizes[first] and _side_by_side(pieces, first, second):
            side = _nearest_side(pieces, first, second)
            return side.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in lung.shape)]
    return np.broadcast_to(_by_midline(lung)[:, None, None], lung.shape)


def _side_by_side(pieces: np.ndarray, first: int, second: int) -> bool:
    """Whether two pieces are two lungs, and not two lobes of one: their middles lie apart along x by a third of what
    both span (of lungs it is half)."""
    x = [np.nonzero(pieces == n)[0] for n in (first, second)]
    return abs(x[0].mean() - x[1].mean()) > np.ptp(np.concatenate(x)) / 3


def _nearest_side(pieces: np.ndarray, first: int, second: int) -> np.ndarray:
    x_first, x_second = (np.nonzero(pieces == n)[0].mean() for n in (first, second))
    right, left = (first, second) if x_first > x_second else (second, first)
    to_right, to_left = (ndimage.distance_transform_edt(pieces != n) for n in (right, left))
    return np.where(to_right <= to_left, RIGHT, LEFT).astype(np.uint8)


def _by_midline(lung: np.ndarray) -> np.ndarray:
    """Sides by x alone, for lungs that cannot be parted (or a single one in view): uint8 ``[x]``."""
    middle = (lung.shape[0] - 1) / 2
    return np.where(np.arange(lung.shape[0]) > middle, RIGHT, LEFT).astype(np.uint8)


def closed(mask: np.ndarray, radius_mm: float, space: Space) -> np.ndarray:
    """``mask`` closed by a ball of ``radius_mm``, then without inner holes. The volume goes on beyond its border."""
    radius = radius_mm / space.spacing_mm[0]
    pad = int(np.ceil(radius)) + 1
    start, stop = bounding_box(mask)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    part = np.pad(mask[box], pad)
    shrunk = ~within(~within(part, radius), radius)
    result = mask.copy()
    result[box] |= ndimage.binary_fill_holes(shrunk)[(slice(pad, -pad),) * 3]
    return result


def part_mask(ct: Volume, nodules: np.ndarray) -> np.ndarray:
    """Lung in a cut-out: aerated tissue and nodules, small vessels closed over: uint8 ``[x y z]``, 1 lung.

    Air that fills a corner without any tissue in it (outside the skin, a wide bronchus) is no lung.
    """
    pieces, count = ndimage.label(ct.data < AERATED_HU)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    large = np.flatnonzero(sizes * ct.space.voxel_ml >= 0.5)
    lung = np.isin(pieces, [n for n in large if np.median(ct.data[pieces == n]) > GAS_HU]) | nodules
    return (closed(lung, 3.0, ct.space) if lung.any() else lung).astype(np.uint8)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece of ``mask``."""
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
