"""Scenes without masks: a grid like the train cases', and nothing of any patient."""

import numpy as np
import pytest

from lungsyn.errors import InputError
from lungsyn.hosts import HOST
from lungsyn.masks import blank
from lungsyn.registry import family
from lungsyn.settings.checking import check
from lungsyn.volume.files import write_case
from lungsyn.volume.labels import ALWAYS
from tests.conftest import make_case


def rows_of(folders, volumes=3):
    return family("masks", "blank").rows(folders, volumes, 7, blank.Settings())


def never(name):
    raise AssertionError(f"case {name} was opened")


def test_a_scene_is_a_grid_and_nothing_else(case_folders):
    rows = rows_of(case_folders)
    assert len({row["seed"] for row in rows}) == 3 and rows == rows_of(case_folders[::-1])
    source = family("masks", "blank")
    for row in rows:
        assert set(row) == set(source.columns) and source.uses(row) == set()
        assert not any(folder.name in str(row) for folder in case_folders)
        scene = source.scene({key: str(value) for key, value in row.items()}, never)
        assert scene.labels.names == ALWAYS and not scene.labels.stack(ALWAYS).any()
        assert scene.labels.shape == (25, 31, 18)  # the medians of the cases' lengths: no case has this shape
        np.testing.assert_array_equal(scene.affine, np.diag([2.0, 2.0, 2.0, 1.0]))  # nothing of where a patient lay
        assert scene.known is None and scene.made is None and not scene.placed


def test_hosts_from_whom_nothing_is_learned_do_not_decide_the_grid(case_folders, tmp_path):
    hosts = []
    for k in range(len(case_folders) + 1):
        host = make_case((60, 60, 60), seed=k, name=f"host-{k}")
        host.about["role"] = HOST
        write_case(tmp_path / host.about["case"], host)
        hosts.append(tmp_path / host.about["case"])
    assert rows_of([*hosts, *case_folders]) == rows_of(case_folders)
    with pytest.raises(InputError, match="or has hosts only"):
        rows_of(hosts)


def test_without_a_case_there_is_no_grid():
    with pytest.raises(InputError, match="no train case to take a grid from: the cohort's train split is empty"):
        rows_of([])


def test_a_generator_that_is_led_by_masks_needs_some(study):
    raw = study.model_dump(mode="json")
    raw["sets"]["untargeted"]["conditions"] = "blank"
    with pytest.raises(InputError, match=r"sets\.untargeted\.conditions is 'blank', but .* it gives none: it must be"):
        check(raw)
