"""What a generator and a source of masks of somebody else give is looked at before anything is written."""

from dataclasses import replace

import numpy as np
import pytest

from lungsyn import registry
from lungsyn.cli.generation import _check_rows
from lungsyn.errors import InputError
from lungsyn.masks.targeted import Family as Targeted
from lungsyn.seams import Sampled, Scene
from lungsyn.sets import check, check_kept
from lungsyn.settings.checking import check as check_config
from tests.conftest import make_case


@pytest.fixture
def scene() -> Scene:
    case = make_case()
    return Scene(case.labels, case.affine)


@pytest.mark.parametrize("wrong", [lambda hu: hu.astype(np.float32), lambda hu: hu[1:], lambda hu: hu.astype(np.int32)])
def test_hu_of_another_type_or_shape_are_refused(scene, wrong):
    """Written as int16 they would be other numbers than those that the digest is of."""
    hu = np.zeros(scene.labels.shape, np.int16)
    check(Sampled(hu), scene)
    with pytest.raises(InputError, match=r"the generator made .* it must be int16 HU of"):
        check(Sampled(wrong(hu)), scene)


def test_a_generator_that_ignores_what_is_known_is_refused(scene):
    case = make_case()
    made = np.zeros(case.ct.shape, np.float32)
    made[:5] = 1
    inpainted = replace(scene, known=case, made=made)
    hu = np.array(case.ct)
    hu[:5] += 1
    check_kept(hu, inpainted)
    hu[6, 6, 6] += 1
    with pytest.raises(InputError, match="changed voxels of the known CT"):
        check_kept(hu, inpainted)


def test_rows_are_as_many_as_asked_for_and_none_twice():
    rows = [{"volume": f"{i:04d}", "seed": i} for i in range(3)]
    _check_rows(rows, 3, "mine")
    for wrong in (rows[:2], [*rows[:2], rows[1]], [*rows[:2], rows[2] | {"seed": 1}], [{"seed": i} for i in range(3)]):
        with pytest.raises(InputError, match=r"'mine' gave .* it must give 3, each with its own"):
            _check_rows(wrong, 3, "mine")


def test_masks_of_test_patients_are_refused(study, monkeypatch):
    monkeypatch.setattr(Targeted, "split", "test")
    with pytest.raises(InputError, match=r"sets\.targeted\.conditions is 'targeted', whose split is 'test'"):
        check_config(study.model_dump(mode="json"))


def test_a_family_that_fails_when_it_is_loaded_is_told_by_name(monkeypatch):
    monkeypatch.setattr(registry, "kinds", lambda seam: {"broken": "no_such_package.module"})
    with pytest.raises(InputError, match="'broken' cannot be loaded from no_such_package"):
        registry.family.__wrapped__("generators", "broken")
