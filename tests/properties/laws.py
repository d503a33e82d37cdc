"""Problems, random densities and levels, and what a solution has to be: for the laws of duality."""

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from kkt import assert_optimal, bought
from scipy.special import logsumexp

import duality as du

LAW = settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.generate],  # instances are seeds: there is nothing to shrink
    suppress_health_check=[HealthCheck.too_slow],
)


KINDS = {
    "reverse": (du.ReverseKL, {}),
    "forward": (du.ForwardKL, {}),
    "posterior": (du.Likelihood, {}),
    "density": (du.Likelihood, {"kind": "density"}),
    "log-ratio": (du.Likelihood, {"kind": "log-ratio"}),
}


names = st.sampled_from(sorted(KINDS))


seeds = st.integers(0, 2**32 - 1)


sizes = st.integers(2, 80)


widths = st.integers(1, 5)


spreads = st.floats(-3.0, 1.5).map(lambda e: 10.0**e)


def problem_of(name, levels):
    kind, options = KINDS[name]
    return kind(np.maximum(levels, 0.0) if kind is not du.Likelihood else levels, **options)


def random_density(rng, ratios, sharpness):
    """log masses of some density on the nodes, `sharpness` nats away from q at random."""
    log_p = ratios.log_weights + sharpness * rng.normal(size=ratios.n)
    return log_p - logsumexp(log_p)


def feasible(name, rng, ratios, sharpness=1.0):
    """Levels that some density is known to meet: those of a random one, with a little to spare."""
    base = problem_of(name, np.ones(1)).bind(ratios)
    levels = base.levels_of(ratios, random_density(rng, ratios, sharpness))
    return problem_of(name, levels - base.direction * 0.01 * np.abs(levels))


def reached_by_a_tilt(name, rng, ratios):
    """Levels of a random tilt: attained by construction, however far from q it is."""
    base = problem_of(name, np.ones(1)).bind(ratios)
    share = rng.dirichlet(np.ones(ratios.m + 1))[: ratios.m]
    if name == "forward":
        natural = 0.95 * share / np.exp(ratios.values).max()
    else:
        table = base.likelihoods(ratios.values) if name == "posterior" else ratios.values
        spread = np.ptp(np.where(np.isfinite(table), table, 0.0), axis=0)
        natural = 10.0 ** rng.uniform(-2, 1) * share / np.where(spread > 0, spread, 1.0)
    log_p = ratios.log_weights + base.tilt(ratios.values, natural)
    return problem_of(name, base.levels_of(ratios, log_p - logsumexp(log_p)))


def check(solution, ratios):
    """Optimal, or honestly not attained on these nodes; never inexact."""
    if solution.attained:
        assert_optimal(solution, ratios)
        return
    problem = solution.problem
    assert not isinstance(problem, du.Likelihood), "a feasible convex program is attained"
    if problem.emptied(solution.natural):  # nothing of q is left, but densities prove the value all the same
        proved = bought(problem, ratios, solution.log_weights)
        np.testing.assert_allclose([proved, solution.bound], solution.dual, rtol=1e-8, atol=1e-8)
        assert du.dual_function(problem, ratios, solution.multipliers * (1 - 1e-14)).value <= proved + 1e-12
        return
    missing = problem.levels - solution.levels
    assert (missing > 0).any()
    value = solution.primal + solution.multipliers @ np.where(solution.multipliers > 0, missing, 0.0)
    np.testing.assert_allclose(solution.dual, value, rtol=1e-9, atol=1e-9)
