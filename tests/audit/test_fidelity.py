"""The measures against closed forms, and without bias where that is what they promise."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from lungsyn.audit import fidelity


def with_moments(n: int, mean, covariance, seed: int = 0) -> np.ndarray:
    """``n`` samples whose mean and covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def singles(x: np.ndarray) -> np.ndarray:
    return np.arange(len(x))


# ---------------------------------------------------------------------------------------------------------- Frechet


def test_frechet_distance_of_gaussians():
    """Two dimensions have a closed form: tr (AB)^1/2 = (tr AB + 2 (det AB)^1/2)^1/2, for any A and B."""
    a, b = np.array([[4.0, 1.0], [1.0, 2.0]]), np.array([[1.0, -0.8], [-0.8, 3.0]])
    x, y = with_moments(50, [0, 0], a), with_moments(80, [3, -1], b, seed=1)
    overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = 10 + np.trace(a) + np.trace(b) - 2 * overlap
    assert fidelity.frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert fidelity.frechet_distance(y, x) == pytest.approx(expected, rel=1e-10)
    assert fidelity.frechet_distance(x, x) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_of_fewer_samples_than_dimensions():
    x = np.random.default_rng(0).normal(size=(10, 40))
    assert fidelity.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert fidelity.frechet_distance(x, x + 2) == pytest.approx(4 * 40, rel=1e-9)


def test_weights_are_copies():
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(9, 3)), rng.normal(size=(12, 3)), rng.integers(0, 4, 9)
    expected = fidelity.frechet_distance(np.repeat(x, weights, axis=0), y)
    assert fidelity.frechet_distance(x, y, weights) == pytest.approx(expected, rel=1e-10)
    assert fidelity.frechet_distance(y, x, None, weights) == pytest.approx(expected, rel=1e-10)


# -------------------------------------------------------------------------------------------------------------- KID


def kid_of(x, y, units_x=None, units_y=None, biased=False) -> float:
    units_x, units_y = (singles(a) if u is None else u for a, u in ((x, units_x), (y, units_y)))
    k = [fidelity.unit_kernels(a, u, b, v)
         for a, u, b, v in ((x, units_x, x, units_x), (y, units_y, y, units_y), (x, units_x, y, units_y))]  # fmt: skip
    if biased:
        return k[0].mean() + k[1].mean() - 2 * k[2].mean()
    return fidelity.kid(*k, np.ones(len(k[0])), np.ones(len(k[1])))


def test_kid_is_what_a_double_loop_says():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 4)), rng.normal(size=(5, 4)) + 0.3
    k = lambda a, b: (a @ b / 4 + 1) ** 3  # noqa: E731
    xx = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kid_of(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-10)


def z_of(values) -> float:
    return np.mean(values) / (np.std(values, ddof=1) / np.sqrt(len(values)))


def test_kid_of_equal_distributions_is_zero_on_average():
    rng = np.random.default_rng(1)
    draws = [(rng.normal(size=(12, 3)), rng.normal(size=(9, 3))) for _ in range(600)]
    assert abs(z_of([kid_of(*draw) for draw in draws])) < 3.5
    assert z_of([kid_of(*draw, biased=True) for draw in draws]) > 10  # so many draws would show a bias


def test_kid_stays_unbiased_where_slices_of_a_case_are_alike():
    """Six cases of five slices: 90 % of the variance is between cases. To take slices for independent shows a
    difference that is not there."""
    rng = np.random.default_rng(2)
    units = np.repeat(np.arange(6), 5)

    def draw():
        return 0.95 * rng.normal(size=(6, 3))[units] + 0.31 * rng.normal(size=(30, 3))

    draws = [(draw(), draw()) for _ in range(600)]
    assert abs(z_of([kid_of(x, y, units, units) for x, y in draws])) < 3.5
    assert z_of([kid_of(x, y) for x, y in draws]) > 10


def test_kid_of_a_known_shift():
    """In one dimension (xy + 1)^3 expands into moments: sum over k of binom(3, k) (m_k(P) - m_k(Q))^2."""
    shift = 0.5
    p, q = [0, 1, 0], [shift, 1 + shift**2, shift**3 + 3 * shift]
    expected = sum(c * (a - b) ** 2 for c, a, b in zip((3, 3, 1), p, q, strict=True))
    rng = np.random.default_rng(3)
    found = [kid_of(rng.normal(size=(40, 1)), rng.normal(size=(40, 1)) + shift) for _ in range(800)]
    assert abs(z_of(np.array(found) - expected)) < 3.5
    assert abs(z_of(np.array(found) - 1.2 * expected)) > 3.5


def test_a_unit_drawn_twice_makes_no_pair_with_itself():
    matrix = np.array([[100.0, 1, 2], [1, 100, 3], [2, 3, 100]])
    assert fidelity.mean_of_pairs(matrix, np.array([2.0, 1, 1])) == pytest.approx((2 * 1 + 2 * 2 + 3) / 5)


# --------------------------------------------------------------------------------------------------------- coverage


def test_coverage_of_the_same_and_of_a_far_set():
    x = np.random.default_rng(0).normal(size=(60, 3))
    half = np.arange(60) % 2
    for other, expected in ((x, 1.0), (x + 100, 0.0)):
        hits = fidelity.neighbourhood_hits(x, singles(x), other, singles(other))
        assert fidelity.coverage(hits, np.ones(60), np.ones(60)) == expected
    hits = fidelity.neighbourhood_hits(x, singles(x), np.where(half[:, None], x, x + 100), half)
    assert hits[:, 1].min() >= 0 and hits[:, 0].max() == 0
    assert fidelity.coverage(hits, half.astype(float), np.array([0.0, 1.0])) == 1


def test_the_neighbours_that_make_a_ball_are_of_other_cases():
    """Two cases, each of ten slices in one spot: only the other case says how far cases are apart."""
    x = np.repeat([[0.0], [10.0]], 10, axis=0)
    units = np.repeat([0, 1], 10)
    hits = fidelity.neighbourhood_hits(x, units, np.array([[-9.0], [30.0]]), np.array([0, 1]))
    assert hits[:10, 0].tolist() == [1] * 10 and hits[10:, 0].tolist() == [0] * 10 and hits[:, 1].max() == 0


def test_expected_coverage_of_equal_distributions():
    """A ball is empty if the k nearest of all n - 1 + m other samples, in random order, are all the reference's own:
    1 - prod (n - 1 - i) / (n - 1 + m - i), Naeem et al. 2020, Eq. 9."""
    rng = np.random.default_rng(4)
    n, k = 40, fidelity.NEIGHBOURS
    expected = 1 - np.prod([(n - 1 - i) / (2 * n - 1 - i) for i in range(k)])
    found = []
    for _ in range(200):
        x, y = rng.normal(size=(2, n, 2))
        found.append(
            fidelity.coverage(fidelity.neighbourhood_hits(x, singles(x), y, singles(y)), np.ones(n), np.ones(n))
        )
    assert abs(z_of(np.array(found) - expected)) < 3.5


# ------------------------------------------------------------------------------------------- histograms and spectra


@pytest.mark.parametrize("shift", [0, 1, 17])
def test_wasserstein_distance_of_a_shifted_histogram_is_the_shift(shift):
    p = np.zeros(100)
    p[10:40] = np.random.default_rng(0).random(30)
    assert fidelity.histogram_distance_hu(p, np.roll(p, shift)) == pytest.approx(shift)
    assert fidelity.histogram_distance_hu(3 * np.roll(p, shift), p, bin_hu=2) == pytest.approx(2 * shift)


def spectrum_of(image: np.ndarray, spacing_mm: float = 0.5) -> np.ndarray:
    return fidelity.tile_spectrum([image], [np.ones(image.shape, bool)], spacing_mm)


def test_white_noise_has_a_flat_spectrum_of_its_variance_times_the_voxel():
    """Less a tenth, by which the variance of the quietest quarter of the tiles is below the mean."""
    found = spectrum_of(np.random.default_rng(0).normal(40, 20, (400, 400)))
    assert found.max() / found.min() < 1.1
    np.testing.assert_allclose(found, 20**2 * 0.5**2, rtol=0.25)


def test_a_blurred_image_s_spectrum_falls_as_the_filter_s(monkeypatch):
    monkeypatch.setattr(fidelity, "QUIET", 1.0)  # else those that lack low frequencies are chosen
    noise = np.random.default_rng(0).normal(40, 20, (400, 400))
    ratio = spectrum_of(gaussian_filter(noise, 0.7)) / spectrum_of(noise)
    assert (np.diff(ratio) < 0).all()
    np.testing.assert_allclose(np.log(ratio[:5]), -((2 * np.pi * fidelity.FREQUENCIES[:5] * 0.7) ** 2), atol=0.15)


def test_the_spectrum_is_of_soft_tissue_that_counts():
    rng = np.random.default_rng(0)
    image = rng.normal(-800, 20, (64, 64))
    assert spectrum_of(image) is None
    image[:, :32] += 840
    counts = np.ones((64, 64), bool)
    counts[:, :32] = False
    assert fidelity.tile_spectrum([image], [counts], 1.0) is None
    assert spectrum_of(image).max() < 2 * 20**2


def test_a_slope_is_not_noise():
    ramp = np.add.outer(np.arange(64.0), 2 * np.arange(64.0)) - 60
    assert spectrum_of(ramp).max() < 1e-6


def test_spectra_of_twice_the_power_are_three_decibels_apart():
    assert fidelity.spectrum_distance_db(2 * np.ones(8), np.ones(8)) == pytest.approx(3.0103, abs=1e-3)


# --------------------------------------------------------------------------------------------------------- diversity


def test_one_scale_of_ms_ssim_is_skimage_s_ssim():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 100, (2, 20, 20))
    b += a
    expected = structural_similarity(
        a, b, data_range=1400, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )[1].mean()
    assert fidelity.ms_ssim_pairs([a, b], 1400)[0, 1] == pytest.approx(expected, rel=1e-6)


def test_ms_ssim_falls_from_one_as_images_part():
    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.normal(0, 3000, (90, 90)), 3)
    images = [image + noise * rng.normal(size=image.shape) for noise in (0, 0, 50, 200, 800)]
    first = fidelity.ms_ssim_pairs(images, 1400)[0]
    assert first[1] == pytest.approx(1) and (np.diff(first[1:]) < -0.01).all() and first[-1] < 0.5
