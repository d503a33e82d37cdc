"""How much constraints have to be relaxed, by CVXPY: as convex programs over p where they are, else over the prices."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import cvxpy as cp
import numpy as np

import duality as du


def forms(problem: du.Problem) -> list[str]:
    """What each constraint is: "ru", "fu", "keep-ru", "keep-fu", "at most" or "at least"."""
    parts = problem.problems if isinstance(problem, du.Joint) else (problem,)
    found: list[str] = []
    for part in parts:
        kind = getattr(part, "kind", "")
        if isinstance(part, du.ReverseKL | du.ForwardKL):
            name = "ru" if isinstance(part, du.ReverseKL) else "fu"
        elif kind in ("reverse-kl", "forward-kl"):
            name = "keep-ru" if kind == "reverse-kl" else "keep-fu"
        else:
            name = "at least" if isinstance(part, du.Keep) else "at most"
        found += [name] * part.levels.size
    return found


def least_share(problem: du.Problem, ratios: du.LogRatios, gaps: np.ndarray, chosen: np.ndarray) -> float:
    """min{t : some density misses each chosen constraint by at most t gap_i}; -inf where they can always be had.

    problem: bound. gaps `(m,)`, chosen `(m,)` bool. Columns of values and of detectors are read in order; posteriors
    have the priors that the ratios carry.
    """
    kinds, levels = forms(problem), problem.levels
    q, n = np.exp(ratios.log_weights), ratios.n
    sums = np.equal.outer(np.arange(ratios.group_weights.size), ratios.groups).astype(float)
    tables = _tables(problem, ratios)
    rows = np.flatnonzero(chosen)
    upper = [i for i in rows if kinds[i].startswith("keep-")]
    lower = [i for i in rows if kinds[i] in ("ru", "fu")]
    fixed = [i for i in rows if kinds[i] in ("at most", "at least")]
    side = {"at most": 1.0, "at least": -1.0}
    if not upper:
        lower = []  # they can always be had
    if not upper and not fixed:
        return -np.inf
    if not lower:
        w, t = cp.Variable(n, nonneg=True), cp.Variable()
        meets = _convex(problem, ratios, w, t * gaps, [*fixed, *upper])
        return _run(cp.Problem(cp.Minimize(t), meets))
    y, shares = cp.Variable(len(kinds), nonneg=True), ratios.group_weights
    meets = [gaps @ y == 1] + [y[i] == 0 for i in range(len(kinds)) if i not in (*upper, *lower, *fixed)]
    if "keep-ru" in kinds:
        # max -y·beta - sum_c P_c t_c,  sum_{j in c} q_cj exp((-y·T_j - t_c)/s) ≤ 1,  s = y_keep - y_unlearn.
        s = sum(y[i] for i in upper) - sum(y[i] for i in lower)
        beta = {"ru": -1.0, "keep-ru": 1.0, **side}
        sign = {"ru": 1.0, "keep-ru": -1.0, **side}
        force = sum(y[i] * (sign[kinds[i]] * tables[i]) for i in rows)
        t, bound = cp.Variable(shares.size), cp.Variable(n)
        log_q = np.log(q / shares[ratios.groups])
        meets += [cp.ExpCone(-force - sums.T @ t + s * log_q, s * np.ones(n), bound), sums @ bound <= s]
        value = -sum(y[i] * (beta[kinds[i]] * levels[i]) for i in rows) - shares @ t
    else:
        # max -sum q u log(u/eta) + q·u - P·mu + y·(b - KL(q_i‖q)),  u = sum ±y r ≥ 0,  eta = mu + y·(T - b).
        sign = {"fu": 1.0, "keep-fu": -1.0}
        u, mu = cp.Variable(n), cp.Variable(shares.size)
        meets.append(u == -sum(sign[kinds[i]] * y[i] * np.exp(tables[i]) for i in (*upper, *lower)))
        eta = sums.T @ mu + sum(y[i] * (side[kinds[i]] * (tables[i] - levels[i])) for i in fixed)
        own = {i: float((q * np.exp(tables[i])) @ tables[i]) for i in (*upper, *lower)}
        entropy = cp.Variable(n)  # ≥ u log(u/eta), as a cone: a value of which rounding makes no infinity
        meets.append(cp.ExpCone(-entropy, u, eta))
        value = -q @ entropy + q @ u - shares @ mu
        value = value + sum(sign[kinds[i]] * y[i] * (levels[i] - own[i]) for i in (*upper, *lower))
    return _run(cp.Problem(cp.Maximize(value), meets))


def least_cost(problem: du.Problem, ratios: du.LogRatios) -> float:
    """The value of a problem all of whose constraints are convex in p, as the convex program that it is."""
    bound = problem.bind(ratios)
    kinds = forms(bound)
    assert not {"ru", "fu"} & set(kinds)
    q, w = np.exp(ratios.log_weights), cp.Variable(ratios.n, nonneg=True)
    cost = -q @ cp.log(w) if "keep-fu" in kinds else -q @ cp.entr(w)
    nothing = np.zeros(len(kinds))
    return _run(cp.Problem(cp.Minimize(cost), _convex(bound, ratios, w, nothing, range(len(kinds)))))


def _convex(
    problem: du.Problem, ratios: du.LogRatios, w: cp.Variable, room: cp.Expression, rows: Iterable[int]
) -> list[cp.Constraint]:
    """p = q w keeps the shares of groups and misses each of the chosen constraints by at most its room."""
    kinds, tables, q = forms(problem), _tables(problem, ratios), np.exp(ratios.log_weights)
    sums = np.equal.outer(np.arange(ratios.group_weights.size), ratios.groups).astype(float)
    meets = [(sums * q) @ w == ratios.group_weights]
    for i in rows:
        r, level = np.exp(tables[i]), problem.levels[i]
        if kinds[i] == "keep-ru":
            miss = q @ cp.rel_entr(w, r) - level
        elif kinds[i] == "keep-fu":
            miss = (q * r) @ (tables[i] - cp.log(w)) - level
        else:
            miss = (1 if kinds[i] == "at most" else -1) * ((q * (tables[i] - level)) @ w)
        meets.append(miss <= room[i])
    return meets


def _tables(problem: du.Problem, ratios: du.LogRatios) -> list[np.ndarray]:
    """What each constraint reads: log ratios, or what is bounded in expectation."""
    tables = []
    for i, (kind, column) in enumerate(zip(forms(problem), problem.inputs(ratios).T, strict=True)):
        posterior = kind in ("at most", "at least") and not _is_detector(problem, i)
        tables.append(0.3 * np.exp(column) if posterior else column)
    return tables


def _is_detector(problem: du.Problem, i: int) -> bool:
    parts = problem.problems if isinstance(problem, du.Joint) else (problem,)
    ends = np.cumsum([part.levels.size for part in parts])
    return getattr(parts[int(np.searchsorted(ends, i, side="right"))], "kind", "") == "detector"


def _run(program: cp.Problem) -> float:
    for tolerance in (1e-10, 1e-8):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                program.solve(solver=cp.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance)
            except cp.SolverError:
                continue
        if program.status in ("optimal", "optimal_inaccurate"):
            return float(program.value)
        if program.status in ("infeasible", "infeasible_inaccurate"):
            return float("inf")
    return float("nan")
