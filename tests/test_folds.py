"""Folds and draws as words and columns."""

import pytest

from lungsyn.folds import columns_of, folds_in, in_fold, of_training_set, training_set


@pytest.mark.parametrize("of", [{"size": 100}, {"size": 50, "fold": 2}, {"size": 5, "draw": 1},
                                {"size": 100, "fold": 10, "draw": 12}])  # fmt: skip
def test_a_training_set_s_word_says_what_it_is_of(of):
    assert of_training_set(training_set(**of)) == of


@pytest.mark.parametrize("word", ["", "fold2", "100-fold", "100-draw1-fold2", "100-fold2-", "1e2", "-100"])
def test_another_word_is_refused(word):
    with pytest.raises(ValueError, match="is no training set"):
        of_training_set(word)


def test_one_split_has_no_number():
    rows = [{"case": "a", "split": "train", "train_rank": "1"}]
    assert folds_in(rows) == [None] and in_fold(rows, None) == rows
    assert columns_of([None]) == ["split", "train_rank"]
    assert training_set(100) == "100"


def test_rows_of_a_fold_have_its_split():
    rows = [{"case": "a", **dict(zip(columns_of([1, 2]), ("test", "", "train", "3"), strict=True))}]
    assert folds_in(rows) == [1, 2]
    assert [(row["split"], row["train_rank"]) for fold in (1, 2) for row in in_fold(rows, fold)] == [
        ("test", ""), ("train", "3"),
    ]  # fmt: skip
