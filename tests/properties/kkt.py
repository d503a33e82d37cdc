"""One assertion for optimality, used by every test: written from the definitions, not from the solver's formulas."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

import duality as du

EPS = float(np.finfo(np.float64).eps)


def cost_and_levels(problem: du.Problem, ratios: du.LogRatios, log_p: np.ndarray) -> tuple[float, np.ndarray]:
    """Objective and constrained functionals at a density of log masses `(n,)`, node by node from their definitions."""
    kept = np.isfinite(ratios.log_weights)
    log_q, log_p, values = ratios.log_weights[kept], log_p[kept], ratios.values[kept]
    q, p = np.exp(log_q), np.exp(log_p)

    def kl(mass: np.ndarray, log_mass: np.ndarray, log_other: np.ndarray) -> float:
        held = mass > 0
        return float(np.sum(mass[held] * (log_mass[held] - log_other[held])))

    if isinstance(problem, du.ForwardKL):
        reached = [kl(np.exp(log_q + v), log_q + v, log_p) for v in values.T]
        return kl(q, log_q, log_p), np.array(reached)
    cost = kl(p, log_p, log_q)
    if isinstance(problem, du.ReverseKL):
        return cost, np.array([kl(p, log_p, log_q + v) for v in values.T])
    assert isinstance(problem, du.Likelihood)
    bound = problem.bind(ratios)
    if bound.kind == "posterior":
        table = bound.priors * np.exp(values)
    elif bound.kind == "density":
        table = np.exp(ratios.log_densities[kept])
    else:
        table = values
    held = p > 0
    return cost, np.array([float(np.sum(p[held] * column[held])) for column in table.T])


def bought(problem: du.Problem, ratios: du.LogRatios, log_p: np.ndarray) -> float:
    """ForwardKL: KL(q‖p), and min{q·d : d ≥ 0, sum_j q_ij d_j ≥ b_i - KL(q_i‖p)} for what p misses, at most 1e-12 q."""
    kept = np.isfinite(ratios.log_weights)
    log_q, values = ratios.log_weights[kept], ratios.values[kept]
    log_p = np.maximum(log_p[kept], log_q + np.log(1e-12))
    log_p = log_p - np.log(np.exp(log_p).sum())
    mass = np.exp(values + log_q[:, None])
    missing = problem.levels - (mass * (np.where(mass > 0, values, 0.0) + (log_q - log_p)[:, None])).sum(axis=0)
    size = np.exp(values.max(axis=0))
    rows = np.exp(values) / size
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    found = linprog(np.ones(log_q.size), A_ub=-rows.T, b_ub=-missing / size, bounds=(0, None), options=tight)
    short = np.maximum(missing / size - np.maximum(found.x, 0) @ rows, 0.0)
    return float(np.exp(log_q) @ (log_q - log_p)) + float(np.maximum(found.x, 0).sum() + short.sum())


def assert_optimal(solution: du.Solution, ratios: du.LogRatios, tolerance: float = 1e-10) -> None:
    """KKT: a density, feasible, complementary, stationary; and its cost equals the dual value.

    The tolerance is relative to 1 + |b| (KL problems) or to the size of the level and likelihood (Likelihood).
    """
    problem, lam = solution.problem, solution.multipliers
    assert solution.status in (du.Status.OPTIMAL, du.Status.INACTIVE), str(solution)
    kept = np.isfinite(ratios.log_weights)
    p = np.exp(solution.log_weights[kept])
    assert (solution.log_weights[~kept] == -np.inf).all()
    # Masses are exponentials of logs of size up to L, each off by a relative eps L; a sum of n terms in any order,
    # the processor's, by 4 sqrt(n) eps (`duality.dual_protocol.rounding`); 16 eps is for what is done to them besides.
    held = p > 0
    log_p, log_q = solution.log_weights[kept], ratios.log_weights[kept]
    reach = np.abs(log_p[held]).max() + np.abs(log_q[held]).max()
    rounding = EPS * (16 + 4 * np.sqrt(p.size) + 2 * reach)
    assert abs(p.sum() - 1) <= rounding, p.sum()
    assert (lam >= 0).all()

    cost, levels = cost_and_levels(problem, ratios, solution.log_weights)
    size = problem.units(ratios)
    under = np.exp(log_q) if isinstance(problem, du.ForwardKL) else p
    terms = float(under[held] @ np.abs(log_p[held] - log_q[held]))
    np.testing.assert_allclose(solution.primal, cost, rtol=0, atol=rounding * (1 + terms))
    finite = np.isfinite(levels)
    # Levels are sums of terms of the size of the ratios where p has mass, and may cancel to nothing.
    sizes = np.where(np.isfinite(ratios.values[kept]), np.abs(ratios.values[kept]), 0.0)
    noise = rounding * (1 + terms + sizes[p > 1e-16].max(initial=1.0))
    np.testing.assert_allclose(solution.levels[finite], levels[finite], rtol=rounding, atol=noise)
    slack = problem.direction * (levels - problem.levels)
    assert (slack >= -tolerance * size).all(), f"a level is missed: {slack / size}"
    active = lam > 0
    assert (np.abs(slack[active]) <= tolerance * size[active]).all(), f"slack beside a multiplier: {slack / size}"
    assert solution.kkt_residual <= tolerance
    assert solution.gap <= tolerance
    assert abs(cost - solution.dual) <= tolerance * (1 + abs(cost))

    # Stationarity: p/q is the tilt at the multipliers, up to a constant. The tilt is recomputed from the rounded
    # multipliers, which moves log w by eps · |natural| · |input|, divided by w itself where w = 1 - sum lam r.
    inputs = problem.inputs(ratios)[kept]
    tilt = np.asarray(solution.log_weight(inputs))
    difference = (solution.log_weights[kept] - ratios.log_weights[kept] - tilt)[held]
    scale = np.abs(ratios.log_weights[kept][held]) + np.abs(tilt[held]) + 1
    if isinstance(problem, du.ForwardKL):
        scale = scale + 8 / np.exp(tilt[held])
    elif isinstance(problem, du.ReverseKL) or problem.kind == "log-ratio":
        used = solution.natural > 0
        scale = scale + np.abs(inputs[held][:, used]) @ solution.natural[used]
    heaviest = int(np.argmax(p[held]))
    error = np.abs(difference - difference[heaviest]) / (scale + scale[heaviest])
    assert error.max() <= 64 * EPS, f"the target is not the tilt: {error.max()}"
