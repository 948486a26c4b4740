"""nnU-Net's raw dataset, as others read it, and how often each case is drawn."""

import json
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from lungsyn.segmenters.core.raw import drawn_from, write_dataset
from lungsyn.volume.files import open_case
from lungsyn.volume.tables import read_table


def test_a_dataset_holds_its_cases_voxel_by_voxel(case_folders, tmp_path):
    names = write_dataset(tmp_path, case_folders[:2], case_folders[2:3])
    assert names == ["real_0001", "real_0002", "synthetic_0001"]
    assert json.loads((tmp_path / "dataset.json").read_text())["numTraining"] == 3
    assert [row["case"] for row in read_table(tmp_path / "cases.tsv")] == [folder.name for folder in case_folders[:3]]
    for name, folder in zip(names, case_folders, strict=False):
        image, label = (nib.load(tmp_path / path) for path in (f"imagesTr/{name}_0000.nii", f"labelsTr/{name}.nii"))
        case = open_case(folder)
        assert np.array_equal(image.dataobj, case.ct) and np.array_equal(label.dataobj, case.nodules > 0)
        assert np.allclose(image.affine, case.affine) and np.allclose(label.affine, case.affine)


def test_a_case_that_is_named_twice_counts_twice(case_folders, tmp_path):
    """As the harder ones of those that the benchmark finds."""
    names = write_dataset(tmp_path, case_folders[:1], [case_folders[1], case_folders[1]])
    assert names == ["real_0001", "synthetic_0001", "synthetic_0002"]
    assert [row["case"] for row in read_table(tmp_path / "cases.tsv")] == ["case-0", "case-1", "case-1"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 2 / 3, 1.0])
@pytest.mark.parametrize(("real", "synthetic"), [(3, 5), (4, 4), (50, 52), (7, 1)])
def test_cases_are_drawn_as_often_as_the_share_says(share, real, synthetic):
    names = [f"real_{i}" for i in range(real)] + [f"synthetic_{i}" for i in range(synthetic)]
    times = Counter(drawn_from(names, share))
    found = sum(n for name, n in times.items() if name.startswith("synthetic")) / times.total()
    assert found == pytest.approx(share, abs=0.005)
    for kind in ("real", "synthetic"):  # each of a kind as often
        assert len({n for name, n in times.items() if name.startswith(kind)}) <= 1


def test_without_a_share_each_case_is_drawn_alike():
    assert drawn_from(["real_1", "synthetic_1", "synthetic_2"], None) == ["real_1", "synthetic_1", "synthetic_2"]
