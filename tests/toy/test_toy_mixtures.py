"""GaussianMixture: densities, scores, draws and the noised law against independent calculations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from toy.mixtures import GaussianMixture, log_ratio, moments

FULL = GaussianMixture(
    [0.2, 0.5, 0.3],
    [[-1.0, 0.5], [2.0, 1.0], [0.0, -2.0]],
    [[[1.0, 0.6], [0.6, 0.5]], [[0.3, 0.0], [0.0, 2.0]], [[0.8, -0.5], [-0.5, 0.7]]],
)


def test_log_prob_is_scipys() -> None:
    x = np.random.default_rng(1).normal(size=(50, 2)) * 3
    parts = zip(FULL.weights, FULL.means, FULL.covariances, strict=True)
    expected = np.log(sum(w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in parts))
    # SciPy goes through an eigendecomposition; 1e-11 is its rounding at quadratic forms of some hundred.
    np.testing.assert_allclose(FULL.log_prob(x), expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("given", "meant"),
    [(0.7, [0.7, 0.7]), ([0.7, 0.2], [0.7, 0.2])],
)
def test_scalar_covariances_are_isotropic(given: object, meant: list[float]) -> None:
    means = [[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]]
    x = np.random.default_rng(2).normal(size=(20, 3))
    short = GaussianMixture([0.4, 0.6], means, given)
    full = GaussianMixture([0.4, 0.6], means, [v * np.eye(3) for v in meant])
    np.testing.assert_array_equal(short.log_prob(x), full.log_prob(x))


def test_integrates_to_one() -> None:
    q = GaussianMixture([0.3, 0.7], [-2.0, 1.0], [0.5, 2.0])
    total, _ = integrate.quad(lambda t: float(np.exp(q.log_prob([t]))), -30, 30, points=[-2, 1], epsabs=1e-12)
    assert abs(total - 1) < 1e-10


def test_score_is_the_gradient() -> None:
    x = np.random.default_rng(3).normal(size=(40, 2)) * 4
    h = 1e-5
    for axis in range(2):
        step = h * np.eye(2)[axis]
        slope = (FULL.log_prob(x + step) - FULL.log_prob(x - step)) / (2 * h)
        # Central differences: h^2 f'''/6 ~ 1e-10 x (third derivatives up to 1e2) + rounding 1e-14/h = 1e-9.
        np.testing.assert_allclose(FULL.score(x)[:, axis], slope, rtol=1e-7, atol=1e-7)


def test_moments_of_draws() -> None:
    n = 200_000
    x = FULL.sample(n, np.random.default_rng(4))
    mean, covariance = moments(FULL)
    # Five standard errors of each entry: false alarm below 1e-5 in all, and the seed is fixed.
    error = np.sqrt(np.diag(covariance) / n)
    assert np.all(np.abs(x.mean(axis=0) - mean) < 5 * error)
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert np.all(np.abs(products.mean(axis=0) - covariance) < 5 * products.std(axis=0) / np.sqrt(n))


def test_draws_follow_the_density() -> None:
    q = GaussianMixture([0.3, 0.7], [-2.0, 1.0], [0.5, 2.0])
    x = q.sample(20_000, np.random.default_rng(5))[:, 0]

    def cdf(t: np.ndarray) -> np.ndarray:
        return 0.3 * stats.norm.cdf(t, -2, np.sqrt(0.5)) + 0.7 * stats.norm.cdf(t, 1, np.sqrt(2))

    assert stats.kstest(x, cdf).pvalue > 1e-3
    assert stats.kstest(x + 0.2, cdf).pvalue < 1e-9  # the test does see a shift of a fifth


@pytest.mark.parametrize("alpha_bar", [0.0, 0.2, 0.9, 1.0])
def test_noised_is_the_convolution(alpha_bar: float) -> None:
    """Against a direct integral over x_0 at one point, by a fine lattice."""
    noised = FULL.noised(alpha_bar)
    point = np.array([0.3, -0.4])
    if alpha_bar == 1.0:
        assert noised.log_prob(point) == FULL.log_prob(point)
        return
    axis = np.linspace(-14, 14, 561)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    kernel = stats.multivariate_normal(point, (1 - alpha_bar) * np.eye(2)).pdf(np.sqrt(alpha_bar) * grid)
    direct = np.sum(np.exp(FULL.log_prob(grid)) * kernel) * (axis[1] - axis[0]) ** 2
    assert abs(np.exp(noised.log_prob(point)) - direct) < 1e-12


def test_noising_composes() -> None:
    once, twice = FULL.noised(0.3), FULL.noised(0.6).noised(0.5)
    np.testing.assert_allclose(once.covariances, twice.covariances, rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(once.means, twice.means, rtol=1e-14)


def test_units_of_coordinates_do_not_matter() -> None:
    q = GaussianMixture([1.0], [[1.0, 2.0]], [[[1.0, 0.0], [0.0, 1e-200]]])
    expected = stats.norm.logpdf(0.5) + stats.norm.logpdf(1.5) + 100 * np.log(10)
    assert abs(q.log_prob([1.5, 2.0]) - (expected - stats.norm.logpdf(1.5) + stats.norm.logpdf(0.0))) < 1e-10


def test_near_singular_covariance() -> None:
    r = 1 - 1e-10
    q = GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, r], [r, 1.0]]])
    # Along (1, -1)/sqrt 2 the variance is 1 - r; the determinant 1 - r^2. Relative rounding of 1 - r: 1e-6.
    x = 1e-5 * np.array([1.0, -1.0])
    expected = -np.log(2 * np.pi) - 0.5 * np.log((1 - r) * (1 + r)) - 0.5 * 2e-10 / (1 - r)
    assert abs(q.log_prob(x) - expected) < 1e-5
    with pytest.raises(ValueError, match="component 0 is not positive definite"):
        GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 1 - 1e-16], [1 - 1e-16, 1.0]]])


def test_far_modes_do_not_overflow() -> None:
    q = GaussianMixture([0.5, 0.5], [[-1e6, 0.0], [1e6, 0.0]], 1.0)
    x = np.array([[0.0, 0.0], [1e6, 0.0], [1e8, 3.0]])
    assert np.all(np.isfinite(q.log_prob(x)))
    assert np.all(np.isfinite(q.score(x)))
    np.testing.assert_allclose(q.score(x)[2], [1e6 - 1e8, -3.0])


def test_log_ratio_keeps_its_digits_near_one() -> None:
    """-log(.3 + .7 e^(-72)) at the mode of the component: 1 - .3 e^rho is exact to a rounding of one."""
    q = GaussianMixture([0.3, 0.7], [[-6.0], [6.0]], 1.0)
    x = np.linspace(-12, -5, 50)[:, None]
    rho = log_ratio(q, q.component(0), x)
    np.testing.assert_allclose(rho, -np.log(0.3 + 0.7 * np.exp(12 * x[:, 0])), rtol=1e-15)
    assert np.all(1 - 0.3 * np.exp(rho) >= -2.3e-16)


def test_log_ratio_of_a_vanishing_component() -> None:
    q = GaussianMixture([0.0, 1.0], [[-1.0], [1.0]], 1.0)
    assert q.log_prob([[0.0]])[0] == GaussianMixture([1.0], [1.0], 1.0).log_prob([[0.0]])[0]
    assert q.posterior([[0.0]]).tolist() == [[0.0, 1.0]]


def test_without_and_component_recompose() -> None:
    x = np.random.default_rng(6).normal(size=(30, 2))
    total = 0.5 * np.exp(FULL.component(1).log_prob(x)) + 0.5 * np.exp(FULL.without(1).log_prob(x))
    np.testing.assert_allclose(np.log(total), FULL.log_prob(x), rtol=1e-13)


def test_mapped_changes_variables() -> None:
    matrix, shift = np.array([[2.0, 1.0], [0.5, -1.0]]), np.array([3.0, -1.0])
    x = np.random.default_rng(7).normal(size=(30, 2))
    moved = FULL.mapped(matrix, shift).log_prob(x @ matrix.T + shift)
    np.testing.assert_allclose(moved, FULL.log_prob(x) - np.log(abs(np.linalg.det(matrix))), rtol=1e-12)


def test_json_round_trip() -> None:
    assert repr(GaussianMixture(**FULL.to_dict())) == repr(FULL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], 1.0), r"weights: shape \(k,\)"),
        (([0.5, 0.6], [0.0, 1.0], 1.0), "weights: a sum of 1 is needed"),
        (([1.5, -0.5], [0.0, 1.0], 1.0), "weights: probabilities"),
        (([np.nan, 1.0], [0.0, 1.0], 1.0), "weights: probabilities"),
        (([1.0], [[0.0], [1.0]], 1.0), r"means: shape \(1, d\)"),
        (([1.0], [np.inf], 1.0), "means: finite"),
        (([1.0], [0.0], 0.0), "variances > 0"),
        (([1.0], [0.0], np.nan), "covariances: finite"),
        (([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0, 1.0]), "covariances: a scalar"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.2, 1.0]]]), "symmetric"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "component 0 is not positive definite"),
    ],
)
def test_bad_mixtures_say_what_is_wrong(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)


def test_bad_calls_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"points of shape \(\.\.\., 2\)"):
        FULL.log_prob(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="generator: numpy"):
        FULL.sample(3, 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n: a number of draws"):
        FULL.sample(0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="alpha_bar: a number in"):
        FULL.noised(1.1)
    with pytest.raises(ValueError, match="3 components"):
        FULL.component(3)
    with pytest.raises(ValueError, match="nothing is left"):
        FULL.component(0).without(0)
    with pytest.raises(ValueError, match="unlearn: dimension 2"):
        log_ratio(FULL, GaussianMixture([1.0], [0.0], 1.0), np.zeros((1, 2)))
