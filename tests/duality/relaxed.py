"""How much constraints have to be relaxed, by CVXPY: as convex programs over p where they are, else over the prices."""

from __future__ import annotations

import warnings

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
    inputs = problem.inputs(ratios)
    q, n = np.exp(ratios.log_weights), ratios.n
    sums = np.equal.outer(np.arange(ratios.group_weights.size), ratios.groups).astype(float)
    tables = []
    for i, kind in enumerate(kinds):
        column = inputs[:, i]
        if kind in ("at most", "at least") and not _is_detector(problem, i):
            column = 0.3 * np.exp(column)
        tables.append(column)
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
        meets = [(sums * q) @ w == ratios.group_weights]
        meets += [side[kinds[i]] * ((q * (tables[i] - levels[i])) @ w) <= t * gaps[i] for i in fixed]
        for i in upper:
            r = np.exp(tables[i])
            divergence = q @ cp.rel_entr(w, r) if kinds[i] == "keep-ru" else (q * r) @ (tables[i] - cp.log(w))
            meets.append(divergence <= levels[i] + t * gaps[i])
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
