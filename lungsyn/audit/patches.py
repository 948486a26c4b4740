"""What the audit compares: cubes around nodules and coarse whole volumes, less what their masks explain.

A *place* is one nodule of a case, or the whole case. Its *cube* is HU clipped to the generator's window (float32
``[e e e]``) with the share of nodule, lungs and body in each voxel (float32 ``[3 e e e]``: 0 or 1 around a nodule,
between them in a coarse volume).

A synthetic nodule is made from the mask of a real one, in the lungs of a real case: it has a bright blob where a train
nodule has one, without any copying. So HU are first fitted by the masks, by the masks blurred twice (a scanner's edges
are soft) and by the depth inside the nodule (readers draw generously: many a nodule is a bright core in a rim of lung,
and one with such a core would be near to every synthetic one), and only what is left is compared: texture, vessels,
ribs, whatever nobody told the generator. A mask that is shared explains itself away; a copied nodule keeps its own
grain.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from lungsyn.errors import InputError
from lungsyn.generators.core.patches import masks_window
from lungsyn.volume.files import map_volume, open_case, read_json
from lungsyn.volume.intensity import AIR_HU
from lungsyn.volume.patches import batches, window

COARSE_VOXELS = 24  # along the longest axis of the largest volume
BLUR_VOXELS = (3, 5)  # edges of the box filters whose output the fit may use besides the masks themselves
DEPTH_VOXELS = (-2, 0, 2, 4, 6, 9)  # where the fit may bend as a function of the depth below the nodule's surface
LEAST_CORE_VOXELS = 4
PLACES_PER_BLOCK = 32


@dataclass(frozen=True)
class Place:
    """One nodule of a case by its index and middle voxel, or (index 0) the whole case."""

    folder: Path
    patient: str
    nodule: int
    centre: tuple[int, int, int] | None

    @property
    def name(self) -> str:
        return f"{self.folder.name}/{self.nodule}" if self.nodule else self.folder.name


@dataclass(frozen=True)
class Cutter:
    """How a place becomes a cube of ``edge`` voxels, each the mean of ``factor``^3 voxels of the case."""

    edge: int
    factor: int
    window_hu: tuple[float, float]


def nodule_places(folders: list[Path]) -> list[Place]:
    """Every nodule of the cases, from their ``case.json``."""
    about = [(folder, read_json(folder / "case.json")) for folder in folders]
    return [
        Place(folder, facts["patient"], nodule["index"], tuple((a + b) // 2 for a, b in nodule["box"]))
        for folder, facts in about
        for nodule in facts["nodules"]
    ]


def volume_places(folders: list[Path]) -> list[Place]:
    """Every case as a whole."""
    return [Place(folder, read_json(folder / "case.json")["patient"], 0, None) for folder in folders]


def spacing_of(place: Place) -> float:
    """Millimetres, the mean of the axes."""
    return float(map_volume(place.folder / "ct.nii").space.spacing_mm.mean())


def nodule_cutter(place: Place, patch_mm: float, max_shift: int, window_hu) -> Cutter:
    """Cubes of ``patch_mm`` at the spacing of ``place``. Raises InputError if shifting leaves too little of them."""
    spacing_mm = spacing_of(place)
    edge = round(patch_mm / spacing_mm)
    if edge - 2 * max_shift < LEAST_CORE_VOXELS:
        raise InputError(
            f"audit.patch_mm is {patch_mm:g}: that is {edge} voxels of {spacing_mm:g} mm, which leaves fewer than "
            f"{LEAST_CORE_VOXELS} when shifted by {max_shift}: raise patch_mm or lower audit.max_shift_voxels"
        )
    return Cutter(edge, 1, window_hu)


def volume_cutter(places: list[Place], window_hu) -> Cutter:
    """Cubes that hold every one of the volumes in about ``COARSE_VOXELS`` voxels along an axis."""
    longest = max(max(map_volume(place.folder / "ct.nii").data.shape) for place in places)
    factor = -(-longest // COARSE_VOXELS)
    return Cutter(-(-longest // factor), factor, window_hu)


def cut(places: list[Place], cutter: Cutter) -> tuple[np.ndarray, np.ndarray]:
    """The cubes of the places: HU ``[n e e e]`` and masks ``[n 3 e e e]``, float32; air beyond a volume's border."""
    hu = np.empty((len(places), *(cutter.edge,) * 3), np.float32)
    masks = np.empty((len(places), 3, *(cutter.edge,) * 3), np.float32)
    size = cutter.edge * cutter.factor
    for i, place in enumerate(places):
        case = open_case(place.folder)
        centre = place.centre or [n // 2 for n in case.ct.shape]
        start = [c - size // 2 for c in centre]
        hu[i] = _pooled(window(case.ct, start, size, AIR_HU).clip(*cutter.window_hu), cutter)
        masks[i] = [_pooled(mask, cutter) for mask in masks_window(case, start, size)]
    return hu, masks


def _pooled(cube: np.ndarray, cutter: Cutter) -> np.ndarray:
    """Means of blocks of ``factor``^3 voxels."""
    e, f = cutter.edge, cutter.factor
    return cube.reshape(e, f, e, f, e, f).mean(axis=(1, 3, 5), dtype=np.float32)


def unexplained(hu: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """What is left of ``hu`` ``[n e e e]`` after the least-squares fit by a constant, the masks ``[n 3 e e e]``, their
    blurred versions and the depth in the nodule, in each cube by itself: float32 of the same shape."""
    left = np.empty_like(hu)
    for i in range(len(hu)):
        depth = torch.from_numpy(depth_below_surface(masks[i, 0]))
        columns = explaining(torch.from_numpy(masks[i : i + 1]), depth[None])[0].flatten(1).double()  # [16 e^3]
        target = torch.from_numpy(hu[i]).flatten().double()
        weights = torch.linalg.pinv(columns @ columns.T, hermitian=True, rtol=1e-9) @ (columns @ target)
        left[i] = (target - weights @ columns).reshape(hu[i].shape).numpy()
    return left


def explaining(masks: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """What HU may be explained by: ``[n 16 e e e]`` from masks ``[n 3 e e e]`` and ``depth_below_surface``
    ``[n e e e]``: a constant, the masks, the masks blurred twice, and how far each of ``DEPTH_VOXELS`` is passed."""
    soft = [_box_mean(masks, k) for k in BLUR_VOXELS]
    passed = torch.stack([(depth - bend).clamp(min=0) for bend in DEPTH_VOXELS], dim=1)
    return torch.cat([torch.ones_like(masks[:, :1]), masks, *soft, passed], dim=1)


def _box_mean(masks: torch.Tensor, edge: int) -> torch.Tensor:
    """Means over the part of each box of ``edge`` voxels that lies inside, axis by axis."""
    for axis in range(3):
        kernel, padding = ([n if a == axis else m for a in range(3)] for n, m in ((edge, 1), (edge // 2, 0)))
        masks = F.avg_pool3d(masks, kernel, stride=1, padding=padding, count_include_pad=False)
    return masks


def depth_below_surface(nodule: np.ndarray) -> np.ndarray:
    """Voxels below the surface, negative outside, where it matters: float32 ``[e e e]``, the least of ``DEPTH_VOXELS``
    elsewhere and without a surface."""
    depth = np.full(nodule.shape, DEPTH_VOXELS[0], np.float32)
    inside = nodule >= 0.5
    if not inside.any() or inside.all():
        return depth
    reach = 1 - DEPTH_VOXELS[0]
    near = tuple(
        slice(max(side.start - reach, 0), side.stop + reach)
        for side in ndimage.find_objects(inside.astype(np.uint8))[0]
    )
    within = inside[near]
    depth[near] = ndimage.distance_transform_edt(within) - ndimage.distance_transform_edt(~within)
    return depth.clip(min=DEPTH_VOXELS[0])


def residuals(places: list[Place], cutter: Cutter) -> Iterator[np.ndarray]:
    """``unexplained`` of the places, block by block: ``[b e e e]`` each."""
    for block in batches(places, PLACES_PER_BLOCK):
        yield unexplained(*cut(block, cutter))
