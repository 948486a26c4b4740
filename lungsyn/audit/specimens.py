"""What of a case is compared: slices, nodule patches, histograms and spectra, of voxels that a generator made.

Outside the body everything is air, in real cases too, and does not count. In an inpainted case only what was made anew
counts, and in the real cases beside it the same surroundings of their nodules.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from lungsyn.audit.features import WINDOW_HU, Extractor
from lungsyn.audit.fidelity import tile_spectrum
from lungsyn.masks.core.placing import changed_nodules, region_to_make
from lungsyn.volume.files import Case, open_case, read_json
from lungsyn.volume.intensity import AIR_HU
from lungsyn.volume.space import PLANES

VIEWS = (*PLANES, "nodule")
TISSUES = ("lung", "soft tissue", "nodule")
PATCH_VOXELS = 48  # edge of a nodule's patch
SHELL_MM = 8.0  # a nodule's surroundings
BIN_EDGES_HU = np.arange(WINDOW_HU[0] - 0.5, WINDOW_HU[1] + 1)


@dataclass(frozen=True, eq=False)
class Specimen:
    """A case ready for measuring: arrays ``[x y z]`` on an isotropic grid; ``unit``: what is independent, a patient."""

    unit: str
    hu: np.ndarray  # clipped to the extractor's window, air outside the body
    counts: np.ndarray  # bool: voxels that are compared
    nodules: np.ndarray  # index; only nodules that are compared
    lungs: np.ndarray
    spacing_mm: float


@dataclass(frozen=True, eq=False)
class Measured:
    """One case's numbers."""

    unit: str
    features: dict[str, np.ndarray]  # view: [samples d]
    histograms: dict[str, np.ndarray]  # tissue: fractions of 1 HU [bins]; a tissue that the case lacks is left out
    spectrum: np.ndarray | None  # HU^2 mm^2
    picture: np.ndarray  # [h w] HU, the axial slice in the middle


def specimen(case: Case, unit: str, made: np.ndarray | None = None, numbers: Sequence[int] | None = None) -> Specimen:
    """``made``: the voxels that count (default: the body); ``numbers``: the nodules that do (default: all)."""
    body = np.asarray(case.body) > 0
    hu = np.where(body, np.clip(case.ct, *WINDOW_HU), AIR_HU).astype(np.float32)
    nodules = np.asarray(case.nodules)
    if numbers is not None:
        nodules = np.where(np.isin(nodules, numbers), nodules, 0)
    counts = body if made is None else body & made
    return Specimen(unit, hu, counts, nodules, np.asarray(case.lungs), float(case.space.spacing_mm.mean()))


def openers(
    train: Sequence[Path], held_out: Sequence[Path], synthetic: Sequence[Path]
) -> dict[str, list[Callable[[], Specimen]]]:
    """Per set and case, a function that opens it. If any set is inpainted, only what was made anew counts, in all; a
    case in which nothing was (no nodule found a place) says nothing of the set and is left out, and so is a real one
    without a nodule."""
    sources = {folder.name: folder for folder in train}
    abouts = {folder: read_json(folder / "case.json") for folder in synthetic}
    inpainted = any(about["known_case"] for about in abouts.values())
    if inpainted:
        synthetic = [folder for folder in synthetic if abouts[folder]["new_nodules"]]
        train, held_out = (
            [folder for folder in real if read_json(folder / "case.json")["nodules"]] for real in (train, held_out)
        )

    def made(case, kept):
        return region_to_make(case.nodules, case.with_labels(nodules=kept)) > 0 if inpainted else None

    def real(folder):
        case = open_case(folder)
        return specimen(case, case.about["patient"], made(case, np.zeros_like(case.nodules)))

    def fake(folder):
        case = open_case(folder)
        if not inpainted:
            return specimen(case, folder.name)
        before = open_case(sources[case.about["known_case"]]).nodules
        return specimen(case, folder.name, made(case, before), changed_nodules(case.nodules, before))

    sets = {"train": (real, train), "held_out": (real, held_out), "synthetic": (fake, synthetic)}
    return {name: [partial(opener, folder) for folder in folders] for name, (opener, folders) in sets.items()}


def measure(item: Specimen, slices_per_case: int, extract: Extractor) -> Measured:
    """All that is taken from one case. Raises ValueError if none of its voxels counts."""
    if not item.counts.any():
        raise ValueError(f"{item.unit}: no voxel counts: the body mask is empty, or nothing was generated")
    features, axial = {}, None
    for plane, across in PLANES.items():
        places = spread_places(item.counts, across, slices_per_case)
        images, masks = (np.moveaxis(a, across, 0)[places] for a in (item.hu, item.counts))
        features[plane] = extract(images, masks[:, None])
        if plane == "axial":
            axial = (list(images), list(masks))
    patches = [patch for i in np.unique(item.nodules[item.nodules > 0]) for patch in nodule_slices(item, i)]
    if patches:
        images, pools = (np.stack(part) for part in zip(*patches, strict=True))
        features["nodule"] = extract(images, pools)
    middle = spread_places(item.counts, 2, 1)[0]
    picture = np.where(item.counts[..., middle], item.hu[..., middle], AIR_HU)
    return Measured(item.unit, features, tissue_histograms(item), tile_spectrum(*axial, item.spacing_mm), picture)


def spread_places(counts: np.ndarray, across: int, number: int) -> np.ndarray:
    """Up to ``number`` slices across an axis, with equally many counting voxels between them: indices, ascending."""
    profile = np.count_nonzero(counts, axis=tuple(k for k in range(3) if k != across))
    passed = np.cumsum(profile) / profile.sum()
    return np.unique(np.searchsorted(passed, (np.arange(number) + 0.5) / number))


def nodule_slices(item: Specimen, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per plane, the slice that holds most of the nodule, ``[PATCH PATCH]`` around its centre, with two pools: the
    nodule and its surroundings ``[2 PATCH PATCH]``. A slice without either of them is left out."""
    nodule = item.nodules == index
    centre = np.rint(ndimage.center_of_mass(nodule)).astype(int)
    half = PATCH_VOXELS // 2
    cubes = [_cube(array, centre, half) for array in (item.hu, nodule, item.counts)]
    hu, inside, counts = cubes[0], cubes[1] > 0, cubes[2] > 0
    shell = (ndimage.distance_transform_edt(~inside, sampling=item.spacing_mm) <= SHELL_MM) & ~inside & counts
    found = []
    for across in PLANES.values():
        place = np.argmax(np.count_nonzero(inside, axis=tuple(k for k in range(3) if k != across)))
        image, *pools = (np.take(a, place, across) for a in (hu, inside & counts, shell))
        if all(pool.any() for pool in pools):
            found.append((image, np.stack(pools)))
    return found


def _cube(array: np.ndarray, centre: np.ndarray, half: int) -> np.ndarray:
    """The cube of edge ``2 half`` around ``centre``; beyond the volume lies its edge for HU, nothing for a mask."""
    low = np.maximum(centre - half, 0)
    part = array[tuple(slice(a, b) for a, b in zip(low, centre + half, strict=True))]
    before = low - (centre - half)
    width = [(a, 2 * half - n - a) for a, n in zip(before, part.shape, strict=True)]
    return np.pad(part, width, mode="constant" if array.dtype == bool else "edge")


def tissue_histograms(item: Specimen) -> dict[str, np.ndarray]:
    """Fractions of each tissue's counting voxels per HU."""
    nodule = item.nodules > 0
    masks = dict(zip(TISSUES, ((item.lungs > 0) & ~nodule, (item.lungs == 0) & ~nodule, nodule), strict=True))
    values = {tissue: item.hu[mask & item.counts] for tissue, mask in masks.items()}
    return {t: np.histogram(v, BIN_EDGES_HU)[0] / len(v) for t, v in values.items() if len(v)}


def gather(measured: Iterable[Measured], take) -> tuple[list[np.ndarray], list[str]]:
    """What ``take`` finds in each case, with the case's unit; cases in which it finds None are left out."""
    pairs = [(take(m), m.unit) for m in measured]
    kept = [(value, unit) for value, unit in pairs if value is not None]
    return [value for value, _ in kept], [unit for _, unit in kept]
