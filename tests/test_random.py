"""Streams of random numbers: the same for the same name, unlike for any other, on every machine."""

import itertools

import numpy as np
import pytest
import torch

from lungsyn.masks.core.rows import targeted, untargeted
from lungsyn.random import seed_of, stream


def test_a_stream_is_the_same_each_time_it_is_asked_for():
    assert (stream(1, "patch", 17).random(5) == stream(1, "patch", 17).random(5)).all()
    assert seed_of(1, "volume", "a", 3) == seed_of(1, "volume", "a", 3)
    assert stream(np.int64(1), "patch", np.int32(17)).random() == stream(1, "patch", 17).random()


def test_streams_are_those_of_every_machine_and_version():
    """A known digest: results of one study must come out the same elsewhere and later."""
    assert seed_of(2024, "weights") == 5454938414894554516
    assert stream(2024, "patch", 0).integers(1000, size=4).tolist() == [955, 254, 981, 161]


@pytest.mark.parametrize(
    ("one", "other"),
    itertools.combinations(
        [(1, "patch", 17), (2, "patch", 17), (1, "watched patch", 17), (1, "patch", 18), (1, "patch", "17"),
         (1, "patch", 1, 7), (1, "patch"), (117, "patch")], 2,
    ),
)  # fmt: skip
def test_another_seed_purpose_or_key_is_another_stream(one, other):
    assert seed_of(*one) != seed_of(*other)
    both = stream(*one).standard_normal(2000), stream(*other).standard_normal(2000)
    assert abs(np.corrcoef(*both)[0, 1]) < 0.1


def test_neighbouring_keys_draw_uniformly():
    drawn = np.array([stream(1, "patch", i).random() for i in range(2000)])
    assert abs(drawn.mean() - 0.5) < 0.03 and abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.1


def test_a_seed_is_one_that_torch_and_a_table_can_hold():
    seeds = [seed_of(1, "volume", i) for i in range(1000)]
    assert len(set(seeds)) == 1000 and min(seeds) >= 0 and max(seeds) < 2**63
    torch.Generator().manual_seed(max(seeds))


def test_volumes_of_two_sets_share_no_seed():
    """Volume 3 of the targeted, the untargeted and the inpainted set had the same noise."""
    cases = ["a", "b", "c"]
    inpainted = untargeted(cases, 5, 1, why="inpainted")
    sets = [targeted(cases, 5, 1), untargeted(cases, 5, 1), inpainted, targeted(cases, 5, 2)]
    seeds = [row["seed"] for rows in sets for row in rows]
    assert len(set(seeds)) == len(seeds) == 20


@pytest.mark.parametrize("of", [targeted, untargeted])
def test_more_volumes_only_extend_a_set(of):
    assert of(["a", "b", "c"], 9, 1)[:4] == of(["a", "b", "c"], 4, 1)
