"""Random problems of one kind in groups, each held against CVXPY and the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from grouped import divergences, grouped_space

import duality as du


def random_problem(kind: str, rng: np.random.Generator, m: int) -> du.Problem:
    if kind == "reverse":
        return du.ReverseKL(rng.uniform(0.1, 3, m))
    if kind == "forward":
        return du.ForwardKL(rng.uniform(0.1, 2.5, m))
    return du.Likelihood(rng.uniform(0.2, 1.0, m) * 0.9 / m)


def agree(kind: str, seed: int) -> str:
    """One random instance against CVXPY; its status, or "INFEASIBLE"."""
    rng = np.random.default_rng(seed)
    ratios = grouped_space(rng)
    problem = random_problem(kind, rng, ratios.m)
    try:
        ours = du.solve(problem, ratios)
    except du.InfeasibleError as error:
        with pytest.raises(ValueError, match="CVXPY"):
            du.reference.solve(problem, ratios)
        # What is said to be the least can be had, with a little to spare, and hardly anything below it.
        own = np.exp(ratios.log_weights) @ (ratios.priors * np.exp(ratios.values))
        eased = du.solve(du.Likelihood(error.least + 1e-3 * np.maximum(own - error.least, 1e-6)), ratios)
        assert eased.status is not du.Status.INEXACT
        with pytest.raises(du.InfeasibleError):
            du.solve(du.Likelihood(error.least - 1e-3 * np.maximum(own - error.least, 1e-6)), ratios)
        return "INFEASIBLE"
    theirs = du.reference.solve(problem, ratios)
    # Clarabel is asked for 1e-11, and where rounding stops it, for 1e-9 or 1e-7, as in test_reference.
    assert abs(ours.dual - theirs.value) <= 1e-7 * (1 + abs(theirs.value)), (seed, str(ours), theirs.value)
    shares = np.bincount(ratios.groups, weights=np.exp(ours.log_weights))
    np.testing.assert_allclose(shares, ratios.group_weights, rtol=1e-12)
    if ours.status is du.Status.OPTIMAL:
        assert ours.gap <= 1e-10
        p, q = np.exp(ours.log_weights), np.exp(ratios.log_weights)
        pair = (q, p) if kind == "forward" else (p, q)
        np.testing.assert_allclose(
            ours.primal, divergences(*pair, ratios.groups, ratios.group_weights), rtol=1e-10, atol=1e-13
        )
    return ours.status.name
