"""Likelihoods that hardly vary, weights over hundreds of decades, ratios at the ends of double precision."""

import numpy as np
import pytest
from instances import finite_space
from scipy.optimize import brentq
from scipy.special import logsumexp

import duality as du


def exact_value(excess, log_q):
    """max over lam of -log E_q[e^{-lam (l - b)}] for one constraint, from l - b `(n,)`: a root of the tilt's mean."""
    unit = np.abs(excess).min(where=excess < 0, initial=np.inf)
    scaled = excess / unit

    def mean(log_lam):
        tilt = log_q - np.exp(log_lam) * scaled
        return float(np.exp(tilt - tilt.max()) @ scaled)

    lam = np.exp(brentq(mean, -80, 80, xtol=1e-14, rtol=1e-15))
    return -float(logsumexp(log_q - lam * scaled))


@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-7, 1e-8, 1e-9, 1e-11, 1e-13])
@pytest.mark.parametrize("kind", ["posterior", "density", "log-ratio"])
def test_a_likelihood_that_hardly_varies_is_solved_in_units_of_its_spread(kind, spread):
    rng = np.random.default_rng(0)
    values = spread * rng.normal(size=200)
    values -= logsumexp(values) - np.log(200)
    log_q = np.full(200, -np.log(200))
    ratios = du.LogRatios(values + (10.0 if kind == "log-ratio" else 0.0), log_q, log_densities=values, priors=0.3)
    problem = du.Likelihood(1.0, kind=kind).bind(ratios)
    likelihood = np.asarray(problem.likelihoods(problem.inputs(ratios)))[:, 0]
    level = likelihood.mean() - 1.5 * likelihood.std()
    solution = du.solve(du.Likelihood(level, kind=kind), ratios)
    assert solution.status is du.Status.OPTIMAL
    assert solution.dual > 1.0
    np.testing.assert_allclose(solution.dual, exact_value(likelihood - level, log_q), rtol=1e-12)
    assert solution.gap <= 1e-12
    assert solution.kkt_residual <= 1e-10
    # And q is said to do only where it does.
    milder = du.solve(du.Likelihood(likelihood.mean() + 0.1 * likelihood.std(), kind=kind), ratios)
    assert milder.status is du.Status.INACTIVE


@pytest.mark.parametrize("gap", [1e-13, 1e-11, 1e-8, 1e-3])
@pytest.mark.parametrize("decades", [30, 300])
def test_the_node_that_the_level_needs_may_weigh_nothing_and_lie_hardly_below_it(gap, decades):
    # Exponents of 690 nats over a gap of 1e-13 beside likelihoods of 0.9: 1e16, where one in units of 0.9 would end.
    likelihood = np.array([0.3, 0.3 - gap, 0.9])
    log_q = np.array([0.0, -decades * np.log(10), np.log(1e-3)])
    log_q -= logsumexp(log_q)
    ratios = du.LogRatios(np.log(likelihood / 0.3), log_q, priors=0.3)
    held = np.asarray(du.Likelihood(1.0, priors=0.3).likelihoods(ratios.values))[:, 0]  # as it is after rounding
    level = 0.3 - 0.5 * gap
    solution = du.solve(du.Likelihood(level), ratios)
    assert solution.status is du.Status.OPTIMAL
    np.testing.assert_allclose(solution.dual, exact_value(held - level, log_q), rtol=1e-9)


def test_random_narrow_likelihoods_under_hostile_weights():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(3, 40))
        likelihood = 0.3 + 10.0 ** rng.uniform(-12, -6) * rng.normal(size=n)
        high = rng.uniform(size=n) < 0.3
        high[0] = False
        likelihood[high] = rng.uniform(0.4, 0.9, size=high.sum())
        log_q = -np.log(10) * rng.choice([10, 300]) * rng.uniform(size=n)
        log_q -= logsumexp(log_q)
        log_q -= logsumexp(log_q)
        ratios = du.LogRatios(np.log(likelihood / 0.3), log_q, priors=0.3)
        held = np.asarray(du.Likelihood(1.0, priors=0.3).likelihoods(ratios.values))[:, 0]
        mean = float(np.exp(log_q) @ held)
        level = held.min() + (mean - held.min()) * rng.choice([0.9, 0.5, 0.1])
        if not held.min() < level < mean:
            continue
        solution = du.solve(du.Likelihood(level), ratios)
        assert solution.status is du.Status.OPTIMAL, seed
        # Weights are known to eps of their logarithms, which is what a value of nearly nothing is made of.
        expected = exact_value(held - level, log_q)
        np.testing.assert_allclose(solution.dual, expected, rtol=1e-7, atol=1e-13, err_msg=str(seed))


def test_ratios_too_small_for_double_precision_give_numbers_or_a_reason():
    ratios = du.LogRatios([-800.0, -900.0], np.log([0.5, 0.5]))
    with pytest.warns(du.MassWarning, match=r"= 0 for constraint 0"):
        solution = du.solve(du.ForwardKL(0.0), ratios)
    assert solution.status is du.Status.INACTIVE
    np.testing.assert_array_equal(solution.multipliers, [0.0])
    assert solution.dual == solution.primal == 0.0
    with pytest.warns(du.MassWarning), pytest.raises(ValueError, match=r"constraint 0 is above -700 nats.*normalise"):
        du.solve(du.ForwardKL(0.1), ratios)
    normal = du.solve(
        du.ForwardKL(1.0), ratios.normalise()
    )  # all of q_1 on the first node: lam = (1/2 - 1/e)/(1 - 1/e)
    np.testing.assert_allclose(normal.multipliers, (0.5 - np.exp(-1)) / (1 - np.exp(-1)), rtol=1e-10)


def test_ratios_too_large_for_double_precision_are_named():
    ratios = du.LogRatios(np.array([[0.0, 800.0], [0.0, 900.0]]), np.log([0.5, 0.5]))
    for call in (du.solve, lambda problem, r: du.frontier(problem, r, [0.1])):
        with pytest.raises(ValueError, match="a log ratio of 900 nats given for constraint 1, but ForwardKL"):
            call(du.ForwardKL(0.1), ratios)


@pytest.mark.parametrize("shift", [-720.0, -745.0, -5000.0])
def test_a_concept_that_is_next_to_absent_leaves_the_others_their_numbers(shift):
    exact = finite_space(np.random.default_rng(1), 50, 2, 1.0)
    ratios = du.LogRatios(exact.values + np.array([0.0, shift]), exact.log_weights)
    with pytest.warns(du.MassWarning):
        both = du.solve(du.ForwardKL([0.8, 0.0]), ratios)
    alone = du.solve(du.ForwardKL(0.8), du.LogRatios(exact.values[:, :1], exact.log_weights))
    np.testing.assert_allclose(both.multipliers, [alone.multipliers[0], 0.0], rtol=1e-9)
    np.testing.assert_allclose(both.dual, alone.dual, rtol=1e-12)
    assert np.isfinite(both.levels).all()
