"""`lungsyn init`: what it says of a folder, and that the overlay which it writes is a study that can run."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from lungsyn import cli
from lungsyn.cohort.survey import LOOK, Survey, lesion_labels, recognise, survey
from lungsyn.errors import InputError
from lungsyn.folds import columns_of
from lungsyn.settings.checking import check, read
from lungsyn.study import overlay, starting
from lungsyn.study.overlay import Choice, Prepared
from tests.cohort.test_nifti import DEFECTS, image, label, name_seed, write, write_cases
from tests.conftest import ROOT

NAMES = [f"Mueller_Hans_{i}" for i in range(8)]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("lungsyn.machine.cpus", lambda: 1)  # processes take longer to start than these cases to read


def leaves(nested: dict, *above: str) -> dict[tuple, object]:
    found = {}
    for key, value in nested.items():
        found |= leaves(value, *above, key) if isinstance(value, dict) else {(*above, key): value}
    return found


def test_a_folder_becomes_a_study_that_can_be_planned(tmp_path, capsys):
    write_cases(tmp_path / "hospital", NAMES)
    (tmp_path / "hospital/labels" / f"{NAMES[0]}.nii.gz").unlink()
    out = tmp_path / "hospital.yaml"
    assert cli.main(["init", str(tmp_path / "hospital"), "--out", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "7 of 8 cases can be used; patients: 7; nodules: 14" in said
    assert "excluded, missing label: 1" in said and "tried: 3 of 3 cases prepared" in said
    assert "24 x 22 x 20 mm, so cut-outs" in said and "value 1 in 7 of 7 labels" in said
    assert "Mueller" not in said + out.read_text()
    study, base = check(read([ROOT / "config.yaml", out])), leaves(read([ROOT / "config.yaml"]))
    assert study.cohort.root == tmp_path / "hospital" and study.study.name == "hospital"
    assert study.cohort.preprocess.field_of_view == "part" and study.benchmark.worst_cases == 1
    overlaid = leaves(yaml.safe_load(out.read_text()))
    assert [key for key, value in overlaid.items() if base.get(key) == value] == [("cohort", "lesion_labels")]
    assert all("# " in line for line in out.read_text().splitlines() if not line.endswith(":"))

    plan, run = (line.split() for line in said.splitlines()[-2:])
    assert (plan[1], run[1]) == ("plan", "run") and plan[2:] == run[2:]
    assert cli.main(plan[1:]) == 0
    assert "hospital: 8 cases" in capsys.readouterr().out


def test_a_config_that_asks_for_folds_is_counted_by_its_first():
    columns = columns_of([1, 2])
    rows = [
        {"patient": name, **dict(zip(columns, (one, "", two, ""), strict=True))}
        for name, one, two in (("a", "train", "test"), ("b", "validation", "train"), ("c", "test", "validation"),
                               ("d", "train", "train"))
    ]  # fmt: skip
    assert starting.per_split(rows, "patient") == {"train": 2, "validation": 1, "test": 1}


def test_nothing_is_replaced_unless_it_is_asked_for(tmp_path, capsys):
    write_cases(tmp_path / "data", NAMES)
    out = tmp_path / "study.yaml"
    out.write_text("mine")
    command = ["init", str(tmp_path / "data"), "--device", "cpu", "--out"]
    assert cli.main([*command, str(out)]) == 2
    assert "is there already" in capsys.readouterr().err and out.read_text() == "mine"
    assert cli.main([*command, "config.yaml", "--force"]) == 2
    assert "settings of all studies" in capsys.readouterr().err
    assert cli.main([*command, str(out), "--force"]) == 0
    assert "study:" in out.read_text()


def test_too_few_patients_are_told_with_what_was_found(tmp_path, capsys):
    write_cases(tmp_path / "data", NAMES[:2])
    assert cli.main(["init", str(tmp_path / "data"), "--out", str(tmp_path / "x.yaml"), "--device", "cpu"]) == 2
    told = capsys.readouterr()
    assert "2 of 2 cases can be used" in told.out and "cannot fill 3 splits" in told.err
    assert not (tmp_path / "x.yaml").exists()


def mess(root: Path) -> None:
    write(root / "Mueller" / "ct.nii.gz", image())
    (root / "list.xlsx").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.write_text(""), "is a file: name the folder"),
        (lambda root: root.mkdir(), "the folder is empty"),
        (mess, r"2 files \(1 .nii.gz, 1 .xlsx\). NIfTI files lie outside images/ and labels/: put"),
        (lambda root: write_cases(root / "a/b", NAMES[:1]), "does: name that folder"),
        (lambda root: (root / "images/x").mkdir(parents=True), "put the files themselves there"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_way_out(tmp_path, make, said):
    make(tmp_path / "data")
    with pytest.raises(InputError, match=said) as error:
        survey(tmp_path / "data")
    assert "Mueller" not in str(error.value)


@pytest.mark.parametrize(("damage", "reason"), DEFECTS)
def test_no_damaged_file_ends_the_look_at_the_others(tmp_path, damage, reason):
    write_cases(tmp_path, ["a", "b", "c"])
    damage(tmp_path)
    found = survey(tmp_path)
    assert list(found.values).count((1,)) >= 2 and len(found.spacings_mm) >= 2, reason


def test_one_half_of_the_cases_is_no_folder_of_cases(tmp_path):
    write_cases(tmp_path, NAMES[:1])
    with pytest.raises(InputError, match=f"name the folder above it, {tmp_path}$"):
        recognise(tmp_path / "images")


@pytest.mark.parametrize(
    ("labels", "layout", "channel", "names", "expected"),
    [
        ([(1,), (1,)], "labels", "", {}, [1]),
        ([(3,), (3,)], "labels", "", {}, [3]),
        ([(1, 2), (1, 2)], "labelsTr", "", {"0": "background", "1": "lung", "2": "Tumor"}, [2]),
        ([(1, 2), (1, 2)], "labelsTr", "_0000", {"background": 0, "lung nodule": 1, "lung": 2}, [1]),
        ([(1,), (1, 2)], "labels", "", {}, [1, 2]),  # nodules of a case are numbered
    ],
)
def test_which_values_are_nodule(tmp_path, labels, layout, channel, names, expected):
    for i, values in enumerate(labels):
        data = np.zeros(label().shape, np.uint8)
        for j, value in enumerate(values):
            data[2 + 6 * j : 6 + 6 * j, 4:8, 4:8] = value
        write(tmp_path / layout / f"c{i}.nii.gz", data)
        write(tmp_path / layout.replace("labels", "images") / f"c{i}{channel}.nii.gz", image(name_seed(f"c{i}")))
    if names:
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": names}))
    found = survey(tmp_path)
    assert lesion_labels(found)[0] == expected
    assert ("nnU-Net" in found.layout) == bool(channel)


def test_values_that_nothing_explains_are_to_be_looked_at():
    found = Survey("nifti", "", values=[(1, 2), (1, 2)])
    labels, why = lesion_labels(found)
    assert labels == [1] and why.startswith(LOOK)
    choices = overlay.of_cohort(found, Path("/x"), "chest", gpu=False)
    assert why in overlay.caution(choices, {"test": 30, "train": 30}, {"test": 30})
    kept = overlay.differing(choices, {"cohort": {"lesion_labels": [1]}})
    assert why in overlay.as_yaml(kept, [])


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    ("size_mm", "view"),
    [((51, 51, 51), "part"), ((30, 30, 8), "part"), ((18, 18, 3), "part"), ((360, 360, 300), "chest")],
)
@pytest.mark.parametrize("spacing_mm", [0.7, 1.0, 1.8, 5.0])
def test_every_kind_of_data_gives_a_config_that_is_usable(size_mm, view, spacing_mm, gpu):
    sizes, spacings = np.tile(size_mm, (9, 1)).astype(float), np.full((9, 3), spacing_mm)
    found = Survey("nifti", "", spacings, sizes, [(1,)] * 9)
    assert overlay.field_of_view(found) == view
    choices = [Choice("study.name", "x", ""), *overlay.of_cohort(found, ROOT, view, gpu)]
    wanted_mm = next(choice.value for choice in choices if choice.key.endswith("spacing_mm"))
    prepared = Prepared(sizes / wanted_mm, {"train": 5, "validation": 2, "test": 2})
    choices += overlay.of_trainings(view, gpu, wanted_mm, prepared)
    study = check(starting.laid_over(read([ROOT / "config.yaml"]), choices))
    assert study.benchmark.worst_cases <= 2 and study.cohort.preprocess.field_of_view == view
    if view == "part":
        patch, shape = study.generators["patch_ddpm"].patch_voxels, prepared.shapes[0]
        assert patch == 16 or np.maximum(shape, patch).prod() <= overlay.MOST_PADDED * shape.prod()


@pytest.mark.parametrize(("name", "title"), [("hospital", "hospital"), ("Phantom data", "my study")])
def test_a_study_of_patients_is_not_called_a_phantom_s(name, title):
    assert starting.title_of(Path("/data") / name) == title


def test_results_go_where_nothing_else_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "mine/results").mkdir(parents=True)
    assert [str(starting.folder_for(name)) for name in ("new", "docs", "mine")] == ["new", "docs_study", "mine"]
