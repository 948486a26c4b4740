"""From a row of conditions to a case on disk: geometry, HU and what is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from lungsyn import checkpoint
from lungsyn.generators.copy_paste import Pasting
from lungsyn.generators.core.settings import grid_of
from lungsyn.masks.core.placing import region_to_make
from lungsyn.masks.core.rows import untargeted
from lungsyn.quality.measures import measure
from lungsyn.quality.ranges import reference
from lungsyn.settings.compute import Compute
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import open_case
from tests.conftest import loaded, made_attempts, made_case, network_of, without_lungs


@pytest.fixture(scope="module")
def generator(generator_settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    about = {"generator": generator_settings.model_dump(mode="json")}
    checkpoint.save(path, network_of(generator_settings).state_dict(), about)
    return loaded(path, Compute(device="cpu", precision="float32", generator_threads=1))


@pytest.fixture(scope="module")
def few_steps(study):
    return study.synthesis.model_copy(update={"steps": 3, "fused_steps": 1})


@pytest.fixture(scope="module")
def sources(case_folders):
    return lambda name: open_case({folder.name: folder for folder in case_folders}[name])


def test_a_synthetic_case_has_a_real_case_s_layout(generator, few_steps, sources):
    row = untargeted(["case-0", "case-3"], 1, seed=0)[0]
    case, body = made_case(generator, row, few_steps, sources), sources(row["body_case"])
    assert case.ct.dtype == np.int16
    assert case.space.shape == body.space.shape
    assert case.affine.tolist() == np.diag([2.0, 2.0, 2.0, 1.0]).tolist()  # not where the patient lay
    assert case.ct[np.asarray(case.body) == 0].tolist() == [-1000] * int((case.body == 0).sum())
    low, high = generator.settings.window_hu
    assert low <= case.ct.min() <= case.ct.max() <= high
    assert [fact["index"] for fact in case.about["nodules"]] == sorted(set(np.unique(case.nodules)) - {0})
    assert case.about["cost"]["seconds"] > 0


def test_the_same_row_gives_the_same_case(generator, few_steps, sources):
    row = untargeted(["case-0", "case-3"], 2, seed=0)[1]
    first, again = (made_case(generator, row, few_steps, sources) for _ in range(2))
    assert first.digest == again.digest


def test_an_inpainted_case_is_the_real_one_but_for_its_new_nodules(generator, few_steps, sources):
    row = untargeted(["case-3"], 1, seed=0, why="inpainted")[0]
    case, body = made_case(generator, row, few_steps, sources), sources("case-3")
    kept = region_to_make(case.nodules, body) == 0
    assert case.space.same_as(body.space)
    assert 0 < kept.sum() < kept.size
    assert np.array_equal(case.ct[kept], body.ct[kept])
    assert not np.array_equal(case.ct[~kept], body.ct[~kept])
    assert case.about["patient"] == body.about["patient"]  # a split by patient keeps the two together


def test_what_is_brighter_than_the_window_stays_so_up_to_the_feathered_edge(generator, few_steps, sources):
    """Of bone beside a nodule the window's upper end was left wherever anything was made."""

    def bright(name):
        case = sources(name)
        return replace(case, ct=np.full_like(case.ct, 1000))

    row = untargeted(["case-0", "case-3"], 1, seed=0, why="inpainted")[0]
    case = made_case(generator, row, few_steps, bright)
    weight = region_to_make(case.nodules, bright(row["body_case"]))
    low, high = generator.settings.window_hu
    feather = (weight > 0) & (weight < 1)
    assert feather.any()
    least, most = (1000 * (1 - weight) + weight * end for end in (low, high))
    assert (case.ct[feather] >= least[feather] - 1).all() and (case.ct[feather] <= most[feather] + 1).all()


def test_a_pasted_case_holds_its_donor_s_nodule(sources):
    """The test cases' nodules have 20 HU in lungs of about -800: new nodules are as bright, all else is as it was."""
    for row in untargeted(["case-0", "case-3"], 4, seed=0, why="inpainted"):
        case, body = made_case(Pasting(), row, Synthesis(), sources), sources(row["body_case"])
        new = (case.nodules > 0) & (np.asarray(body.nodules) == 0)
        assert case.about["new_nodules"] == (new.any() and case.nodules.max() - body.nodules.max())
        assert np.array_equal(case.nodules[body.nodules > 0], body.nodules[body.nodules > 0])
        assert case.about["patient"] == body.about["patient"]
        far = ndimage.binary_dilation(new, np.ones((3, 3, 3)), iterations=3)
        assert np.array_equal(case.ct[~far], body.ct[~far])
        core = ndimage.binary_erosion(new)
        assert not core.any() or (case.ct[core] > -300).all()


def test_nothing_is_pasted_where_nothing_fits(sources):
    def giant(name):
        case = sources(name)
        if name == "case-0":
            return case
        about = case.about | {"nodules": [{"index": 1, "box": [[0, n] for n in case.ct.shape], "volume_mm3": 1e6}]}
        return replace(case, about=about).with_labels(nodules=np.ones_like(case.nodules))

    row = untargeted(["case-0"], 1, seed=0, why="inpainted")[0] | {"nodule_case": "case-1"}
    case, body = made_case(Pasting(), row, Synthesis(), giant), sources("case-0")
    assert case.about["new_nodules"] == 0
    assert np.array_equal(case.ct, body.ct) and np.array_equal(case.nodules, body.nodules)
    assert not region_to_make(case.nodules, body).any()


def reference_of(folders, generator, synthesis):
    grid = grid_of(generator.settings, synthesis)
    return reference({folder.name: measure(open_case(folder), grid) for folder in folders}, 0.05)


def test_an_inpainted_case_without_room_is_the_real_one(generator, few_steps, sources, case_folders):
    """As in a crop that is hardly larger than its nodule; it says so."""
    row = untargeted(["case-3"], 1, seed=0, why="inpainted")[0]
    reference = reference_of(case_folders, generator, few_steps)
    (attempt,) = made_attempts(generator, row, few_steps, lambda name: without_lungs(sources(name)), reference, tries=0)
    assert np.array_equal(attempt.case.ct, sources("case-3").ct)
    assert attempt.case.about["new_nodules"] == 0


@pytest.mark.parametrize("why", ["untargeted", "inpainted"])
def test_an_untrained_generator_is_rejected_at_every_attempt(why, generator, few_steps, sources, case_folders):
    """Same masks, other noise; the last one is the one to keep."""
    row = untargeted(["case-0", "case-3"], 1, seed=0, why=why)[0]
    reference = reference_of(case_folders, generator, few_steps)
    tried = list(made_attempts(generator, row, few_steps, sources, reference, tries=1))
    assert [bool(attempt.faults) for attempt in tried] == [True, True]
    first, second = (attempt.case for attempt in tried)
    assert np.array_equal(first.nodules, second.nodules) and not np.array_equal(first.ct, second.ct)
    assert np.array_equal(first.ct, made_case(generator, row, few_steps, sources).ct)
    named = {fault["measure"] for fault in tried[0].faults}
    assert "nodule_contrast_hu" in named and "lung_hu" not in named  # the mean of lungs it has from the masks
