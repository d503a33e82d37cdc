"""The same problems through CVXPY, written independently of the solver: for checking, not for use.

The forms share no formula with `duality.dual_functions`. Likelihood is the convex program over densities on the nodes.
ReverseKL and ForwardKL are not convex in the density, and the theorem of strong duality is what lets one solve them
by the maximum of their concave duals, here written as cone programs::

    ReverseKL   max lam·b - t   with  sum_j q_j exp((-lam·rho_j - t)/c) ≤ 1,  c = 1 - sum lam        (exponential cone)
    ForwardKL   max -sum_j q_j u_j log(u_j/Z) + lam·(b - E_q[e^rho rho]),  u ≥ 0,  Z = E_q[u]        (relative entropy)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from duality.forward_kl import ForwardKL
from duality.joint import Joint
from duality.joint_family import is_forward
from duality.likelihood import Likelihood
from duality.problems import Problem
from duality.ratios import LogRatios
from duality.renyi import Renyi
from duality.reverse_kl import ReverseKL

try:
    import cvxpy as cp
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ImportError(
        "duality.checks.reference needs CVXPY: pip install 'unlearning-duality[reference]'", name=error.name
    ) from error

from duality.checks import reference_groups as groups


@dataclass(frozen=True)
class ReferenceSolution:
    """Value in nats, multipliers `(m,)`, log masses of the target `(n,)` where the form has them, CVXPY's status."""

    value: float
    multipliers: np.ndarray
    log_weights: np.ndarray | None
    status: str


def solve(problem: Problem, ratios: LogRatios) -> ReferenceSolution:
    """The value and multipliers of `duality.solve`, from CVXPY with Clarabel (about eight digits).

    Raises:
        TypeError: for a kind of constraint that has no reference form.
        ValueError: where CVXPY reports that it has no solution.
    """
    bound = problem.bind(ratios)
    if ratios.grouped or not isinstance(bound, ReverseKL | ForwardKL | Likelihood):
        return _grouped(bound, ratios)
    kept = np.isfinite(ratios.log_weights)
    q = np.exp(ratios.log_weights[kept])
    if isinstance(bound, Renyi):
        table = np.asarray(bound.likelihoods(bound.inputs(ratios)))[kept]
        return _renyi(q, table, bound.levels, bound.order, kept)
    if isinstance(bound, Likelihood):
        table = np.asarray(bound.likelihoods(bound.inputs(ratios)))[kept]
        return _likelihood(q, table, bound.levels, kept)
    if isinstance(bound, ReverseKL):
        return _reverse(q, ratios.values[kept], bound.levels)
    if isinstance(bound, ForwardKL):
        return _forward(q, ratios.values[kept], bound.levels)
    raise TypeError(f"problem: {type(problem).__name__} has no reference form")


def _grouped(bound: Problem, ratios: LogRatios) -> ReferenceSolution:
    """One normaliser for each group."""
    nodes = groups.Nodes.of(ratios)
    statistics, mixtures = bound.statistics(ratios), bound.mixtures(ratios)
    if statistics is not None and mixtures is not None:
        table = statistics.table[nodes.kept] - statistics.limits
        program, lam, nu = groups.quotient(nodes, mixtures.values[nodes.kept], mixtures.levels, mixtures.signs, table)
        _run(program)
        assert isinstance(bound, Joint)
        mixed = np.repeat([is_forward(part) for part in bound.problems], [part.levels.size for part in bound.problems])
        multipliers = np.empty(mixed.size)
        multipliers[mixed], multipliers[~mixed] = lam.value, nu.value
        return ReferenceSolution(float(program.value), multipliers, None, program.status)
    if statistics is not None:
        table = statistics.table[nodes.kept]
        if not statistics.sharing.any():
            return expectations(nodes, table, statistics.limits)
        program, lam = groups.perspective(nodes, table, statistics.limits, statistics.sharing)
    elif mixtures is not None:
        program, lam = groups.mixture(nodes, mixtures.values[nodes.kept], mixtures.levels, mixtures.signs)
    else:
        raise TypeError(f"problem: {type(bound).__name__} has no reference form")
    _run(program)
    return ReferenceSolution(float(program.value), np.asarray(lam.value), None, program.status)


def expectations(nodes: groups.Nodes, table: np.ndarray, levels: np.ndarray) -> ReferenceSolution:
    """min KL(p‖q) subject to E_p[T_i] ≤ levels_i, with the shares of the groups."""
    program, w, meets = groups.convex(nodes, table, levels)
    _run(program)
    full = np.full(nodes.kept.size, -np.inf)
    with np.errstate(divide="ignore"):
        full[nodes.kept] = np.log(nodes.q) + np.log(np.maximum(np.asarray(w.value), 0.0))
    size = np.abs(table - levels).max(axis=0)
    multipliers = np.atleast_1d(meets.dual_value) / np.where(size > 0, size, 1.0)
    return ReferenceSolution(float(program.value), multipliers, full, program.status)


def _likelihood(q: np.ndarray, table: np.ndarray, levels: np.ndarray, kept: np.ndarray) -> ReferenceSolution:
    # In w = p/q, so that tiny node masses are coefficients and not variables. Clarabel judges feasibility against the
    # size of the data, so each constraint is brought to unit size first.
    size = np.abs(table).max(axis=0)
    size[size == 0] = 1.0
    w = cp.Variable(q.size, nonneg=True)
    meets = (table / size * q[:, None]).T @ w <= levels / size
    program = cp.Problem(cp.Minimize(-q @ cp.entr(w)), [meets, q @ w == 1])
    try:
        _run(program)
    except ValueError:
        return _likelihood_dual(q, table, levels)
    full = np.full(kept.size, -np.inf)
    with np.errstate(divide="ignore"):
        full[kept] = np.log(q) + np.log(np.maximum(np.asarray(w.value), 0.0))
    return ReferenceSolution(float(program.value), np.atleast_1d(meets.dual_value) / size, full, program.status)


def _renyi(q: np.ndarray, table: np.ndarray, levels: np.ndarray, order: float, kept: np.ndarray) -> ReferenceSolution:
    """min log(sum_j q_j w_j^a)/(a - 1) by its power, which is convex in w."""
    size = np.abs(table - levels).max(axis=0)
    size[size == 0] = 1.0
    w = cp.Variable(q.size, nonneg=True)
    meets = ((table - levels) / size * q[:, None]).T @ w <= 0
    program = cp.Problem(cp.Minimize(q @ cp.power(w, order)), [meets, q @ w == 1])
    _run(program)
    # d log(P)/(a - 1) = dP/(P (a - 1)), P the power.
    multipliers = np.atleast_1d(meets.dual_value) / size / (program.value * (order - 1.0))
    full = np.full(kept.size, -np.inf)
    with np.errstate(divide="ignore"):
        full[kept] = np.log(q) + np.log(np.maximum(np.asarray(w.value), 0.0))
    return ReferenceSolution(float(np.log(program.value)) / (order - 1.0), multipliers, full, program.status)


def _likelihood_dual(q: np.ndarray, table: np.ndarray, levels: np.ndarray) -> ReferenceSolution:
    """max -log sum_j q_j exp(-lam·l_j) - lam·b, where Clarabel breaks down on ten thousand entropies."""
    size = np.abs(table).max(axis=0)
    size[size == 0] = 1.0
    lam, t, bound = cp.Variable(levels.size, nonneg=True), cp.Variable(), cp.Variable(q.size)
    ones = np.ones(q.size)
    cone = cp.ExpCone(-(table / size) @ lam - t * ones + np.log(q), ones, bound)
    program = cp.Problem(cp.Maximize(-t - (levels / size) @ lam), [cone, cp.sum(bound) <= 1])
    _run(program)
    return ReferenceSolution(float(program.value), np.asarray(lam.value) / size, None, program.status)


def _reverse(q: np.ndarray, values: np.ndarray, levels: np.ndarray) -> ReferenceSolution:
    # The node masses go into the exponent: q_j c exp(z/c) = c exp((z + c log q_j)/c).
    lam = cp.Variable(levels.size, nonneg=True)
    c, t = cp.Variable(), cp.Variable()
    bound = cp.Variable(q.size)
    ones = np.ones(q.size)
    cone = cp.ExpCone(-values @ lam - t * ones + c * np.log(q), c * ones, bound)
    program = cp.Problem(cp.Maximize(levels @ lam - t), [cone, cp.sum(bound) <= c, c == 1 - cp.sum(lam)])
    _run(program)
    return ReferenceSolution(float(program.value), np.asarray(lam.value), None, program.status)


def _forward(q: np.ndarray, values: np.ndarray, levels: np.ndarray) -> ReferenceSolution:
    ratio = np.exp(values)
    own = np.array([(q * r) @ np.where(r > 0, v, 0.0) for r, v in zip(ratio.T, values.T, strict=True)])
    # u and Z as variables of their own: with them eliminated Clarabel breaks down on fine grids.
    lam, u, z = cp.Variable(levels.size, nonneg=True), cp.Variable(q.size), cp.Variable()
    objective = -q @ cp.rel_entr(u, z * np.ones(q.size)) + (levels - own) @ lam
    program = cp.Problem(cp.Maximize(objective), [u == 1 - ratio @ lam, z == q @ u])
    _run(program)
    return ReferenceSolution(float(program.value), np.asarray(lam.value), None, program.status)


def _run(program: Any) -> None:
    """Solve to the tightest tolerance at which Clarabel does not give up."""
    failure: Exception | None = None
    for tolerance in (1e-11, 1e-9, 1e-7):
        with warnings.catch_warnings():
            # Tolerances near the limit of an interior point often end in "may be inaccurate": the status says so, and
            # CVXPY's figures are then still good to the six digits that a check needs.
            warnings.simplefilter("ignore", UserWarning)
            try:
                program.solve(solver=cp.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance)
            except cp.SolverError as error:
                failure = error
                continue
        if program.status in ("optimal", "optimal_inaccurate"):
            return
    raise ValueError(f"CVXPY: {program.status}") from failure
