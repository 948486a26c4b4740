"""Quality control: planted faults are named, real cases pass as often as promised, and sampling again ends."""

import dataclasses
import json

import numpy as np
import pytest

from lungsyn.generators.core.settings import grid_of
from lungsyn.generators.core.synthesis import stride_voxels
from lungsyn.hosts import HOST
from lungsyn.quality.attempts import Attempt, attempt_seed, attempts, middle_slices, rates, record, rejected_rows
from lungsyn.quality.measures import ANATOMY, measure
from lungsyn.quality.ranges import calibrated_width, faults, left_out_scores, spread_of, widths_away
from lungsyn.quality.ranges import reference as ranges_of
from lungsyn.quality.seams import _along_axes, border_planes, seam_logs, seam_steps
from lungsyn.settings.synthesis import Grid
from lungsyn.volume.intensity import NOT_FINITE_HU, to_hu
from lungsyn.volume.patches import axis_starts
from tests.anatomy.chests import chest
from tests.conftest import make_case

GRID = Grid(patch_voxels=16, multiple=4, overlap=0.25)
SHAPE = (40, 48, 36)


def real(seed: int):
    """A case whose HU differ from patient to patient as scanners do, and whose nodule is not flat."""
    rng = np.random.default_rng(seed)
    case = make_case(SHAPE, seed)
    hu = case.ct + np.where(case.lungs > 0, rng.normal(0, 15), rng.normal(0, 5)) + rng.normal(0, 10, SHAPE)
    return with_hu(case, np.where(case.body > 0, hu, -1000))


def with_hu(case, hu):
    return dataclasses.replace(case, ct=np.rint(hu).astype(np.int16))


@pytest.fixture(scope="module")
def reference() -> dict:
    return ranges_of({f"case-{i}": measure(real(i), GRID) for i in range(25)}, 0.05)


def faulty(case, reference, made=None) -> set[str]:
    return {fault["measure"] for fault in faults(measure(case, GRID, made), reference)}


# ------------------------------------------------------------------------------------------------------- planted faults


def shifted(case, rng):
    return with_hu(case, case.ct + 150)


def seam(case, rng):
    hu = case.ct.copy()
    hu[:, 16:] += 60  # patches along y: 0-16, 12-28, 24-40, 32-48
    return with_hu(case, np.where(case.body > 0, hu, -1000))


def absent_nodule(case, rng):
    lung = case.ct[(case.lungs > 0) & (case.nodules == 0)]
    return with_hu(case, np.where(case.nodules == 2, rng.choice(lung, SHAPE), case.ct))


def pure_noise(case, rng):
    return with_hu(case, rng.uniform(-1000, 400, SHAPE))


def all_air(case, rng):
    return with_hu(case, np.full(SHAPE, -1000))


def swapped(case, rng):
    lung = (case.lungs > 0) & (case.nodules == 0)
    return with_hu(case, np.where(case.body > 0, np.where(lung, 40, -800), -1000) + rng.normal(0, 20, SHAPE))


def not_a_number(case, rng):
    model_range = np.zeros(SHAPE, np.float32)
    model_range[3, 4, 5] = np.nan
    broken = to_hu(model_range, (-1000, 400)) == NOT_FINITE_HU
    assert broken.sum() == 1
    return with_hu(case, np.where(broken, NOT_FINITE_HU, case.ct))


def misplaced_mask(case, rng):
    return case.with_labels(nodules=np.roll(case.nodules, 9, axis=2))


def smooth(case, rng):
    return with_hu(case, np.where(case.body > 0, np.where(case.lungs > 0, -800, 40), -1000))


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (shifted, {"tissue_hu", "lung_hu", "nodule_hu"}),
        (seam, {"seam_step_hu"}),
        (absent_nodule, {"nodule_contrast_hu", "nodule_hu"}),
        (pure_noise, {"tissue_hu", "lung_hu", "lung_solid", "tissue_aerated", "noise_hu"}),
        (all_air, {"body_spread_hu", "tissue_hu", "lung_hu", "nodule_contrast_hu"}),
        (swapped, {"tissue_hu", "lung_hu", "lung_solid", "tissue_aerated"}),
        (not_a_number, {"finite"}),
        (misplaced_mask, {"nodule_contrast_hu"}),
        (smooth, {"noise_hu"}),
    ],
)
def test_a_planted_fault_is_caught_and_named(reference, plant, named):
    case = real(1000)
    assert faulty(case, reference) == set()
    assert named <= faulty(plant(case, np.random.default_rng(0)), reference)


def test_a_seam_is_the_only_fault_of_a_case_with_a_seam(reference):
    assert faulty(seam(real(1000), None), reference) <= {"seam_step_hu", "seam_ratio"}


def test_the_reason_says_measure_value_and_range(reference):
    fault = faults(measure(shifted(real(1000), None), GRID), reference)[0]
    assert "median of soft tissue, HU, is 1" in fault["reason"] and "real train cases: " in fault["reason"]
    assert fault["value"] > fault["high"] > fault["low"]


# ----------------------------------------------------------------------------------------------------- what is measured


def test_known_numbers():
    """White noise of 20 HU; a nodule of 20 HU in a lung of -800."""
    measures = measure(make_case((60, 60, 50)), GRID)
    assert measures["noise_hu"] == pytest.approx(20, rel=0.05)
    assert measures["noise_correlation"] == pytest.approx((-2 / 27 + 18 / 729) / (26 / 27), abs=0.02)
    assert measures["tissue_hu"] == pytest.approx(40, abs=2)
    assert measures["lung_spread_hu"] == pytest.approx(20 * 1.349, rel=0.05)
    assert measures["nodule_contrast_hu"] == pytest.approx(820, abs=2)
    assert measures["nodule_spread_hu"] == measures["lung_solid"] == measures["tissue_aerated"] == 0


def test_a_step_has_its_own_height_whatever_the_anatomy():
    case = real(0)
    assert max(seam_steps(seam(case, None).ct, case.body > 0, GRID)) == pytest.approx(60, abs=3)
    ramp = np.broadcast_to(50.0 * np.arange(40), (40, 40, 40)).copy()
    assert max(seam_steps(ramp, np.ones(ramp.shape, bool), GRID)) == 0


def test_a_planted_seam_is_seen_and_its_absence_too():
    volume, body = np.random.default_rng(0).normal(0, 0.1, (64, 64, 64)), np.ones((64, 64, 64), bool)
    ratio = lambda: np.exp(np.mean(seam_logs(volume, body, GRID)))  # noqa: E731
    assert ratio() == pytest.approx(1, abs=0.02)
    planes = border_planes([0, 12, 24, 36, 48], 16, 64)
    assert {p for p, *_ in planes} == {12, 16, 24, 28, 36, 40, 48, 52}
    for plane, *far in planes:
        assert not {p for p, *_ in planes} & set(far)
        volume[plane:] += 0.5
    assert ratio() > 1.3


def test_borders_are_those_of_the_synthesis(generator_settings, study):
    """What is measured lies where patches meet: the grid's numbers come from the same two sections."""
    grid = grid_of(generator_settings, study.synthesis)
    starts = axis_starts(64, 16, stride_voxels(generator_settings, study.synthesis))
    ours = [planes for *_, planes in _along_axes(np.zeros((64,) * 3), np.ones((64,) * 3, bool), grid)]
    assert ours == [border_planes(starts, 16, 64)] * 3
    assert generator_settings.grid_multiple == 4


def test_what_a_cut_out_lacks_is_not_measured(reference):
    """All soft tissue, smaller than a patch: no lung, no seam, no shell of lung around the nodule."""
    case = make_case((14, 14, 14))
    case = with_hu(case, np.full((14,) * 3, 40)).with_labels(lungs=case.lungs * 0, body=case.body * 0 + 1)
    found = set(measure(case, GRID))
    assert {"finite", "body_spread_hu", "tissue_hu", "nodule_hu"} <= found
    assert not found & {"lung_hu", "lung_solid", "seam_ratio", "seam_step_hu", "nodule_contrast_hu"}


def test_of_an_inpainted_case_only_made_nodules_count(reference):
    case = real(1000)
    made = np.zeros(SHAPE, bool)
    made[: SHAPE[0] // 2] = True  # the second nodule lies there, the first does not
    assert made[case.nodules == 2].all() and not made[case.nodules == 1].any()
    assert set(measure(case, GRID, made)) == {
        "finite", "nodule_hu", "nodule_spread_hu", "nodule_contrast_hu",
    }  # fmt: skip
    gone = absent_nodule(case, np.random.default_rng(0))
    assert "nodule_contrast_hu" in faulty(gone, reference, made)
    assert faulty(gone, reference, ~made) == set()
    assert faulty(shifted(case, None), reference, np.zeros(SHAPE, bool)) == set()


def test_anatomy_is_measured_in_a_chest_and_left_out_of_a_cut_out():
    hu, lungs, nodules, body = chest()
    case = with_hu(make_case(), hu).with_labels(lungs=lungs, nodules=nodules, body=body)
    case = dataclasses.replace(case, affine=np.diag([3.0, 3.0, 3.0, 1.0]))
    assert set(ANATOMY) <= set(measure(case, GRID))
    cut_out = case.with_labels(lungs=(lungs > 0).astype(np.uint8))
    assert not set(ANATOMY) & set(measure(cut_out, GRID))


# --------------------------------------------------------------------------------------------------------------- ranges


def drawn(n: int, rng) -> dict[str, dict[str, float]]:
    """Cases whose measures are normal or log-normal, and tied in pairs: real measures are not independent."""
    common = rng.normal(0, 1, n)
    of_case = {}
    for i in range(n):
        own = rng.normal(0, 1, 4)
        of_case[f"case-{i}"] = {
            "finite": 1.0, "tissue_hu": 40 + 50 * own[0], "lung_hu": -800 + 60 * (common[i] + own[1]),
            "noise_hu": float(np.exp(3 + 0.5 * own[2])), "lung_spread_hu": float(np.exp(4 + common[i] / 2 + own[3])),
        }  # fmt: skip
    return of_case


@pytest.mark.parametrize("n", [12, 60])
def test_new_real_cases_are_rejected_as_rarely_as_promised(n):
    """Over many cohorts; twelve cases cannot promise 5 %, but 1 in 13."""
    rng = np.random.default_rng(n)
    rates = []
    for _ in range(20):
        reference = ranges_of(drawn(n, rng), 0.05)
        rates.append(np.mean([bool(faults(case, reference)) for case in drawn(100, rng).values()]))
    promised = reference["false_rejections"]
    assert promised == pytest.approx(max(0.05, 1 / (n + 1)))
    assert np.mean(rates) < promised + 3 * np.std(rates) / 20**0.5
    assert np.mean(rates) > promised / 4


def test_two_families_share_the_false_rejections():
    """Image and anatomy, each with a width of its own: together they reject as few real cases as one did."""
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(20):
        cases = [with_anatomy(n, rng) for n in (60, 100)]
        reference = ranges_of(cases[0], 0.05)
        rates.append(np.mean([bool(faults(case, reference)) for case in cases[1].values()]))
    assert set(reference["width"]) == {"image", "anatomy"}
    assert 0.05 / 4 < np.mean(rates) < 0.05 + 3 * np.std(rates) / 20**0.5


def with_anatomy(n: int, rng) -> dict[str, dict[str, float]]:
    return {
        case: found | {"heart_left": 0.6 + 0.1 * rng.normal(), "airway_mm": 100 + 30 * rng.normal()}
        for case, found in drawn(n, rng).items()
    }


def test_an_odd_scanner_does_not_excuse_a_missing_spine():
    """One train case of quite another noise: it widens what the image may be, not what a chest may be."""
    cases = {f"case-{i}": {"noise_hu": 20.0 + i, "spine_slices": 1.0} for i in range(7)}
    cases["case-0"]["noise_hu"] = 400.0
    reference = ranges_of(cases, 0.05)
    assert not faults({"noise_hu": 300.0, "spine_slices": 0.95}, reference)
    assert [fault["measure"] for fault in faults({"spine_slices": 0.8}, reference)] == ["spine_slices"]
    assert reference["width"]["image"] > 3 * reference["width"]["anatomy"]


def test_more_than_enough_is_no_fault():
    """Ranges with one end: the other is the value that nothing exceeds, and is not named."""
    measured = {"spine_slices": 0.8, "airway_mm": 100.0, "organ_mottle_hu": 9.0}
    reference = ranges_of({f"case-{i}": measured for i in range(30)}, 0.05)
    assert not faults({"spine_slices": 1.0, "airway_mm": 400.0, "organ_mottle_hu": 0.0}, reference)
    found = faults({"spine_slices": 0.1, "airway_mm": 10.0, "organ_mottle_hu": 90.0}, reference)
    assert [fault["reason"].split("real train cases: ")[1][:8] for fault in found] == ["at least"] * 2 + ["at most "]
    assert left_out_scores({"airway_mm": {"a": 100.0, "b": 100.0, "c": 900.0}})[2] == 0
    json.dumps(reference, allow_nan=False)


def test_the_width_is_the_conformal_quantile():
    scores = [float(k) for k in range(1, 100)]
    assert calibrated_width(scores, 0.05) == 95
    assert calibrated_width(scores, 0.2) == 80
    assert calibrated_width([1.5, 3.0, 2.0], 0.05) == 3  # too few to promise: the largest
    assert calibrated_width([0.1, 0.2], 0.05) == 1


def test_a_case_is_not_measured_by_itself():
    """Left out, a case is as odd as a new one would be; counted in, it widens its own range."""
    values = {"tissue_hu": {f"case-{i}": float(v) for i, v in enumerate([0, 200, 400, *[3000] * 2])}}
    odd = widths_away("tissue_hu", 0.0, spread_of("tissue_hu", np.array([200.0, 400.0, 3000.0, 3000.0])))
    assert left_out_scores(values)[0] == odd


def test_a_small_difference_is_never_a_fault():
    """Train cases that are all the same give no range of no width."""
    alike = {f"case-{i}": {"finite": 1.0, "tissue_hu": 40.0, "noise_hu": 20.0} for i in range(30)}
    reference = ranges_of(alike, 0.05)
    assert not faults({"tissue_hu": 65.0, "noise_hu": 22.0}, reference)
    assert len(faults({"tissue_hu": 75.0, "noise_hu": 30.0}, reference)) == 2


def test_too_few_train_cases_judge_only_what_is_a_number():
    reference = ranges_of({"a": {"finite": 1.0, "lung_hu": -800.0}}, 0.05)
    assert not faults({"finite": 1.0, "lung_hu": 300.0}, reference)
    assert faults({"finite": 0.9999, "lung_hu": 300.0}, reference)[0]["measure"] == "finite"
    json.dumps(reference, allow_nan=False)


# ------------------------------------------------------------------------------------------------------------- attempts

RANGES = {
    "measures": {"lung_hu": {"what": "lungs", "low": -900.0, "high": -700.0}},
    "values": {"lung_hu": {"a": -800.0}},
}
ROW = {"volume": "0003", "seed": "202400003"}


def run(values: list[float], tries: int) -> list[Attempt]:
    """A generator whose attempt i has the lung HU ``values[i]``, the last of them for ever."""
    case = make_case((8, 8, 8))
    return list(
        attempts(
            lambda i: dataclasses.replace(case, about={"lung_hu": values[min(i, len(values) - 1)]}),
            lambda case: {"lung_hu": case.about["lung_hu"]}, RANGES, tries,
        )
    )  # fmt: skip


def test_a_case_that_fails_twice_is_made_three_times():
    tried = run([-100.0, -200.0, -800.0, -800.0], tries=5)
    records = [record(ROW, attempt, 5) for attempt in tried]
    assert [attempt.number for attempt in tried] == [0, 1, 2]
    assert [r["kept"] for r in records] == [False, False, True]
    assert records[0]["seed"] == 202400003
    assert len({r["seed"] for r in records}) == 3
    assert [r["seed"] for r in records[1:]] == [attempt_seed(202400003, i) for i in (1, 2)]
    listed = rejected_rows(records)
    assert [(row["attempt"], row["measure"], row["value"], row["kept"]) for row in listed] == [
        (0, "lung_hu", -100.0, 0), (1, "lung_hu", -200.0, 0),
    ]  # fmt: skip
    assert listed[0]["reason"] == "lungs, is -100; real train cases: -900 to -700"


@pytest.mark.parametrize("tries", [0, 2])
def test_a_generator_that_always_fails_ends_with_a_marked_case(tries):
    tried = run([-100.0], tries)
    records = [record(ROW, attempt, tries) for attempt in tried]
    assert len(tried) == 1 + tries
    assert [r["kept"] for r in records] == [False] * tries + [True]
    assert records[-1]["faults"] and rejected_rows(records)[-1]["kept"] == 1
    total, lung = rates(records, RANGES)
    assert (total["judged"], total["rejected"], total["kept"]) == (1 + tries, 1 + tries, 1)
    assert (lung["judged"], lung["rejected"], lung["kept"], lung["accepted_median"]) == (1 + tries, 1 + tries, 1, None)


def test_seeds_of_attempts_differ_between_volumes_and_fit_every_generator():
    seeds = [attempt_seed(seed, attempt) for seed in range(50) for attempt in range(1, 20)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0 and max(seeds) < 2**63


def test_the_picture_goes_through_the_largest_nodule():
    case = make_case(SHAPE)
    slices = middle_slices(case)
    assert all(slices[f"nodules_{axis}"].any() for axis in range(3))
    assert slices["ct_2"].shape == SHAPE[:2]
    without = dataclasses.replace(case, about={"nodules": []}).with_labels(nodules=case.nodules * 0)
    assert np.array_equal(middle_slices(without)["ct_0"], case.ct[SHAPE[0] // 2])


def test_an_end_towards_which_nothing_is_wrong_is_not_told():
    """No airway is too long: a limit of a metre in the table would be read as one."""
    measured = {f"case-{i}": {"airway_mm": 100.0 + i, "lung_hu": -850.0 + i} for i in range(25)}
    rows = {row["measure"]: row for row in rates([], ranges_of(measured, 0.05))}
    assert rows["airway_mm"]["high"] is None and 0 < rows["airway_mm"]["low"] < 110
    assert rows["lung_hu"]["low"] < -840 < rows["lung_hu"]["high"]


def test_a_host_does_not_say_how_many_nodules_a_case_may_have():
    """Its nodules are not marked: a volume without one is rejected all the same."""
    cases = [make_case(SHAPE, seed=k, name=f"case-{k}") for k in range(2)]
    host = make_case(SHAPE, seed=9, name="host")
    host = dataclasses.replace(host, about=host.about | {"role": HOST}).with_labels(nodules=host.nodules * 0)
    measured = {case.about["case"]: measure(case, None) for case in (*cases, host)}
    assert "nodules" in measured["case-0"] and "nodules" not in measured["host"]
    found = faults({"nodules": 0.0}, ranges_of(measured, 0.05))
    assert [fault["measure"] for fault in found] == ["nodules"]
