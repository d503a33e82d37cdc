"""Atoms break strong duality for ReverseKL, and splitting them mends it."""

import numpy as np
import pytest

import duality as du

Q, Q_1 = np.array([0.8, 0.2]), np.array([0.6, 0.4])
LAST = -np.log(0.6)  # the last level that a tilt reaches
FARTHEST = -np.log(0.4)  # the largest level that any density on two atoms reaches


def test_gap_is_zero_then_positive_then_infeasible():
    curves = du.atoms.gap_curves(Q, Q_1, [0.2, 0.4, LAST - 1e-6, LAST + 0.02, 0.7, FARTHEST - 1e-6, 1.0], parts=1)
    gap = curves.gap[0]
    # Both values are sums of a few terms of order one, the primal by a root to 1e-16 in t.
    np.testing.assert_allclose(gap[:3], 0.0, atol=1e-12)
    assert (gap[3:6] > 0.1).all()
    assert gap[6] == np.inf


def test_primal_against_brute_force():
    t = np.linspace(0, 1, 2_000_001)[1:-1]
    cost = t * np.log(t / Q[0]) + (1 - t) * np.log((1 - t) / Q[1])
    reached = t * np.log(t / Q_1[0]) + (1 - t) * np.log((1 - t) / Q_1[1])
    levels = np.array([0.05, 0.3, 0.5, 0.6, 0.85])
    curves = du.atoms.gap_curves(Q, Q_1, levels, parts=1)
    brute = [cost[reached >= b].min() for b in levels]
    # The grid is 5e-7 fine and the slope of the cost is at most log(1/5e-7) < 15 there.
    np.testing.assert_allclose(curves.primal[0], brute, atol=1e-5)


def test_splitting_closes_the_gap():
    levels = np.linspace(0.3, 2.9, 40)
    curves = du.atoms.gap_curves(Q, Q_1, levels, parts=[1, 2, 4, 8])
    assert (curves.gap >= -1e-12).all(), "weak duality"
    assert (curves.primal[1:] <= curves.primal[:-1] + 1e-12).all(), "a finer space has more densities"
    for gap, parts in zip(curves.gap, curves.parts, strict=True):
        closed = levels <= LAST + np.log(parts)
        np.testing.assert_allclose(gap[closed], 0.0, atol=1e-12)
        assert (gap[~closed] > 1e-3).all()
    # The dual does not notice the splitting.
    split = du.LogRatios(np.repeat(np.log(Q_1 / Q), 8), np.repeat(np.log(Q / 8), 8))
    for b, dual in zip(levels, curves.dual, strict=True):
        np.testing.assert_allclose(du.solve(du.ReverseKL(b), split).dual, dual, rtol=1e-11)


def test_refused():
    with pytest.raises(ValueError, match="q: "):
        du.atoms.gap_curves([0.5, 0.6], Q_1, [1.0])
    with pytest.raises(ValueError, match="q_1: equal to q"):
        du.atoms.gap_curves(Q, Q, [1.0])
