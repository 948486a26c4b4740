"""CT and nodule mask made together: what is learned from, and how what is made gets its labels."""

import dataclasses

import numpy as np
import pytest
import torch

from lungsyn.generators import style_gan
from lungsyn.generators.core import training
from lungsyn.generators.core.bands import to_bands
from lungsyn.generators.core.joint import (
    about_real,
    bands_of,
    bands_sd,
    from_bands_of,
    joint_window,
    labelled,
    numbered,
)
from lungsyn.quality.measures import measure
from lungsyn.quality.ranges import faults, reference
from lungsyn.seams import Generator, Run, Scene
from lungsyn.sets import as_case, synthetic_case
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import write_case
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.labels import LabelMap
from tests.anatomy.chests import chest
from tests.conftest import cut_out, make_case

WINDOW = (-1000, 400)
MM = np.diag([2.0, 2.0, 2.0, 1.0])  # of `cut_out`


def as_made(case):
    """What a perfect generator makes of a case: ``[2 x y z]``."""
    nodule = np.where(np.asarray(case.nodules) > 0, 0.8, -0.7)
    return np.stack([to_model_range(case.ct, WINDOW), nodule]).astype(np.float32)


def blank(shape):
    return Scene(LabelMap({name: np.zeros(shape, np.uint8) for name in ("nodules", "lungs", "body")}), MM)


def test_a_real_cut_out_gets_its_own_labels_back():
    case = cut_out()
    made = labelled(as_made(case), MM, WINDOW, {"cut_out": True, "smallest_mm3": 8.0})
    assert np.abs(made.hu - np.clip(case.ct, *WINDOW)).max() <= 1 and made.hu.dtype == np.int16
    for name in ("nodules", "lungs", "body"):
        np.testing.assert_array_equal(made.labels[name], np.asarray(case.labels[name]), err_msg=name)
        assert made.labels[name].dtype == np.uint8


def test_a_whole_chest_gets_both_lungs_a_body_and_air_around_it():
    hu, lungs, nodules, body = chest()
    case = make_case(hu.shape).with_labels(nodules=nodules, lungs=lungs, body=body)
    case = dataclasses.replace(case, ct=hu)
    made = labelled(as_made(case), np.diag([3.0, 3.0, 3.0, 1.0]), WINDOW, {"cut_out": False, "smallest_mm3": 0.0})
    overlap = (made.labels["lungs"] == lungs).mean()
    assert set(np.unique(made.labels["lungs"])) == {0, 1, 2} and overlap > 0.95
    assert made.labels["lungs"].shape == hu.shape  # and nothing is cut away around them
    assert (made.hu[made.labels["body"] == 0] == -1000).all()


def test_bands_of_both_images_are_lossless_and_of_about_unit_width():
    both, sd = torch.rand(3, 2, 8, 6, 4), bands_sd()
    assert bands_of(both, sd).shape == (3, 16, 4, 3, 2)
    torch.testing.assert_close(from_bands_of(bands_of(both, sd), sd), both)
    ct = bands_of(both, sd)[:, :8] * sd[0].flatten()[:, None, None, None]
    torch.testing.assert_close(ct, to_bands(both[:, :1]))


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("value", [-1.0, 0.3, 1.0])
def test_what_is_no_chest_at_all_still_has_labels(cut, value):
    """A generator that learned nothing must end in a rejected volume, not in an error."""
    made = np.full((2, 20, 18, 22), value, np.float32)
    made[1] = -1
    found = labelled(made, MM, WINDOW, {"cut_out": cut, "smallest_mm3": 1.0})
    assert found.labels.shape == found.hu.shape == (20, 18, 22) and not found.labels["nodules"].any()
    noise = np.random.default_rng(0).uniform(-1, 1, made.shape).astype(np.float32)
    assert labelled(noise, MM, WINDOW, {"cut_out": cut, "smallest_mm3": 1.0}).hu.shape == (20, 18, 22)


def test_nodules_are_numbered_by_size_and_smaller_ones_than_any_real_one_dropped():
    inside = np.zeros((20, 20, 20), bool)
    inside[1:3, 1:3, 1:3] = True  # 8 voxels
    inside[3, 3, 3] = True  # touches it at a corner: the same nodule
    inside[8:12, 8:12, 8:12] = True  # 64
    inside[15, 15, 15] = True
    found = numbered(inside, 2.0)
    assert found[9, 9, 9] == 1 and found[1, 1, 1] == found[3, 3, 3] == 2 and found[15, 15, 15] == 0
    assert found.dtype == np.uint8 and found.max() == 2
    assert (numbered(inside, 9.0) > 0).sum() == 73 and (numbered(inside, 10.0) > 0).sum() == 64
    many = np.zeros((40, 40, 40), bool)
    many[::3, ::3, ::3] = True  # 14^3 of them
    assert numbered(many, 0.0).max() == 255 and len(np.unique(numbered(many, 0.0))) == 256


def test_what_is_learned_from_is_both_on_one_grid(case_folders):
    case = make_case((21, 34, 18))
    found = joint_window(case, (-3, 5, 2), 24, WINDOW)
    assert found.shape == (2, 24, 24, 24) and found.dtype == np.float32
    inside = np.asarray(case.nodules[:21, 5:29, 2:]) > 0
    assert ((found[1, 3:, :, :16] > 0) == inside).all() and set(np.unique(found[1])) == {-1, 1}
    assert (found[:, :3] == -1).all()  # beyond the case: air, no nodule
    about = about_real(case_folders)
    assert not about["cut_out"] and about["smallest_mm3"] > 8


class Making(Generator):
    """Makes what it is given."""

    def __init__(self, made):
        self.made = made

    def sample(self, scene, seed, on_step=lambda step: None):
        return labelled(self.made, scene.affine, WINDOW, {"cut_out": True, "smallest_mm3": 8.0})


def test_a_volume_without_a_nodule_is_rejected_and_a_real_one_is_not(tmp_path):
    cases = [cut_out(seed) for seed in range(8)]
    ranges = reference({f"case-{i}": measure(case, None) for i, case in enumerate(cases)}, 0.05)
    ranges["false_rejections"] = 0.05
    made = as_made(cutout := cut_out(20))
    row = {"volume": "0000", "seed": "1"}
    good = synthetic_case(Making(made), blank(cutout.ct.shape), row, 1)
    assert not {fault["measure"] for fault in faults(measure(good, None), ranges)} & {"nodules"}
    assert len(good.about["nodules"]) == 1 and good.about["known_case"] is None and good.about["new_nodules"] == 0
    made[1] = -1
    empty = synthetic_case(Making(made), blank(cutout.ct.shape), row, 1)
    told = [fault for fault in faults(measure(empty, None), ranges) if fault["measure"] == "nodules"]
    assert told[0]["reason"] == "number of nodules, is 0; real train cases: at least 1"
    write_case(tmp_path / "empty", empty)  # the last attempt is kept all the same


def test_a_volume_without_a_nodule_is_a_fault_and_a_case_all_the_same():
    ranges = reference({f"case-{i}": measure(cut_out(i), None) for i in range(6)}, 0.05)
    assert [fault["measure"] for fault in faults({"nodules": 0.0}, ranges)] == ["nodules"]
    host = cut_out(9)
    host = host.with_labels(nodules=np.zeros_like(host.nodules))
    assert as_case(Making(as_made(host)).sample(blank(host.ct.shape), 0), blank(host.ct.shape)).about["nodules"] == []


def test_hosts_teach_no_joint_generator(cut_outs, tmp_path, monkeypatch):
    """Their nodules are not marked: it would learn to mark none."""
    case = cut_out(0, "host", 15)
    case = case.with_labels(nodules=np.zeros_like(case.nodules))
    case.about.update(nodules=[], role="host")
    write_case(tmp_path / "host", case)
    seen = []
    monkeypatch.setattr(training, "train", lambda folders, *_: seen.extend(folders) or ({}, {"images_seen": 1}, []))
    compute = Compute(device="cpu", generator_threads=1)
    settings = style_gan.Settings()
    found = style_gan.Family().fit([tmp_path / "host", *cut_outs], settings, Run(0, compute, tmp_path))
    assert seen == cut_outs
    assert found.facts == {"images_seen": 1, "real": about_real(cut_outs)}
