"""Splits: by patient, seeded, independent of order, faithful to what the dataset fixes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungsyn.cohort.split import SPLITS, assign, assign_folds, chosen, train_ranks, within
from lungsyn.errors import InputError
from lungsyn.settings.cohort import Split

USUAL = Split(train=0.7, validation=0.1, test=0.2)
patients = st.sets(st.text("abcdefgh0123456789", min_size=1, max_size=6), min_size=3, max_size=60)


def free(names) -> list[tuple[str, str]]:
    return [(name, "") for name in names]


def counts(split: dict[str, str]) -> tuple[int, ...]:
    return tuple(sum(value == name for value in split.values()) for name in SPLITS)


@given(patients, st.integers(0, 1000), st.randoms())
def test_order_and_repeats_do_not_matter(names, seed, random):
    once = assign(free(sorted(names)), USUAL, seed)
    shuffled = sorted(names) * 2
    random.shuffle(shuffled)
    assert assign(free(shuffled), USUAL, seed) == once


@given(patients)
def test_every_patient_has_one_split_and_every_split_a_patient(names):
    split = assign(free(names), USUAL, 1)
    assert set(split) == names
    assert min(counts(split)) >= 1
    assert sum(counts(split)) == len(names)


@given(st.lists(st.sampled_from(["", *SPLITS]), min_size=10, max_size=40))
def test_given_splits_stay(given_splits):
    listed = [(str(i), name) for i, name in enumerate([*given_splits, "train", "validation", "test"])]
    split = assign(listed, USUAL, 1)
    assert all(split[patient] == name for patient, name in listed if name)


def test_largest_remainder_by_hand():
    names = [f"p{i}" for i in range(14)]  # quotas 9.8, 1.4, 2.8
    assert counts(assign(free(names), USUAL, 0)) == (10, 1, 3)


def test_a_split_that_the_dataset_leaves_empty_gets_a_patient():
    listed = [(f"t{i}", "train") for i in range(6)] + free(["a", "b", "c"])
    assert min(counts(assign(listed, Split(train=0.1, validation=0.1, test=0.8), 0))) >= 1


def test_seed_changes_the_split():
    names = [f"p{i}" for i in range(40)]
    assert assign(free(names), USUAL, 1) != assign(free(names), USUAL, 2)


def test_a_split_of_fraction_zero_stays_empty():
    split = assign(free(["a", "b", "c", "d"]), Split(train=0.5, validation=0.0, test=0.5), 3)
    assert counts(split) == (2, 0, 2)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([("a", "train"), ("a", "test"), ("b", ""), ("c", "")], "a patient is in two splits"),
        ([("a", "training"), ("b", ""), ("c", "")], "is 'training': it must be one of train, validation, test"),
        ([("a", ""), ("b", "")], "2 patients cannot fill 3 splits"),
        ([("a", "train"), ("b", "train"), ("c", "train")], "validation, test has no patient"),
    ],
)
def test_impossible_splits_are_refused(listed, message):
    with pytest.raises(InputError, match=message):
        assign(listed, USUAL, 1)


def test_a_smaller_training_set_is_part_of_a_larger_one():
    names = [f"p{i}" for i in range(13)]
    ranks = train_ranks(names, seed=1)
    assert ranks == train_ranks(reversed(names), seed=1) and sorted(ranks.values()) == list(range(1, 14))
    assert ranks != train_ranks(names, seed=2)
    sets = {p: {name for name in names if within(ranks[name], 13, p)} for p in (1, 10, 25, 50, 100)}
    assert [len(sets[p]) for p in (1, 10, 25, 50, 100)] == [1, 1, 3, 6, 13]
    assert all(sets[a] <= sets[b] for a, b in itertools.pairwise(sorted(sets)))


@given(st.sets(st.text("abcdefgh", min_size=1, max_size=6), min_size=12, max_size=60), st.integers(2, 6), st.integers())
def test_every_patient_is_tested_once_and_every_fold_has_all_splits(names, folds, seed):
    found = assign_folds(free(names), folds, 0.2, seed)
    assert set(found) == names
    assert all(list(of.values()).count("test") == 1 and len(of) == folds for of in found.values())
    tested = [sum(of[fold] == "test" for of in found.values()) for fold in range(1, folds + 1)]
    assert max(tested) - min(tested) <= 1
    for fold in range(1, folds + 1):
        in_validation = sum(of[fold] == "validation" for of in found.values())
        assert in_validation == max(1, round(0.2 * len(names)))
        assert any(of[fold] == "train" for of in found.values())


def test_folds_depend_on_names_and_seed_alone():
    names = [f"p{i}" for i in range(20)]
    assert assign_folds(free(names), 5, 0.2, 1) == assign_folds(free(names[::-1] * 2), 5, 0.2, 1)
    assert assign_folds(free(names), 5, 0.2, 1) != assign_folds(free(names), 5, 0.2, 2)


def test_validation_patients_are_others_in_other_folds():
    found = assign_folds(free(f"p{i}" for i in range(40)), 5, 0.2, 3)
    validation = [frozenset(name for name, of in found.items() if of[fold] == "validation") for fold in range(1, 6)]
    assert len(set(validation)) == 5 and len(frozenset.union(*validation)) > 16


def test_folds_refuse_given_splits_and_too_few_patients():
    with pytest.raises(InputError, match=r"take the column 'split' out of cases.tsv, or ask for no folds"):
        assign_folds([("a", "train"), *free("bcdefg")], 3, 0.2, 1)
    for names, folds in (("abc", 5), ("abc", 2)):  # of three, two are tested in a fold and one is left
        with pytest.raises(InputError, match=f"3 patients cannot fill {folds} folds"):
            assign_folds(free(names), folds, 0.2, 1)
    assert assign_folds(free("abc"), 3, 0.2, 1)


def test_a_size_is_of_the_train_patients_of_the_rows():
    rows = [{"patient": str(i), "split": "train", "train_rank": str(i)} for i in range(1, 5)]
    rows.append({"patient": "5", "split": "test", "train_rank": ""})
    assert [row["patient"] for row in chosen(rows, ["train", "test"], 50)] == ["1", "2", "5"]
