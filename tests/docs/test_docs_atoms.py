"""Statements of docs/theory about atoms: where there is a gap, how it closes, and water-filling."""

from __future__ import annotations

import numpy as np
import pytest
from finite_spaces import divergence
from scipy.optimize import brentq

import duality as du


def test_gap_of_two_atoms() -> None:
    # q = (.7, .3), q_1 = (.45, .55): the tilts reach -log .45 at the first atom, the second is feasible to -log .55.
    # Up to there no gap; the other way round (the rarer atom last) the primal jumps and the dual does not.
    q, part = np.array([0.7, 0.3]), np.array([0.55, 0.45])
    rho = np.log(part / q)
    last = -np.log(part[np.argmin(rho)])
    beyond = -np.log(part.min()) - 0.01
    assert beyond > last
    level = 0.5 * (last + beyond)

    def reached(t: float) -> float:
        return divergence(np.array([t, 1 - t]), part)

    t = brentq(lambda s: reached(s) - level, 1e-12, part[0])
    primal = divergence(np.array([t, 1 - t]), q)
    solution = du.solve(du.ReverseKL(level), du.LogRatios(rho, np.log(q)))
    np.testing.assert_allclose(solution.dual, level + rho.min(), rtol=1e-9)
    gap = primal - solution.dual
    # The formula: KL(p‖q) = KL(p‖q_1) + E_p[rho], so the gap is E_p[rho - min rho] at the level itself.
    np.testing.assert_allclose(gap, np.array([t, 1 - t]) @ (rho - rho.min()), rtol=1e-9)
    assert gap > 0.1


@pytest.mark.parametrize("parts", [2, 5, 40])
def test_splitting_atoms_closes_the_gap(parts: int) -> None:
    # Split every atom into equal parts. On the parts of the extreme atom any entropy up to log(parts) can be had, so
    # levels up to last + log(parts) are reached by a density on them, at the dual value exactly.
    q, part = np.array([0.7, 0.3]), np.array([0.55, 0.45])
    rho = np.log(part / q)
    extreme = int(np.argmin(rho))
    last = -np.log(part[extreme])
    for extra in np.linspace(0, np.log(parts), 7):
        level = last + extra

        def surplus(share: float, extra: float = extra) -> float:
            # one part carries `share`, the others split the rest; KL(p‖q_1) = -log(part/parts) - H(p)
            p = np.array([share, *[(1 - share) / (parts - 1)] * (parts - 1)])
            p = p[p > 0]
            return float(-(p @ np.log(p))) - (np.log(parts) - extra)

        share = 1 / parts if extra == 0 else 1.0
        if 0 < extra < np.log(parts) - 1e-12:
            share = brentq(surplus, 1 / parts, 1.0)
        p = np.zeros(2 * parts)
        p[extreme * parts : (extreme + 1) * parts] = [share, *[(1 - share) / (parts - 1)] * (parts - 1)]
        fine_q, fine_part = np.repeat(q, parts) / parts, np.repeat(part, parts) / parts
        np.testing.assert_allclose(divergence(p, fine_part), level, rtol=1e-9)
        np.testing.assert_allclose(divergence(p, fine_q), level + rho.min(), rtol=1e-9)
        solution = du.solve(du.ReverseKL(level + 1e-6), du.LogRatios(np.repeat(rho, parts), np.log(fine_q)))
        np.testing.assert_allclose(solution.dual, level + 1e-6 + rho.min(), atol=1e-9)


def water_fill(pi: np.ndarray, caps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p_i = min(caps_i, kappa pi_i) with sum 1, and lam_i = max(0, pi_i - caps_i / kappa)."""
    kappa = brentq(lambda k: float(np.minimum(caps, k * pi).sum()) - 1, 1.0, 1e9, xtol=1e-15, rtol=1e-15)
    return np.minimum(caps, kappa * pi), np.maximum(0.0, pi - caps / kappa)


def test_forgetting_images_is_water_filling() -> None:
    # Five images with repeats, three of them to be forgotten; the third only becomes active because the others leave.
    pi = np.array([6, 2, 3, 5, 4]) / 20
    levels = np.array([4.0, 3.0, 1.85])
    assert levels[2] < -np.log(pi[2])  # inactive on its own ...
    caps = np.append(np.exp(-levels), [np.inf, np.inf])
    p, lam = water_fill(pi, caps)
    assert lam[2] > 0  # ... active in company
    with np.errstate(divide="ignore"):
        values = np.log(np.eye(5)[:, :3] / pi[:3])
    solution = du.solve(du.ForwardKL(levels), du.LogRatios(values, np.log(pi)))
    np.testing.assert_allclose(solution.multipliers, lam[:3], rtol=1e-9)
    np.testing.assert_allclose(np.exp(solution.log_weights), p, rtol=1e-9)
    assert solution.gap < 1e-12
    assert (lam <= pi).all()


def test_gluing_on_a_well_spread_set_averages_every_functional() -> None:
    # Stripes of a fine lattice on [0, 1] stand for Lyapunov's set: cost and level of the glued density are the averages
    # of those of its two parts, although KL is convex and the average of the densities falls short of both.
    n, t = 1_000_000, 0.3
    x = (np.arange(n) + 0.5) / n
    other = np.exp(-3 * x) / np.mean(np.exp(-3 * x))
    one, two = np.exp(2 * x) / np.mean(np.exp(2 * x)), (1 + np.cos(6 * x) ** 2) / np.mean(1 + np.cos(6 * x) ** 2)
    stripes = (np.arange(n) % 100) < 100 * t
    glued = np.where(stripes, one, two)
    np.testing.assert_allclose(glued.mean(), 1.0, atol=2e-4)

    def values(p: np.ndarray) -> np.ndarray:
        return np.array([np.mean(p * np.log(p)), np.mean(p * np.log(p / other))])

    expected = t * values(one) + (1 - t) * values(two)
    np.testing.assert_allclose(values(glued), expected, rtol=1e-3)
    assert (values(t * one + (1 - t) * two) < expected - 1e-2).all()


def forward_value_on_two_atoms(q: np.ndarray, parts: np.ndarray, b: np.ndarray) -> float:
    """min KL(q‖p) with KL(q_i‖p) ≥ b_i over the densities on two atoms, by trying log odds in steps of .001."""
    log_odds = np.linspace(-40, 40, 80_001)
    log_p = np.stack([-np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)], axis=1)
    levels = (parts * np.log(parts)).sum(axis=0) - log_p @ parts
    costs = float(q @ np.log(q)) - log_p @ q
    return float(costs[(levels >= b).all(axis=1)].min())


def test_forward_kl_on_atoms_has_a_gap_only_where_q_is_a_mixture_of_what_is_to_go() -> None:
    # Not a mixture: one q_i on two atoms, at random. A step of .001 in the odds moves the cost by as much at most.
    generator = np.random.default_rng(14)
    for _ in range(20):
        q, part = generator.dirichlet([2.0, 2.0], size=2)
        level = divergence(part, q) + generator.uniform(0.1, 2.0)
        exact = du.solve(du.ForwardKL(level), du.LogRatios(np.log(part / q), np.log(q)))
        assert exact.status is du.Status.OPTIMAL
        found = forward_value_on_two_atoms(q, part[:, None], np.array([level]))
        assert exact.dual - 1e-9 <= found <= exact.dual + 1e-3
    # A mixture of two, both to go: the sub-density (e^-2, e^-2) costs what the dual says, no density does.
    q, parts = np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.1, 0.9]])
    b = 2 + (parts * np.log(parts)).sum(axis=0)
    lam = np.array([0.5, 0.5])
    apart = np.array([divergence(part, q) for part in parts.T])
    dual = float(lam @ (b - apart))  # g at L = 1, by the identity
    np.testing.assert_allclose(dual, 2 - np.log(2), rtol=1e-12)
    inside = [float(lam @ (b - np.array([divergence(part, p) for part in parts.T]))) + divergence(q, p) for p in (q,)]
    np.testing.assert_allclose(inside, dual, rtol=1e-12)  # the Lagrangian at lam is the same for every density
    assert 9.0 < forward_value_on_two_atoms(q, parts, b) < 9.6
    ratios = du.LogRatios(np.log(parts / q[:, None]), np.log(q))
    for scale in (0.3, 0.9, 0.999):  # and nowhere else in the domain is the dual function higher
        assert du.dual_function(du.ForwardKL(b), ratios, scale * lam).value <= dual + 1e-12


def test_reverse_kl_without_candidates() -> None:
    # q = (q_1 + q_2)/2 with disjoint supports: one log ratio is -inf wherever q lives. q itself meets every level.
    ratios = du.LogRatios([[np.log(2), -np.inf], [-np.inf, np.log(2)]], np.log([0.5, 0.5]))
    solution = du.solve(du.ReverseKL([3.0, 5.0]), ratios)
    assert solution.status is du.Status.INACTIVE
    assert solution.dual == 0.0
    assert np.isposinf(solution.levels).all()
