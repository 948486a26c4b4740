"""What the viewer's folder holds: the voxels, what stands beside what, and nothing of the network."""

import base64
import gzip
import hashlib
import json
import re
import stat

import nibabel as nib
import numpy as np
import pytest

from lungsyn.cli import main
from lungsyn.evaluation.pictures import choose
from lungsyn.folds import columns_of
from lungsyn.viewer import volumes
from lungsyn.viewer.folder import HERE, PAGE
from lungsyn.volume.files import open_case
from lungsyn.volume.tables import read_table, write_table
from tests.conftest import make_case
from tests.viewer.conftest import HOST, write_study


def study_of(viewer) -> dict:
    return json.loads((viewer / "study.js").read_text().removeprefix("const STUDY = ").rstrip(";\n"))


def content(viewer, file: str) -> dict:
    name, found = json.loads(f"[{(viewer / file).read_text().removeprefix('loaded(').rstrip()[:-1]}]")
    assert name == file
    return found


def image(text: str):
    found = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))
    return np.asarray(found.dataobj), found.affine


def test_voxels_are_those_of_the_case_to_half_a_step(viewer):
    study = study_of(viewer)
    for volume in study["volumes"].values():
        folder = next(viewer.parent.glob(f"*/**/{volume['name']}/case.json")).parent
        case = open_case(folder)
        body = np.nonzero(np.asarray(case.body))
        box = tuple(slice(axis.min(), axis.max() + 1) for axis in body)
        found = content(viewer, volume["file"])
        hu, affine = image(found["ct"])
        assert np.abs(hu - case.ct[box]).max() <= volumes.STEP_HU / 2
        assert np.allclose(affine @ [*(np.array(hu.shape) - 1) / 2, 1], [0, 0, 0, 1], atol=1e-3)  # the middle is at 0
        assert not volume["coarser"] and volume["spacing_mm"] == 2.0
        for name in volume["masks"]:
            assert np.array_equal(image(found[name])[0] != 0, np.asarray(case.labels[name])[box] != 0)
        inverse = np.linalg.inv(affine)
        for index, at_mm in volume["nodules"].items():
            voxel = np.round(inverse @ [*at_mm, 1])[:3].astype(int)
            assert np.asarray(case.nodules)[box][tuple(voxel)] == int(index)


def test_a_host_is_shown_where_it_is_the_nearest_and_is_called_one(viewer):
    study = study_of(viewer)
    case = next(case for case in study["views"][0]["cases"] if case["name"] == "made-1")
    shown = [(study["volumes"][side["volume"]]["name"], side["text"]) for side in case["right"]]
    assert (HOST, "nearest train case by outline of lungs and body (likeness 0.97)") in shown
    assert next(v for v in study["volumes"].values() if v["name"] == HOST)["what"] == "real, train host"
    assert all(HOST not in name for name, text in shown if "at random" in text)


def test_a_large_case_becomes_coarser_and_its_masks_keep_their_volume():
    case = make_case((60, 60, 60))
    grid = volumes.grid_of(case, largest_voxels=20_000)
    assert np.prod(grid.shape) <= 21_000 and np.ptp(grid.spacing_mm) < 1e-6
    for name, layer in case.labels.layers.items():
        ml = (layer != 0).sum() * case.space.voxel_ml
        mask, _ = image(volumes.mask_text(layer != 0, case, grid))
        assert mask.sum() * grid.voxel_ml == pytest.approx(ml, rel=0.1 if name == "nodules" else 0.02)
    hu, _ = image(volumes.ct_text(case, grid))
    assert np.abs(np.median(hu[image(volumes.mask_text(case.lungs != 0, case, grid))[0] != 0]) + 800) < 20


def test_a_case_without_a_body_is_shown_whole_and_an_empty_mask_is_empty():
    case = make_case()
    bare = case.with_labels(body=np.zeros_like(case.body), nodules=np.zeros_like(case.nodules))
    assert volumes.grid_of(bare).shape == case.ct.shape
    assert list(volumes.mask_texts(bare, volumes.grid_of(bare))) == ["lungs"]
    assert not image(volumes.mask_text(bare.body != 0, bare, volumes.grid_of(bare)))[0].any()
    assert volumes.nodule_places(bare, volumes.grid_of(bare)) == {}


def test_what_is_beyond_one_byte_ends_at_its_ends():
    case = make_case()
    extreme = np.where(case.nodules > 0, 3000, np.where(case.lungs > 0, -2000, case.ct)).astype(np.int16)
    hu, _ = image(volumes.ct_text(type(case)(extreme, case.labels, case.affine, {}), volumes.grid_of(case)))
    assert hu.max() == -1024 + 255 * 8 and hu.min() == -1024


def test_synthetic_cases_stand_beside_the_nearest_real_ones(viewer):
    study = study_of(viewer)
    view = study["views"][0]
    assert view["title"] == "Synthetic set “untargeted”"
    first, second = view["cases"]
    assert first["name"] == "made-0" and "nodule, outline of lungs and body" in first["why"]
    assert second["name"] == "made-1" and "whole volume" in second["why"]
    beside = [(study["volumes"][side["volume"]]["name"], side["text"]) for side in first["right"]]
    assert [name for name, _ in beside[:3]] == ["train-a", "train-b", "train-b"]
    assert "likeness 0.90; of the nearest held-out case 0.50" in beside[0][1]
    places = study["volumes"][first["left"][0]["volume"]]["nodules"]
    assert first["right"][0]["beside_at"] == places["2"]  # its second nodule is closer than its first
    assert beside[3] == (choose(["train-a", "train-b"], 2, 1)[0], "a train case drawn at random")
    assert second["left"][0]["words"] == ["rejected by quality control: HU of the lungs is too high"]


def test_any_arm_and_replicate_is_there_over_test_cases(viewer):
    study = study_of(viewer)
    view = study["views"][1]
    assert [(one["name"], one["why"]) for one in view["cases"]] == [
        ("test-c", "best change"),
        ("test-b", "median change"),
    ]
    for one in view["cases"]:
        texts = [side["text"] for side in one["left"]]
        assert texts == [f"arm {arm}, replicate {k}" for arm in ("real", "real+synthetic") for k in (0, 1)]
        assert one["begin"] == [0, 2]
        volume = study["volumes"][one["left"][0]["volume"]]
        nodules, _ = image(content(viewer, volume["file"])["nodules"])
        for side in one["left"]:
            mask, _ = image(content(viewer, side["mask"]["file"])[side["mask"]["key"]])
            assert mask.any() and not mask[nodules == 0].any()
    assert view["cases"][0]["left"][2]["words"] == ["Dice 0.700"]


def test_of_folds_the_first_is_shown_and_named(tmp_path):
    """Its test cases, and not those who are tested in the second."""
    arguments = write_study(tmp_path)
    cohort = [
        row | {"split_1": row["split"], "train_rank_1": "", "split_2": "train", "train_rank_2": ""}
        for row in read_table(tmp_path / "cohort.tsv")
    ]
    write_table(tmp_path / "cohort.tsv", cohort, ["case", "patient", "role", *columns_of([1, 2])])
    assert main(["viewer", "write", *arguments]) == 0
    views = study_of(tmp_path / "viewer")["views"]
    assert [view["title"] for view in views] == [
        "Synthetic set “untargeted”, fold 1", "Predictions of segmenter “unet”, fold 1",
    ]  # fmt: skip
    assert [one["name"] for one in views[1]["cases"]] == ["test-c", "test-b"]
    right = {side["text"] for one in views[0]["cases"] for side in one["right"]}
    assert "a train case drawn at random" in right


def test_nothing_is_asked_of_a_network_and_nobody_else_may_read(viewer):
    for path in viewer.rglob("*"):
        assert not path.stat().st_mode & stat.S_IROTH, path
    own = [path for path in viewer.iterdir() if path.suffix in (".js", ".html", ".css")]
    assert len(own) == 4
    assert not [path.name for path in own if re.search("https?://|//cdn|fetch|XMLHttp", path.read_text())]


def test_a_change_of_the_page_is_noted_where_code_is_looked_at():
    """Else a study would keep the page of an older version. Recipe numbers: CONTRIBUTING.md."""
    found = {file: hashlib.sha256((HERE / file).read_bytes()).hexdigest()[:12] for file in PAGE}
    assert found == PAGE, "write these into lungsyn/viewer/folder.py, and raise the recipe of the verb"


def test_the_library_is_the_one_that_its_readme_names_with_its_licence():
    about = (HERE / "niivue/README.txt").read_text()
    digest = hashlib.sha256((HERE / "niivue/niivue.umd.js").read_bytes()).hexdigest()
    assert digest in about and "@niivue/niivue 0.69.0" in about
    assert "Copyright (c) 2021, Niivue" in (HERE / "niivue/LICENSES.txt").read_text()
