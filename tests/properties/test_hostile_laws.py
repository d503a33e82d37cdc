"""The laws of duality on ratios that are hostile: repeated, infinite, far apart, on thin or far modes."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws import (
    LAW,
    check,
    feasible,
    reached_by_a_tilt,
    seeds,
)
from scipy.special import logsumexp

import duality as du

# Ratios as Hypothesis likes them: repeated, zero, ten thousand nats apart; different ones by at least a thousandth,
# since levels of a tenth of a nat on ratios that differ in their last digits ask for more digits than there are.
finite = st.integers(-(10**7), 10**7).map(lambda k: k / 1000)


negative = st.integers(-700_000, 0).map(lambda k: k / 1000)


@LAW
@given(arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 3)), elements=finite), seeds)
def test_any_finite_ratios_reverse_and_log_ratio(values, seed):
    rng = np.random.default_rng(seed)
    log_q = rng.normal(size=len(values)) * rng.choice([0.0, 1.0, 3.0])
    log_q -= logsumexp(log_q)
    values = values - logsumexp(values + log_q[:, None], axis=0)
    ratios = du.LogRatios(values, log_q)
    check(du.solve(reached_by_a_tilt("reverse", rng, ratios), ratios), ratios)
    levels = rng.dirichlet(np.ones(len(values))) @ values
    levels = levels + 1e-6 * (np.abs(levels) + np.ptp(values, axis=0) + 1e-3)
    check(du.solve(du.Likelihood(levels, kind="log-ratio"), ratios), ratios)


@LAW
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(2, 12), st.integers(1, 3)),
        elements=st.one_of(negative, st.just(-np.inf)),
    ),
    seeds,
)
# Levels that a whole ray of multipliers attains, up to where all of q would go.
@example(np.array([[-np.inf, 0, -np.inf], [0, 0, -np.inf], [0, -1.475, 0]]), 5)
@example(np.array([[-np.inf, 0, -np.inf], [0, 0, -np.inf], [0, -1.475, 0]]), 8)
def test_any_ratios_forward_and_posterior(values, seed):
    rng = np.random.default_rng(seed)
    log_q = rng.normal(size=len(values)) * rng.choice([0.0, 1.0, 3.0])
    log_q -= logsumexp(log_q)
    values[0] = np.maximum(values[0], -1.0)  # no concept is absent everywhere
    values = values - np.maximum(logsumexp(values + log_q[:, None], axis=0), -650.0)
    assume(values.max() < 30)
    ratios = du.LogRatios(values, log_q, priors=0.5 / values.shape[1])
    check(du.solve(reached_by_a_tilt("forward", rng, ratios), ratios), ratios)
    values = values - max(float(values.max()), 0.0)  # posteriors are probabilities
    ratios = du.LogRatios(values, log_q, priors=0.5 / values.shape[1])
    table = du.Likelihood(1.0).bind(ratios).likelihoods(values)
    levels = rng.dirichlet(np.ones(len(values))) @ table
    levels = levels + 0.01 * np.ptp(table, axis=0) + 1e-3 * levels + 1e-300
    check(du.solve(du.Likelihood(levels), ratios), ratios)


@LAW
@given(seeds, st.floats(0.0, 300.0), st.floats(-12.0, 4.0))
def test_hostile_weights_and_scales(seed, decades, exponent):
    rng = np.random.default_rng(seed)
    n, m = 120, 2
    log_q = -np.log(10) * decades * rng.uniform(size=n) * (np.arange(n) % 2)  # a bulk, and tails as long as they get
    log_q -= logsumexp(log_q)
    values = 10.0**exponent * rng.normal(size=(n, m))
    values -= logsumexp(values + log_q[:, None], axis=0)
    ratios = du.LogRatios(values, log_q, priors=[0.2, 0.3])
    check(du.solve(feasible("log-ratio", rng, ratios, sharpness=0.5), ratios), ratios)
    if values.max() < 1.2:  # a posterior is a probability
        check(du.solve(feasible("posterior", rng, ratios, sharpness=0.5), ratios), ratios)
    # For the KL problems, several q_i that agree with q (and so with each other) to 1e-3 make the split between them a
    # matter of the last digits of the levels: one at a time.
    if exponent < -3:
        ratios = du.LogRatios(values[:, :1], log_q)
    check(du.solve(reached_by_a_tilt("reverse", rng, ratios), ratios), ratios)
    if values.max() < 30:
        check(du.solve(reached_by_a_tilt("forward", rng, ratios), ratios), ratios)


@pytest.mark.parametrize("distance", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("condition", [1.0, 1e6])
def test_far_modes_and_thin_covariances(distance, condition):
    # Two Gaussian modes far apart and thin: ratios of up to condition · distance² nats.
    rng = np.random.default_rng(0)
    scale = np.array([1.0, condition**-0.5])
    centre = np.array([distance, distance * condition**-0.5])
    x = rng.normal(size=(4000, 2)) * scale
    x[::2] += centre
    log_1 = -0.5 * (((x - centre) / scale) ** 2).sum(axis=1)
    log_0 = -0.5 * ((x / scale) ** 2).sum(axis=1)
    log_q = np.logaddexp(log_0, log_1) - np.log(2)
    ratios = du.LogRatios(log_1 - log_q, np.full(4000, -np.log(4000)), priors=0.5).normalise()
    for problem in (du.ReverseKL(0.4 * distance**2 + 2), du.ForwardKL(2.0), du.Likelihood(0.1)):
        check(du.solve(problem, ratios), ratios)
