"""NIfTI cohorts: the three layouts, every defect, and the real cut-outs when they are at hand."""

import gzip
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lungsyn.cohort import nifti, plausible, private, table
from lungsyn.cohort.patients import NO_LIST, SAME_PART, SAME_VOXELS
from lungsyn.errors import InputError
from lungsyn.settings.cohort import Cohort
from lungsyn.volume.files import write_case
from lungsyn.volume.tables import read_table, write_table

SHAPE = (24, 22, 20)
DATA = Path(__file__).parents[2] / "../shared/data"
CUBES = DATA / "lidc_cubes"


def settings(root: Path, **changes) -> Cohort:
    return Cohort(
        dataset="nifti", root=root, public_names=True, max_slice_thickness_mm=3.0,
        phantom={"patients": 6, "matrix": 128, "slice_thickness_mm": (1, 3), "max_slices": 100, "noise_hu": 0},
        nodules={"consensus_level": 0.5, "min_readers": 1, "min_diameter_mm": 3},
        split={"train": 0.5, "validation": 0.25, "test": 0.25},
        preprocess={"spacing_mm": 1.0, "margin_mm": 10, "field_of_view": "part"},
    ).model_copy(update=changes)  # fmt: skip


def image(seed: int = 0) -> np.ndarray:
    """Noise of air to tissue, and the two nodules of ``label``."""
    data = np.random.default_rng(seed).integers(-1000, 200, SHAPE).astype(np.int16)
    data[label() > 0] = data[label() > 0] // 10 + 40
    return data


def name_seed(name: str) -> int:
    """Another one for each name: equal images would be one patient."""
    return int.from_bytes(name.encode("utf-8", "surrogateescape")[-6:], "big")


def label() -> np.ndarray:
    """Two nodules: 5 x 5 x 5 and, meeting nothing, 4 x 4 x 6 voxels."""
    data = np.zeros(SHAPE, dtype=np.uint8)
    data[4:9, 4:9, 4:9] = 1
    data[15:19, 15:19, 12:18] = 1
    return data


def write(path: Path, data: np.ndarray, affine=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)


def write_cases(root: Path, names, images="images", labels="labels", channel="", suffix=".nii.gz") -> None:
    for name in names:
        write(root / images / f"{name}{channel}{suffix}", image(name_seed(name)))
        write(root / labels / f"{name}{suffix}", label())


def rows_of(root: Path, cohort: Cohort | None = None) -> dict[str, dict]:
    return {row["case"]: row for row in nifti.index(root, cohort or settings(root))}


def test_a_file_is_what_it_holds_and_not_what_it_is_called(tmp_path):
    """Packed without .gz in its name, and plain with it; one such file must not end the list of all."""
    write_cases(tmp_path, ["a", "b"], suffix=".nii")
    write_cases(tmp_path, ["c"])
    for folder in ("images", "labels"):
        plain, packed = tmp_path / folder / "a.nii", tmp_path / folder / "c.nii.gz"
        plain.write_bytes(gzip.compress(plain.read_bytes()))
        packed.write_bytes(gzip.decompress(packed.read_bytes()))
    assert {row["status"] for row in rows_of(tmp_path).values()} == {"included"}


@pytest.mark.parametrize("layout", ["plain", "plain_uncompressed", "decathlon", "nnunet"])
def test_layouts(tmp_path, layout):
    names = ["lung_001", "lung_002", "lung_003"]
    if layout.startswith("plain"):
        write_cases(tmp_path, names, suffix=".nii" if layout == "plain_uncompressed" else ".nii.gz")
    else:
        write_cases(tmp_path, names, "imagesTr", "labelsTr", "_0000" if layout == "nnunet" else "")
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "cancer"}}))
        (tmp_path / "imagesTr" / "._lung_001.nii.gz").write_bytes(b"what macOS leaves in archives")
    if layout == "nnunet":
        write(tmp_path / "imagesTr" / "lung_001_0001.nii.gz", image())
    rows = rows_of(tmp_path)
    assert list(rows) == names
    assert all(
        (row["status"], row["n_nodules"], row["spacing_mm"]) == ("included", 2, "1x1x1") for row in rows.values()
    )


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_cases_numbered_from_0000_are_cases(tmp_path, images, labels):
    """nnU-Net's channel is no part of a label's name; here it is the case's number."""
    write_cases(tmp_path, names := ["case_0000", "case_0001"], images, labels, "")
    rows = rows_of(tmp_path)
    assert list(rows) == names
    assert all(row["status"] == "included" for row in rows.values())


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (["a", "c", "b_0000"], ["a", "c", "b"], {"a": "a", "b": "b_0000", "c": "c"}),
        (["x", "x_0000", "x_0001", "y"], None, {n: n for n in ("x", "x_0000", "x_0001", "y")}),
        (["a_0000", "a_0001", "b_0000"], ["a"], {"a": "a_0000", "b": "b_0000"}),
    ],
)
def test_every_image_is_its_own_label_s(tmp_path, images, labels, expected):
    """Whatever is mixed in one folder: numbers of channels, and numbers of cases."""
    for folder, names in (("images", images), ("labels", labels or images)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.nii.gz").touch()
    pairs = {pair["case"]: pair for pair in nifti.find_pairs(tmp_path)}
    assert {case: pair["source"] for case, pair in pairs.items()} == {
        c: f"images/{n}.nii.gz" for c, n in expected.items()
    }
    assert all(pair["annotation"] in (f"labels/{case}.nii.gz", "") for case, pair in pairs.items())


def padded(data) -> np.ndarray:
    data = (data + 1024).astype(np.int16)
    data[:4] = -2000  # outside the scanner's field of view
    return data


def normalised(data) -> np.ndarray:
    return ((data + 1000) / 1200).astype(np.float32)


def with_nan(data) -> np.ndarray:
    data = data.astype(np.float32)
    data[3, 3, 3] = np.nan
    return data


def flatten(path: Path) -> None:
    """Give a file a matrix that lays all slices into one plane."""
    flat = nib.load(path)
    flat.header["srow_z"] = 0
    flat.header["sform_code"] = 1
    nib.save(nib.Nifti1Image(np.asanyarray(flat.dataobj), None, flat.header), path)


def garble(path: Path) -> None:
    """Break the compressed stream, not its length: zlib's own error."""
    data = bytearray(path.read_bytes())
    data[40:60] = b"\xff" * 20
    path.write_bytes(data)


def write_bytes(path: Path, changed: dict[int, bytes]) -> None:
    """Put bytes into the uncompressed file; at 70 lies the data type."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    for place, new in changed.items():
        data[place : place + len(new)] = new
    path.write_bytes(gzip.compress(bytes(data)))


def coloured(data) -> np.ndarray:
    colours = np.zeros(data.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"] = 7
    return colours


DEFECTS = [
    (lambda r: (r / "labels/b.nii.gz").unlink(), "missing label"),
    (lambda r: (r / "images/b.nii.gz").unlink(), "missing image"),
    (lambda r: write(r / "labels/b.nii.gz", label()[:-1]), "geometry mismatch: image (24, 22, 20), label (23, 22, 20)"),
    (lambda r: write(r / "labels/b.nii.gz", label(), np.diag([1, 1, 2, 1])), "geometry mismatch"),
    (lambda r: write(r / "labels/b.nii.gz", label(), np.diag([-1, 1, 1, 1])), "with other affines"),
    (lambda r: write(r / "images/b.nii.gz", np.stack([image()] * 2, -1)), "has 4 axes (24, 22, 20, 2)"),
    (lambda r: write(r / "images/b.nii.gz", image()[:, :, 0]), "has 2 axes"),
    (lambda r: write(r / "images/b.nii.gz", with_nan(image())), "non-finite values"),
    (lambda r: write(r / "images/b.nii.gz", normalised(image())), "not HU"),
    (lambda r: write(r / "images/b.nii.gz", (image() + 1024).astype(np.int16)), "not HU"),
    (lambda r: write(r / "images/b.nii.gz", padded(image())), "not HU"),
    (lambda r: write(r / "images/b.nii.gz", (image() - 1024).astype(np.int16)), "not HU"),
    (lambda r: write(r / "images/b.nii.gz", image().astype(np.float32) * 100), "beyond 16 bits"),
    (lambda r: write(r / "labels/b.nii.gz", 0 * label()), "empty label"),
    (lambda r: write(r / "labels/b.nii.gz", 3 * label()), "empty label"),
    (
        lambda r: write(r / "labels/b.nii.gz", label() * (np.arange(20) == 5).astype(np.uint8)),
        "no nodule left: none of at least 4 mm",
    ),
    (
        lambda r: (r / "images/b.nii.gz").write_bytes(b"no image"),
        "unreadable file: the image is not a whole NIfTI volume",
    ),
    (
        lambda r: (r / "images/b.nii.gz").write_bytes((r / "images/b.nii.gz").read_bytes()[:900]),
        "unreadable file: the image is not a whole NIfTI volume",
    ),
    (lambda r: flatten(r / "images/b.nii.gz"), "affine without a volume"),
    (lambda r: garble(r / "images/b.nii.gz"), "unreadable file: the image is not a whole NIfTI volume"),
    (
        lambda r: write_bytes(r / "images/b.nii.gz", {70: b"\x07\x07"}),
        "unreadable file: the image is not a whole NIfTI volume",
    ),
    (lambda r: write(r / "images/b.nii.gz", coloured(image())), "no number per voxel"),
    (lambda r: write(r / "images/b.nii", image()), "two files for one image"),
    (lambda r: write(r / "images/b.NII.gz", image()), "two files for one image"),
    (lambda r: write(r / "labels/b.nii", label()), "two files for one label"),
    (lambda r: (r / "images/b.nii.gz").rename(r / "images/b.mha"), "not NIfTI: convert the image"),
    (lambda r: (r / "images/b.nii.gz").rename(r / "images/b.gz"), "not NIfTI: convert the image"),
    (lambda r: (r / "labels/b.nii.gz").rename(r / "labels/b.seg.nrrd"), "missing label"),
    (lambda r: (r / "labels/b.nii.gz").rename(r / "labels/b.nrrd"), "not NIfTI: convert the label"),
    (lambda r: in_folder(r / "images/b.nii.gz"), "folder in place of the image"),
    (lambda r: (r / "images/b.nii.gz").write_bytes(b""), "unreadable file: the image"),
    (lambda r: write_bytes(r / "images/b.nii.gz", {123: b"\x01"}), "lengths in metres"),
    (lambda r: write_bytes(r / "images/b.nii.gz", {123: b"\x0b"}), "lengths in micrometres"),
    (lambda r: rescale(r, 0.001), "voxels of 0.001 x 0.001 x 0.001 mm"),
    (lambda r: rescale(r, 1000), "voxels of 1000 x 1000 x 1000 mm"),
    (lambda r: rescale(r, 0.1), "image of 2.4 x 2.2 x 2 mm"),
    (lambda r: write(r / "labels/b.nii.gz", 1 - label()), "label is no nodule: it covers 98% of the image"),
    (lambda r: write(r / "labels/b.nii.gz", with_nan(label())), "non-finite values in the label"),
    (lambda r: specks(r), "too many nodules: 294"),
]


def in_folder(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    (path.parent / "b").mkdir()
    (path.parent / "b" / path.name).write_bytes(data)


def rescale(root: Path, millimetres: float) -> None:
    for folder, data in (("images", image()), ("labels", label())):
        write(root / folder / "b.nii.gz", data, np.diag([millimetres] * 3 + [1.0]))


def specks(root: Path) -> None:
    """Single voxels, each large enough where voxels are of 4 mm."""
    data = np.zeros((21, 21, 18), dtype=np.uint8)
    data[::3, ::3, ::3] = 1
    affine = np.diag([4.0, 4, 4, 1])
    write(root / "images/b.nii.gz", image()[:21, :21, :18], affine)
    write(root / "labels/b.nii.gz", data, affine)


@pytest.mark.parametrize(("damage", "reason"), DEFECTS, ids=[f"{i}-{r}" for i, (_, r) in enumerate(DEFECTS)])
def test_each_defect_gives_its_reason_and_leaves_the_others_alone(tmp_path, damage, reason):
    write_cases(tmp_path, ["a", "b"])
    (tmp_path / "cases.tsv").write_text("case\tpatient\na\ta\nb\tb\n")
    untouched = rows_of(tmp_path)["a"]
    damage(tmp_path)
    cohort = settings(tmp_path)
    cohort = cohort.model_copy(update={"nodules": cohort.nodules.model_copy(update={"min_diameter_mm": 4})})
    rows = rows_of(tmp_path, cohort)
    assert rows["b"]["status"] == "excluded"
    assert reason in rows["b"]["reason"]
    assert "b.n" not in rows["b"]["reason"] and "/b" in rows["b"]["detail"]
    assert rows["a"] == untouched


def test_a_case_is_excluded_by_its_file_s_name_too(tmp_path):
    write_cases(tmp_path, ["a.1", "b", "c", "d"])
    rows = table.index(settings(tmp_path, exclude={"a.1": "motion"}), tmp_path, seed=1)
    assert [(row["case"], row["status"]) for row in rows if row["status"] != "included"] == [("a-1", "excluded")]
    assert len(rows) == 4


def test_where_no_case_can_be_used_a_whole_reason_of_each_kind_is_told(tmp_path):
    write_cases(tmp_path, ["a", "b"], labels="elsewhere")
    write(tmp_path / "labels/b.nii.gz", 255 * label())
    with pytest.raises(InputError) as told:
        table.index(settings(tmp_path), tmp_path, seed=1)
    assert "no case can be used, of 2\n" in str(told.value)
    assert "  a: missing label: none has the case's name (so it is with 1)" in str(told.value)
    assert "  b: empty label: no voxel is one of [1] (cohort.lesion_labels); its values are 255" in str(told.value)


def test_where_too_few_patients_are_left_it_is_told_why(tmp_path):
    write_cases(tmp_path, ["a", "b", "c", "d"])
    for case in "bcd":
        (tmp_path / f"images/{case}.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"1 patients cannot fill 3 splits") as told:
        table.index(settings(tmp_path), tmp_path, seed=1)
    assert "left out are\n  b: unreadable file" in str(told.value) and "(so it is with 3)" in str(told.value)


def test_a_case_that_is_left_out_gives_no_split_to_those_that_stay(tmp_path):
    """Neither where its patient, nor where its image has another one; others do not move."""
    write_cases(tmp_path, ["a", "b", "c", "d", "e"])
    lines = ["a\tp\ttrain", "b\tp\ttest", "c\tq\ttrain", "d\tr\tvalidation", "e\ts\ttest"]
    (tmp_path / "cases.tsv").write_text("case\tpatient\tsplit\n" + "\n".join(lines) + "\n")
    rows = table.index(settings(tmp_path, exclude={"b": "motion"}), tmp_path, seed=1)
    assert {row["case"]: row["split"] for row in rows} == {
        "a": "train", "b": "", "c": "train", "d": "validation", "e": "test",
    }  # fmt: skip
    for part in ("images", "labels"):
        (tmp_path / part / "b.nii.gz").write_bytes((tmp_path / part / "c.nii.gz").read_bytes())
    (tmp_path / "cases.tsv").write_text("case\tpatient\tsplit\n" + "\n".join(lines).replace("b\tp", "b\tt") + "\n")
    with pytest.raises(InputError, match="same image stands in two splits"):
        table.index(settings(tmp_path), tmp_path, seed=1)
    again = table.index(settings(tmp_path, exclude={"b": "twice"}), tmp_path, seed=1)
    assert [row["split"] for row in again] == [row["split"] for row in rows]


def test_lesion_labels_choose_what_is_nodule(tmp_path):
    write(tmp_path / "images/a.nii.gz", image())
    mixed = label()
    mixed[4:9] *= 3
    write(tmp_path / "labels/a.nii.gz", mixed)
    assert rows_of(tmp_path)["a"]["n_nodules"] == 1
    assert rows_of(tmp_path, settings(tmp_path, lesion_labels=[1, 3]))["a"]["n_nodules"] == 2


def test_patient_and_split_come_from_the_table(tmp_path):
    write_cases(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "cases.tsv").write_text(
        "case\tpatient\tsplit\tnote\na\tp1\ttest\t!\nb\tp1\t\t!\nc\tp2\ttrain\t!\nd\tp3\tvalidation\t!\n"
    )
    rows = {row["case"]: row for row in table.index(settings(tmp_path), tmp_path, seed=1)}
    assert {case: row["split"] for case, row in rows.items()} == {
        "a": "test", "b": "test", "c": "train", "d": "validation",
    }  # fmt: skip


def test_a_list_from_a_spreadsheet_is_read(tmp_path):
    """It begins with a byte-order mark, and cells have spaces: patients would straddle the splits."""
    write_cases(tmp_path, ["a", "b", "c", "d"])
    text = "case\tpatient\tsplit\na\tp \ttest\nb\tp\t\nc\tq\t train\nd\tr\tvalidation\n"
    (tmp_path / "cases.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    rows = {row["case"]: row for row in table.index(settings(tmp_path), tmp_path, seed=1)}
    assert [rows[case]["split"] for case in "abcd"] == ["test", "test", "train", "validation"]


def test_a_patient_in_two_splits_stops_the_run(tmp_path):
    write_cases(tmp_path, ["a", "b", "c"])
    (tmp_path / "cases.tsv").write_text("case\tpatient\tsplit\na\tp\ttrain\nb\tp\ttest\nc\tq\t\n")
    with pytest.raises(InputError, match="a patient is in two splits"):
        table.index(settings(tmp_path), tmp_path, seed=1)


@pytest.mark.parametrize(
    ("text", "message", "detail"),
    [
        ("name\na\n", "no column 'case' in its first line", "its columns are name"),
        ("case\tpatient_id\na\tp\n", "no column 'patient'", "its columns are case, patient_id"),
        ("case\tpatient\tPatient \na\tp\tq\n", "two columns are called 'patient'", ""),
        ("case\tpatient\na\tp\na \tp\n", "a case is listed more than once", "case a"),
        ("case\tpatient\na_0000\tp\n", "does not list 1 of the images", "'a' is not listed.* its case 'a_0000'"),
        ("case\tpatient\na.nii.gz\tp\n", "does not list 1 of the images", "'a' is not listed.* its case 'a.nii.gz'"),
        ("case\tpatient\nb\tp\n", "does not list 1 of the images: list every case", "image 'a'"),
        ("case\tpatient\na\tp\nb\t \n", "a row has no patient", "case b"),
        ("case\tpatient\na\tp\n\tq \n", "a row has no case", "q"),
        ("case\tpatient\na\tMia\tK\n", "more cells than the header", "K"),
        ("case\tpatient\n", "lists no case", "cases.tsv"),
        ("", "lists no case", "cases.tsv"),
        ("case\tpatient\n\t\n \t \n", "lists no case", "cases.tsv"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(tmp_path, text, message, detail):
    write_cases(tmp_path, ["a", "b"] if "b\t" in text else ["a"])
    (tmp_path / "cases.tsv").write_text(text)
    with pytest.raises(InputError, match=message) as told:
        nifti.index(tmp_path, settings(tmp_path))
    assert re.search(detail, told.value.detail)


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_a_list_in_the_wrong_folder_is_not_passed_over(tmp_path, folder):
    """Patients would straddle the splits without a word."""
    write_cases(tmp_path, ["a", "b"])
    (tmp_path / folder / "cases.tsv").write_text("case\tpatient\na\tp\nb\tp\n")
    with pytest.raises(InputError, match=r"cases.tsv belongs beside the folders .* move it there"):
        nifti.index(tmp_path, settings(tmp_path))


def test_leaving_a_case_out_moves_no_other_patient(tmp_path):
    write_cases(tmp_path, [f"c{i:02}" for i in range(11)])
    cohort = settings(tmp_path)
    everyone = {row["case"]: row for row in table.index(cohort, tmp_path, seed=1)}
    for case in everyone:
        rest = {
            row["case"]: row
            for row in table.index(cohort.model_copy(update={"exclude": {case: "a reason"}}), tmp_path, seed=1)
        }
        assert (rest[case]["status"], rest[case]["split"], rest[case]["train_rank"]) == ("excluded", "", "")
        assert all(rest[other]["split"] == everyone[other]["split"] for other in rest if other != case)
        ranks = sorted(int(row["train_rank"]) for row in rest.values() if row["train_rank"] != "")
        assert ranks == list(range(1, len(ranks) + 1))  # without a gap: a rank is compared with a number of patients


def test_leaving_out_a_split_s_last_case_is_refused(tmp_path):
    write_cases(tmp_path, ["a", "b", "c"])
    cohort = settings(tmp_path)
    tested = next(row["case"] for row in table.index(cohort, tmp_path, seed=1) if row["split"] == "test")
    with pytest.raises(InputError, match=r"cohort\.exclude leaves split test without a case"):
        table.index(cohort.model_copy(update={"exclude": {tested: "a reason"}}), tmp_path, seed=1)


def test_a_folder_of_no_known_layout_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"imagesTr/"):
        nifti.index(tmp_path, settings(tmp_path))


def test_names_become_folders(tmp_path):
    write_cases(tmp_path, ["scan 1.a"])
    assert list(rows_of(tmp_path)) == ["scan-1-a"]
    write_cases(tmp_path, ["scan.1>a", "scan.1<a"])
    with pytest.raises(InputError, match="two files"):
        nifti.index(tmp_path, settings(tmp_path))
    names = [pair["case"] for pair in nifti.find_pairs(tmp_path, public_names=False)]
    assert names == ["scan 1.a", "scan.1<a", "scan.1>a"]


ODD_NAMES = [
    "张三", "李四", "Иванов", "a{b}c", "<x>", "line\nend", "back\rto", "tab\tin", "x" * 240, "x" * 239 + "y", "=1+1",
    "-2+3", "it's", 'say "x"', "$HOME", "*", b"M\xfcller".decode("utf-8", "surrogateescape"),
]  # fmt: skip


def test_any_name_of_a_file_has_its_row_and_its_files(tmp_path):
    write_cases(tmp_path / "raw", ODD_NAMES)
    cohort = settings(tmp_path)
    rows = table.index(cohort, tmp_path / "raw", seed=1)
    assert [row["status"] for row in rows] == ["included"] * len(ODD_NAMES)
    assert all(row["case"].isascii() and len(row["case"]) <= 150 for row in rows)
    write_table(tmp_path / "cohort.tsv", rows, table.COLUMNS)
    back = read_table(tmp_path / "cohort.tsv")
    write_table(tmp_path / "names.tsv", rows, private.COLUMNS)
    back = [row | names for row, names in zip(back, read_table(tmp_path / "names.tsv"), strict=True)]
    for key in ("case", "patient", "source", "annotation"):
        assert [row[key] for row in back] == [row[key] for row in rows]
    for row in back:
        again = json.loads(json.dumps(row))  # as the workflow passes it on
        nifti.read_case(tmp_path / "raw", again["source"], again["annotation"], cohort)


def test_a_list_may_spell_an_accent_in_another_way(tmp_path):
    """macOS writes letter and accent apart, spreadsheets do not; to the eye they are the same."""
    write_cases(tmp_path, ["Mu\u0308ller", "b"])
    (tmp_path / "cases.tsv").write_text("case\tpatient\nM\u00fcller\tp\nb\tq\n", encoding="utf-8")
    assert [row["patient"] for row in nifti.index(tmp_path, settings(tmp_path))] == ["p", "q"]


def test_without_a_list_every_case_says_so(tmp_path):
    write_cases(tmp_path, ["a", "b"])
    assert [row["warnings"] for row in nifti.index(tmp_path, settings(tmp_path))] == [[NO_LIST]] * 2
    (tmp_path / "cases.tsv").write_text("case\tpatient\na\tp\nb\tq\n")
    assert [row["warnings"] for row in nifti.index(tmp_path, settings(tmp_path))] == [[]] * 2


def test_look_alike_patients_end_the_run_with_or_without_a_list(tmp_path):
    write_cases(tmp_path, ["p1", "P1"])
    with pytest.raises(InputError, match="differ only in spelling"):
        nifti.index(tmp_path, settings(tmp_path))
    (tmp_path / "cases.tsv").write_text("case\tpatient\np1\tq\nP1\tq\n")
    assert {row["patient"] for row in nifti.index(tmp_path, settings(tmp_path))} == {"q"}


def test_one_scan_under_two_patients_is_on_one_side_of_the_split(tmp_path):
    """Once more under another name, turned, as other numbers: still the same scan."""
    write_cases(tmp_path, ["a", "b", "c", "d"])
    turned = np.diag([-1.0, 1, 1, 1])
    write(tmp_path / "images/z.nii.gz", image(name_seed("b"))[::-1].astype(np.float32), turned)
    write(tmp_path / "labels/z.nii.gz", label()[::-1], turned)
    rows = rows_of(tmp_path)
    assert (rows["z"]["patient"], rows["b"]["patient"]) == ("b", "b")
    assert all((SAME_VOXELS in rows[case]["warnings"]) == (case in "bz") for case in rows)
    for seed in range(8):
        split = {row["case"]: row["split"] for row in table.index(settings(tmp_path), tmp_path, seed)}
        assert split["b"] == split["z"] != ""


def test_a_trimmed_scan_under_another_patient_is_told(tmp_path):
    write_cases(tmp_path, ["a", "b", "c", "d"])
    cut = np.s_[2:, :20, 3:]
    write(tmp_path / "images/z.nii.gz", image(name_seed("b"))[cut])
    write(tmp_path / "labels/z.nii.gz", label()[cut])
    assert {case: row["warnings"] for case, row in rows_of(tmp_path).items()} == {
        case: [NO_LIST, SAME_PART] if case in "bz" else [NO_LIST] for case in "abcdz"
    }


def test_every_file_has_a_row_or_is_counted(tmp_path):
    write_cases(tmp_path, ["a", "b", "c"], "imagesTr", "labelsTr", "_0000")
    write(tmp_path / "imagesTr/a_0001.nii.gz", image(1))
    write(tmp_path / "imagesTr/a_0002.nii.gz", image(2))
    (tmp_path / "imagesTr/b_0000.nii.gz").rename(tmp_path / "imagesTr/b_0001.nii.gz")
    write(tmp_path / "labelsTr/only.nii.gz", label())
    (tmp_path / "imagesTr/d_0000.nrrd").touch()
    (tmp_path / "imagesTr/patient 7").mkdir()
    (tmp_path / "imagesTr/c_0000.mha").touch()
    for junk in ("Thumbs.db", ".DS_Store", "._a_0000.nii.gz", "a_0000.json", "README", "list.txt", "a_0000.nii.gz.md5"):
        (tmp_path / "imagesTr" / junk).touch()
    rows = rows_of(tmp_path)
    assert {case: row["reason"].split(":")[0] for case, row in rows.items()} == {
        "a": "", "b": "missing image", "c": "", "d": "not NIfTI", "only": "missing image",
        "patient-7": "folder in place of the image",
    }  # fmt: skip
    assert [rows[case]["warnings"][1:] for case in "abc"] == [
        ["2 images of other channels than the first: ignored"],
        ["1 image of other channels than the first: ignored"],
        ["beside its .nii or .nii.gz lies another file of its name: ignored"],
    ]


SUFFIXES = [
    ".nii.gz.part", ".nii.gz.dvc", ".nii.gz (1)", ".nii.gz~", ".nii.gz.1", ".nii.Z", ".nii_gz", ".niigz", ".mnc",
    ".par", ".zarr", ".pt", ".NRRD.GZ", "",
]  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_any_suffix_has_its_row(tmp_path, suffix):
    """Half a download, a pointer to data elsewhere, a copy, a format that nobody thought of."""
    write_cases(tmp_path, ["a", "b", "c"])
    for folder in ("images", "labels"):
        (tmp_path / folder / "b.nii.gz").rename(tmp_path / folder / f"b{suffix}")
    (tmp_path / "labels/c.nii.gz").rename(tmp_path / f"labels/c{suffix}")
    rows = rows_of(tmp_path)
    assert {case: row["reason"] for case, row in rows.items()} == {
        "a": "", "b": "not NIfTI: convert the image to .nii.gz", "c": "not NIfTI: convert the label to .nii.gz",
    }  # fmt: skip


def with_further(root: Path, data) -> dict:
    """Row ``b`` of two cases with a further label, that of b being ``data``."""
    write_cases(root, ["a", "b"])
    write(root / "labels_airway/a.nii.gz", label())
    write(root / "labels_airway/b.nii.gz", data)
    rows = rows_of(root, settings(root, labels=["airway"]))
    assert rows["a"]["status"] == "included" and rows["a"]["warnings"] == [NO_LIST]
    return rows["b"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.where(label() > 0, 1, np.nan), "non-finite values in the label airway"),
        (np.where(label() > 0, np.inf, 0), "non-finite values in the label airway"),
        (label().astype(np.int16) * 2 - 1, "values below 0 in the label airway"),
        (image(), "values below 0 in the label airway"),
    ],
)
def test_a_further_label_that_is_none_is_refused(tmp_path, data, reason):
    row = with_further(tmp_path, data.astype(np.float32))
    assert reason in row["reason"] and row["detail"] == "labels_airway/b.nii.gz"


@pytest.mark.parametrize(
    ("data", "warnings", "voxels"),
    [
        (255 * label(), [], 221),
        (np.where(label() > 0, 0.97, 0.02), [plausible.FRACTIONS], 221),
        (label() * 0.3, [plausible.FRACTIONS, "its label airway is empty"], 0),
        (
            1 - label(),
            ["its label airway covers more than half of the image: are background and label exchanged?"],
            10339,
        ),
        (0 * label(), ["its label airway is empty"], 0),
    ],
)
def test_a_further_label_that_is_odd_is_told(tmp_path, data, warnings, voxels):
    row = with_further(tmp_path, data.astype(np.float32))
    assert row["warnings"] == [NO_LIST, *warnings]
    case = table.prepare_case(row, settings(tmp_path, labels=["airway"]), tmp_path)
    assert np.count_nonzero(case.labels["airway"]) == voxels


def test_two_positions_of_a_label_are_told(tmp_path):
    """Its editor may have gone by the other one."""
    write_cases(tmp_path, ["a", "b"])
    mask = nib.Nifti1Image(label(), np.eye(4))
    mask.set_sform(np.eye(4), 1)
    mask.set_qform(np.diag([-1.0, -1, 1, 1]), 1)
    nib.save(mask, tmp_path / "labels/b.nii.gz")
    assert [row["warnings"] for row in rows_of(tmp_path).values()] == [[NO_LIST], [NO_LIST, plausible.TWO_POSITIONS]]


def test_upper_case_suffixes_are_read(tmp_path):
    write_cases(tmp_path, ["a", "b"], suffix=".NII.GZ")
    write_cases(tmp_path, ["c"], suffix=".Nii")
    assert {row["status"] for row in rows_of(tmp_path).values()} == {"included"}


def test_of_two_layouts_none_is_passed_over(tmp_path):
    write_cases(tmp_path, ["a"])
    (tmp_path / "imagesTr").mkdir()
    assert list(rows_of(tmp_path)) == ["a"]
    write_cases(tmp_path, ["b"], "imagesTr", "labelsTr")
    with pytest.raises(InputError, match="both images/ and imagesTr/"):
        nifti.index(tmp_path, settings(tmp_path))


def test_background_is_no_lesion(tmp_path):
    write_cases(tmp_path, ["a"])
    with pytest.raises(InputError, match="lesion_labels holds 0, which is background"):
        nifti.index(tmp_path, settings(tmp_path, lesion_labels=[0, 1]))


@pytest.mark.parametrize("labels", [{"1": "nodule", "2": "vessel"}, {"nodule": 1, "vessel": 2}, None, "broken"])
def test_values_of_labels_that_do_not_count_are_told(tmp_path, labels):
    """The second nodule is number 2, or a vessel: nobody knows but the one who reads this."""
    write_cases(tmp_path, ["a", "b"])
    numbered = label()
    numbered[12:] *= 2
    write(tmp_path / "labels/a.nii.gz", numbered)
    if labels:
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    rows = rows_of(tmp_path)
    told = "2 (vessel)" if isinstance(labels, dict) else "2"
    assert rows["a"]["warnings"][1:] == [
        f"its label also holds {told}, which is not in cohort.lesion_labels: add it there if it is nodule"
    ]
    assert (rows["a"]["n_nodules"], rows["b"]["n_nodules"], rows["b"]["warnings"][1:]) == (1, 2, [])
    assert rows_of(tmp_path, settings(tmp_path, lesion_labels=[1, 2]))["a"]["warnings"] == [NO_LIST]


def test_a_label_between_two_values_is_told(tmp_path):
    write_cases(tmp_path, ["a", "b"])
    write(tmp_path / "labels/a.nii.gz", label().astype(np.float32) * np.float32(0.8))
    write(tmp_path / "labels/b.nii.gz", label().astype(np.float32) * np.float32(0.9999999))
    rows = rows_of(tmp_path)
    assert [rows[case]["warnings"][1:] for case in "ab"] == [[plausible.FRACTIONS], []]


def test_an_image_without_a_position_is_told(tmp_path):
    write_cases(tmp_path, ["a", "b"])
    for folder in ("images", "labels"):
        write_bytes(tmp_path / folder / "a.nii.gz", {252: b"\0\0\0\0"})  # codes of qform and sform
    rows = rows_of(tmp_path)
    assert [rows[case]["warnings"][1:] for case in "ab"] == [[plausible.NO_POSITION], []]


def test_touching_corners_are_one_nodule_and_flips_keep_its_place(tmp_path):
    data = np.zeros(SHAPE, dtype=np.uint8)
    data[4:8, 4:8, 4:8] = data[8:12, 8:12, 8:12] = 1
    for name, affine in (("plain", np.eye(4)), ("flipped", np.diag([-1.0, -1.0, 1.0, 1.0]))):
        write(tmp_path / f"images/{name}.nii.gz", image(), affine)
        write(tmp_path / f"labels/{name}.nii.gz", data, affine)
    cohort, rows = settings(tmp_path), rows_of(tmp_path)
    plain, flipped = (
        table.prepare_case(rows[name] | {"split": "train"}, cohort, tmp_path) for name in ("plain", "flipped")
    )
    assert rows["plain"]["n_nodules"] == 1
    assert np.array_equal(plain.nodules, data)
    assert np.array_equal(flipped.nodules, data[::-1, ::-1])
    assert np.array_equal(flipped.ct, image()[::-1, ::-1])
    assert plain.about["nodules"][0]["volume_mm3"] == 128


def test_no_text_of_a_header_leaves_the_reader(tmp_path, capfd):
    """NIfTI headers have room for names too: four fields and the extensions."""
    for name in ("a", "b", "c"):
        for folder, data in (("images", image(name_seed(name))), ("labels", label())):
            volume = nib.Nifti1Image(data, np.eye(4))
            for field in ("descrip", "aux_file", "intent_name", "db_name"):
                volume.header[field] = b"SECRET"
            volume.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"SECRET"))
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(volume, tmp_path / folder / f"{name}.nii")
    (row, *_) = table.index(settings(tmp_path), tmp_path, seed=1)
    write_case(tmp_path / "out", table.prepare_case(row, settings(tmp_path), tmp_path))
    assert b"SECRET" in (tmp_path / "images/a.nii").read_bytes()
    assert not [path for path in (tmp_path / "out").iterdir() if b"SECRET" in path.read_bytes()]
    assert not [text for text in capfd.readouterr() if "SECRET" in text]


@pytest.mark.skipif(not CUBES.is_dir(), reason="the LIDC-IDRI cut-outs are not on this machine")
def test_real_cut_outs_are_prepared_voxel_for_voxel():
    cohort = settings(CUBES)
    pairs = nifti.find_pairs(CUBES)
    assert len(pairs) == 105
    for pair in pairs[:3]:
        case = table.prepare_case(pair | {"split": "train"}, cohort, CUBES)
        raw = np.asanyarray(nib.as_closest_canonical(nib.load(CUBES / pair["source"])).dataobj)
        assert np.array_equal(case.ct, raw.clip(-1024, 3071))
        assert case.lungs[case.nodules > 0].all()
        assert 0.1 < case.lungs.mean() <= 1.0


@pytest.mark.parametrize(("name", "usable"), [("lidc_cubes", 105), ("lidc_crops", 160), ("chests", 3)])
def test_no_real_image_or_label_is_refused_or_odd(tmp_path, name, usable):
    """Ground glass, masses, tight cut-outs of lung alone: whatever real data hold is plausible. (All 799 crops are; a
    fifth of them is tried here.)"""
    if not (DATA / name).is_dir():
        pytest.skip(f"the real images ({name}) are not on this machine")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for path in sorted((DATA / name / folder).iterdir())[:: 5 if name == "lidc_crops" else 1]:
            (tmp_path / folder / path.name).symlink_to(path)
    rows = nifti.index(tmp_path, settings(tmp_path))
    assert {row["reason"] for row in rows if row["status"] == "excluded"} <= {"missing label: none has the case's name"}
    assert sum(row["status"] == "included" for row in rows) == usable
    assert not {text for row in rows for text in row["warnings"]} - {NO_LIST}


@pytest.mark.skipif(not CUBES.is_dir(), reason="the LIDC-IDRI cut-outs are not on this machine")
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_real_labels_that_are_all_one_voxel_beside_are_told(tmp_path, axis):
    """One slice too high, as if slices were counted from 1: no single case shows it."""
    for name in sorted(path.name for path in (CUBES / "labels").iterdir())[:40]:
        nodule = nib.load(CUBES / "labels" / name)
        write(tmp_path / "labels" / name, np.roll(np.asanyarray(nodule.dataobj), 1, axis), nodule.affine)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).symlink_to(CUBES / "images" / name)
    rows = nifti.index(tmp_path, settings(tmp_path))
    assert all(plausible.MISPLACED in row["warnings"] for row in rows if row["status"] == "included")


@pytest.mark.skipif(not CUBES.is_dir(), reason="the LIDC-IDRI cut-outs are not on this machine")
def test_real_cut_outs_with_another_label_are_refused(tmp_path):
    """Lung as label 1, or background and nodule exchanged: 20 of 20 each."""
    cases = sorted(path.name for path in (CUBES / "images").iterdir())[:20]
    for kind in ("lung", "exchanged"):
        for name in cases:
            volume, nodule = nib.load(CUBES / "images" / name), nib.load(CUBES / "labels" / name)
            hu, mask = np.asanyarray(volume.dataobj), np.asanyarray(nodule.dataobj) > 0
            write(tmp_path / kind / "images" / name, hu, volume.affine)
            data = (hu < -600) & ~mask if kind == "lung" else ~mask
            write(tmp_path / kind / "labels" / name, data.astype(np.uint8), volume.affine)
        reasons = {row["reason"].split(":")[0] for row in nifti.index(tmp_path / kind, settings(tmp_path))}
        assert reasons <= {"label is no nodule", "label is not on nodules"}, kind
