"""The kind of a scan: noise that is known is found, whatever the anatomy, the grid and the orientation."""

import numpy as np
import pytest
from scipy import ndimage

from lungsyn.volume.resample import reoriented
from lungsyn.volume.source import Source, measured, noise_hu, source_of
from lungsyn.volume.space import Volume
from tests.conftest import make_case

SHAPE = (120, 100, 12)


def anatomy(shape=SHAPE) -> np.ndarray:
    """Air, a body of fat with round muscles and bones, and two lungs with vessels: sharp edges, no noise."""
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    hu = np.full(shape, -1000.0)
    hu[x**2 + y**2 < 0.95] = -100
    for a, b, radius, value in [(0, 0.6, 0.3, 50), (0.5, 0.6, 0.15, 55), (-0.6, 0.5, 0.2, 45), (0, 0.7, 0.08, 700)]:
        hu[(x - a) ** 2 + (y - b) ** 2 < radius**2] = value
    for side in (-0.4, 0.4):
        lung = ((x - side) ** 2 / 0.1 + (y + 0.1) ** 2 / 0.25) < 1
        hu[lung] = np.where(np.sin(60 * x[lung]) * np.sin(50 * y[lung]) > 0.8, 0, -850)
    return hu


def noisy(sd: float, seed: int = 0) -> np.ndarray:
    return np.rint(anatomy() + np.random.default_rng(seed).normal(0, sd, SHAPE)).astype(np.int16)


@pytest.mark.parametrize("sd", [3, 10, 25, 60, 120])
def test_white_noise_is_found_whatever_lies_under_it(sd):
    assert noise_hu(noisy(sd)) == pytest.approx(sd, rel=0.1)  # edges add some


def test_no_noise_is_none():
    assert noise_hu(anatomy()) == 0


def test_a_soft_kernel_has_less_noise_than_a_sharp_one_of_the_same_dose():
    rng, noise = np.random.default_rng(0), np.empty(SHAPE)
    noise = rng.normal(0, 1, SHAPE)
    soft = ndimage.gaussian_filter(noise, (1, 1, 0))
    soft *= 20 / soft.std()
    assert noise_hu(anatomy() + soft) < 0.3 * noise_hu(anatomy() + 20 * noise)


def test_noise_is_told_of_tissue_alone():
    """Neither air nor lung: where there is no tissue nothing is said."""
    hu = noisy(25)
    hu[anatomy() <= -850] += np.random.default_rng(1).normal(0, 200, (anatomy() <= -850).sum()).astype(np.int16)
    assert noise_hu(hu) == pytest.approx(25, rel=0.1)
    assert noise_hu(np.full(SHAPE, -850)) is None


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "IPL"])
def test_slices_lie_along_the_patient_whatever_the_orientation(codes):
    """A scan of 0.8 x 0.7 x 5 mm, stored in every way."""
    affine = np.diag([0.8, 0.7, 5.0, 1.0])
    scan = reoriented(Volume(noisy(30), affine), codes)
    found = measured(scan)
    assert found.slice_mm == 5.0
    assert found.noise_hu == measured(Volume(noisy(30), affine)).noise_hu == pytest.approx(30, rel=0.05)


def test_a_tilted_scan_has_its_slices_along_the_patient_too():
    angle = np.deg2rad(25)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 0.7, 2.5])
    assert measured(Volume(noisy(20), affine)).slice_mm == 2.5


def test_a_case_of_before_says_nothing():
    case = make_case()
    assert source_of(case) is None
    case.about["source"] = {"slice_mm": 2.5, "noise_hu": None}
    assert source_of(case) == Source(2.5, None)
