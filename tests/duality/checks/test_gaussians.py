"""Closed forms against the solver on quadrature, in one, two and three dimensions, with full covariances."""

import numpy as np
import pytest
from instances import trapezoid
from kkt import assert_optimal

import duality as du
from duality.checks.gaussians import Gaussian, divergence, domain_end, log_ratio_likelihood, reverse_kl, tilted


def random_pair(rng, d, narrow):
    """q and q_1 with full covariances; q_1 narrower than q in some direction (narrow) or wider in all."""
    a = rng.normal(size=(d, d)) / 2
    covariance = a @ a.T + 0.6 * np.eye(d)
    factor = np.linalg.cholesky(covariance)
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    scale = rng.uniform(1.05, 1.3, size=d)
    if narrow:
        scale[0] = 0.8
    other = factor @ rotation @ np.diag(scale) @ rotation.T @ factor.T
    mean = rng.normal(size=d)
    return Gaussian(mean, covariance), Gaussian(mean + factor @ rng.normal(size=d) * 0.7, other)


GRID = {1: (2001, 14.0), 2: (201, 11.0), 3: (61, 9.0)}


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_reverse_and_log_ratio_against_quadrature(d, narrow):
    rng = np.random.default_rng(10 * d + narrow)
    q, q_1 = random_pair(rng, d, narrow)
    ratios = trapezoid(q, [q_1], *GRID[d])
    # The step is 14/1000, 11/100 and 0.3 standard deviations of q: for a Gaussian the trapezoid of step h has relative
    # error 2 exp(-2 (pi s/h)²), below 1e-90 for the targets here; what is left is the mass beyond the reach.
    expected = reverse_kl(q, q_1, divergence(q, q_1) + 0.4)
    solution = du.solve(du.ReverseKL(divergence(q, q_1) + 0.4), ratios)
    assert_optimal(solution, ratios)
    np.testing.assert_allclose(solution.multipliers[0], expected.multiplier, rtol=1e-8)
    np.testing.assert_allclose(solution.primal, expected.value, rtol=1e-8)
    _moments_match(solution, q, expected.target, GRID[d])

    part = tilted(q, q_1, 0.3 * min(domain_end(q, q_1), 2.0))
    level = divergence(part, q) - divergence(part, q_1)
    expected = log_ratio_likelihood(q, q_1, level)
    solution = du.solve(du.Likelihood(level, kind="log-ratio"), ratios)
    assert_optimal(solution, ratios)
    np.testing.assert_allclose(solution.multipliers[0], expected.multiplier, rtol=1e-8)
    np.testing.assert_allclose(solution.primal, expected.value, rtol=1e-8)
    _moments_match(solution, q, expected.target, GRID[d])


def _moments_match(solution, q, target, grid):
    side, reach = grid
    d = q.mean.size
    line = np.linspace(-reach, reach, side)
    z = np.stack(np.meshgrid(*([line] * d), indexing="ij"), axis=-1).reshape(-1, d)
    x = q.mean + z @ np.linalg.cholesky(q.covariance).T
    p = np.exp(solution.log_weights)
    mean = p @ x
    np.testing.assert_allclose(mean, target.mean, atol=1e-7)
    np.testing.assert_allclose((x - mean).T @ (p[:, None] * (x - mean)), target.covariance, atol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 7, 40])
def test_equal_covariances(d):
    rng = np.random.default_rng(d)
    q, q_1 = random_pair(rng, d, narrow=False)
    q_1 = Gaussian(q_1.mean, q.covariance)
    mu = float(np.sqrt(2 * divergence(q_1, q)))
    for level in (mu**2 / 2 + 1e-6, 3 * mu**2, 1e6):
        answer = reverse_kl(q, q_1, level)
        a = np.sqrt(2 * level) / mu - 1
        np.testing.assert_allclose(answer.multiplier, 1 - mu / np.sqrt(2 * level), rtol=1e-7)
        np.testing.assert_allclose(answer.value, (np.sqrt(2 * level) - mu) ** 2 / 2, rtol=1e-7)
        np.testing.assert_allclose(answer.target.mean, q.mean - a * (q_1.mean - q.mean), rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(answer.target.covariance, q.covariance, rtol=1e-9, atol=1e-10)
        assert answer.domain_end == np.inf or answer.domain_end > 1e9


def test_isotropic_formula_and_domain_end():
    for v, u, a in [(1.0, 0.5, 0.7), (1.0, 2.0, 3.0), (2.0, 1.9, 5.0)]:
        mu = np.array([1.0, -2.0, 0.5])
        q, q_1 = Gaussian(np.zeros(3), v), Gaussian(mu, u)
        end = domain_end(q, q_1)
        np.testing.assert_allclose(end, u / (v - u) if u < v else np.inf, rtol=1e-10)
        s = 1 / ((1 + a) / v - a / u)
        p = tilted(q, q_1, a)
        np.testing.assert_allclose(p.covariance, s * np.eye(3), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(p.mean, -s * a * mu / u, rtol=1e-12)
    with pytest.raises(ValueError, match=r"a: 1.0 given"):
        tilted(Gaussian([0.0], 1.0), Gaussian([1.0], 0.5), 1.0)


def test_every_level_is_reached_before_the_domain_ends():
    # u < v: Z(a) turns infinite at a = u/(v - u) = 1, where the variance of the target, and so its level, diverges.
    q, q_1 = Gaussian(np.zeros(2), 1.0), Gaussian(np.array([1.0, 0.0]), 0.5)
    previous = 0.0
    for level in (5.0, 1e2, 1e4, 1e8):
        answer = reverse_kl(q, q_1, level)
        assert previous < answer.tilt < 1.0
        np.testing.assert_allclose(answer.level, level, rtol=1e-6)
        previous = answer.tilt


def test_nodes_cannot_see_where_the_domain_ends():
    # On any grid Z is a finite sum, so the solver passes a = 1 without notice once the level asks for more variance
    # than the grid can hold. What shows is the mass that the target then has at the edge.
    q, q_1 = Gaussian(0.0, 1.0), Gaussian(1.0, 0.5)
    ratios = trapezoid(q, [q_1], 801, 5.0)
    exact = reverse_kl(q, q_1, 40.0)
    with pytest.warns(du.MassWarning, match=r"1\.000001 for constraint 0"):  # nor do they integrate to all digits
        solution = du.solve(du.ReverseKL(40.0), ratios)
    assert solution.attained
    assert solution.natural[0] > 1.0 > exact.tilt
    p = np.exp(solution.log_weights)
    assert p[:5].sum() + p[-5:].sum() > 0.9
    assert solution.dual > 1.2 * exact.value
    mild = du.solve(du.ReverseKL(3.0), trapezoid(q, [q_1], 2001, 14.0))
    np.testing.assert_allclose(mild.primal, reverse_kl(q, q_1, 3.0).value, rtol=1e-8)
    assert np.exp(mild.log_weights)[[0, -1]].max() < 1e-12


def test_sensitivity_is_the_multiplier():
    q, q_1 = random_pair(np.random.default_rng(3), 4, narrow=True)
    step = 1e-4
    for form, sign, at in (
        (reverse_kl, 1, divergence(q, q_1) + 1),
        (log_ratio_likelihood, -1, -divergence(q, q_1) - 1),
    ):
        values = [form(q, q_1, at + k * step).value for k in (-1, 1)]
        # Central differences: step² V''' / 6, and rounding 1e-15 / step.
        np.testing.assert_allclose((values[1] - values[0]) / (2 * step), sign * form(q, q_1, at).multiplier, rtol=1e-6)


def test_log_ratio_levels_below_the_infimum():
    q, q_1 = random_pair(np.random.default_rng(5), 3, narrow=False)
    with pytest.raises(du.InfeasibleError) as caught:
        log_ratio_likelihood(q, q_1, -1e3)
    least = float(caught.value.least[0])
    x = q.mean + np.random.default_rng(6).normal(size=(20_000, 3)) @ np.linalg.cholesky(q.covariance).T * 2
    assert (q_1.log_prob(x) - q.log_prob(x)).min() >= least - 1e-12
    np.testing.assert_allclose(log_ratio_likelihood(q, q_1, least + 1e-3).level, least + 1e-3, rtol=1e-8)


@pytest.mark.parametrize("units", [np.ones(2), np.array([1.0, 1e8]), np.array([1e-150, 1e140])])
def test_units_do_not_matter(units):
    # x -> D x: correlations, tilts and values are the same numbers, though the condition of the covariance is 1e16.
    def measured(mean, covariance):
        return Gaussian(units * mean, units[:, None] * np.array(covariance) * units)

    plain = Gaussian([0.0, 0.0], [[1.0, 0.3], [0.3, 1.0]]), Gaussian([1.0, 0.5], [[0.5, 0.15], [0.15, 0.5]])
    q, wider = measured([0.0, 0.0], [[1.0, 0.3], [0.3, 1.0]]), measured([1.0, 0.5], [[1.5, 0.3], [0.3, 1.0]])
    narrower = measured([1.0, 0.5], [[0.5, 0.15], [0.15, 0.5]])
    assert domain_end(q, wider) == np.inf
    np.testing.assert_allclose(domain_end(q, narrower), 1.0, rtol=1e-12)
    np.testing.assert_allclose(divergence(q, narrower), 1 - np.log(2) + (1 - 0.3 + 0.25) / (1 - 0.3**2), rtol=1e-13)
    for form, level in ((reverse_kl, 5.0), (log_ratio_likelihood, -3.0)):
        here, there = form(*plain, level), form(q, narrower, level)
        np.testing.assert_allclose([there.multiplier, there.value], [here.multiplier, here.value], rtol=1e-12)
    # S_1 is wider along the first coordinate alone, and the means differ along the second, too: no least log ratio.
    assert log_ratio_likelihood(q, wider, -50.0).multiplier > 0
    beside = measured([1.0, 0.0], [[1.5, 0.3], [0.3, 1.0]])
    with pytest.raises(du.InfeasibleError) as caught:
        log_ratio_likelihood(q, beside, -50.0)
    x = np.stack(np.meshgrid(np.linspace(-30, 30, 601), np.linspace(-30, 30, 601)), axis=-1) * units
    logs = beside.log_prob(x), q.log_prob(x)  # some of a thousand nats, and so known to 16 eps times that
    rounding = 16 * np.finfo(float).eps * np.abs(logs).max()
    assert -rounding <= (logs[0] - logs[1]).min() - caught.value.least[0] < 1e-3


def test_covariances_are_judged_by_their_correlations():
    # Entries of a product that nearly vanish are all rounding: no digits of theirs need agree.
    assert Gaussian([0.0, 0.0], [[1.0, 2.0**-57], [-3 * 2.0**-57, 1.0]]).covariance[0, 1] == -(2.0**-57)
    assert Gaussian([0.0, 0.0], [[1e-200, 1e-30], [1.1e-30, 1e180]]).covariance[0, 0] == 1e-200
    for off in (1e-12, 1e-9, 1e-3):
        with pytest.raises(ValueError, match="not symmetric: c_ij and c_ji differ"):
            Gaussian([0.0, 0.0], [[1e8, off], [0.0, 1e-8]])
    # Nor does a hair's breadth of positive definiteness depend on who does the sums.
    Gaussian([0.0, 0.0], [[1.0, 1 - 1e-14], [1 - 1e-14, 1.0]])
    with pytest.raises(ValueError, match="not positive definite to working precision"):
        Gaussian([0.0, 0.0], [[1.0, 1 - 2e-16], [1 - 2e-16, 1.0]])
    for bad in ([[1.0, np.nan], [np.nan, 1.0]], [[np.inf, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]):
        with pytest.raises(ValueError, match="covariance: not positive definite: finite"):
            Gaussian([0.0, 0.0], bad)


@pytest.mark.parametrize("condition", [1e4, 1e8])
def test_near_singular_covariances(condition):
    # Both in the frame of a common ill-conditioned map: ratios, and so the answer, do not depend on it.
    q, q_1 = random_pair(np.random.default_rng(7), 3, narrow=True)
    rng = np.random.default_rng(8)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    a = rotation @ np.diag([1.0, condition**-0.25, condition**-0.5])

    def mapped(g):
        c = a @ g.covariance @ a.T
        return Gaussian(a @ g.mean, (c + c.T) / 2)

    level = divergence(q, q_1) + 0.5
    plain, bent = reverse_kl(q, q_1, level), reverse_kl(mapped(q), mapped(q_1), level)
    # Inverses of matrices of this condition keep eps · condition.
    np.testing.assert_allclose(bent.multiplier, plain.multiplier, rtol=1e-13 * condition)
    np.testing.assert_allclose(bent.value, plain.value, rtol=1e-13 * condition)


def test_disjoint_supports():
    for pi in (0.05, 0.3, 0.9):
        for level in (0.01, 1.0, 3.0, 12.0, 50.0):
            form = du.gaussians.disjoint_forward_kl(pi, level)
            lam = form.multiplier
            if level <= -np.log(pi):
                assert (lam, form.value) == (0.0, 0.0)
                continue
            np.testing.assert_allclose(lam, (pi * np.exp(level) - 1) / np.expm1(level), rtol=1e-12)
            if level < 20:
                value = pi * np.log(pi * (1 - lam) / (pi - lam)) + (1 - pi) * np.log(1 - lam)
                np.testing.assert_allclose(form.value, value, rtol=1e-8)
        for level in (0.9 * pi, 1e-3 * pi, 1e-12):
            form = du.gaussians.disjoint_posterior(pi, level)
            np.testing.assert_allclose(form.multiplier, np.log(pi * (1 - level) / (level * (1 - pi))), rtol=1e-12)
            kl = level * np.log(level / pi) + (1 - level) * np.log((1 - level) / (1 - pi))
            np.testing.assert_allclose(form.value, kl, rtol=1e-9)
        assert du.gaussians.disjoint_posterior(pi, pi).multiplier == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian([0.0, 0.0], np.ones((2, 3))), "covariance: shape"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 0.5], [0.4, 1.0]]), "covariance: not symmetric"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "covariance: not positive definite"),
        (lambda: reverse_kl(Gaussian(0.0, 1.0), Gaussian(1.0, 1.0), -1.0), "level: -1.0 given"),
        (lambda: reverse_kl(Gaussian(0.0, 1.0), Gaussian(0.0, 1.0), 1.0), "level: 1.0 is not reached"),
        (lambda: du.gaussians.disjoint_forward_kl(1.0, 1.0), "prior: 1.0 given"),
        (lambda: du.gaussians.disjoint_forward_kl(0.5, -1.0), "level: -1.0 given"),
        (lambda: du.gaussians.disjoint_posterior(0.5, 0.0), "levels: no density meets 0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
