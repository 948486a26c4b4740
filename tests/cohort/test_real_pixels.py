"""LIDC-IDRI with real pixels: cut-outs of real scans, put back into whole DICOM series at their true place, read again.

The cut-outs' labels are the union of the readers' marks, and their affines say where in the patient they were cut: so
pixels, masks and millimetres are each known twice, from the cut-outs and from the reader.
"""

import numpy as np
import pytest

from lungsyn.cohort import annotations, lidc, phantom
from lungsyn.settings.cohort import Cohort
from lungsyn.volume.files import read_volume
from lungsyn.volume.space import Volume, bounding_box
from lungsyn.volume.tables import read_table
from tests.conftest import ROOT

CROPS = ROOT / "../shared/data/lidc_crops"
PATIENTS = ("LIDC-IDRI-0171", "LIDC-IDRI-0208", "LIDC-IDRI-0043")  # the three scans with the fewest slices
UNION = {"consensus_level": 0.25, "min_readers": 1, "min_diameter_mm": 0}  # what the cut-outs' labels are
pytestmark = pytest.mark.skipif(not CROPS.is_dir(), reason="the cut-outs (shared/data/lidc_crops) are not here")


def crops_of(patient: str) -> tuple[str, list[tuple[Volume, np.ndarray]]]:
    """The patient's series and its cut-outs: HU and label."""
    rows = [row for row in read_table(CROPS / "cases.tsv") if row["patient"] == patient]
    crops = [
        (read_volume(CROPS / f"images/{row['case']}.nii.gz"), read_volume(CROPS / f"labels/{row['case']}.nii.gz").data)
        for row in rows
    ]
    (uid,) = {row["series_uid"] for row in rows}
    return uid, crops


def tight(mask: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    start, stop = bounding_box(mask)
    return tuple(start), mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]


def place_of(label: np.ndarray, clusters: list) -> np.ndarray:
    """Where the cut-out begins in the database's grid: found by the one cluster whose union is the label, voxel by
    voxel."""
    offset, wanted = tight(label > 0)
    unions = [annotations.consensus(cluster, 0.25) for cluster in clusters]
    places = [
        np.array(corner) + first - offset
        for mask, corner in unions
        for first, part in [tight(mask)]
        if part.shape == wanted.shape and (part == wanted).all()
    ]
    (place,) = places
    return place


@pytest.fixture(scope="module", params=PATIENTS)
def scan_with_crops(request, tmp_path_factory):
    """A series on disk, air and a wall but for the real cut-outs; the cut-outs and their places."""
    uid, crops = crops_of(request.param)
    scan = annotations.find_scan(uid)
    clusters = annotations._clusters(scan)
    places = [place_of(label, clusters) for _, label in crops]
    hu = np.full((len(scan.slice_zvals), 512, 512), -1000, dtype=np.int16).T
    hu[:, -60:] = 40  # a back: slices without tissue are no chest
    for (crop, _), place in zip(crops, places, strict=True):
        hu[tuple(slice(a, a + n) for a, n in zip(place, crop.data.shape, strict=True))] = crop.data
    first = crops[0][0].space.crop(
        -places[0], np.array(hu.shape) - places[0]
    )  # the whole scan, by one cut-out's affine
    root = tmp_path_factory.mktemp(request.param)
    phantom.write_series(root / request.param / "series", scan, hu, first.affine)
    yield root, uid, crops, places
    for path in (root / request.param / "series").iterdir():
        path.unlink()


def test_real_pixels_and_masks_come_back_where_they_were(scan_with_crops):
    root, uid, crops, places = scan_with_crops
    settings = Cohort(
        dataset="lidc", root=root, max_slice_thickness_mm=3.0, nodules=UNION,
        phantom={"patients": 6, "matrix": 128, "slice_thickness_mm": (1, 3), "max_slices": 100, "noise_hu": 0},
        split={"train": 1.0, "validation": 0.0, "test": 0.0},
        preprocess={"spacing_mm": 1.0, "margin_mm": 10, "field_of_view": "part"},
    )  # fmt: skip
    (row,) = lidc.index(root, settings)
    assert (row["status"], row["annotation"]) == ("included", uid)
    ct, nodules, masks = lidc.read_case(root / row["source"], row["annotation"], settings.nodules)
    assert row["n_nodules"] == len(nodules) >= len(crops)
    for (crop, label), place in zip(crops, places, strict=True):
        stop = place + crop.data.shape
        read = ct.crop(place, stop)
        assert np.array_equal(read.data, crop.data)
        np.testing.assert_allclose(read.affine, crop.affine, atol=2e-3)  # cut-outs' affines are float32, z from one row
        found = np.zeros(label.shape, dtype=bool)
        offset, wanted = tight(label > 0)
        for mask in masks:
            start = np.rint(np.linalg.inv(crop.affine) @ mask.affine[:, 3])[:3].astype(int)
            if tuple(start) == offset and mask.data.shape == wanted.shape:
                found[tuple(slice(a, a + n) for a, n in zip(start, wanted.shape, strict=True))] = mask.data
        assert np.array_equal(found, label > 0)
