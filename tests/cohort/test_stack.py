"""Slices out of order, gone, copied or of another scale are noticed; those of real scans are none of it."""

import nibabel as nib
import numpy as np
import pytest

from lungsyn.cohort.stack import COPIED, JUMPING, UNLIKE_NEIGHBOURS, slice_doubts
from lungsyn.errors import InputError
from lungsyn.volume.space import Volume
from tests.conftest import ROOT

DATA = ROOT / "../shared/data"


def body(slices: int = 60) -> np.ndarray:
    """Two lungs that taper to both ends, in a wall, with noise: HU ``[x y z]``."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (48, 40, slices)], indexing="ij", sparse=True)
    hu = np.where(x**2 + (y / 0.8) ** 2 < 0.9, 40.0, -1000.0) + 0 * z
    hu[((abs(x) - 0.45) / 0.35) ** 2 + (y / 0.6) ** 2 + z**2 < 0.9] = -850
    hu[x**2 + (y - 0.5) ** 2 + 0 * z < 0.01] = 300
    return np.rint(hu + np.random.default_rng(0).normal(0, 25, hu.shape)).astype(np.int16)


def changed(at, value):
    hu = body()
    hu[:, :, at] = value(hu[:, :, at])
    return hu


REFUSED = {
    "sorted by name": lambda: body()[:, :, sorted(range(60), key=str)],
    "one blank": lambda: changed(30, lambda hu: 0 * hu - 1024),
    "one without its rescale": lambda: changed(30, lambda hu: hu + 1024),
    "the last without its rescale": lambda: changed(59, lambda hu: hu + 1024),
    "ten of another scale": lambda: changed(slice(20, 30), lambda hu: hu + 500),
    "the rest is gone, but for one": lambda: changed(slice(30, 59), lambda hu: 0 * hu),
}
TOLD = {
    "two exchanged": (lambda: body()[:, :, [*range(20), 25, *range(21, 25), 20, *range(26, 60)]], UNLIKE_NEIGHBOURS),
    "some gone": (lambda: np.delete(body(120), range(15, 40), axis=2), JUMPING),
    "one twice": (lambda: body()[:, :, [*range(30), *range(29, 60)]], COPIED),
}


def doubts(hu, affine=None) -> list[str]:
    return slice_doubts(Volume(hu, np.eye(4) if affine is None else affine))


@pytest.mark.parametrize("name", REFUSED)
def test_slices_that_cannot_follow_each_other_are_refused(name):
    with pytest.raises(InputError, match="slices do not follow each other"):
        doubts(REFUSED[name]())
    exchanged = np.moveaxis(REFUSED[name](), 2, 0)
    with pytest.raises(InputError, match="slices do not follow each other"):
        doubts(exchanged, np.eye(4)[[1, 2, 0, 3]])


@pytest.mark.parametrize("name", TOLD)
def test_slices_that_hardly_follow_each_other_are_told(name):
    make, text = TOLD[name]
    assert text in doubts(make())


@pytest.mark.parametrize(
    "hu",
    [
        body(),
        body()[:, :, ::-1],
        body().astype(np.float32),
        body()[:, :, :3],
        np.pad(body(), ((0, 0), (0, 0), (5, 9))),
        np.pad(body(), 4, constant_values=-1024),
        np.random.default_rng(0).integers(-1000, 200, (24, 22, 20)),
        np.full((9, 9, 9), -850),
    ],
)
def test_whole_and_padded_scans_are_fine(hu):
    assert doubts(hu) == []


@pytest.mark.parametrize("name", ["chests", "lidc_cubes", "lidc_crops"])
def test_real_scans_are_fine(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"the real images ({name}) are not on this machine")
    for path in sorted((DATA / name / "images").iterdir())[:: 1 if name == "chests" else 4]:
        image = nib.load(path)
        assert slice_doubts(Volume(np.asanyarray(image.dataobj), image.affine)) == [], path.name
