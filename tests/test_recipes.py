"""Recipe numbers: what a job's recipe is, and that none was forgotten when code changed."""

from types import SimpleNamespace

import pytest

from lungsyn import recipes
from tests.recipes import current, differences, noted


def test_whoever_changes_code_says_whether_results_change():
    found = differences(noted(), current())
    assert not found, (
        "\n" + "\n".join(found) + "\n\nDo results change by this? Raise the recipe number of each verb or family whose "
        "results do, in the file named above. Then, or if none does: make recipes"
    )


BEFORE = {"recipe": "2", "code": "abc"}


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        (BEFORE, BEFORE, ""),
        (
            BEFORE,
            {"recipe": "2", "code": "xyz"},
            "the code changed, the recipe in a.py is still 2, so its results stay",
        ),
        (BEFORE, {"recipe": "3", "code": "xyz"}, "the recipe rose from 2 to 3, so its results are made again"),
        (BEFORE, {"recipe": "1", "code": "abc"}, "the recipe in a.py went from 2 down to 1; it must rise"),
        (None, BEFORE, "new"),
        (BEFORE, None, "gone"),
    ],
)
def test_what_changed_is_said_in_words(then, now, said):
    tables = ({"x": row | {"place": "a.py"}} if row else {} for row in (then, now))
    assert [line.startswith(f"x: {said}") for line in differences(*tables)] == ([True] if said else [])


@pytest.fixture
def families(monkeypatch):
    """Two families of each of two seams, in a verb that takes one of each."""
    numbers = {"one": 1, "two": 2}
    monkeypatch.setattr(recipes, "family", lambda seam, kind: SimpleNamespace(recipe=numbers[kind]))
    monkeypatch.setitem(recipes.OF_VERBS, ("generation", "train"), recipes.Recipe(7, ("generators", "masks")))


def test_a_job_s_recipe_is_its_verb_s_and_its_families(families):
    assert recipes.recipe_of("generation", "train", "one", "two") == "train-7+one-1+two-2"
    assert recipes.recipe_of("generation", "train", "two", "two") == "train-7+two-2+two-2"
    with pytest.raises(ValueError, match="shorter"):  # a rule that forgot to say which family it is
        recipes.recipe_of("generation", "train", "one")


def test_a_recorded_recipe_is_found_among_the_parameters(families):
    of_job = recipes.recipe_of("generation", "train", "one", "two")
    assert recipes.recorded(["0", "'{\"train-1\": 2}'", f"'{of_job}'"], "train") == of_job
    assert recipes.recorded(["7", "'0123456789ab'"], "train") is None
