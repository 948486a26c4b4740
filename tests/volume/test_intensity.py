import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungsyn.volume.intensity import AIR_HU, to_hu, to_model_range

WINDOWS = [(-1000, 400), (-1024, 600), (-1350, 150)]


@pytest.mark.parametrize("window", WINDOWS)
def test_every_hu_of_the_window_comes_back_exactly(window):
    hu = np.arange(window[0], window[1] + 1, dtype=np.int16)
    assert np.array_equal(to_hu(to_model_range(hu, window), window), hu)


@given(st.integers(-3000, 4000))
def test_values_outside_are_clipped(hu):
    scaled = to_model_range(np.array([hu]), (-1000, 400))
    assert scaled.dtype == np.float32
    assert -1 <= scaled[0] <= 1
    assert to_hu(scaled, (-1000, 400))[0] == np.clip(hu, -1000, 400)


def test_air_is_the_lowest_value_where_the_window_starts_at_air():
    assert to_model_range(np.array([AIR_HU]), (-1000, 400))[0] == -1


def test_an_overshooting_network_stays_in_the_window():
    assert to_hu(np.array([-1.5, 1.2]), (-1000, 400)).tolist() == [-1000, 400]


def test_what_is_scaled_stays_as_it_is():
    values = np.array([-1200.0, 0.3, np.nan, 900.0], dtype=np.float32)
    for scale in (to_model_range, to_hu):
        scale(values, (-1000, 400))
        assert np.array_equal(values, np.array([-1200.0, 0.3, np.nan, 900.0], dtype=np.float32), equal_nan=True)


@pytest.mark.parametrize(("scale", "dtype"), [(to_model_range, np.int16), (to_hu, np.float32)])
def test_a_whole_volume_is_scaled_with_few_bytes_per_voxel(scale, dtype):
    """One float32 for the work and what is returned: whole CTs pass through here."""
    values = np.zeros(1_000_000, dtype)
    tracemalloc.start()
    scale(values, (-1000, 400))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / len(values) <= 6.5
