"""Plain steps with borrowed curvature: where they arrive it is the maximum, and where they cannot they say so."""

from functools import partial

import numpy as np
import pytest
from instances import bound_case, finite_space, mixture_draws, own_levels
from scipy.special import logsumexp

import duality as du
from duality.mixture_dual import MixtureDual
from duality.newton import maximise
from duality.quick import CLOSE, finest, quick
from duality.thinning import places, thinned

EPS = np.finfo(float).eps
KINDS = {
    "reverse": (du.ReverseKL, {}, (0.5, 1.8)),  # some levels are met by the target for the others: multipliers of zero
    "forward": (du.ForwardKL, {}, (0.9, 1.05)),
    "posterior": (du.Likelihood, {}, (0.6, 1.3)),
    "log-ratio": (du.Likelihood, {"kind": "log-ratio"}, (1.05, 1.5)),
}


def case(name, n, m, seed):
    kind, options, bounds = KINDS[name]
    return bound_case(partial(kind, **options), bounds, n, m, seed)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("m", [1, 2, 5, 9])
def test_plain_steps_arrive_where_careful_ones_do(name, m):
    arrived = 0
    for seed in range(12):
        problem, ratios = case(name, 300, m, seed)
        units, dual = problem.units(ratios), problem.dual(ratios)
        found = quick(dual, np.zeros(m), units, CLOSE)
        careful = maximise(problem.dual(ratios), np.zeros(m), units)
        assert found.climb.at.value <= careful.at.value + careful.at.noise + found.climb.at.noise
        if found.arrived:
            arrived += 1
            assert (found.climb.x >= 0).all()
            assert found.climb.stationary(units)
            # g is concave: what is left of it is at most (x* - x)·gradient, and miss and complementarity are CLOSE.
            reach = float(np.abs(careful.x - found.climb.x) @ np.abs(found.climb.at.gradient))
            noise = careful.at.noise + found.climb.at.noise
            assert careful.at.value - found.climb.at.value <= reach + CLOSE * (1 + abs(careful.at.value)) + noise
    assert arrived >= 9  # most of these maxima are in plain sight


@pytest.mark.parametrize("name", KINDS)
def test_curvature_that_is_none_only_slows_them_down(name):
    problem, ratios = case(name, 3000, 3, 0)
    units = problem.units(ratios)
    right = quick(problem.dual(ratios), np.zeros(3), units, CLOSE)
    for seed in range(5):
        wrong = np.diag(np.random.default_rng(seed).uniform(1e-3, 1e3, size=3))
        found = quick(problem.dual(ratios), right.climb.x * 0.9, units, CLOSE, wrong)
        assert found.arrived
        # A residual of CLOSE times the units, through the curvature.
        scale = np.abs(np.linalg.inv(right.climb.at.curvature)) @ (
            units / np.abs(problem.dual(ratios).price(right.climb.x))
        )
        assert (np.abs(found.climb.x - right.climb.x) <= 4 * CLOSE * scale).all()


def test_what_is_not_in_plain_sight_is_said_not_to_be():
    ratios = mixture_draws(np.random.default_rng(3), 3000)
    for problem in (du.ForwardKL(40.0), du.ReverseKL(90.0)):  # beyond what tilts reach
        bound = problem.bind(ratios)
        assert not quick(bound.dual(ratios), np.zeros(ratios.m), bound.units(ratios), CLOSE).arrived
    one = finite_space(np.random.default_rng(0), 3000, 1)
    twice = du.LogRatios(np.repeat(one.values, 2, axis=1), one.log_weights, priors=np.repeat(one.priors, 2))
    problem = du.ReverseKL(own_levels(du.ReverseKL(0.0), twice) + 0.5).bind(twice)
    assert not quick(problem.dual(twice), np.zeros(2), problem.units(twice), CLOSE).arrived  # singular curvature
    least = float((one.priors * np.exp(one.values)).min())
    infeasible = du.Likelihood(least * 0.99).bind(one)
    dual = infeasible.dual(one)
    assert not quick(dual, np.zeros(1), np.full(1, least), CLOSE).arrived


def test_a_start_outside_the_domain_is_none():
    problem, ratios = case("forward", 3000, 2, 0)
    dual = problem.dual(ratios)
    assert not quick(dual, np.full(2, 2.0), problem.units(ratios), CLOSE, np.eye(2)).arrived


@pytest.mark.parametrize("name", KINDS)
def test_the_function_of_some_nodes_is_the_one_that_these_nodes_have(name):
    problem, ratios = case(name, 20_000, 3, 1)
    dual = problem.dual(ratios)
    small = thinned(dual, 10, 50.0)
    chosen = places(20_000, 10)
    log_q = ratios.log_weights[chosen]
    assert abs(logsumexp(small._log_q)) <= EPS * (16 + 4 * np.sqrt(chosen.size))
    np.testing.assert_allclose(small._log_q, log_q - logsumexp(log_q), atol=1e-13)
    assert chosen.size == 2000
    assert (np.diff(chosen) > 0).all()
    some = du.LogRatios(ratios.values[chosen], log_q - logsumexp(log_q), priors=ratios.priors)
    x = np.full(3, 0.2)
    at = small.evaluate(x)
    own = problem.dual(some)
    there = own.evaluate(own.from_natural(dual.to_natural(x)))
    if isinstance(dual, MixtureDual):  # E_q[e^rho rho] is that of all nodes, in the value times lam
        there_value = there.value + float(dual.to_natural(x) @ (own._self - dual._self))
        misses = there.misses + own._self - dual._self
    else:
        there_value, misses = there.value, there.misses
    size = 1.0 + np.abs(problem.levels).max()
    np.testing.assert_allclose(at.value, there_value, atol=8 * (at.noise + there.noise))
    np.testing.assert_allclose(at.misses, misses, atol=finest(2000) * 16 * size)


def test_too_few_nodes_of_weight_are_no_help():
    values = np.random.default_rng(0).normal(size=(4000, 1))
    log_q = np.full(4000, -40.0)
    log_q[:50] = 0.0
    log_q -= logsumexp(log_q)
    ratios = du.LogRatios(values - logsumexp(values[:, 0] + log_q), log_q)
    assert thinned(du.ReverseKL(0.1).bind(ratios).dual(ratios), 4, 200.0) is None
