"""Why the theorem asks for a space without atoms: on a finite set ReverseKL has a gap, and splitting closes it.

On two atoms, x where q/q_1 is largest and y, every tilt keeps KL(p‖q_1) below -log q_1(x). Levels from there up to
-log q_1(y) are feasible, but their cheapest p jumps to the *other* atom, at more than the dual value. Split each
atom into N equal parts: every function of the density ratio keeps its expectations, so the dual function is the same
for every N, while p may now be uneven inside x. Entropy does the rest: any p on the parts of x costs exactly
b + log(q_1(x)/q(x)), the dual value, and reaches levels up to log N - log q_1(x). The gap is gone up to there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from duality._arrays import vector
from duality.ratios import LogRatios
from duality.reverse_kl import ReverseKL
from duality.solve import solve


@dataclass(frozen=True, eq=False)
class GapCurves:
    """Primal and dual values of ReverseKL on two atoms, each split into equal parts.

    Attributes:
        levels: `(k,)` nats.
        parts: `(s,)` numbers of parts N.
        dual: `(k,)` maximum of the dual function, the same for every N.
        primal: `(s, k)` least cost over densities on the parts; inf where no density meets the level.
    """

    levels: np.ndarray
    parts: np.ndarray
    dual: np.ndarray
    primal: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """primal - dual `(s, k)`, ≥ 0 by weak duality."""
        return self.primal - self.dual


def gap_curves(q: Any, q_1: Any, levels: Any, parts: Any = (1, 2, 4, 8)) -> GapCurves:
    """min{KL(p‖q) : KL(p‖q_1) ≥ b} against max g for two atoms split into N parts each.

    Args:
        q: `(2,)` positive masses, summing to one.
        q_1: `(2,)` positive masses, summing to one, other than q.
        levels: b `(k,)`, ≥ 0 nats.
        parts: numbers N of equal parts.

    Raises:
        ValueError: for masses that are not two positive numbers that sum to one, or are equal.
    """
    q, q_1 = _pair("q", q), _pair("q_1", q_1)
    if np.array_equal(q, q_1):
        raise ValueError("q_1: equal to q, so that every density ratio is 1")
    levels = vector("levels", levels)
    counts = np.array([int(n) for n in np.atleast_1d(parts)])
    ratios = LogRatios(np.log(q_1 / q), np.log(q))
    dual = np.array([solve(ReverseKL(float(b)), ratios).dual for b in levels])
    primal = np.array([[_least_cost(q, q_1, float(b), n) for b in levels] for n in counts])
    return GapCurves(levels, counts, dual, primal)


def _pair(name: str, masses: Any) -> np.ndarray:
    pair = vector(name, masses)
    # Two doubles that were meant to sum to one do so to a unit in the last place.
    if pair.size != 2 or not (pair > 0).all() or abs(float(pair.sum()) - 1) > 1e-15:
        raise ValueError(f"{name}: {pair} given, two positive masses that sum to one are needed")
    return pair


def _least_cost(q: np.ndarray, q_1: np.ndarray, level: float, parts: int) -> float:
    """The exact minimum over all densities on 2·parts nodes.

    At a minimiser with multiplier lam, (1 - lam) log(p/q) + lam rho is constant on the support. So either lam ≠ 1 and
    p/q is a function of the ratio: p is even on i parts of one atom and j of the other, and the mass t of the first is
    the only unknown. Or lam = 1, and p lies on parts of one atom, with any entropy between 0 and log N.
    """
    if _divergence(q, q_1) >= level:
        return 0.0
    best = np.inf
    for k in range(2):
        # lam = 1 on atom k: KL(p‖q_1) = log N - log q_1(k) - H(p) for any entropy H in [0, log N].
        entropy = np.log(parts) - np.log(q_1[k]) - level
        if entropy >= 0:
            best = min(best, np.log(parts / q[k]) - min(entropy, np.log(parts)))
    for i in range(1, parts + 1):
        for j in range(1, parts + 1):
            share = np.array([i, j]) / parts
            best = min(best, _least_cost_on(q * share, q_1 * share, level))
    return float(best)


def _least_cost_on(base: np.ndarray, other: np.ndarray, level: float) -> float:
    """min of sum t log(t/base) with sum t log(t/other) ≥ level over (t, 1 - t): the roots of a convex function of t."""

    def reached(t: float) -> float:
        return _divergence(np.array([t, 1 - t]), other)

    lowest = float(other[0] / other.sum())
    candidates = [t for t in (0.0, 1.0) if reached(t) >= level]
    own = float(base[0] / base.sum())  # the unconstrained minimiser
    if reached(own) >= level:
        candidates.append(own)
    for end in (0.0, 1.0):
        if reached(end) > level > reached(lowest):
            root = brentq(lambda t: reached(t) - level, lowest, end, xtol=1e-16)
            candidates.append(float(root))
    return min((_divergence(np.array([t, 1 - t]), base) for t in candidates), default=np.inf)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """sum p log(p/q) with 0 log 0 = 0; q need not sum to one."""
    held = p > 0
    return float(p[held] @ np.log(p[held] / q[held]))
