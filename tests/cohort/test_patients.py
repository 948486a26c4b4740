"""Who is who: lists that are not read, two spellings of one patient, and one scan under two patients."""

import numpy as np
import pytest

from lungsyn.cohort.patients import (
    NO_LIST,
    SAME_PART,
    SAME_PATIENT,
    SAME_VOXELS,
    read_list,
    refuse_alike,
    refuse_two_splits,
    same_image,
)  # fmt: skip
from lungsyn.errors import InputError

FOLDERS = ("images", "labels")
GOOD = "case\tpatient\na\tp\nb\tp\n"
MEANT = [
    "cases.csv", "Cases.tsv", "CASES.TSV", "cases.tsv.txt", "cases.txt", "cases", "case.tsv", "patients.csv",
    "cases.xlsx", "patients.tsv", "participants.tsv", "subjects.csv", "patient_ids.csv",
    "patientlist.xlsx", "cases (1).tsv",
    "Copy of cases.tsv", "cases - Kopie.csv", "my_cases_final.ods", "CaseList.csv",
    "cases.tsv.gz", "cases.tsv.dvc", "cases.tsv~", "cases.tsv (1)", "cases.csv.part", "cases.json", "patients.parquet",
    "Patienten.csv",
]  # fmt: skip
OTHERS = [
    "README.txt", "lowercase.txt", "showcases_of.md", ".cases.tsv", "~$cases.xlsx", "cases.pdf", "dataset.json",
    "casestudy.csv"
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
    return tmp_path


@pytest.mark.parametrize("name", MEANT)
@pytest.mark.parametrize("folder", ["", "images", "labels"])
def test_a_list_of_another_name_is_not_passed_over(root, name, folder):
    (root / folder / name).write_text(GOOD)
    with pytest.raises(InputError, match=r"only cases.tsv is read, beside the folders") as told:
        read_list(root, FOLDERS)
    assert told.value.detail.endswith(name)


@pytest.mark.parametrize(
    ("name", "message"), [("cases.tsv", "link to one that is gone"), ("cases.csv", "only cases.tsv")]
)
def test_a_list_that_is_a_link_to_nothing_is_not_passed_over(root, name, message):
    """As annexed data are before they were got."""
    (root / name).symlink_to("gone")
    with pytest.raises(InputError, match=message):
        read_list(root, FOLDERS)


@pytest.mark.parametrize(
    "patient", ["", "NA", "n/a", "#N/A", "NaN", "None", "null", "unknown", "?", "-", ".", "\u200b"]
)
def test_a_patient_that_nobody_knows_is_no_patient(root, patient):
    """All of them would be one, or one of those that are named."""
    (root / "cases.tsv").write_text(f"case\tpatient\na\tp\nb\t{patient}\n", encoding="utf-8")
    with pytest.raises(InputError, match="a row has no patient"):
        read_list(root, FOLDERS)


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_no_lists(root, name):
    (root / name).write_text(GOOD)
    (root / "patients").mkdir()
    assert read_list(root, FOLDERS) == {}


def test_beside_a_list_others_may_lie(root):
    for name in ("cases.tsv", "cases.csv", "patients.xlsx"):
        (root / name).write_text(GOOD)
    assert [row["patient"] for row in read_list(root, FOLDERS).values()] == ["p", "p"]


@pytest.mark.parametrize(
    "text",
    [
        "case\tpatient\na\tp\nb\tp\n\t\n \t \n\n",
        " case \t patient \na\tp\nb\tp\n",
        "Case\tPATIENT\r\na\tp\r\nb\tp\r\n",
        "patient\tcase\tage\np\ta\t61\np\tb\t\t\n",
        "case\tpatient\n\t\na\tp\n\t\nb\t p \n",
    ],
)
def test_lists_as_spreadsheets_leave_them_are_read(root, text):
    (root / "cases.tsv").write_bytes(text.encode())
    assert {case: row["patient"] for case, row in read_list(root, FOLDERS).items()} == {"a": "p", "b": "p"}


def test_two_spellings_of_a_patient_end_the_run_and_name_both():
    for names, listed, way in (
        (["Mia K", "x", "Mia  K"], True, "in cases.tsv"),
        (["p1", "P1"], False, "in a cases"),
    ):
        with pytest.raises(InputError, match=way) as told:
            refuse_alike(names, listed)
        assert all(ascii(name) in told.value.detail for name in names if name != "x")
        assert not any(name in str(told.value) for name in ("Mia", "p1"))
    refuse_alike(["Mia K", "Mia K", "Mia L"], True)


def row(case, patient, voxels, split="", status="included") -> dict:
    return {"case": case, "patient": patient, "split": split, "voxels": voxels, "warnings": [], "status": status}


def patients(rows) -> list[str]:
    return [row["patient"] for row in same_image(rows)]


def test_patients_who_share_an_image_are_one():
    rows = [row("a", "q", "1"), row("b", "p", "1"), row("c", "r", "2"), row("d", "q", "3")]
    for one in rows[1:3]:
        one["warnings"] = [NO_LIST]
    merged = same_image(rows)
    assert [row["patient"] for row in merged] == ["p", "p", "r", "p"]
    assert [row["warnings"] for row in merged] == [[SAME_VOXELS], [SAME_VOXELS], [NO_LIST], []]
    assert [row["patient"] for row in rows] == ["q", "p", "r", "q"]  # nothing changed in place
    assert patients(rows[::-1]) == ["p", "r", "p", "p"]


def test_they_are_one_through_others():
    rows = [row("a", "1", "x"), row("b", "2", "x"), row("c", "3", "y"), row("d", "4", "y"), row("e", "4", "z")]
    assert patients(rows) == ["1", "1", "3", "3", "3"]
    assert patients([*rows, row("f", "2", "z")]) == ["1"] * 6


def test_one_patient_s_image_under_two_names_is_told():
    merged = same_image([row("a", "p", "1"), row("b", "p", "1"), row("c", "q", None), row("d", "r", None)])
    assert [row["warnings"] for row in merged] == [[SAME_PATIENT], [SAME_PATIENT], [], []]
    assert [row["patient"] for row in merged] == ["p", "p", "q", "r"]


def test_patients_who_share_a_part_of_an_image_are_told():
    rows = [row("a", "p", "1"), row("b", "q", "2"), row("c", "q", "3"), row("d", "r", "1"), row("e", "s", None)]
    for one, parts in zip(rows, ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6], [2, 3, 4, 5, 7], [1, 2, 3, 4, 5], [9]), strict=True):
        one["parts"] = parts
    merged = same_image(rows)
    assert [row["patient"] for row in merged] == ["p", "q", "q", "p", "s"]
    assert [row["warnings"] for row in merged] == [[SAME_VOXELS], [SAME_PART], [SAME_PART], [SAME_VOXELS], []]
    assert [row["warnings"] for row in same_image(rows[1:3])] == [[], []]  # of one patient, as other cut-outs of a scan


def test_given_splits_must_not_part_an_image():
    rows = [row("a", "p", "1", "train"), row("b", "q", "1"), row("c", "q", "2"), row("d", "r", "2", "test")]
    merged = [row | {"name": row["case"], "patient_name": row["patient"]} for row in same_image(rows)]
    assert {row["patient"] for row in merged} == {"p"}
    with pytest.raises(InputError, match=r"same image stands in two splits \(test, train\)") as told:
        refuse_two_splits(merged)
    assert told.value.detail == "cases d, a"
    refuse_two_splits(merged[:3])


def test_random_patients_are_joined_as_a_graph_s_pieces():
    """Against scipy's connected components."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(0)
    for _ in range(20):
        people, images = rng.integers(0, 30, 40), rng.integers(0, 30, 40)
        rows = [row(f"c{i}", f"p{p:02}", f"v{v}") for i, (p, v) in enumerate(zip(people, images, strict=True))]
        graph = coo_matrix((np.ones(40), (people, 30 + images)), shape=(60, 60))
        _, piece = connected_components(graph, directed=False)
        expected = [f"p{min(people[piece[people] == piece[p]]):02}" for p in people]
        assert patients(rows) == expected
