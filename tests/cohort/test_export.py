"""Cases out and in again: nnU-Net raw by this project's own reader, DICOM by pydicom, values and places compared."""

import json

import numpy as np
import pydicom
import pytest

from lungsyn import cli
from lungsyn.cohort import nifti
from lungsyn.cohort.dicom import find_series, read_ct
from lungsyn.cohort.preprocess import reoriented
from lungsyn.volume.files import Case, open_case, write_case
from lungsyn.volume.space import Volume
from tests.cohort.test_nifti import settings
from tests.conftest import make_case


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
    assert export(tmp_path, "nnunet", "cases", "set/untargeted-001/case.json") == 0
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
        ct, masks = nifti.read_case(root, row["source"], row["annotation"], settings(root))
        assert ct.data.dtype == np.int16
        assert np.array_equal(ct.data, case.ct)
        np.testing.assert_allclose(ct.affine, case.affine)
        assert len(masks) == 2
        assert sum(int(mask.data.sum()) for mask in masks) == (case.nodules > 0).sum()


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
    pasted.about.update(dataset="synthetic", made={"row": {"why": "inpainted"}})
    write_case(tmp_path / "pasted" / "pasted-0000", pasted)
    assert export(tmp_path, "dicom", "pasted") == 2
    assert "pasted-0000 is a real patient's CT around new nodules" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export(tmp_path, "nnunet", "nowhere") == 2
    assert "no case to export" in capsys.readouterr().err
    assert export(tmp_path, "nnunet", "set", "set") == 2
    assert "untargeted-001 is given twice" in capsys.readouterr().err
    assert open_case(tmp_path / "set" / "untargeted-001").about["dataset"] == "synthetic"


def test_lps_is_ras_turned_round():
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    turned = reoriented(Volume(values, np.diag([2.0, 3.0, 4.0, 1.0])), "LPS")
    assert np.array_equal(turned.data, values[::-1, ::-1])
    assert turned.affine[:3, 3].tolist() == [2.0, 6.0, 0.0]
    assert np.diag(turned.affine).tolist() == [-2.0, -3.0, 4.0, 1.0]
