"""The floor: equal sets are told to be equal, worse ones to be worse, copies to be too close; and the calibration."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from lungsyn import cli
from lungsyn.audit import fidelity, floor
from lungsyn.audit.features import scattering
from lungsyn.audit.specimens import TISSUES, VIEWS, measure, specimen
from lungsyn.errors import InputError
from lungsyn.settings.audit import Fidelity, Probing
from lungsyn.settings.evaluation import Drawing
from lungsyn.settings.section import as_json, part
from lungsyn.volume.files import Case, open_case, read_volume, write_case
from lungsyn.volume.nodules import nodule_facts
from lungsyn.volume.tables import read_table
from tests.conftest import ROOT, labelled_case, make_case

CUBES = ROOT / "../shared/data/lidc_cubes"


# ----------------------------------------------------------------------------------------------------- the statistics


def mean_of(values) -> floor.Statistic:
    return lambda _w, v: float(values @ v / v.sum())


def test_intervals_hold_the_truth_as_often_as_they_say():
    """95 %, for a mean of 20 cases: a percentile bootstrap of so few is a little short."""
    rng = np.random.default_rng(0)
    hits = []
    for seed in range(100):
        synthetic, held_out = rng.normal(1, 1, 20), rng.normal(0, 1, 20)
        units = {"train": 20, "held_out": 20, "synthetic": 20}
        found = floor.beside_floor(mean_of(synthetic), mean_of(held_out), units, seed)
        hits.append([found[k]["low"] < truth < found[k]["high"] for k, truth in (("synthetic", 1), ("difference", 1))])
    assert (np.mean(hits, axis=0) > 0.87).all() and (np.mean(hits, axis=0) < 0.995).all()


def test_both_sides_are_equally_many():
    """A statistic that is its own number of cases: the larger side is cut down to the smaller."""
    count = lambda w, v: float(v.sum())  # noqa: E731
    found = floor.beside_floor(count, count, {"train": 21, "held_out": 50, "synthetic": 20}, seed=1)
    assert found["synthetic"]["value"] == found["floor"]["value"] == 20 and found["ratio"] == 1
    assert found["difference"] == {"value": 0, "low": 0, "high": 0}


def test_few_cases_have_no_interval_and_one_has_nothing():
    units = {"train": 90, "held_out": 19, "synthetic": 90}
    found = floor.beside_floor(mean_of(np.arange(90.0)), mean_of(np.zeros(19)), units, seed=1)
    assert found["floor"] == {"value": 0, "low": None, "high": None} and found["ratio"] is None
    with pytest.raises(InputError, match="two or more"):
        floor.beside_floor(mean_of(np.ones(90)), mean_of(np.ones(1)), units | {"held_out": 1}, seed=1)


# ---------------------------------------------------------------------------------------------------- the calibration


def chest(seed: int) -> Case:
    """Like `make_case`, but no two are alike in size, lung density or noise, and the lungs have texture."""
    rng = np.random.default_rng(seed)
    case = make_case(tuple(rng.integers(34, 40, 3)), seed)
    texture = gaussian_filter(rng.normal(0, 1, case.ct.shape), 1.5)
    lungs = (case.lungs > 0) & (case.nodules == 0)
    ct = case.ct + lungs * (texture / texture.std() * rng.uniform(40, 60) + rng.normal(0, 20))
    return replace(case, ct=(ct + rng.normal(0, 8) * (case.body > 0)).astype(np.int16), about={"patient": str(seed)})


@pytest.fixture(scope="module")
def chests() -> list[Case]:
    return [chest(seed) for seed in range(18)]


def measured(cases, change=lambda case: case) -> list:
    return [measure(specimen(change(case), case.about["patient"]), 2, scattering) for case in cases]


@pytest.fixture
def few_draws(monkeypatch):
    """So few patients have no interval, but the simulated ones are alike enough to show one."""
    monkeypatch.setattr(floor, "DRAWS", 40)
    monkeypatch.setattr(floor, "LEAST_UNITS", 5)


@pytest.fixture(scope="module")
def new(chests) -> list:
    """Synthetic cases of a perfect generator."""
    return measured(chests[12:])


@pytest.fixture(scope="module")
def real(chests) -> dict:
    return {"train": measured(chests[:6]), "held_out": measured(chests[6:12])}


def hu(change) -> callable:
    return lambda case: replace(case, ct=change(case.ct.astype(np.float32)).astype(np.int16))


def noisy(sigma: float):
    return hu(lambda ct: ct + np.random.default_rng(0).normal(0, sigma, ct.shape))


def moved(voxels: int):
    return lambda case: case.with_labels(nodules=np.roll(case.nodules, voxels, axis=0))


LADDERS = {
    "blur": [hu(lambda ct, s=s: gaussian_filter(ct, s)) for s in (0.35, 0.6, 1.2)],
    "noise": [noisy(s) for s in (20, 40, 80)],
    "HU shift": [hu(lambda ct, s=s: ct + s) for s in (20, 60, 160)],
    "misplaced mask": [moved(s) for s in (1, 2, 5)],
}


def distances(reference, other, view: str) -> tuple[float, float]:
    """Frechet distance and KID of one view."""
    samples = [np.concatenate([m.features[view] for m in found]) for found in (reference, other)]
    units = [np.repeat(np.arange(len(f)), [len(m.features[view]) for m in f]) for f in (reference, other)]
    x, y = fidelity.standardise(*samples)
    k = [fidelity.unit_kernels(*a, *b) for a, b in (
        ((x, units[0]), (x, units[0])), ((y, units[1]), (y, units[1])), ((x, units[0]), (y, units[1])),
    )]  # fmt: skip
    ones = [np.ones(len(found)) for found in (reference, other)]
    return fidelity.frechet_distance(x, y), fidelity.kid(*k, *ones)


@pytest.mark.parametrize("ladder", LADDERS)
def test_the_worse_an_image_the_larger_its_distance(ladder, chests, real, new):
    views = ["nodule"] if ladder == "misplaced mask" else ["axial", "sagittal", "nodule"]
    steps = [new, *(measured(chests[12:], change) for change in LADDERS[ladder])]
    for view in views:
        frechet, kid = np.array([distances(real["train"], step, view) for step in steps]).T
        floor_frechet, floor_kid = distances(real["train"], real["held_out"], view)
        assert (np.diff(frechet) > 0).all() and (np.diff(kid) > 0).all(), view
        assert frechet[-1] > 1.5 * floor_frechet and kid[-1] > floor_kid + 0.5, view
        assert frechet[0] < 1.5 * floor_frechet, view  # undamaged, it is as far as the held-out


@pytest.mark.skipif(not CUBES.is_dir(), reason="the real cut-outs (shared/data/lidc_cubes) are not here")
def test_real_cut_outs_are_calibrated_too():
    rows = read_table(CUBES / "cases.tsv")
    chosen = np.random.default_rng(0).permutation(len(rows))[:24]
    cubes = [cube(rows[i]) for i in chosen]
    train, held_out = measured(cubes[:8]), measured(cubes[8:16])
    floor_of = {view: distances(train, held_out, view)[0] for view in ("axial", "nodule")}
    for name, view in (("blur", "axial"), ("noise", "axial"), ("misplaced mask", "nodule")):
        steps = [measured(cubes[16:], change) for change in LADDERS[name][1:]]
        found = [distances(train, step, view)[0] for step in steps]
        assert floor_of[view] < found[0] < found[1], (name, found)


def cube(row: dict) -> Case:
    image = read_volume(CUBES / f"images/{row['case']}.nii.gz")
    label = (read_volume(CUBES / f"labels/{row['case']}.nii.gz").data > 0).astype(np.uint8)
    ones = np.ones_like(label)
    return labelled_case(image.data.astype(np.int16), label, 0 * ones, ones, image.affine, {"patient": row["patient"]})


# ----------------------------------------------------------------------------------------------------------- the audit


def test_new_patients_are_at_the_floor_and_blurred_ones_above_it(chests, real, new, few_draws):
    good = floor.audit(real | {"synthetic": new}, 2.0, seed=1)
    blurred = floor.audit(real | {"synthetic": measured(chests[12:], LADDERS["blur"][1])}, 2.0, seed=1)
    for view in VIEWS:
        difference = good["views"][view]["kid"]["difference"]
        assert difference["low"] < 0 < difference["high"]
        assert blurred["views"][view]["kid"]["difference"]["low"] > 0
        assert blurred["views"][view]["frechet"]["ratio"] > 1.5 > good["views"][view]["frechet"]["ratio"] > 0.6
        assert (
            blurred["views"][view]["coverage"]["synthetic"]["value"] < good["views"][view]["coverage"]["floor"]["value"]
        )
    assert json.loads(json.dumps(good)) == good
    assert "axial kid" in floor.summary(good)
    assert floor.audit(real | {"synthetic": new}, 2.0, seed=1) == good


def test_copies_of_train_cases_are_below_the_floor(real, few_draws):
    found = floor.audit(real | {"synthetic": real["train"]}, 2.0, seed=1)
    for view in VIEWS:
        assert found["views"][view]["frechet"]["ratio"] < 0.1
        assert found["views"][view]["kid"]["synthetic"]["value"] < found["views"][view]["kid"]["floor"]["value"]
    assert found["tissues"]["lung"]["distance_hu"]["ratio"] < 0.1


def test_a_set_of_one_image_is_not_diverse(real, few_draws):
    found = floor.audit(real | {"synthetic": [replace(real["train"][0], unit=str(i)) for i in range(6)]}, 2.0, seed=1)
    similar = found["diversity"]["ms_ssim"]
    assert similar["synthetic"]["value"] == pytest.approx(1) and similar["floor"]["value"] < 0.9


def test_the_hu_distance_is_the_shift(real, chests, few_draws):
    """A set moved by 20 HU is at 20 HU of itself, in every tissue."""
    moved = measured(chests[:6], LADDERS["HU shift"][0])
    found = floor.audit({"train": real["train"], "held_out": real["train"], "synthetic": moved}, 2.0, seed=1)
    for tissue in TISSUES:
        assert found["tissues"][tissue]["distance_hu"]["synthetic"]["value"] == pytest.approx(20, abs=0.5)
        assert found["tissues"][tissue]["distance_hu"]["floor"]["value"] == 0
        assert sum(found["tissues"][tissue]["histograms"]["train"]) == pytest.approx(1, abs=1e-3)


def test_cases_of_different_spacing_are_not_compared():
    cases = {name: [make_case((20, 20, 20), spacing_mm=s)] for name, s in zip(floor.SETS, (2, 2, 2.5), strict=True)}
    openers = {name: [partial(specimen, case, name) for case in found] for name, found in cases.items()}
    with pytest.raises(InputError, match=r"synthetic has voxels of 2\.5 mm"):
        floor.measure_sets(openers, 1, scattering)


# --------------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def folders(tmp_path_factory, chests):
    """Six train, three held-out and five synthetic cases on disk."""
    root = tmp_path_factory.mktemp("fidelity")
    for i, case in enumerate(chests[:14]):
        name, kind = f"c{i}", "train" if i < 6 else "held_out" if i < 9 else "synthetic"
        nodules = nodule_facts(case.nodules, case.lungs, case.space)
        about = {"case": name, "patient": f"p{i}", "nodules": nodules, "known_case": None}
        write_case(root / kind / name, replace(case, about=about))
    return root


OF = ["generator=ddpm", "set=untargeted", "size=100"]


def run(folders, tmp_path) -> dict:
    out, rates = tmp_path / "fidelity.json", tmp_path / "quality.tsv"
    sets = [f"--{option}={folders / kind}" for option, kind in
            (("real-train", "train"), ("real-held-out", "held_out"), ("synthetic", "synthetic"))]  # fmt: skip
    settings = as_json(Fidelity(slices_per_case=2))
    assert cli.main(["audit", "fidelity", *sets, "--of", *OF, "--seed=1",
                     f"--fidelity={settings}", f"--quality={rates}", f"--masks={tmp_path / 'masks.tsv'}",
                     f"--out={out}"]) == 0  # fmt: skip
    assert len(rates.read_text().splitlines()) == 1  # nothing was judged: no more than the columns' names
    return json.loads(out.read_text())


def test_the_command_line_measures_and_draws(folders, tmp_path, study, few_draws):
    found = run(folders, tmp_path)
    assert found["cases"] == {"train": 6, "held_out": 3, "synthetic": 5}
    assert found["set"] == "untargeted" and found["made"]["extractor"].startswith("scattering ")
    assert all(found["views"].values()) and found["views"]["nodule"]["frechet"]["floor"]["low"] is None
    audit, nearest = f"--audit={as_json(Probing(patch_mm=24.0))}", tmp_path / "nearest.tsv"
    sets = [f"--{kind.replace('_', '-')}={folders / kind}" for kind in ("train", "held_out", "synthetic")]
    assert cli.main(["audit", "memorisation", audit, *sets, "--seed=1", "--of", *OF, f"--out={nearest}"]) == 0
    assert cli.main(["evaluation", "plot-set", audit, *sets, "--of", *OF[1:], f"--pictures={tmp_path / 'set.tsv'}",
                     f"--neighbours={nearest}", f"--fidelity={tmp_path / 'fidelity.json'}",
                     f"--study={as_json(study.study)}", f"--figures={as_json(part(study.figures, Drawing))}",
                     f"--out={tmp_path / 'figures'}"]) == 0  # fmt: skip
    for name in ("contact_sheet", "quality", "nearest", "outlines", "fidelity"):
        picture = Image.open(tmp_path / f"figures/{name}-untargeted-100.png").convert("L")
        assert min(picture.size) > 100 and np.asarray(picture, dtype=float).std() > 5, name


def test_inpainted_cases_are_compared_where_they_were_made(folders, tmp_path, few_draws):
    """Train cases with one nodule more; elsewhere the CT is a real patient's, spoilt here to see that nobody looks."""
    shutil.copytree(folders, tmp_path / "study")
    shutil.rmtree(tmp_path / "study/synthetic")
    for name in ("c0", "c1", "c2"):
        case = open_case(tmp_path / f"study/train/{name}")
        nodules = np.array(case.nodules)
        free = ndimage.distance_transform_edt((nodules == 0) & (np.asarray(case.lungs) == 1))
        centre = np.unravel_index(free.argmax(), free.shape)
        nodules[tuple(slice(c - 1, c + 2) for c in centre)] = 3
        about = {"case": f"i-{name}", "patient": "synthetic", "nodules": [], "new_nodules": 1, "known_case": name}
        made = replace(case, about=about).with_labels(nodules=nodules)
        write_case(tmp_path / f"study/synthetic/i-{name}", made)
    found = run(tmp_path / "study", tmp_path)
    assert found["views"]["nodule"]["units"]["synthetic"] == 3
    assert found["views"]["nodule"]["samples"]["synthetic"] == 9  # one new nodule each
