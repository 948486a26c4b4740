"""How far one set of images is from another: the measures, as functions of features, spectra and histograms.

The case is the *unit*: slices of a case are alike, so no pair of samples of one unit enters a measure that takes its
samples to be independent. Samples ``[n d]`` come with their unit ``[n]`` (0 ... u-1), units with a weight ``[u]``: 1,
or how often a bootstrap drew them. All in float64.
"""

import numpy as np
from scipy import fft, linalg, ndimage
from scipy.spatial.distance import cdist

SPREAD_FLOOR = 0.05  # added, in squares, to a feature's own: 5 % is no difference, even among like cases
NEIGHBOURS = 5  # Naeem et al. 2020 use 5
TILE = 16  # voxels, edge of the squares whose spectrum is taken
FREQUENCIES = np.arange(2, TILE // 2 + 1) / TILE  # per voxel; 1 / TILE is not told from a slope
SOFT_HU = (-200.0, 250.0)  # mean of a tile of soft tissue
QUIET = 0.25  # fraction of a case's tiles that is taken for homogeneous: those that vary least
SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # per scale, finest first: Wang et al. 2003
BLOCK = 1024  # samples whose distances to all others are held at once


# ---------------------------------------------------------------------------------------------------------- features


def standardise(reference: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """All samples in units of the reference's own spread, so that no feature counts more for being large."""
    centre = reference.mean(0)
    spread = np.hypot(reference.std(0), SPREAD_FLOOR)
    return [(samples - centre) / spread for samples in (reference, *others)]


def frechet_distance(x: np.ndarray, y: np.ndarray, weights_x=None, weights_y=None) -> float:
    """Frechet distance of the Gaussians fitted to ``x`` ``[n d]`` and ``y`` ``[m d]``: Heusel et al. 2017, Eq. 6.

    |m_x - m_y|^2 + tr(C_x) + tr(C_y) - 2 tr (C_x^1/2 C_y C_x^1/2)^1/2, integer weights per sample. With C_x = R' R the
    last trace is the sum of the roots of the eigenvalues of R C_y R', which is symmetric: no complex rest, and singular
    covariances (n <= d) are no exception. It is biased upwards, the more so the fewer the samples: compare only values
    of equal numbers.
    """
    mean_x, factor_x = _moments(x, weights_x)
    mean_y, factor_y = _moments(y, weights_y)
    across = linalg.qr(factor_x, mode="r")[0][: x.shape[1]] @ factor_y.T  # R times a factor of C_y
    overlap = np.sqrt(linalg.eigvalsh(across @ across.T).clip(min=0)).sum()
    spread = np.square(factor_x).sum() + np.square(factor_y).sum()
    return float(np.square(mean_x - mean_y).sum() + spread - 2 * overlap)


def _moments(x: np.ndarray, weights) -> tuple[np.ndarray, np.ndarray]:
    """The mean ``[d]`` and a factor F of the covariance, F' F: ``[n d]``."""
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    mean = weights @ x / weights.sum()
    return mean, (x - mean) * np.sqrt(weights / (weights.sum() - 1))[:, None]


def unit_kernels(x: np.ndarray, units_x: np.ndarray, y: np.ndarray, units_y: np.ndarray) -> np.ndarray:
    """Mean of the kernel (x . y / d + 1)^3 (Binkowski et al. 2018, Sec. 4) over the samples of each pair of units:
    ``[units of x, units of y]``."""
    mean_x, mean_y = _averaging(units_x), _averaging(units_y)
    total = np.zeros((len(mean_x), len(mean_y)))
    for i in range(0, len(x), BLOCK):
        total += mean_x[:, i : i + BLOCK] @ ((x[i : i + BLOCK] @ y.T / x.shape[1] + 1) ** 3) @ mean_y.T
    return total


def _averaging(units: np.ndarray) -> np.ndarray:
    """The matrix ``[u n]`` that averages samples over units."""
    member = (np.arange(units.max() + 1)[:, None] == units).astype(np.float64)
    return member / member.sum(1, keepdims=True)


def kid(within_x, within_y, across, weights_x, weights_y) -> float:
    """Unbiased squared MMD of two sets of units: Gretton et al. 2012, Eq. 3, from the kernels of their pairs.

    With one sample per unit it is KID as Binkowski et al. 2018 define it. Pairs within a unit are left out, copies
    that a bootstrap drew included: it stays unbiased where slices of a case are alike, and may be negative.
    """
    between = weights_x @ across @ weights_y / (weights_x.sum() * weights_y.sum())
    return mean_of_pairs(within_x, weights_x) + mean_of_pairs(within_y, weights_y) - 2 * float(between)


def mean_of_pairs(matrix: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean of a symmetric ``[u u]`` over pairs of different units."""
    pairs = np.outer(weights, weights)
    np.fill_diagonal(pairs, 0)
    return float((pairs * matrix).sum() / pairs.sum())


def neighbourhood_hits(x: np.ndarray, units_x: np.ndarray, y: np.ndarray, units_y: np.ndarray) -> np.ndarray:
    """How many samples of each unit of ``y`` lie in the ball of each sample of ``x``: ``[n, units of y]``.

    A sample's ball reaches to its ``NEIGHBOURS``-th nearest sample of *other* units of ``x`` (Naeem et al. 2020).
    """
    member = (np.arange(units_y.max() + 1)[:, None] == units_y).astype(np.float64)
    hits = []
    for i in range(0, len(x), BLOCK):
        own = cdist(x[i : i + BLOCK], x)
        own[units_x[i : i + BLOCK, None] == units_x] = np.inf
        k = min(NEIGHBOURS, len(x) - int(np.bincount(units_x).max())) - 1
        radius = np.partition(own, k, axis=1)[:, k : k + 1]
        hits.append((cdist(x[i : i + BLOCK], y) <= radius) @ member.T)
    return np.concatenate(hits)


def coverage(hits: np.ndarray, sample_weights: np.ndarray, units_y_weights: np.ndarray) -> float:
    """Fraction of the reference's samples that have one of the other set in their ball: Naeem et al. 2020, Eq. 7."""
    return float(np.average(hits @ (units_y_weights > 0) > 0, weights=sample_weights))


# ------------------------------------------------------------------------------------------------------------ images


def histogram_distance_hu(p: np.ndarray, q: np.ndarray, bin_hu: float = 1.0) -> float:
    """Wasserstein-1 distance of two histograms ``[bins]``, HU: the area between their cumulative fractions."""
    return float(np.abs(np.cumsum(p / p.sum() - q / q.sum())).sum() * bin_hu)


def tile_spectrum(slices: list[np.ndarray], counts: list[np.ndarray], spacing_mm: float) -> np.ndarray | None:
    """Noise power (HU^2 mm^2) of the soft tissue in ``slices`` ``[h w]`` at `FREQUENCIES` / spacing: ``[7]``.

    The radial mean of the noise power spectrum (ICRU Report 54): squares that count everywhere, less their mean and
    slope, under a Hann window whose loss of power is given back. Anatomy is kept out by taking each case's quietest
    quarter. None where no tile is soft tissue throughout.
    """
    tiles = [tile for image, mask in zip(slices, counts, strict=True) for tile in _soft_tiles(image, mask)]
    if not tiles:
        return None
    flat = _without_slope(np.stack(tiles))
    order = np.argsort(flat.var((1, 2)), kind="stable")[: max(1, round(QUIET * len(flat)))]
    line = np.hanning(TILE + 2)[1:-1]
    window = np.outer(line, line)
    power = np.abs(fft.fft2(flat[order] * window)) ** 2 * spacing_mm**2 / np.square(window).sum()
    frequency = fft.fftfreq(TILE, 1 / TILE)
    radius = np.rint(np.hypot(frequency[:, None], frequency)).astype(int)  # [TILE TILE]
    return ndimage.mean(power.mean(0), radius, FREQUENCIES * TILE)


def _soft_tiles(image: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """The squares of a grid of half their edge that count everywhere and are soft tissue, float64."""
    starts = [range(0, n - TILE + 1, TILE // 2) for n in image.shape]
    where = [(slice(i, i + TILE), slice(j, j + TILE)) for i in starts[0] for j in starts[1]]
    tiles = [image[box].astype(np.float64) for box in where if mask[box].all()]
    return [tile for tile in tiles if SOFT_HU[0] <= tile.mean() <= SOFT_HU[1]]


def _without_slope(tiles: np.ndarray) -> np.ndarray:
    """``[n t t]`` less the plane that fits each best."""
    y, x = np.mgrid[:TILE, :TILE] - (TILE - 1) / 2
    plane = np.stack([np.ones_like(x), y, x]).reshape(3, -1)
    flat = tiles.reshape(len(tiles), -1)
    return (flat - flat @ np.linalg.pinv(plane) @ plane).reshape(tiles.shape)


def spectrum_distance_db(p: np.ndarray, q: np.ndarray) -> float:
    """Root mean square over frequencies of the ratio of two power spectra, dB."""
    least = 1e-6  # HU^2 mm^2: no power at all is as far as anything can be
    return float(np.sqrt(np.square(10 * np.log10((p + least) / (q + least))).mean()))


def ms_ssim_pairs(images: list[np.ndarray], range_hu: float) -> np.ndarray:
    """MS-SSIM (Wang et al. 2003) of every pair of images ``[h w]`` of one shape: symmetric ``[n n]``, diagonal 1.

    Gaussian windows of 1.5 voxels; as many of the five scales as leave 11 voxels, their weights summing to 1.
    """
    n_scales = int(np.clip(np.log2(max(min(images[0].shape) / 11, 1)) + 1, 1, len(SSIM_WEIGHTS)))
    weights = np.array(SSIM_WEIGHTS[:n_scales]) / sum(SSIM_WEIGHTS[:n_scales])
    stack = np.stack(images).astype(np.float64)
    similar = np.ones((len(images), len(images)))
    for scale, weight in enumerate(weights):
        terms = _ssim_terms(stack, range_hu)[int(scale < n_scales - 1)]  # luminance counts at the coarsest only
        similar *= terms.clip(min=0) ** weight
        stack = ndimage.uniform_filter(stack, (0, 2, 2))[:, ::2, ::2]
    return similar


def _ssim_terms(stack: np.ndarray, range_hu: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean SSIM and mean contrast-structure term of every pair: ``[n n]`` each."""
    c1, c2 = (0.01 * range_hu) ** 2, (0.03 * range_hu) ** 2
    smooth = lambda a: ndimage.gaussian_filter(a, 1.5, truncate=3.5, axes=(-2, -1))  # noqa: E731
    mean = smooth(stack)
    variance = smooth(stack**2) - mean**2
    whole, structure = np.ones((2, len(stack), len(stack)))
    for i in range(len(stack)):
        for j in range(i):
            covariance = smooth(stack[i] * stack[j]) - mean[i] * mean[j]
            cs = (2 * covariance + c2) / (variance[i] + variance[j] + c2)
            luminance = (2 * mean[i] * mean[j] + c1) / (mean[i] ** 2 + mean[j] ** 2 + c1)
            whole[i, j] = whole[j, i] = (luminance * cs).mean()
            structure[i, j] = structure[j, i] = cs.mean()
    return whole, structure
