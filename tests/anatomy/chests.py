"""An analytic chest in millimetres, so that it is the same at every spacing, and what may be missing in it."""

import numpy as np

SIZE_MM = (300.0, 210.0, 240.0)
TRACHEA_MM = 110.0  # from the top


def chest(spacing_mm: float = 3.0, seed: int = 0, noise_hu: float = 12.0):
    """HU, lungs (1 right, 2 left), nodules and body of a chest with all that the measures look at: ``[x y z]``."""
    x, y, z = place(spacing_mm)
    rng = np.random.default_rng(seed)
    body = (x / 148) ** 2 + (y / 103) ** 2 < 1
    lungs = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.uint8)
    for side, sign in ((1, 1), (2, -1)):
        lungs[(np.hypot((x - sign * 70) / 56, y / 75) < 1) & (np.abs(z - 120) < 110)] = side
    heart = (x + 20) ** 2 + (y - 15) ** 2 + (z - 100) ** 2 < 50**2  # to the left, which is where x is small
    lungs[heart] = 0
    hu = np.where(body, 50.0, -1000.0) + 0 * z
    hu[body & ((x / 132) ** 2 + (y / 87) ** 2 > 1) & (z > -1)] = -100
    hu[lungs > 0] = -850
    hu[(np.abs(np.abs(x) - 70) < 3) & (np.abs(y + 10) < 3) & (lungs > 0)] = 30  # a vessel from base to top
    hu[(np.hypot(x, y + 75) < 18) & (z > -1)] = 140  # marrow, and its cortex
    hu[(np.abs(np.hypot(x, y + 75) - 16) < 4) & (z > -1)] = 500
    cage = (np.abs(np.hypot((np.abs(x) - 70) / 56, y / 75) - 1.09) < 0.05) & (np.abs(x) > 70)
    hu[cage & ((z + 0.5 * y + 60) % 24 < 12)] = 400
    hu[(np.hypot(x, y + 30) < 9) & (z > SIZE_MM[2] - TRACHEA_MM)] = -990
    lungs[hu < -950] = 0
    hu += np.where(body, rng.normal(0, noise_hu, hu.shape), 0)
    return hu.astype(np.float32), lungs, np.zeros_like(lungs), np.broadcast_to(body, hu.shape).astype(np.uint8)


def place(spacing_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates in mm: x and y from the middle, z from the bottom."""
    axes = [(np.arange(round(n / spacing_mm)) + 0.5) * spacing_mm for n in SIZE_MM]
    return (axes[0] - SIZE_MM[0] / 2)[:, None, None], (axes[1] - SIZE_MM[1] / 2)[:, None], axes[2]
