"""HU and the model range [-1, 1], each the exact inverse of the other inside the window.

The window ``(low, high)`` in HU maps linearly to (-1, 1); values outside are clipped on the way in.
"""

import numpy as np

AIR_HU = -1000  # outside the body
AERATED_HU = -400  # between lung (-900 to -500) and soft tissue (0 to 60)
NOT_FINITE_HU = -32768  # stands for a value that is no number: the lowest int16, which no CT has


def to_model_range(hu, window_hu: tuple[float, float]):
    """HU (any real array or tensor) to [-1, 1], float32 for arrays."""
    low, high = window_hu
    scaled = np.array(hu, dtype=np.float32)  # a copy, changed in place: fresh memory costs more than arithmetic
    scaled -= low
    scaled *= 2.0 / (high - low)
    scaled -= 1.0
    return scaled.clip(-1.0, 1.0, out=scaled)


def to_hu(model_range: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """[-1, 1] to HU, rounded to int16; values outside are clipped to the window, no number is ``NOT_FINITE_HU``."""
    low, high = window_hu
    scaled = np.array(model_range, dtype=np.float32)  # as above
    np.clip(scaled, -1.0, 1.0, out=scaled)
    scaled += 1.0
    scaled *= (high - low) / 2.0
    scaled += low
    np.rint(scaled, out=scaled)
    scaled[np.isnan(scaled)] = NOT_FINITE_HU
    return scaled.astype(np.int16)
