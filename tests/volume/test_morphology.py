import numpy as np
import pytest
from scipy import ndimage

from lungsyn.volume.morphology import within


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.9, 4.0, 13.0])
@pytest.mark.parametrize("shape", [(31, 20, 25), (5, 30, 1)])
def test_what_lies_within_a_ball_is_what_the_distance_transform_says(radius, shape):
    mask = np.random.default_rng(0).random(shape) < 0.002
    mask[0, -1, 0] = True
    assert np.array_equal(within(mask, radius), ndimage.distance_transform_edt(~mask) <= radius)
    assert not within(np.zeros(shape, bool), radius).any()
