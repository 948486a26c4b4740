"""What no chest and no nodule can be: a chest made by hand of lung, wall and nodules, and real images if at hand."""

import nibabel as nib
import numpy as np
import pytest

from lungsyn.cohort import plausible
from lungsyn.cohort.plausible import check_geometry, check_hu, check_nodules, shifted, typical_hu, voxel_digest
from lungsyn.errors import InputError
from lungsyn.volume.nodules import diameter_mm
from lungsyn.volume.space import Space, Volume, bounding_box
from tests.conftest import ROOT

DATA = ROOT / "../shared/data"
SHAPE = (60, 50, 40)
CENTRES = [(15, 12, 10), (15, 20, 28), (30, 40, 10)]


def ball(centre, radius: float) -> np.ndarray:
    grid = np.indices(SHAPE)
    return sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True)) <= radius**2


def chest(nodule_hu: float = 30, seed: int = 0) -> np.ndarray:
    """1 mm voxels: lung in front of x = 45, then wall; three balls of 8 mm in the lung."""
    hu = np.full(SHAPE, -860.0)
    hu[45:] = 40
    for centre in CENTRES:
        hu[ball(centre, 4)] = nodule_hu
    return np.rint(hu + np.random.default_rng(seed).normal(0, 30, SHAPE)).astype(np.int16)


def masks(balls) -> list[Volume]:
    """Tight boxes, as the reader cuts them."""
    whole = [Volume(ball(centre, radius), np.eye(4)) for centre, radius in balls]
    return [volume.crop(*bounding_box(volume.data)) for volume in whole]


def judged(hu, balls) -> list[str]:
    return check_nodules(Volume(hu, np.eye(4)), masks(balls), "")


@pytest.mark.parametrize("hu", [30, -300, -600, -760])
def test_solid_and_ground_glass_nodules_are_fine(hu):
    assert judged(chest(hu), [(centre, 4) for centre in CENTRES]) == []


def test_labels_that_lie_in_lung_or_in_air_are_refused():
    flipped = [((x, 49 - y, 39 - z), 4) for x, y, z in CENTRES]
    with pytest.raises(InputError, match=r"not on nodules: 3 of 3 are no denser .* \(median -86. HU\)"):
        judged(chest(), flipped)
    outside = chest()
    outside[:, :12] = -1000
    with pytest.raises(InputError, match=r"not on nodules: 1 of 1 .* \(median -1000 HU\)"):
        judged(outside, [((20, 6, 20), 4)])


def test_a_few_odd_nodules_are_a_warning():
    assert judged(chest(), [*((centre, 4) for centre in CENTRES), ((15, 38, 12), 4)]) == [plausible.NO_DENSER]
    assert judged(chest(), [(CENTRES[0], 4), ((54, 20, 20), 3)]) == [plausible.NO_LUNG]


def test_a_nodule_has_a_largest_size():
    def of(millimetres):
        affine = np.diag([millimetres / 8, millimetres / 8, millimetres / 8, 1])
        boxes = [Volume(mask.data, affine @ mask.affine) for mask in masks([(CENTRES[0], 4)])]
        scale = diameter_mm(float(boxes[0].data.sum()) * boxes[0].space.voxel_ml * 1000) / millimetres
        assert abs(scale - 1) < 0.05
        return check_nodules(Volume(chest(), affine), boxes, " (dataset.json: 1 is 'lung')")

    assert of(60) == []
    assert of(100) == [plausible.LARGE]
    with pytest.raises(InputError, match=r"label is no nodule: it has one of 1\d\d mm \(dataset.json: 1 is 'lung'\)"):
        of(150)


def test_more_nodules_than_can_be_numbered_are_refused():
    one = masks([(CENTRES[0], 4)])
    assert check_nodules(Volume(chest(), np.eye(4)), one * 255, "") == []
    with pytest.raises(InputError, match="too many nodules: 256, and 255 can be numbered"):
        check_nodules(Volume(chest(), np.eye(4)), one * 256, "")


def test_a_label_that_fills_its_image_is_refused():
    plausible.check_lesion(np.arange(10) < 5, "")
    with pytest.raises(InputError, match="covers 60% of the image; are background and nodule exchanged"):
        plausible.check_lesion(np.arange(10) < 6, "")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (chest() - 1024, "not HU of a chest"),
        (chest() - 500, "not HU of a chest"),
        (chest() - 300, "not HU of a chest"),
        (chest() + 300, "hardly any is below"),
        (np.maximum(chest(), -600), "hardly any is below -600"),
        (chest() + 1024, "not HU of a chest"),
        ((chest() + 1000) / 1200, "not HU of a chest"),
    ],
)
def test_values_that_are_shifted_or_cut_off_are_refused(values, reason):
    check_hu(chest())
    with pytest.raises(InputError, match=reason):
        check_hu(values)


def test_padding_and_a_cut_out_of_lung_alone_are_fine():
    for fill in (-1024, -2000, -3024, -32768):
        padded = chest()
        padded[:20] = fill
        check_hu(padded)
    check_hu(chest()[:44, 26:35])


@pytest.mark.parametrize("offset", [-200, 0, 200])
def test_a_cohort_whose_values_are_shifted_is_noticed(offset):
    typical = [typical_hu(chest(seed=seed) + offset) for seed in range(5)]
    assert shifted(typical) == (offset != 0)
    assert not shifted(typical[:2])
    assert not shifted([*[typical_hu(chest(seed=seed)) for seed in range(6)], *typical])


def test_one_image_has_one_digest_whatever_was_done_to_its_file():
    hu = chest()
    same = [
        hu[::-1], hu.transpose(2, 0, 1)[:, ::-1], hu.astype(np.float64), hu + np.float32(0.3),
        np.pad(hu, 5, constant_values=-1024), np.clip(hu, -1000, 300),
    ]  # fmt: skip
    assert {voxel_digest(values) for values in same} == {voxel_digest(hu)}
    changed = hu.copy()
    changed[10, 10, 10] += 1
    assert len({voxel_digest(values) for values in (hu, changed, chest(seed=1), hu[1:])}) == 4


@pytest.mark.parametrize(
    "spacing", [(1, 1, 1), (0.3, 0.3, 0.3), (0.7, 0.7, 10), (-0.7, -0.7, 5), (18, 1, 1), (16, 20, 1)]
)
def test_sizes_that_scanners_make_are_fine(spacing):
    """A whole body is longer than a chest."""
    check_geometry(Space(SHAPE, np.diag([*spacing, 1.0])))


@pytest.mark.parametrize(
    ("spacing", "reason"),
    [
        ((0.001, 0.001, 0.001), "voxels of 0.001"),
        ((5000, 5000, 5000), "voxels of 5000"),
        ((0.7, 0.7, 21), "voxels of 0.7 x 0.7 x 21 mm"),
        ((0.1, 0.1, 0.1), "image of 6 x 5 x 4 mm"),
        ((17.5, 20, 26), "voxels of 17.5"),
        ((np.nan, 1, 1), "affine without a volume"),
        ((1, 1, 0), "affine without a volume"),
    ],
)
def test_sizes_that_nobody_has_are_refused(spacing, reason):
    with pytest.raises(InputError, match=reason):
        check_geometry(Space(SHAPE, np.diag([*spacing, 1.0])))


def test_images_that_are_too_wide_or_flat_are_refused():
    with pytest.raises(InputError, match=r"image of 1050 x 1050 x 40 mm: no chest"):
        check_geometry(Space((1500, 1500, 40), np.diag([0.7, 0.7, 1, 1])))
    with pytest.raises(InputError, match=r"image of 350 x 350 x 2600 mm: no chest"):
        check_geometry(Space((500, 500, 520), np.diag([0.7, 0.7, 5, 1])))
    flat = np.eye(4)
    flat[:3, 2] = (1, 0, 0.05)
    with pytest.raises(InputError, match="nearly without a volume"):
        check_geometry(Space(SHAPE, flat))


def test_a_grid_that_no_machine_holds_is_refused():
    chest = Space((512, 512, 400), np.diag([0.7, 0.7, 1, 1]))
    plausible.check_grid(chest, 0.5)
    with pytest.raises(InputError, match=r"too many voxels: 5.1e\+10 at 0.1 mm"):
        plausible.check_grid(chest, 0.1)


def header_of(affine, sform=1, qform=1):
    header = nib.Nifti1Image(np.zeros(SHAPE, dtype=np.uint8), affine).header
    header.set_sform(affine, code=sform)
    if qform:
        header.set_qform(np.eye(4), code=qform)
    header["qform_code"] = qform
    return header


def test_voxel_sizes_in_two_ways_are_warned_of():
    header = header_of(np.eye(4), 1, 0)
    header.set_zooms((0.7, 0.7, 2.5))
    assert plausible.geometry_doubts(Space(SHAPE, np.eye(4)), header) == [plausible.TWO_POSITIONS]


def test_odd_headers_are_warned_of():
    shear = np.eye(4)
    shear[1, 2] = 0.3  # 17 degrees
    wide = np.diag([15.0, 15, 1, 1])
    for affine, codes, expected in (
        (np.eye(4), (1, 1), []), (np.diag([-1.0, 1, 1, 1]), (2, 0), []), (np.eye(4), (0, 0), [plausible.NO_POSITION]),
        (np.diag([-1.0, 1, 1, 1]), (1, 1), [plausible.TWO_POSITIONS]), (shear, (1, 0), [plausible.SHEARED]),
        (wide, (1, 0), [plausible.WIDE]),
    ):  # fmt: skip
        assert plausible.geometry_doubts(Space(SHAPE, affine), header_of(affine, *codes)) == expected


@pytest.mark.parametrize(
    ("shape", "is_flat"), [((9, 9, 1), True), ((9, 1, 9), True), ((2, 2, 1), False), ((9, 9, 2), False)]
)
def test_a_nodule_that_was_marked_in_one_slice_only_is_told(shape, is_flat):
    hu, mask = np.full((40, 40, 30), -850.0), np.zeros((40, 40, 30), bool)
    at = tuple(slice(15, 15 + n) for n in shape)
    hu[at], mask[at] = 30, True
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nodule = Volume(mask, affine).crop([15] * 3, [15 + n for n in shape])
    assert plausible.check_nodules(Volume(hu, affine), [nodule], "") == [plausible.FLAT] * is_flat


@pytest.mark.parametrize(("value", "told"), [(0, True), (-500, True), (-1024, False), (3071, False)])
def test_a_part_of_one_value_is_told_unless_it_is_air_or_clipped(value, told):
    hu = np.random.default_rng(0).normal(-300, 30, (40, 36, 100)).round().astype(np.int16)
    assert plausible.value_doubts(hu) == plausible.value_doubts(hu[:2]) == []
    hu[10:25, 10:25, 30:70] = value
    assert plausible.value_doubts(hu) == [plausible.FILLED] * told


def ball_in_lung(by=(0, 0, 0), affine=None) -> tuple[int | None, ...]:
    """Where a ball of 7 voxels lies best whose mask is shifted ``by`` voxels of its array."""
    at = np.indices((31, 31, 31)) - 15
    ball = (at**2).sum(axis=0) <= 12
    hu = np.where(ball, 30, -850) + np.random.default_rng(0).normal(0, 30, ball.shape)
    mask = np.roll(ball, by, (0, 1, 2))
    start, stop = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0) + 1
    affine = np.eye(4) if affine is None else affine
    return plausible.best_shift(Volume(hu, affine), Volume(mask, affine).crop(start, stop))


def test_a_shifted_label_is_measured_along_the_patients_axes():
    assert ball_in_lung() == (0, 0, 0)
    assert ball_in_lung((0, 0, 1)) == (0, 0, -1)
    assert ball_in_lung((2, 0, 0), np.diag([-1.0, 1, 1, 1])) == (2, 0, 0)
    assert ball_in_lung((0, 0, 2), np.eye(4)[[2, 0, 1, 3]]) == (-2, 0, 0)
    assert ball_in_lung((0, 0, 12))[2] is None  # too near the image's end


def test_labels_that_are_all_shifted_alike_are_told_and_few_or_scattered_ones_are_not():
    shifted, right = (0, 0, -1), (0, 0, 0)
    assert plausible.misplaced([shifted] * 16 + [right] * 14)
    assert not plausible.misplaced([shifted] * 15 + [right] * 15)
    assert not plausible.misplaced([shifted] * 19)
    assert not plausible.misplaced([shifted] * 19 + [(0, 0, None)] * 19)
    assert not plausible.misplaced([right] * 30)
    assert not plausible.misplaced([])


@pytest.mark.skipif(not DATA.is_dir(), reason="the real images (shared/data) are not here")
def test_shifted_real_images_are_refused_or_noticed():
    """None of the real ones is: see test_nifti.py. The chests are most of air, the cubes most of lung."""
    chests = [np.asanyarray(nib.load(path).dataobj)[::2, ::2, ::2] for path in sorted(DATA.glob("chests/images/*"))]
    cubes = [np.asanyarray(nib.load(path).dataobj) for path in sorted(DATA.glob("lidc_cubes/images/*"))[::5]]
    for images in (chests, cubes):
        for offset in (-1024, -500, 500, 1024):
            for values in images:
                with pytest.raises(InputError):
                    check_hu(values.astype(np.int32) + offset)
        for offset in (-200, 0, 200):
            assert shifted([typical_hu(values.astype(np.int32) + offset) for values in images]) == (offset != 0)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real images (shared/data) are not here")
def test_balls_in_real_lungs_are_told_from_nodules():
    """Places by chance, of the sizes of nodules, where a flipped label would lie: nearly all are noticed."""
    rng, found = np.random.default_rng(0), []
    for path in sorted(DATA.glob("chests/images/*")):
        image = nib.load(path)
        ct = Volume(np.asanyarray(image.dataobj), image.affine)
        lung = np.argwhere((ct.data < -600) & (ct.data > -980))
        for centre in lung[rng.integers(len(lung), size=15)]:
            reach = np.ceil(12 / ct.space.spacing_mm).astype(int)
            start, stop = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, ct.data.shape)
            box = ct.crop(start, stop)
            grid = np.indices(box.data.shape) - (centre - start)[:, None, None, None]
            away = np.sqrt(sum((axis * mm) ** 2 for axis, mm in zip(grid, ct.space.spacing_mm, strict=True)))
            try:
                found.append(bool(check_nodules(ct, [Volume(away <= rng.uniform(3, 9), box.affine)], "")))
            except InputError:
                found.append(True)
    assert np.mean(found) > 0.8  # 0.89; the rest meet vessels or the wall
