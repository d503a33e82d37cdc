"""What others would do: SciPy's general optimisers on the dual function, cone solvers on CVXPY's form of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import numpy as np
from cvxpy.error import SolverError
from scipy.optimize import minimize

import duality as du

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]


def minus_dual(problem: du.Problem, ratios: du.LogRatios) -> Function:
    """-g and its gradient at natural parameters (m,), in the few lines that anybody would write."""
    bound = problem.bind(ratios)
    q, b = np.exp(ratios.log_weights), bound.levels
    if isinstance(bound, du.ForwardKL):
        r = np.exp(ratios.values)
        information = (q[:, None] * r * ratios.values).sum(axis=0)

        def forward(lam: np.ndarray) -> tuple[float, np.ndarray]:
            u = 1 - r @ lam
            if u.min() <= 0:
                return np.inf, np.zeros(lam.size)
            z, log_u = q @ u, np.log(u)
            value = -q @ (u * log_u) + z * np.log(z) + lam @ (b - information)
            return -value, -((q * log_u) @ r - (q @ r) * np.log(z) + b - information)

        return forward
    table = ratios.values if isinstance(bound, du.ReverseKL) else np.asarray(bound.likelihoods(ratios.values))
    sign = 1.0 if isinstance(bound, du.ReverseKL) else -1.0

    def tilted(a: np.ndarray) -> tuple[float, np.ndarray]:
        exponent = -(table @ a)
        top = exponent.max()
        w = q * np.exp(exponent - top)
        z = w.sum()
        value, slope = sign * (a @ b) - top - np.log(z), sign * b + (w @ table) / z
        if sign < 0:
            return -value, -slope
        share = 1 / (1 + a.sum())  # the perspective: g = value/(1 + sum a)
        return -share * value, -share * (slope - share * value)

    return tilted


class Found(NamedTuple):
    """What an optimiser ended with: the value, and the largest miss of a level in the unit `1 + |level|`."""

    value: float
    miss: float


def general(problem: du.Problem, ratios: du.LogRatios, method: str, options: dict[str, float] | None = None) -> Found:
    """The value by SciPy's optimiser at its own tolerances, or by options of its own."""
    m = ratios.m
    function = minus_dual(problem, ratios)
    # Multipliers of e^rho are in units of the largest one: without that L-BFGS-B leaves the domain at its first step.
    unit = np.exp(-ratios.values.max(axis=0)) if isinstance(problem, du.ForwardKL) else np.ones(m)

    def scaled(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = function(x * unit)
        return value, slope * unit

    start = np.full(m, 1e-3 if method == "trust-constr" else 0.0)
    with np.errstate(all="ignore"):
        found = minimize(scaled, start, jac=True, bounds=[(0, None)] * m, method=method, options=options)
    slope = np.asarray(found.jac if method == "L-BFGS-B" else function(found.x * unit)[1]) / unit
    if isinstance(problem, du.ReverseKL):  # of g in a: levels are missed by (1 + sum a) times it, and by what g misses
        slope = slope * (1.0 + found.x.sum())
    wrong = np.where(found.x > 0, np.abs(slope), np.maximum(-slope, 0.0))
    return Found(-float(found.fun), float((wrong / (1.0 + np.abs(problem.levels))).max()))


#: SciPy's L-BFGS-B, told to go on until levels are met as closely as ours are, or rounding ends it.
DRIVEN = {"ftol": 0.0, "gtol": 1e-11, "maxiter": 10_000, "maxfun": 100_000, "maxcor": 30}


def cones(problem: du.Problem, ratios: du.LogRatios, solver: str) -> float:
    """The value by a cone solver at its own tolerances, on the form of the problem that CVXPY is given.

    NaN where it gives up: what is timed is then how long it took for that.
    """
    with mock.patch("duality.checks.reference._run", lambda program: program.solve(solver=solver)):
        try:
            return du.reference.solve(problem, ratios).value
        except SolverError:
            return float("nan")
