"""One answer four ways: closed form, quadrature, draws, and the independent CVXPY form."""

import warnings

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from instances import trapezoid

import duality as du

pytest.importorskip("cvxpy", reason="the fourth way needs CVXPY: install unlearning-duality[reference]")

FEW = settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
DRAWS = 4000
seeds = st.integers(0, 2**32 - 1)


def agree(problem, nodes, draws, value, multiplier):
    """Quadrature to ten digits, CVXPY to six, draws to five standard errors: one false alarm in a million."""
    solution = du.solve(problem, nodes)
    np.testing.assert_allclose(solution.primal, value, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(solution.multipliers, [multiplier], rtol=1e-8, atol=1e-9)
    given = du.reference.solve(problem, nodes)
    np.testing.assert_allclose(given.value, value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(given.multipliers, [multiplier], rtol=1e-3, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        sampled = du.solve(problem, draws)
    # The value from draws is biased upward by the order of 1/n, the square of its standard error.
    allowed = 5 * sampled.primal_stderr + 5 / DRAWS
    assert abs(sampled.dual - value) <= allowed
    assert abs(sampled.multipliers[0] - multiplier) <= 5 * sampled.multipliers_stderr[0] + 20 * multiplier / DRAWS


@FEW
@given(seeds, st.floats(0.5, 1.5), st.floats(1.15, 1.6))
def test_reverse_kl_between_gaussians(seed, distance, factor):
    q = du.gaussians.Gaussian(np.zeros(1), np.eye(1))
    other = du.gaussians.Gaussian(np.array([distance]), np.eye(1))
    level = (distance * factor) ** 2 / 2
    exact = du.gaussians.reverse_kl(q, other, level)
    x = np.random.default_rng(seed).normal(size=DRAWS)
    draws = du.LogRatios(distance * x - distance**2 / 2)
    agree(du.ReverseKL(level), trapezoid(q, [other], 121, 9.0), draws, exact.value, exact.multiplier)


@FEW
@given(seeds, st.floats(0.1, 0.6), st.floats(0.3, 2.5))
def test_forward_kl_of_supports_apart(seed, pi, more):
    level = -np.log(pi) + more
    exact = du.gaussians.disjoint_forward_kl(pi, level)
    nodes, draws = apart(seed, pi)
    agree(du.ForwardKL(level), nodes, draws, exact.value, exact.multiplier)


@FEW
@given(seeds, st.floats(0.1, 0.6), st.floats(0.1, 0.9))
def test_posterior_of_supports_apart(seed, pi, factor):
    exact = du.gaussians.disjoint_posterior(pi, pi * factor)
    nodes, draws = apart(seed, pi)
    agree(du.Likelihood(pi * factor, priors=pi), nodes, draws, exact.value, exact.multiplier)


def apart(seed, pi):
    """q_1 on four nodes of total mass pi and q's rest on five, as quadrature and as draws."""
    rng = np.random.default_rng(seed)
    masses = np.concatenate([pi * rng.dirichlet(np.ones(4)), (1 - pi) * rng.dirichlet(np.ones(5))])
    values = np.repeat([-np.log(pi), -np.inf], [4, 5])
    return du.LogRatios(values, np.log(masses)), du.LogRatios(
        values[rng.choice(9, size=DRAWS, p=masses / masses.sum())]
    )
