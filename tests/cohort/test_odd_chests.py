"""Chests of kinds that are met in practice and are not as they should be: narrow fields of view, gaps in the wall, gas
where lung was, padding, offsets, wrong spacings. A crude chest on a coarse grid, whose lungs are known."""

import dataclasses

import numpy as np
import pytest

from lungsyn.cohort.preprocess import prepare
from lungsyn.errors import InputError
from lungsyn.settings.cohort import Preprocess
from lungsyn.volume.files import read_volume
from lungsyn.volume.intensity import AERATED_HU
from lungsyn.volume.space import Volume
from tests.conftest import ROOT

REAL = ROOT / "../shared/data/chests/images"
MM = 3.0
SHAPE = (134, 108, 80)
X, Y, Z = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * MM for n in SHAPE], indexing="ij", sparse=True)
WALL = ((X / 155) ** 2 + (Y / 105) ** 2 < 1) | np.zeros(SHAPE, bool)
SETTINGS = Preprocess(spacing_mm=MM, margin_mm=9, field_of_view="chest")


@dataclasses.dataclass
class Chest:
    """HU without noise, true lungs (vessels and nodules in them), nodules (1 in the right lung, 2 in the left)."""

    hu: np.ndarray
    lungs: np.ndarray
    nodules: np.ndarray
    noise_hu: float = 25.0

    def cut(self, x=slice(None), y=slice(None), z=slice(None)):
        return Chest(self.hu[x, y, z], self.lungs[x, y, z], self.nodules[x, y, z], self.noise_hu)

    def prepared(self, mm=MM):
        noise = np.random.default_rng(0).normal(0, self.noise_hu, self.hu.shape)
        noise[(self.hu == 0) | (self.hu < -1010)] = 0  # fill values have none
        affine = np.diag([mm, mm, mm, 1.0])
        masks = [Volume(self.nodules == n, affine) for n in np.unique(self.nodules[self.nodules > 0])]
        settings = SETTINGS.model_copy(update={"spacing_mm": mm})
        return prepare(Volume(np.rint(self.hu + noise).astype(np.int16), affine), masks, settings)


def chest(lung_hu: float = -850, diameters_mm=(16, 14)) -> Chest:
    """On a table with a mattress as dark as lung."""
    hu = np.full(SHAPE, -1000.0)
    hu[(abs(X) < 150) & (abs(Y + 140) < 6) & (Z > -1e3)] = -100
    hu[(abs(X) < 150) & (abs(Y + 125) < 8) & (Z > -1e3)] = -930
    hu[((X / 165) ** 2 + (Y / 115) ** 2 < 1) & (Z > -1e3)] = -100
    hu[WALL] = 45
    lungs = np.zeros(SHAPE, np.uint8)
    for side, x in ((1, 75), (2, -75)):
        lungs[((X - x) / 58) ** 2 + (Y / 82) ** 2 + (Z / 110) ** 2 < 1] = side
    hu[lungs > 0] = lung_hu
    hu[(X**2 + (Y + 70) ** 2 < 18**2) & (Z > -1e3)] = 300
    hu[(X**2 + (Y - 20) ** 2 < 81) & (Z > 0)] = -990
    for y in range(-60, 61, 20):  # vessels
        hu[((Y - y) ** 2 + (Z - y / 4) ** 2 < 16) & (abs(X) > 20) & (lungs > 0)] = 30
    nodules = np.zeros(SHAPE, np.uint8)
    for number, (middle, diameter_mm) in enumerate(zip(((70, 0, 20), (-70, 10, -20)), diameters_mm, strict=True), 1):
        nodules[sum((a - m) ** 2 for a, m in zip((X, Y, Z), middle, strict=True)) < diameter_mm**2 / 4] = number
    hu[nodules > 0] = 30
    return Chest(hu, lungs, nodules)


def gap(width_mm: float, height_mm: float, hu: float) -> Chest:
    """A chest whose right wall is as dark as ``hu`` in a window."""
    whole = chest()
    window = (X > 95) & (abs(Y) < width_mm / 2) & (abs(Z) < height_mm / 2) & (whole.lungs == 0) & (whole.hu > -500)
    whole.hu[window] = hu
    return whole


def circle(radius_mm: float, fill: float) -> Chest:
    whole = chest()
    outside = np.broadcast_to(radius_mm**2 < X**2 + Y**2, SHAPE)
    return Chest(
        *[np.where(outside, value, a) for a, value in ((whole.hu, fill), (whole.lungs, 0), (whole.nodules, 0))]
    )


def thin_wall(wall_mm: float) -> Chest:
    whole = chest()
    whole.hu[np.broadcast_to(abs(X) > 133 + wall_mm, SHAPE)] = -1000
    return whole


def beside_arms() -> Chest:
    whole = chest().cut()
    whole.hu[np.broadcast_to((abs(X) - 180) ** 2 + Y**2 < 14**2, SHAPE)] = 45
    return whole


def padded() -> Chest:
    whole = chest()
    whole.hu[:8] = whole.hu[-8:] = whole.hu[:, :6] = whole.hu[:, -6:] = 0
    return whole


WHOLE = {
    "as it should be": chest,
    "prone": lambda: chest().cut(slice(None, None, -1), slice(None, None, -1)),
    "arms": beside_arms,
    "padded with zeros": padded,
    "a streak as dark as lung through the wall": lambda: gap(12, 30, -700),
    "a streak as dark as air": lambda: gap(12, 30, -1000),
    "one slice open": lambda: gap(8, 3, -1000),
    "a wall of 3 mm": lambda: thin_wall(3),
    "a wall of 6 mm": lambda: thin_wall(6),
}
CUT = {
    "both sides": (lambda: chest().cut(slice(27, 107)), "(left, right)"),
    "one side": (lambda: chest().cut(slice(25, None)), "(left)"),
    "front": (lambda: chest().cut(y=slice(0, 77)), "(front)"),
    "back": (lambda: chest().cut(y=slice(34, None)), "(back)"),
    "front, noisy": (lambda: dataclasses.replace(chest().cut(y=slice(0, 77)), noise_hu=120), "(front)"),
    "a corner": (lambda: chest().cut(slice(30, None), slice(34, None)), "(left, back)"),
    "all four sides": (lambda: chest().cut(slice(31, 103), slice(32, 76)), "(left, right, back, front)"),
    "top": (lambda: chest().cut(z=slice(0, 50)), "(top)"),
    "bottom": (lambda: chest().cut(z=slice(30, None)), "(bottom)"),
    "emphysema, both sides": (lambda: chest(-930).cut(slice(27, 107)), "(left, right)"),
    "circle, -2000": (lambda: circle(124, -2000), "without a wall"),
    "circle, -1024": (lambda: circle(110, -1024), "without a wall"),
    "circle, 0": (lambda: circle(110, 0), "without a wall"),
    "emphysema of the wall": (lambda: gap(300, 80, -900), "without a wall"),
    "without a wall": (lambda: thin_wall(0), "without a wall"),
}


def lung_kept(made: Chest) -> tuple:
    """The prepared case; the share of the lungs' air that is neither overwritten nor missed, and how much more than
    the true lungs is called lung."""
    case = made.prepared()
    air = (made.lungs > 0) & (made.hu < AERATED_HU)
    return (
        case,
        ((case.lungs > 0) & (case.ct < AERATED_HU)).sum() / air.sum(),
        (case.lungs > 0).sum() / (made.lungs > 0).sum(),
    )


@pytest.mark.parametrize("name", WHOLE)
def test_no_lung_is_taken_for_the_room(name):
    case, kept, called = lung_kept(WHOLE[name]())
    assert 0.99 < kept < 1.03 and called < 1.03
    assert (case.ct[case.nodules > 0] > -100).all()
    told = [line for line in case.about["warnings"] if "without a wall" not in line]
    assert not told


@pytest.mark.parametrize("name", CUT)
def test_lung_is_kept_up_to_the_images_border_and_that_is_told(name):
    make, told = CUT[name]
    made = make()
    case, kept, called = lung_kept(made)
    assert 0.97 < kept < 1.2 and called < 1.2
    assert any(told in line for line in case.about["warnings"])
    assert case.body[case.nodules > 0].all()


@pytest.mark.parametrize("mm", [2.0, 6.0])
def test_lung_at_the_border_is_kept_at_other_spacings(mm):
    made = chest().cut(slice(27, 107))
    affine = np.diag([MM, MM, MM, 1.0])
    case = prepare(Volume(made.hu, affine), [], SETTINGS.model_copy(update={"spacing_mm": mm}))
    true_ml = (made.lungs > 0).sum() * MM**3 / 1000
    assert abs((case.lungs > 0).sum() * case.space.voxel_ml / true_ml - 1) < 0.05


def test_neither_arms_nor_table_nor_padding_are_body():
    plain = chest().prepared()
    for name in ("arms", "padded with zeros"):
        assert np.array_equal(WHOLE[name]().prepared().body.sum(), plain.body.sum())
    assert plain.body.mean() < 0.97


@pytest.mark.parametrize(("side", "name"), [(1, "right"), (2, "left")])
@pytest.mark.parametrize("share", [0.6, 1.0])
def test_a_lung_of_gas_stays_a_lung(side, name, share):
    made = chest()
    made.hu[(made.lungs == side) & (made.hu < -500) & (120 - 240 * share < Z)] = -1000
    case = made.prepared()
    sizes = [(case.lungs == n).sum() for n in (1, 2)]
    assert min(sizes) > 0.95 * max(sizes)
    assert any(f"the {name} lung is mostly gas (median -" in line for line in case.about["warnings"])


def test_two_lungs_of_gas_are_lungs():
    case = chest(-975).prepared()
    assert [w[: w.index(" (")] for w in case.about["warnings"]] == [
        "the right lung is mostly gas",
        "the left lung is mostly gas",
    ]


def test_gas_in_the_bowel_is_no_lung():
    made = chest()
    made.lungs[:, :, :30] = 0
    made.hu[:, :, :30] = np.where(made.hu[:, :, :30] < -500, 45, made.hu[:, :, :30]) * WALL[:, :, :30]
    made.hu[~WALL & (Z < 1e3)] = -1000
    made.hu[((X + 60) / 70) ** 2 + (Y / 55) ** 2 + ((Z + 75) / 32) ** 2 < 1] = -1000  # half a litre below the left lung
    case = made.prepared()
    assert (case.lungs[case.ct < -950] > 0).mean() < 0.02


OFFSETS = {
    "lost": (1024, "next to nothing is as dark as lung|tissue's median"),
    "twice": (-1024, "bright as tissue|tissue's median"),
    "+500": (500, "next to nothing is as dark|tissue's median"),
    "-300": (-300, "tissue's median is -2"),
}


@pytest.mark.parametrize("name", OFFSETS)
def test_an_offset_is_named(name):
    offset, told = OFFSETS[name]
    made = chest()
    with pytest.raises(InputError, match=told) as error:
        dataclasses.replace(made, hu=made.hu + offset).prepared()
    assert "field_of_view" not in str(error.value)


def test_a_body_without_air_is_told_as_that():
    made = chest()
    made.hu[(made.lungs > 0) | (made.hu == -990)] = 20
    with pytest.raises(InputError, match=r"no lungs found: .*(hardly any air|outside the body)"):
        made.prepared()


@pytest.mark.parametrize(("mm", "told"), [(1.3, "litres (adults: 2 to 9)"), (4.2, "litres (adults: 2 to 9)")])
def test_sizes_that_few_people_have_are_told(mm, told):
    assert any(told in line for line in chest().prepared(mm).about["warnings"])


def test_sizes_that_nobody_has_are_refused():
    with pytest.raises(InputError, match=r"lungs of a size that nobody has: \d\d.\d litres"):
        chest().prepared(6.0)


def test_a_wide_chest_is_told():
    made = chest()
    wide = Volume(made.hu.astype(np.int16), np.diag([MM * 2.3, MM, MM, 1]))
    assert any("of a width that few have" in line for line in prepare(wide, [], SETTINGS).about["warnings"])


def test_a_lung_that_is_missing_is_told():
    made = chest()
    made.hu[made.lungs == 1] = 20
    assert any(line.startswith("one lung is much smaller: right 0 ml") for line in made.prepared().about["warnings"])


def test_a_nodule_outside_the_body_is_refused_and_one_at_its_edge_told():
    made = chest()
    made.nodules = np.roll(made.nodules, 33, axis=1)
    with pytest.raises(InputError, match=r"a nodule lies outside the body: \d+% of nodule \d"):
        made.prepared()
    made.nodules[:] = (X**2 + (Y - 110) ** 2 + Z**2 < 15**2) * 1
    assert any(line.startswith("a nodule reaches out of the body: ") for line in made.prepared().about["warnings"])


def test_a_label_that_covers_the_lungs_is_told():
    made = chest()
    made.nodules = (made.lungs > 0).astype(np.uint8)
    with pytest.raises(InputError, match="is the label inverted, or a lung's"):
        made.prepared()


def test_a_nodule_of_gas_is_told():
    made = chest()
    made.hu[made.nodules == 1] = -1000
    assert any("is gas, no tissue" in line for line in made.prepared().about["warnings"])


def test_a_nodule_out_of_reach_of_predictions_is_told():
    made = chest(diameters_mm=(16, 16))
    ball = X**2 + (Y - 75) ** 2 + (Z + 60) ** 2 < 20**2  # in the mediastinum, in front
    made.nodules[ball] = 2
    assert any("keep_lungs" in line and "of nodule 2" in line for line in made.prepared().about["warnings"])


@pytest.mark.skipif(not REAL.is_dir(), reason="real chests (shared/data/chests) are not here")
@pytest.mark.parametrize("name", ["cptac_c3n_00247", "lidc_idri_0001", "lung_dx_a0002_soft"])
def test_real_chests_are_read_and_keep_their_lungs_where_they_are_cut(name):
    """Cut so far that half of the lungs' slices are open; mattresses, clothes and a room of -940 HU are beside them."""
    whole = read_volume(REAL / f"{name}.nii.gz")
    case = prepare(whole, [], SETTINGS)
    assert set(case.about["warnings"]) <= {
        "lung reaches the image's border (bottom): what lies beyond is not in the image"
    }
    lung_mm = (np.argwhere(case.lungs > 0) @ case.affine[:3, :3].T + case.affine[:3, 3])[:, 0]
    first, last = np.sort((np.percentile(lung_mm, [3, 97]) - whole.affine[0, 3]) / whole.affine[0, 0]).astype(int)
    cut = prepare(whole.crop((first, 0, 0), (last, *whole.data.shape[1:])), [], SETTINGS)
    assert any("(left, right" in line for line in cut.about["warnings"])
    assert 0.9 < (cut.lungs > 0).sum() / (case.lungs > 0).sum() < 1.0
