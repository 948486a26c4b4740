"""The annotations against pylidc's own consensus, and against the contours' points, placed in mm by hand."""

import sys

import numpy as np
import pytest

from lungsyn.cohort import annotations
from lungsyn.settings.cohort import Nodules

LARGE = Nodules(consensus_level=0.5, min_readers=3, min_diameter_mm=10)
EVERY = Nodules(consensus_level=0.5, min_readers=1, min_diameter_mm=0)
PATIENTS = ("LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0497", "LIDC-IDRI-0051")


@pytest.fixture(scope="module")
def scans():
    return {scan.patient_id: scan for scan in annotations.all_scans()}


def pylidc_clusters(scan):
    return scan.cluster_annotations(verbose=False)


def whole_grid(scan, nodule):
    """Indices (x, y, z) in the database grid of the nodule's voxels, as a set."""
    return set(map(tuple, np.argwhere(nodule.mask) + nodule.start))


@pytest.mark.parametrize("patient", PATIENTS)
@pytest.mark.parametrize("level", [0.25, 0.5, 1.0])
def test_masks_are_the_consensus_of_pylidc(scans, patient, level):
    import pylidc.utils

    scan = scans[patient]
    expected = []
    for cluster in pylidc_clusters(scan):
        mask, box, _ = pylidc.utils.consensus(cluster, clevel=level)
        i, j, k = np.nonzero(mask)
        voxels = set(zip(j + box[1].start, i + box[0].start, k + box[2].start, strict=True))
        expected += [voxels] if voxels else []
    found = annotations.nodules(scan, EVERY.model_copy(update={"consensus_level": level}))
    assert len(found) == len(expected) > 0
    for nodule in found:
        assert whole_grid(scan, nodule) in expected


@pytest.mark.parametrize("patient", ["LIDC-IDRI-0003", "LIDC-IDRI-0012"])
def test_clusters_are_those_of_pylidc(scans, patient):
    def ids(clusters):
        return {frozenset(annotation.id for annotation in cluster) for cluster in clusters}

    assert ids(annotations._clusters(scans[patient])) == ids(pylidc_clusters(scans[patient]))


def test_nodules_are_tight_ordered_and_selected(scans):
    scan = scans["LIDC-IDRI-0003"]
    every, large = annotations.nodules(scan, EVERY), annotations.nodules(scan, LARGE)
    assert [nodule.index for nodule in every] == list(range(1, len(every) + 1))
    heights = [nodule.start[2] + np.nonzero(nodule.mask)[2].mean() for nodule in every]
    assert heights == sorted(heights)
    for nodule in every:
        for axis in range(3):
            planes = nodule.mask.any(axis=tuple({0, 1, 2} - {axis}))
            assert planes[0] and planes[-1]
    selected = [n for n in every if n.readers >= 3 and n.diameter_mm >= 10]
    assert 0 < len(large) < len(every)
    assert [whole_grid(scan, n) for n in large] == [whole_grid(scan, n) for n in selected]


def test_ratings_and_volume_are_those_of_the_first_patient(scans):
    """LIDC-IDRI-0001's one nodule: four readers, all of whom call it solid and most likely malignant."""
    scan = scans["LIDC-IDRI-0001"]
    (nodule,) = annotations.nodules(scan, LARGE)
    assert nodule.readers == 4
    assert nodule.ratings["texture"] == np.mean([a.texture for a in scan.annotations])


@pytest.mark.parametrize("matrix", [128, 256, 512])
def test_mask_lies_on_its_contours_in_mm(scans, matrix):
    """A file's first pixel centre depends on its matrix; the place in mm must not."""
    scan = scans["LIDC-IDRI-0001"]
    (nodule,) = annotations.nodules(scan, LARGE)
    pixel_mm = scan.pixel_spacing * 512 / matrix
    corner = (-170.0, -155.0)
    position = np.array(corner) + pixel_mm / 2  # ImagePositionPatient of such a file
    volume = annotations.mask_volume(nodule, scan, tuple(position - pixel_mm / 2))
    voxels = np.argwhere(volume.data)
    ras = (voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]).mean(axis=0)

    # The contours' points of all readers, in LPS mm by the definition of the database grid.
    points = np.vstack([a.contours_matrix for a in scan.annotations])[:, [1, 0, 2]]
    lps = (
        corner[0] + (points[:, 0] + 0.5) * scan.pixel_spacing,
        corner[1] + (points[:, 1] + 0.5) * scan.pixel_spacing,
    )
    z_mm = annotations.slice_z_mm(scan)[points[:, 2]]
    assert -lps[0].max() < ras[0] < -lps[0].min() and -lps[1].max() < ras[1] < -lps[1].min()
    np.testing.assert_allclose(ras, [-lps[0].mean(), -lps[1].mean(), z_mm.mean()], atol=1.5)
    low, high = volume.space.bounds_mm()
    assert low[2] >= z_mm.min() - 1.26 and high[2] <= z_mm.max() + 1.26
    in_file = (-ras[:2] - position) / pixel_mm  # column and row of its middle in the file's own matrix
    np.testing.assert_allclose(in_file * 512 / matrix, points[:, :2].mean(axis=0), atol=512 / matrix / 2 + 2)


def test_find_scan(scans):
    scan = scans["LIDC-IDRI-0001"]
    assert annotations.find_scan(scan.series_instance_uid).id == scan.id
    assert annotations.find_scan("1.2.3") is None


def test_even_spacing():
    assert annotations.evenly_spaced(np.arange(5) * 2.5)
    assert not annotations.evenly_spaced(np.array([0.0, 2.5, 7.5]))
    assert not annotations.evenly_spaced(np.array([0.0, 0.0, 0.0]))
    assert not annotations.evenly_spaced(np.array([0.0]))


def test_the_repair_stays_inside_pylidc(scans):
    assert annotations.nodules(scans["LIDC-IDRI-0001"], LARGE)  # calls np.int within pylidc
    assert not hasattr(np, "int") and not hasattr(np, "float") and np.bool is np.bool_


def test_no_dotfile_is_looked_for(scans, monkeypatch):
    def refuse():
        raise AssertionError("pylidc looked for its dotfile")

    monkeypatch.setattr(sys.modules["pylidc.Scan"], "_get_config_file", refuse)
    scan = annotations.find_scan(scans["LIDC-IDRI-0001"].series_instance_uid)
    (nodule,) = annotations.nodules(scan, LARGE)
    annotations.mask_volume(nodule, scan, (0.0, 0.0))
    with pytest.raises(AssertionError, match="dotfile"):
        scan.get_path_to_dicom_files()  # what would look for it
