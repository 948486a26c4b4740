"""The seam of readers: what a dataset says of itself, names of labels that travel, and what it must not do."""

import json
from pathlib import Path

import numpy as np
import pytest

from lungsyn import cli, registry
from lungsyn.cohort import nifti, table
from lungsyn.errors import InputError
from lungsyn.seams import RawCase, Reader
from lungsyn.settings.cohort import Cohort
from lungsyn.volume.files import open_case, read_volume
from lungsyn.volume.labels import ALWAYS
from lungsyn.volume.space import Volume
from tests.cohort.test_nifti import SHAPE, image, label, settings, write, write_cases
from tests.cohort.test_private import study_of

KINDS = ("lidc", "nifti", "phantom")


@pytest.mark.parametrize("kind", KINDS)
def test_every_dataset_of_the_package_is_a_reader(kind):
    assert isinstance(registry.family("readers", kind), Reader)


def test_what_the_workflow_asks_the_datasets():
    said = {
        kind: [getattr(registry.family("readers", kind), name) for name in ("public_names", "listed_once", "simulates")]
        for kind in KINDS
    }
    assert said == {"lidc": [True, True, False], "nifti": [False, False, False], "phantom": [True, True, True]}


# ------------------------------------------------------------------------------------------------- names that travel


def airway(seed: int = 0) -> np.ndarray:
    """A label with other values than 1, not in the middle."""
    data = np.zeros(SHAPE, np.uint8)
    data[2 + seed : 6, 3:9, 1:15] = 7
    return data


def write_labelled(root: Path, names: str) -> Cohort:
    write_cases(root, names)
    for seed, name in enumerate(names):
        write(root / f"labels_airway/{name}.nii.gz", airway(seed))
        write(root / f"labels_bone/{name}.nii.gz", airway(seed)[::-1])
    return settings(root, labels=["airway"])


def test_a_further_label_goes_from_its_folder_through_every_verb_to_the_export_and_back(tmp_path):
    """Only the one that is asked for; its grid is the case's."""
    cohort = write_labelled(tmp_path / "raw", "abcd")
    study_of(tmp_path / "raw", cohort, tmp_path / "out")
    case = open_case(tmp_path / "out/cases/c")
    assert case.labels.names == (*ALWAYS, "airway")
    assert np.array_equal(case.labels["airway"], airway(2) > 0)
    exported = ["--cases", str(tmp_path / "out/cases"), "--out", str(tmp_path / "nnunet")]
    assert cli.main(["cohort", "export", "--format", "nnunet", *exported]) == 0
    assert np.array_equal(read_volume(tmp_path / "nnunet/labelsTr_airway/c.nii.gz").data, case.labels["airway"])
    row = next(row for row in nifti.index(tmp_path / "nnunet", cohort) if row["case"] == "c")
    raw = nifti.read_case(tmp_path / "nnunet", row["source"], row["annotation"], cohort)
    assert np.array_equal(raw.labels["airway"].data, case.labels["airway"])


def test_a_further_label_is_resampled_and_cropped_with_its_case(tmp_path):
    """Half the spacing: each of its voxels is eight, and its eight corners are rounded off."""
    cohort = write_labelled(tmp_path / "raw", "abcd")
    finer = cohort.preprocess.model_copy(update={"spacing_mm": 0.5})
    row = {"case": "b", "patient": "b", "source": "images/b.nii.gz", "annotation": "labels/b.nii.gz"}
    case = table.prepare_case(row, cohort.model_copy(update={"preprocess": finer}), tmp_path / "raw")
    assert case.labels.shape == case.ct.shape == tuple(2 * n for n in SHAPE)
    assert case.labels["airway"].dtype == np.uint8
    assert np.count_nonzero(case.labels["airway"] != np.kron(airway(1) > 0, np.ones((2, 2, 2)))) == 8


def test_without_cohort_labels_other_folders_of_labels_are_nobody_s(tmp_path):
    write_labelled(tmp_path / "raw", "abcd")
    study_of(tmp_path / "raw", settings(tmp_path / "raw"), tmp_path / "out")
    assert open_case(tmp_path / "out/cases/a").labels.names == ALWAYS
    assert "labels" not in json.loads((tmp_path / "out/cases/a/case.json").read_text())


def test_a_case_whose_further_label_is_missing_or_does_not_fit_is_left_out_and_another_one_is_noticed(tmp_path):
    cohort = write_labelled(tmp_path, "abcd")
    before = {row["case"]: row for row in nifti.index(tmp_path, cohort)}
    (tmp_path / "labels_airway/a.nii.gz").unlink()
    write(tmp_path / "labels_airway/b.nii.gz", airway()[1:])
    write(tmp_path / "labels_airway/c.nii.gz", airway(1))
    after = {row["case"]: row for row in nifti.index(tmp_path, cohort)}
    assert {row["status"] for row in before.values()} == {"included"}
    assert after["a"]["reason"] == "missing label airway: none has the case's name"
    assert after["b"]["reason"].startswith("geometry mismatch: image (24, 22, 20), label airway (23, 22, 20); resample")
    assert after["c"]["raw"] != before["c"]["raw"] and after["d"]["raw"] == before["d"]["raw"]


def test_folders_of_further_labels_are_watched(tmp_path):
    reader = registry.family("readers", "nifti")
    watched = reader.watched(tmp_path, settings(tmp_path, labels=["airway"]))
    assert {tmp_path / "labels_airway", tmp_path / "labelsTr_airway", tmp_path / "imagesTr"} <= set(watched)


# -------------------------------------------------------------------------------------------- what a reader must not do


class Careless(Reader):
    """A reader of one case, whose row the tests spoil."""

    public_names = True

    def __init__(self, *rows: dict):
        self.rows = rows

    def index(self, root, settings, workers):
        usual = {"patient": "p", "source": "a", "status": "included", "reason": "", "n_nodules": 1, "spacing_mm": ""}
        return [usual | row for row in self.rows]

    def read(self, root, row, settings):
        return RawCase(Volume(image(), np.eye(4)), [Volume(label() > 0, np.eye(4))])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"case": "a"}],
            r"gives a case no 'raw', so that a change of its files would not be noticed: give it",
        ),
        ([{"case": "a", "raw": "1"}, {"case": "a", "raw": "2"}], r"has two rows of one case: give each a name"),
    ],
)
def test_rows_that_would_do_harm_are_refused(tmp_path, monkeypatch, rows, message):
    monkeypatch.setattr(table, "family", lambda *_: Careless(*rows))
    with pytest.raises(InputError, match=message):
        table.index(settings(tmp_path), tmp_path, seed=1)


def test_a_label_that_the_raw_data_do_not_have_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "family", lambda *_: Careless())
    with pytest.raises(InputError, match=r"no label bone: dataset 'nifti' has none; take it out of cohort\.labels"):
        table.prepare_case({"case": "a", "patient": "p"}, settings(tmp_path, labels=["bone"]), tmp_path)


def test_a_dataset_that_nobody_reads_is_told_with_those_that_are_read(tmp_path):
    with pytest.raises(ValueError, match=r"no reader is called 'npz': it must be one of lidc, nifti, phantom, or come"):
        settings(tmp_path, dataset="npz").model_validate(settings(tmp_path).model_dump() | {"dataset": "npz"})
