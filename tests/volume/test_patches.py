import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungsyn.volume import patches as p

LENGTHS = st.integers(1, 90)
PATCHES = st.integers(1, 32)


@given(LENGTHS, PATCHES, st.data())
def test_every_voxel_is_covered_by_whole_patches(length, patch, data):
    if length < patch:
        with pytest.raises(ValueError, match="pad it"):
            p.axis_starts(length, patch, 1)
        return
    stride = data.draw(st.integers(1, patch))
    starts = p.axis_starts(length, patch, stride)
    assert starts == sorted(set(starts))
    assert min(starts) >= 0
    assert max(starts) + patch <= length
    assert (p.total_weight(length, p.spans_of(starts, patch)) > 0).all()


@given(
    st.integers(1, 60), st.sampled_from([(16, 8), (32, 8), (32, 16), (24, 4)]), st.sampled_from([2, 4, 8]), st.data()
)
def test_shifted_partitions_evaluate_each_voxel_once(quads, sizes, multiple, data):
    """But for less than a unit at the end of an axis whose length the unit does not divide."""
    (patch, unit), length = sizes, quads * multiple
    if length < patch:
        with pytest.raises(ValueError, match="pad it"):
            p.shifted_spans(length, patch, 0, unit)
        return
    spans = p.shifted_spans(length, patch, unit * data.draw(st.integers(0, patch // unit - 1)), unit)
    times = np.zeros(length, int)
    for start, size in spans:
        assert start >= 0 and size % unit == 0 and patch / 2 <= size <= patch
        times[start : start + size] += 1
    assert times.min() == 1 and (times > 1).sum() < unit
    assert not (times > 1).any() or length % unit


def test_where_both_ends_are_short_no_span_is():
    assert p.shifted_spans(30, 24, 4, 4) == [(0, 16), (14, 16)]  # not 16, 8 and 8


def test_the_picture_in_the_docstring():
    assert p.axis_starts(7, 4, 2) == [0, 2, 3]
    assert p.axis_starts(8, 4, 2) == [0, 2, 4]
    assert p.axis_starts(4, 4, 4) == [0]
    assert p.shifted_spans(96, 32, 0, 8) == [(0, 32), (32, 32), (64, 32)]
    assert p.shifted_spans(96, 32, 8, 8) == [(0, 24), (24, 16), (40, 32), (72, 24)]


def test_a_stride_that_leaves_voxels_out_is_refused():
    with pytest.raises(ValueError, match="voxels are left out"):
        p.axis_starts(10, 4, 5)


def test_separable_weights_equal_the_sum_of_patches():
    shape, patch, vector = (9, 7, 12), 5, p.importance_vector(5)
    starts = [p.axis_starts(n, patch, 3) for n in shape]
    total = np.zeros(shape)
    importance = vector[:, None, None] * vector[:, None] * vector
    spans = [p.spans_of(axis, patch) for axis in starts]
    for place in p.all_patches(spans):
        total[p.box(*place)] += importance
    x, y, z = (p.total_weight(n, s) for n, s in zip(shape, spans, strict=True))
    assert np.allclose(total, x[:, None, None] * y[:, None] * z, rtol=1e-6)


@given(st.tuples(st.integers(-9, 12), st.integers(-9, 12), st.integers(-9, 12)), st.integers(1, 8))
def test_window_equals_a_crop_of_the_padded_array(start, size):
    array = np.arange(7 * 5 * 6).reshape(7, 5, 6)
    padded = np.pad(array, 12, constant_values=-1)
    wide = np.pad(padded, 12, constant_values=-1)
    expected = wide[p.box([a + 24 for a in start], size)]
    assert np.array_equal(p.window(array, start, size, -1), expected)


def test_window_reads_only_its_own_voxels(tmp_path):
    array = np.memmap(tmp_path / "x", dtype=np.int16, shape=(64, 64, 64), mode="w+")
    result = p.window(array, (3, 4, 5), 8, 0)
    assert not isinstance(result, np.memmap)
    assert result.shape == (8, 8, 8)


def test_padded_shape_holds_patch_and_multiple():
    assert p.padded_shape((51, 20, 64), 32, 4) == (52, 32, 64)


def test_coordinates_run_from_minus_one_to_one():
    x, y, z = (p.coordinates([(0, 2, 0), (0, 12, 0)], 8, axis, (8, 20, 5)) for axis in range(3))
    assert x.shape == (2, 8)
    assert x[:, [0, -1]] == pytest.approx(np.array([[-1, 1], [-1, 1]]))
    assert y[:, 0] == pytest.approx([-1 + 2 * 2 / 19, -1 + 2 * 12 / 19])
    assert z[:, 4] == pytest.approx(1)


def test_a_thin_case_lies_anywhere_in_the_patch():
    """Where a sliding window pads on both sides, training must have seen it so."""
    rng = np.random.default_rng(0)
    for near in (None, (20, 15, 3)):
        starts = [p.random_start(rng, (40, 30, 6), 16, near) for _ in range(300)]
        places = {z for _, _, z in starts}
        assert places <= set(range(-10, 1)) and -5 in places  # among others in the middle, as prediction has it
        cubes = [p.window(np.ones((40, 30, 6)), start, 16, 0) for start in starts]
        assert all(cube.sum() == 16 * 16 * 6 for cube in cubes)


def test_random_start_keeps_the_wanted_voxel_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        near = rng.integers(0, (40, 30, 16))
        start = p.random_start(rng, (40, 30, 16), 16, near)
        assert all(a <= n < a + 16 for a, n in zip(start, near, strict=True))
        assert all(0 <= a <= n - 16 for a, n in zip(start, (40, 30, 16), strict=True))


@given(st.integers(1, 16), st.integers(2, 32))
def test_overlapping_patches_fade_into_each_other_in_even_steps(overlap, patch):
    overlap = min(overlap, patch // 2)
    vector = p.importance_vector(patch)
    stride = patch - overlap
    share = vector[:overlap] / p.total_weight(patch + stride, p.spans_of([0, stride], patch))[stride:patch]
    assert np.allclose(share, (np.arange(overlap) + 0.5) / overlap, rtol=1e-5)
