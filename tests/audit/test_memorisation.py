"""Nearest neighbours against numpy's correlation pair by pair, and against copies whose disguise is known."""

import itertools

import numpy as np
import pytest
from scipy import stats

from lungsyn.audit.memorisation import LEAST_PLANTED, TURNS, aligned, nearest, plant, planted_count

RNG = np.random.default_rng(0)
REFERENCES = RNG.normal(size=(7, 8, 8, 8)).astype(np.float32)
QUERIES = RNG.normal(3, 2, size=(4, 8, 8, 8)).astype(np.float32)


def plainly(query: np.ndarray, references: np.ndarray, max_shift: int) -> tuple:
    """The banal way: every reference, shift and turn."""
    c = query.shape[0] - 2 * max_shift
    core = query[(slice(max_shift, max_shift + c),) * 3]
    best = (-2.0,)
    for r, reference in enumerate(references):
        for start in itertools.product(range(2 * max_shift + 1), repeat=3):
            window = reference[tuple(slice(a, a + c) for a in start)]
            for turn, (order, axes) in enumerate(TURNS):
                value = np.corrcoef(core.ravel(), np.flip(window.transpose(order), axes).ravel())[0, 1]
                best = max(best, (value, r, tuple(a - max_shift for a in start), turn))
    return best


def test_it_finds_what_a_plain_search_finds():
    found = nearest(QUERIES[:2], [REFERENCES[:3]], 1)
    for i, query in enumerate(QUERIES[:2]):
        value, reference, shift, turn = plainly(query, REFERENCES[:3], 1)
        assert found.correlation[i] == pytest.approx(value, abs=1e-5)
        assert (found.index[i], tuple(found.shift[i]), found.turn[i]) == (reference, shift, turn)


@pytest.mark.parametrize("turn", range(0, 48, 5))
def test_a_planted_copy_is_found_with_its_shift_and_turn(turn):
    shift, e = (2, -1, 0), 8
    source = np.random.default_rng(turn).normal(size=(12, 12, 12)).astype(np.float32)
    reference = source[2:10, 2:10, 2:10]
    moved = source[tuple(slice(2 + s, 10 + s) for s in shift)]
    order, axes = TURNS[turn]
    copy = np.flip(-500 + 40 * moved.transpose(order), axes)  # another brightness and contrast change no correlation
    found = nearest(copy[None].copy(), [REFERENCES, reference[None]], 2)
    assert found.correlation[0] == pytest.approx(1, abs=1e-5)
    assert (found.index[0], tuple(found.shift[0]), found.turn[0]) == (7, shift, turn)
    window = aligned(reference, found.shift[0], found.turn[0], 2)
    core = copy[2 : e - 2, 2 : e - 2, 2 : e - 2]
    assert np.corrcoef(window.ravel(), core.ravel())[0, 1] == pytest.approx(1, abs=1e-5)


def test_blocks_do_not_change_the_result():
    whole = nearest(QUERIES, [REFERENCES], 1)
    for blocks in (REFERENCES[:3], REFERENCES[3:4], REFERENCES[4:]), tuple(REFERENCES[:, None]):
        for block_bytes in (1, 2**20):
            parts = nearest(QUERIES, blocks, 1, block_bytes=block_bytes)
            np.testing.assert_allclose(parts.correlation, whole.correlation, atol=1e-6)
            for name in ("index", "shift", "turn"):
                assert np.array_equal(getattr(parts, name), getattr(whole, name)), name


@pytest.mark.parametrize("block_bytes", [1, 2**26])
def test_a_voxel_that_is_no_number_hides_nobody(block_bytes):
    """Its query has no correlation; if it is a reference's, which may be the best, nobody has."""
    queries, references = QUERIES.copy(), REFERENCES.copy()
    queries[1, 4, 4, 4] = references[5, 0, 0, 0] = np.nan
    found = nearest(queries, [REFERENCES], 1, block_bytes=block_bytes)
    assert np.isnan(found.correlation).tolist() == [False, True, False, False]
    for blocks in ([references], [references[4:], references[:4]]):
        assert np.isnan(nearest(QUERIES, blocks, 1, block_bytes=block_bytes).correlation).all()


def test_a_constant_cube_is_like_nothing():
    flat = np.full((1, 8, 8, 8), -1000, np.float32)
    assert nearest(flat, [REFERENCES], 1).correlation[0] == 0
    assert nearest(QUERIES[:1], [flat], 1).correlation[0] == 0


def test_independent_noise_gives_uniform_p():
    """Queries of both groups are alike, so the test of one against the other must reject 5 % at 5 %."""
    draws = 400
    cubes = RNG.normal(size=(draws * 24, 4, 4, 4)).astype(np.float32)
    values = nearest(cubes, [RNG.normal(size=(10, 4, 4, 4)).astype(np.float32)], 0).correlation.reshape(draws, 24)
    p = np.array([stats.mannwhitneyu(v[:12], v[12:], alternative="greater").pvalue for v in values])
    rejected = (p < 0.05).mean()
    assert 0.03 <= rejected <= 0.07
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_planted_copies_have_the_stated_noise_and_masks_go_along():
    cube = np.zeros((20, 9, 9, 9), np.float32)
    cube[:, 3:6, 3:6, 2:4] = 1000
    masks = np.stack([cube / 1000] * 3, axis=1)
    hu, moved = plant(cube, masks, np.full(20, 80.0), 1, np.random.default_rng(1))
    noise = hu - 1000 * moved[:, 0]
    assert noise.std() == pytest.approx(40, rel=0.02)
    assert not np.allclose(moved, masks)
    np.testing.assert_allclose(moved.sum(axis=(1, 2, 3, 4)), masks.sum(axis=(1, 2, 3, 4)), rtol=1e-4)
    assert planted_count(10) == LEAST_PLANTED and planted_count(5000) == 50


def test_the_turns_are_all_48_and_each_another():
    cube = np.arange(27).reshape(3, 3, 3)
    assert len({np.flip(cube.transpose(order), axes).tobytes() for order, axes in TURNS}) == 48
