"""Outlines of lungs and body: whoever has them is found however they are bent, and strangers are not."""

import numpy as np
import pytest
from scipy import ndimage

from lungsyn.anatomy.shapes import AROUND, frame_of
from lungsyn.audit import outlines
from lungsyn.audit.outlines import OUTLINE, disguise, find, left_over, probe_outlines, read_outline
from lungsyn.audit.verdict import neighbour_checks, outline_recalls
from lungsyn.errors import InputError
from lungsyn.random import stream
from lungsyn.settings.audit import Thresholds
from lungsyn.volume.files import Case, open_case, write_case
from tests.conftest import labelled_case

SETTINGS = Thresholds()


def wall(seed: int, edge: int = 30) -> np.ndarray:
    """Lungs of a cut-out: one side of a smooth random surface."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((edge,) * 3), edge / 8, mode="wrap")
    return (field > np.quantile(field, 0.35)).astype(np.uint8)


def chest(seed: int, edge: int = 40) -> np.ndarray:
    """Two lungs that reach no border, each patient's of other shapes."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, edge)] * 3, indexing="ij")
    waves = ndimage.gaussian_filter(rng.standard_normal((edge,) * 3), edge / 10)
    radius = 0.8 + 0.25 * waves / waves.std() * 0.5
    lungs = np.zeros((edge,) * 3, np.uint8)
    for label, side in enumerate((1, -1), start=1):
        lungs[((x - 0.4 * side) / 0.35) ** 2 + (y / 0.6) ** 2 + (z / 0.85) ** 2 < radius] = label
    return lungs


def case_of(lungs: np.ndarray, name: str, donor: str | None = None, spacing_mm: float = 1.0) -> Case:
    row = {"made": {"row": {"body_case": donor}}} if donor else {}
    nothing = np.zeros_like(lungs)
    hu = np.zeros(lungs.shape, np.int16)
    about = {"case": name, "patient": name, "nodules": []} | row
    return labelled_case(hu, nothing, lungs, np.ones_like(lungs), np.diag([spacing_mm] * 3 + [1.0]), about)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """24 train and 20 held-out cut-outs; of the train ones, a set with their outlines, and strangers' outlines."""
    root = tmp_path_factory.mktemp("outlines")
    lungs = {f"train-{i}": wall(i) for i in range(24)} | {f"held-{i}": wall(100 + i) for i in range(20)}
    lungs |= {f"made-{i}": wall(200 + i) for i in range(24)} | {f"real-{i}": wall(i) for i in range(24)}
    found = {}
    for name, mask in lungs.items():
        donor = name.replace("real", "train") if name.startswith("real") else None
        write_case(root / name, case_of(mask, name, donor))
        found.setdefault(name.partition("-")[0], []).append(root / name)
    return found


@pytest.fixture(scope="module")
def audited(folders):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines, "COPIES", 6)
        return {of: probe_outlines(folders[of], folders["train"], folders["held"], 0) for of in ("real", "made")}


def results(rows) -> dict:
    _, checks = neighbour_checks(OUTLINE, rows, SETTINGS, 0)
    return {check.check: check for check in checks}


def test_real_outlines_fail_and_one_sentence_says_so(audited):
    checks = results(audited["real"])
    assert {check.result for check in checks.values()} == {"fail"} and len(checks) == 3
    assert checks["outline: copies"].sentence.startswith("24 of 24 synthetic outlines are nearer to a train outline")
    assert "24 of 24 synthetic outlines are nearest to that of the patient whose body they have" in (
        checks["outline: donors"].sentence
    )


def test_outlines_that_are_nobodys_pass(audited):
    checks = results(audited["made"])
    assert {name: check.result for name, check in checks.items()} == {
        "outline: copies": "pass", "outline: closer": "pass",
    }  # fmt: skip
    assert "lead no more than strangers do" in checks["outline: closer"].sentence


def test_planted_copies_lead_to_their_patients(audited):
    recalls = {row["disguise"]: row["recall"] for row in outline_recalls(audited["made"])}
    assert set(recalls) == set(outlines.DISGUISES)
    assert all(recalls[name] >= 0.95 for name in outlines.REQUIRED), recalls


def test_copies_that_lead_elsewhere_make_it_blind(audited):
    rows = [
        row | {"nearest": "train-0"} if row.get("disguise") == "an outline bent by 1.5 mm" else row
        for row in audited["made"]
    ]
    check = results(rows)["outline: closer"]
    assert check.result == "blind" and check.sentence.startswith("Blind: not found reliably: an outline bent by 1.5")


def test_an_identical_outline_leaves_nothing_and_a_moved_neighbourhood_little():
    one, other = (ndimage.gaussian_filter(wall(i, outlines.FINE).astype(np.float32), 1) for i in (0, 1))
    assert left_over(one, one) == 0
    beside = left_over(np.roll(one, 1, axis=0), one)
    assert 0 < beside < 0.2 * left_over(other, one)


@pytest.mark.parametrize("axis, scale", [(0, 1.0), (2, 1.3)])
def test_a_chests_frame_goes_with_its_lungs(axis, scale):
    """Moved, and with voxels of another size: the same outline."""
    lungs = chest(0)
    moved = np.roll(np.pad(lungs, 6), 3, axis)
    first, edge_mm = read_outline(case_of(lungs, "a"), cut_out=False)
    second, scaled_mm = read_outline(case_of(moved, "b", spacing_mm=scale), cut_out=False)
    assert scaled_mm == pytest.approx(scale * edge_mm)
    inside = first > 1.5  # the body is cut off elsewhere
    assert np.abs(np.clip(first - 1, 0, 1) - np.clip(second - 1, 0, 1))[inside].mean() < 0.02


def test_the_frame_of_a_box_is_known():
    box = np.zeros((20, 20, 20), bool)
    box[4:14, 6:12, 8:10] = True
    centre, edge_mm = frame_of(box, np.array([1.0, 2.0, 3.0]))
    assert centre == pytest.approx([8.5, 8.5, 8.5])
    spread = np.sqrt(sum((n**2 - 1) / 12 * mm**2 for n, mm in ((10, 1), (6, 2), (2, 3))))
    assert edge_mm == pytest.approx(AROUND * spread)


@pytest.mark.parametrize("name", ["an outline scaled by 1.1", "an outline shifted by a tenth"])
def test_a_chest_in_another_scale_or_place_is_put_into_its_own_frame(name):
    outline, edge_mm = read_outline(case_of(chest(3), "a"), cut_out=False)
    changed = disguise(name, outline, edge_mm, False, stream(0, "test"))
    others = np.stack([outline] + [read_outline(case_of(chest(i), "b"), False)[0] for i in range(4, 12)])
    (match,) = find(changed[None], others, [str(i) for i in range(len(others))])
    assert match.index == 0 and match.likeness > 0.9


def test_two_cases_of_a_patient_are_not_each_others_next(folders):
    """The next one is another patient's: else two scans of one would hide each other."""
    read = np.stack([read_outline(open_case(folder), True)[0] for folder in folders["train"][:6]])
    twice, owners = np.concatenate([read[:1], read]), ["0", *map(str, range(6))]
    (match,) = find(read[:1], twice, owners)
    assert owners[match.index] == "0" and match.likeness > 0.99


def test_one_patient_has_no_next_one():
    with pytest.raises(InputError, match="two patients or more"):
        find(np.zeros((1, 36, 36, 36), np.float32), np.zeros((2, 36, 36, 36), np.float32), ["a", "a"])


def test_a_voxel_that_is_no_number_hides_nobody():
    outlines_of = np.random.default_rng(0).random((15, 36, 36, 36)).astype(np.float32)
    broken, owners = outlines_of.copy(), [str(i) for i in range(15)]
    broken[1, 3, 3, 3] = np.nan
    assert np.isnan([match.likeness for match in find(broken[:3], outlines_of, owners)]).tolist() == [
        False,
        True,
        False,
    ]
    assert np.isnan([match.likeness for match in find(outlines_of[:2], broken, owners)]).all()
