"""Cut-outs of one scan are found, however they were cut, turned or stored; scans of others are not."""

import csv

import nibabel as nib
import numpy as np
import pytest

from lungsyn.cohort.overlap import KEPT, RUN, SHARED, overlapping, sketch
from lungsyn.volume.space import Volume
from tests.conftest import ROOT

DATA = ROOT / "../shared/data"


def scan(seed: int = 0, shape=(64, 56, 40)) -> Volume:
    """Lung, half of it tissue, with noise."""
    hu = np.random.default_rng(seed).normal(0, 30, shape) + np.where(np.arange(shape[1]) < 28, -800, 40)[:, None]
    return Volume(np.rint(hu).astype(np.int16), np.diag([0.7, 0.7, 2.0, 1.0]))


def of(volume: Volume, data) -> Volume:
    return Volume(data, volume.affine)


CUT = {
    "fewer slices": lambda v: of(v, v.data[:, :, 10:30]),
    "narrower": lambda v: of(v, v.data[20:50]),
    "cut on all sides": lambda v: of(v, v.data[5:50, 6:50, 7:33]),
    "mirrored and cut": lambda v: of(v, v.data[::-1, ::-1, 5:]),
    "axes exchanged": lambda v: Volume(np.moveaxis(v.data, 0, 2)[3:], v.affine[:, [1, 2, 0, 3]]),
    "padded and clipped": lambda v: of(v, np.pad(v.data.clip(-900, 300), 9, constant_values=-1024)),
    "as other numbers": lambda v: of(v, v.data[:, :, 8:].astype(np.float32) + 0.1),
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_cut_from_a_scan_is_found(name):
    one, other = sketch(scan()), sketch(CUT[name](scan()))
    assert len(one) == KEPT
    assert overlapping([sketch(scan(1)), one, sketch(scan(2)), other]) == [(1, 3)]


def test_two_cut_outs_that_overlap_are_found_and_such_that_do_not_are_not():
    left, middle, right = (sketch(of(scan(), scan().data[box])) for box in np.s_[:30, 15:50, 34:])
    assert overlapping([left, middle, right]) == [(0, 1), (1, 2)]
    assert overlapping([left, right]) == []


def test_what_has_no_noise_has_nothing_in_common():
    """Filled areas, steps, images too narrow for a run."""
    flat, steps = np.full((40, 40, 9), -850), np.arange(40).repeat(360).reshape(40, 40, 9) // 8 * 50 - 850
    noise = np.random.default_rng(0).integers(-800, 0, (RUN - 1, 40, 9))
    assert [len(sketch(Volume(data.astype(np.int16), np.eye(4)))) for data in (flat, steps, noise)] == [0, 0, 0]
    assert overlapping([(), (), ()]) == []


@pytest.mark.skipif(not (DATA / "lidc_cubes").is_dir(), reason="the LIDC-IDRI cut-outs are not on this machine")
def test_no_two_real_patients_share_a_part():
    sketches, patients = [], []
    for name in ("lidc_cubes", "lidc_crops"):
        with open(DATA / name / "cases.tsv", newline="") as file:
            for row in list(csv.DictReader(file, delimiter="\t"))[::6]:
                image = nib.load(DATA / name / f"images/{row['case']}.nii.gz")
                sketches.append(sketch(Volume(np.asanyarray(image.dataobj), image.affine)))
                patients.append(row["patient"])
    assert sum(len(one) >= SHARED for one in sketches) > 140
    assert all(patients[one] == patients[other] for one, other in overlapping(sketches))
