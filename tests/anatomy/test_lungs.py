"""Lungs and body: a thorax of ellipsoids whose truth is known, the phantom's truth, and cut-outs."""

import numpy as np
import pytest

from lungsyn.anatomy.lungs import LEFT, RIGHT, body_mask, chest_masks, find_chest, part_mask, sides
from lungsyn.cohort import annotations, phantom
from lungsyn.cohort.preprocess import prepare
from lungsyn.settings.cohort import Nodules, Phantom, Preprocess
from lungsyn.volume.resample import resample_mask
from lungsyn.volume.space import Space, Volume

SPACING_MM = 2.0
AFFINE = np.diag([SPACING_MM] * 3 + [1.0])
MM = np.meshgrid(*[np.arange(n) * SPACING_MM for n in (180, 120, 120)], indexing="ij", sparse=True)


def ellipsoid(centre_mm, radii_mm) -> np.ndarray:
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(MM, centre_mm, radii_mm, strict=True)) <= 1


def thorax(gap_mm: float = 20.0) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A chest on a table with arms of air around it: HU, true lungs (0, 1 right, 2 left), one nodule at the pleura."""
    rng = np.random.default_rng(0)
    shape = tuple(np.broadcast_shapes(*[axis.shape for axis in MM]))
    hu = np.full(shape, -1000.0, dtype=np.float32)
    x, y, z = MM
    hu[np.broadcast_to(((x - 180) / 165) ** 2 + ((y - 125) / 105) ** 2 <= 1, shape)] = 40
    hu[np.broadcast_to((abs(x - 180) < 150) & (abs(y - 8) < 5) & (z >= 0), shape)] = 100  # table below the back
    lungs = np.zeros(shape, dtype=np.uint8)
    radius_mm, offset_mm = 55.0, 55.0 + gap_mm / 2
    lungs[ellipsoid((180 + offset_mm, 125, 110), (radius_mm, 75, 95))] = RIGHT  # RAS+: right is +x
    lungs[ellipsoid((180 - offset_mm, 125, 110), (radius_mm, 75, 95))] = LEFT
    nodule = ellipsoid((180 + offset_mm + radius_mm - 5, 125, 110), (7, 7, 7)) & (lungs == RIGHT)
    hu[lungs > 0] = -850
    hu[nodule] = 30
    trachea = np.broadcast_to(((x - 180) / 8) ** 2 + ((y - 125) / 8) ** 2 <= 1, shape) & (z > 150) & (lungs == 0)
    hu[trachea] = -990
    hu[ellipsoid((150, 190, 20), (18, 18, 14)) & (lungs == 0)] = -1000  # gas in the stomach
    hu += rng.normal(0, 20, shape).astype(np.float32)
    return Volume(hu, AFFINE), lungs, nodule


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="module")
def geometric():
    ct, truth, nodule = thorax()
    return ct, truth, nodule, *whole_masks(ct, nodule)


def whole_masks(ct: Volume, nodules: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Body and lungs on the grid of ``ct``, nothing cropped."""
    return chest_masks(find_chest(ct, ct.space, nodules), ct.space, nodules, margin_mm=1000)[2:]


def test_lungs_match_the_truth_on_each_side(geometric):
    _, truth, _, _, lung = geometric
    assert dice(lung == RIGHT, truth == RIGHT) >= 0.97
    assert dice(lung == LEFT, truth == LEFT) >= 0.97


def test_trachea_and_stomach_are_not_lung(geometric):
    ct, truth, _, _, lung = geometric
    gas = (ct.data < -900) & (truth == 0)
    assert (lung[gas] > 0).mean() < 0.02


def test_body_is_the_skin_without_the_table(geometric):
    ct, _, _, body, _ = geometric
    x, y, _ = MM
    skin = np.broadcast_to(((x - 180) / 165) ** 2 + ((y - 125) / 105) ** 2 <= 1, body.shape)
    assert dice(body, skin) > 0.99
    assert not body[:, :6].any()
    assert np.array_equal(body_mask(ct.data, ct.space), body)


def test_most_of_a_nodule_at_the_pleura_is_lung_even_when_nobody_marked_it(geometric):
    ct, _, nodule, _, lung = geometric
    assert (lung[nodule] == RIGHT).all()
    _, unmarked = whole_masks(ct, np.zeros_like(nodule))
    assert (unmarked[nodule] == RIGHT).mean() > 0.7  # without closing: 0


def test_lungs_that_touch_are_parted():
    ct, truth, nodule = thorax(gap_mm=-8.0)
    _, lung = whole_masks(ct, nodule)
    assert dice(lung == RIGHT, truth == RIGHT) >= 0.97
    assert dice(lung == LEFT, truth == LEFT) >= 0.97


def test_a_single_lung_too_thin_to_be_shrunk_is_told_by_the_midline():
    lung = np.zeros((60, 60, 60), bool)
    lung[10:20, 10:50, 10:50] = True  # 20 mm thick
    side = sides(lung, Space(lung.shape, np.diag([2.0, 2.0, 2.0, 1.0])))
    assert (side[:30] == LEFT).all() and (side[30:] == RIGHT).all()


def test_a_volume_without_lungs_has_none():
    ct, _, nodule = thorax()
    solid = Volume(np.where(ct.data > -950, 40.0, ct.data), AFFINE)
    _, lung = whole_masks(solid, np.zeros_like(nodule))
    assert (lung > 0).mean() < 0.01


def test_a_cut_out_keeps_aerated_tissue_and_the_nodule_and_drops_outside_air():
    hu = np.full((51, 51, 51), -850.0, dtype=np.float32)
    hu[:12] = 40  # chest wall, and air beyond the skin
    hu[:4] = -1000
    x, y, z = np.ogrid[:51, :51, :51]
    nodule = ((x - 16) ** 2 + (y - 25) ** 2 + (z - 25) ** 2 <= 36) & (x >= 12)
    hu[nodule] = 30
    lung = part_mask(Volume(hu, np.eye(4)), nodule)
    assert set(np.unique(lung)) == {0, 1}
    assert lung[nodule].all()
    assert not lung[:4].any()
    assert dice(lung > 0, np.broadcast_to(x >= 12, hu.shape)) > 0.99


def test_the_phantoms_lungs_match_its_truth():
    nodules = Nodules(consensus_level=0.5, min_readers=2, min_diameter_mm=3)
    settings = Phantom(patients=6, matrix=128, slice_thickness_mm=(2.5, 3.0), max_slices=130, noise_hu=25)
    scan, found = phantom.choose_scans(settings, nodules, seed=1)[0]
    hu, truth, affine = phantom.simulate(scan, settings, found, seed=1)
    corner = (affine @ (-0.5, -0.5, 0, 1))[:2] * (-1, -1)
    masks = [annotations.mask_volume(nodule, scan, tuple(corner)) for nodule in found]
    preprocess = Preprocess(spacing_mm=2.5, margin_mm=10, field_of_view="chest")
    case = prepare(Volume(hu, affine), masks, preprocess)
    for side in (RIGHT, LEFT):
        assert dice(case.lungs == side, resample_mask(Volume(truth == side, affine), case.space)) >= 0.97
    assert (case.lungs[case.nodules > 0] > 0).all()
    assert len(np.unique(case.nodules)) == 1 + len(found)
    assert (case.ct[case.body == 0] == -1000).all()
