"""Cases out and in again: nnU-Net raw by this project's own reader, DICOM by pydicom, values and places compared."""

import json

import numpy as np
import pydicom
import pytest

from lungsyn import cli
from lungsyn.cohort import nifti
from lungsyn.cohort.dicom import find_series, read_ct
from lungsyn.cohort.dicom_writing import slice_names
from lungsyn.cohort.export import refuse_unless_passed, write_dicom
from lungsyn.errors import InputError
from lungsyn.volume.files import FILE_OF, Case, data_digests, open_case, read_volume, write_case, write_volume
from lungsyn.volume.resample import reoriented
from lungsyn.volume.space import Volume
from tests.cohort.test_nifti import settings
from tests.conftest import labelled_case, make_case


@pytest.fixture
def synthetic(tmp_path) -> Case:
    """One synthetic case of two nodules on disk, in ``tmp_path/set``; HU below -1024 are legal."""
    case = make_case(name="untargeted-001")
    case.ct[0, 0, 0] = -1200
    case.about.update(dataset="synthetic", patient="synthetic")
    write_case(tmp_path / "set" / "untargeted-001", case)
    return case


def export(tmp_path, form: str, *cases) -> int:
    cases = [str(tmp_path / case) for case in cases]
    return cli.main(["cohort", "export", "--format", form, "--cases", *cases, "--out", str(tmp_path / "out")])


def test_nnunet_raw_is_read_back_by_our_own_reader(tmp_path, synthetic):
    real = make_case((25, 31, 13), seed=2, name="LIDC-IDRI-0001")
    real.about["dataset"] = "lidc"
    write_case(tmp_path / "cases" / "LIDC-IDRI-0001", real)
    assert export(tmp_path, "nnunet", "cases", "set/untargeted-001") == 0
    root = tmp_path / "out"
    about = json.loads((root / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "CT"}
    assert about["labels"] == {"background": 0, "nodule": 1}
    assert (about["numTraining"], about["file_ending"]) == (2, ".nii.gz")
    assert "1 synthetic and 1 other" in about["description"]
    rows = {row["case"]: row for row in nifti.index(root, settings(root))}
    assert rows["LIDC-IDRI-0001"]["patient"] == "LIDC-IDRI-0001"
    for name, case in (("untargeted-001", synthetic), ("LIDC-IDRI-0001", real)):
        row = rows[name]
        assert row["status"] == "included", row["reason"]
        raw = nifti.read_case(root, row["source"], row["annotation"], settings(root))
        assert raw.ct.data.dtype == np.int16
        assert np.array_equal(raw.ct.data, case.ct)
        np.testing.assert_allclose(raw.ct.affine, case.affine)
        assert len(raw.nodules) == 2
        assert sum(int(mask.data.sum()) for mask in raw.nodules) == (case.nodules > 0).sum()


def test_a_dicom_series_is_read_back(tmp_path, synthetic):
    pytest.importorskip("highdicom", reason="highdicom (pip install 'lungsyn[dicom]') is not here")
    assert export(tmp_path, "dicom", "set") == 0
    folder = tmp_path / "out/untargeted-001/ct"
    files = sorted(folder.iterdir())
    (headers,) = find_series(folder)[0].values()
    read = reoriented(read_ct(folder, headers), "RAS")
    assert np.array_equal(read.data, synthetic.ct)
    np.testing.assert_allclose(read.affine, synthetic.affine, atol=1e-5)
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in files]
    assert len(set(uids)) == len(files) == synthetic.ct.shape[2]
    assert export(tmp_path, "dicom", "set") == 0
    assert [pydicom.dcmread(file).SOPInstanceUID for file in files] == uids  # the same case, the same identities


def test_the_segmentation_lies_on_the_series(tmp_path, synthetic):
    """Its frames are put together by hand from their positions and segment numbers."""
    pytest.importorskip("highdicom", reason="highdicom (pip install 'lungsyn[dicom]') is not here")
    export(tmp_path, "dicom", "set")
    images = [pydicom.dcmread(file) for file in (tmp_path / "out/untargeted-001/ct").iterdir()]
    row_of = {round(float(image.ImagePositionPatient[2]), 4): image for image in images}
    heights = sorted(row_of)
    made = pydicom.dcmread(tmp_path / "out/untargeted-001/nodules.dcm")
    assert (made.Modality, made.SegmentationType) == ("SEG", "BINARY")
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == ["Nodule 1", "Nodule 2"]
    assert made.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    read = np.zeros((len(heights), made.Rows, made.Columns), np.uint8)
    shared = made.SharedFunctionalGroupsSequence[0]
    for pixels, frame in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        image = row_of[round(float(position[2]), 4)]
        assert list(position) == list(image.ImagePositionPatient)
        assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == list(image.PixelSpacing)
        assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        read[heights.index(round(float(position[2]), 4))][pixels > 0] = number
    wanted = reoriented(Volume(synthetic.nodules, synthetic.affine), "LPS").data.T
    assert np.array_equal(read, wanted)


def labelled(shape: tuple[int, int, int], affine: np.ndarray) -> Case:
    """A synthetic case of noise, with two nodules in other voxels of each slice, or of each 50th if there are many."""
    rng = np.random.default_rng(0)
    nodules = (rng.random(shape) < 0.2).astype(np.uint8) * rng.integers(1, 3, shape, dtype=np.uint8)
    nodules[:, :, np.arange(shape[2]) % max(1, shape[2] // 20) > 0] = 0
    empty = np.zeros(shape, np.uint8)
    return labelled_case(
        rng.integers(-1000, 1000, shape, np.int16), nodules, empty, empty, affine, {"dataset": "synthetic"}
    )


def in_mm(image: pydicom.Dataset, position: list) -> np.ndarray:
    """RAS mm of every pixel of a frame: ``[row column 3]``, by DICOM PS3.3 C.7.6.2.1.1."""
    row, column = np.indices((image.Rows, image.Columns))
    along, down = np.reshape([float(part) for part in image.ImageOrientationPatient], (2, 3))
    row_mm, column_mm = (float(mm) for mm in image.PixelSpacing)
    place = np.array([float(mm) for mm in position])
    return (place + column[..., None] * column_mm * along + row[..., None] * row_mm * down) * (-1, -1, 1)


def turned(degrees: float, axes: tuple[int, int]) -> np.ndarray:
    turn, angle = np.eye(4), np.radians(degrees)
    turn[np.ix_(axes, axes)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn


GRID = np.diag([0.7, 0.9, 2.5, 1.0]) + np.array([[0, 0, 0, 11], [0, 0, 0, -7], [0, 0, 0, 3], [0, 0, 0, 0]])
AFFINES = {
    "anisotropic": GRID,
    "flipped": GRID @ np.diag([-1.0, 1.0, -1.0, 1.0]),
    "left-handed": GRID @ np.diag([1.0, -1.0, 1.0, 1.0]),
    "axes swapped": GRID[:, [1, 2, 0, 3]],
    "oblique": turned(20, (0, 2)) @ turned(-10, (1, 2)) @ GRID,
}


SPACES = {name: ((6, 5, 4), affine) for name, affine in AFFINES.items()} | {"1003 slices": ((8, 4, 1003), GRID)}


@pytest.mark.parametrize(("shape", "affine"), SPACES.values(), ids=SPACES)
def test_every_voxel_of_both_files_lies_where_the_case_has_it(tmp_path, shape, affine):
    """CT and segmentation voxel by voxel, in mm; each frame refers to the slice at its place.

    Files of more than 999 slices sorted otherwise by name than by height, and took nodules to other slices."""
    pytest.importorskip("highdicom", reason="highdicom (pip install 'lungsyn[dicom]') is not here")
    case = labelled(shape, affine)
    write_dicom(tmp_path, [("c", case)])
    images = [pydicom.dcmread(path) for path in sorted((tmp_path / "c/ct").iterdir())]
    assert [image.InstanceNumber for image in images] == list(range(1, len(images) + 1))  # names as slices
    seen = np.zeros(shape, int)
    for image in images:
        voxels = voxels_at(case, in_mm(image, image.ImagePositionPatient))
        assert np.array_equal(case.ct[voxels], image.pixel_array.astype(int) + int(image.RescaleIntercept))
        seen[voxels] += 1
    assert (seen == 1).all()
    made = pydicom.dcmread(tmp_path / "c/nodules.dcm")
    by_uid, read = {image.SOPInstanceUID: image for image in images}, np.zeros(shape, np.uint8)
    for pixels, frame in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(by_uid[source].ImagePositionPatient) == list(position)
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        voxels = voxels_at(case, in_mm(by_uid[source], position))
        read[voxels] += (number * pixels).astype(np.uint8)
    assert np.array_equal(read, case.nodules)


def voxels_at(case: Case, ras_mm: np.ndarray) -> tuple[np.ndarray, ...]:
    """Indices of the case's voxels at places ``[row column 3]``, which must be their centres (0.01 voxels)."""
    to_voxel = np.linalg.inv(case.affine)
    place = ras_mm @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    np.testing.assert_allclose(place, place.round(), atol=0.01)
    return tuple(np.moveaxis(place.round().astype(int), -1, 0))


def test_names_sort_as_slices_lie_however_many():
    for count in (2, 999, 1000, 10_003):
        names = slice_names(count)
        assert sorted(names, reverse=True) == names and len(set(names)) == count
    assert slice_names(2) == ["002.dcm", "001.dcm"]


def test_a_sheared_case_is_no_series(tmp_path):
    sheared = GRID.copy()
    sheared[1, 2] = 0.4
    with pytest.raises(InputError, match="axes are not at right angles"):
        write_dicom(tmp_path, [("c", labelled((6, 5, 4), sheared))])


def passed(*folders) -> dict:
    return {"set": "s", "cases": dict(data_digests(folders)), "result": "pass", "checks": [], "not_found": []}


@pytest.fixture
def audited(tmp_path) -> tuple[list, dict]:
    """The folders of a set of two cases, and its verdict."""
    folders = [tmp_path / "s" / name for name in ("s-1", "s-2")]
    for seed, folder in enumerate(folders):
        write_case(folder, make_case(seed=seed, name=folder.name))
    return folders, passed(*folders)


def opened(folders) -> list:
    return [(folder.name, open_case(folder)) for folder in folders]


@pytest.mark.parametrize("name", ["ct", "nodules", "lungs", "body"])
def test_voxels_that_were_never_audited_are_refused(audited, name):
    """case.json may say what it likes: here it is as it was when the set was audited."""
    folders, verdict = audited
    refuse_unless_passed(verdict, opened(folders))
    path = folders[0] / FILE_OF[name]
    volume = read_volume(path)
    data = np.array(volume.data)
    data[3, 4, 5] ^= 1
    write_volume(path, Volume(data, volume.affine))
    with pytest.raises(InputError, match="s-1 is not what the verdict on set s is about"):
        refuse_unless_passed(verdict, opened(folders))


def test_another_place_or_shape_is_refused(audited):
    folders, verdict = audited
    whole = {name: read_volume(folders[0] / FILE_OF[name]) for name in ("ct", "nodules")}
    moved = whole["ct"].affine.copy()
    moved[0, 3] += 1
    for name, other, reason in (
        ("ct", Volume(whole["ct"].data, moved), "s-1 is not what the verdict on set s is about"),
        ("nodules", Volume(whole["nodules"].data[:-1], whole["nodules"].affine), "s-1: not a case"),
    ):
        write_volume(folders[0] / FILE_OF[name], other)
        with pytest.raises(InputError, match=reason):
            refuse_unless_passed(verdict, opened(folders))
        write_volume(folders[0] / FILE_OF[name], whole[name])
    refuse_unless_passed(verdict, opened(folders))


def test_a_verdict_holds_for_its_own_cases_all_of_them(audited, tmp_path):
    folders, verdict = audited
    with pytest.raises(InputError, match=r"about 2 cases together; 1 are not given \(s-2\)"):
        refuse_unless_passed(verdict, opened(folders[:1]))
    write_case(tmp_path / "s" / "s-3", make_case(seed=3, name="s-3"))
    with pytest.raises(InputError, match="s-3 is not what the verdict"):
        refuse_unless_passed(verdict, opened([*folders, tmp_path / "s" / "s-3"]))
    write_case(tmp_path / "other" / "s-1", make_case(seed=4, name="s-1"))  # another size's, of the same name
    with pytest.raises(InputError, match="s-1 is not what the verdict"):
        refuse_unless_passed(passed(tmp_path / "other" / "s-1"), opened(folders[:1]))
    for other in ({"checks": []}, [], "pass", None, passed(*folders) | {"cases": []}):
        with pytest.raises(InputError, match="is not a verdict"):
            refuse_unless_passed(other, opened(folders))


def test_a_damaged_case_is_not_exported(tmp_path, synthetic, capsys):
    path = tmp_path / "set" / "untargeted-001" / "ct.nii"
    damaged = bytearray(path.read_bytes())
    damaged[-9] ^= 64
    path.write_bytes(damaged)
    assert export(tmp_path, "nnunet", "set") == 2
    assert "not the voxels that case.json tells of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_of_another_export_are_not_mixed_in(tmp_path, synthetic, capsys):
    pytest.importorskip("highdicom", reason="highdicom (pip install 'lungsyn[dicom]') is not here")
    for form, place in (("nnunet", "imagesTr/older_0000.nii.gz"), ("dicom", "untargeted-001/ct/999.dcm")):
        assert export(tmp_path, form, "set") == 0
        (tmp_path / "out" / place).write_bytes(b"of another export")
        capsys.readouterr()
        assert export(tmp_path, form, "set") == 2
        assert "holds files of another export" in capsys.readouterr().err
    assert export(tmp_path, "dicom", "set", "set") == 2
    assert "untargeted-001 is given twice" in capsys.readouterr().err


def test_every_file_says_that_it_is_synthetic(tmp_path, synthetic):
    pytest.importorskip("highdicom", reason="highdicom (pip install 'lungsyn[dicom]') is not here")
    export(tmp_path, "dicom", "set")
    for path in (tmp_path / "out").rglob("*.dcm"):
        image = pydicom.dcmread(path)
        assert image.SyntheticData == image.PatientIdentityRemoved == "YES"
        assert (image.PatientID, image.PatientName) == ("SYNTHETIC-untargeted-001", "SYNTHETIC^untargeted-001")
        assert image.ImageType[:2] == ["DERIVED", "SECONDARY" if image.Modality == "CT" else "PRIMARY"]
        assert "SYNTHETIC" in image.SeriesDescription
        assert "Not for diagnosis" in image.ImageComments
        assert image.ContributingEquipmentSequence[0].Manufacturer == "lungsyn"
        assert "generative model" in image.ContributingEquipmentSequence[0].ContributionDescription


def test_what_cannot_be_exported_says_why(tmp_path, synthetic, capsys):
    real = make_case(name="LIDC-IDRI-0001")
    real.about["dataset"] = "lidc"
    write_case(tmp_path / "real" / "LIDC-IDRI-0001", real)
    assert export(tmp_path, "dicom", "set", "real") == 2
    assert "LIDC-IDRI-0001 is not synthetic" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    pasted = make_case(name="pasted-0000")
    pasted.about.update(dataset="synthetic", known_case="case-1")
    write_case(tmp_path / "pasted" / "pasted-0000", pasted)
    assert export(tmp_path, "dicom", "pasted") == 2
    assert "pasted-0000 is a real patient's CT around new nodules" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export(tmp_path, "nnunet", "nowhere") == 2
    assert "no case to export" in capsys.readouterr().err
    assert export(tmp_path, "nnunet", "set", "set/untargeted-001/case.json") == 2
    assert "untargeted-001 is given twice" in capsys.readouterr().err
    assert open_case(tmp_path / "set" / "untargeted-001").about["dataset"] == "synthetic"


def test_lps_is_ras_turned_round():
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    turned = reoriented(Volume(values, np.diag([2.0, 3.0, 4.0, 1.0])), "LPS")
    assert np.array_equal(turned.data, values[::-1, ::-1])
    assert turned.affine[:3, 3].tolist() == [2.0, 6.0, 0.0]
    assert np.diag(turned.affine).tolist() == [-2.0, -3.0, 4.0, 1.0]
