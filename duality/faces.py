"""ForwardKL on the faces of its dual domain: leaving a false one, and what a true one is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linprog

from duality.dual_protocol import Dual
from duality.families import Mixtures
from duality.newton import Climb, climb
from duality.packing import TIGHT, packing
from duality.ratios import LogRatios

ESCAPES = 60
#: Relative to 1 + |g|, what is still to be gained where the search ends.
CLOSE = 1e-11


@dataclass(frozen=True)
class Beyond:
    """A density that misses levels, completed by what is bought on null sets: at node j, d_j nats more for all q_i.

    Attributes:
        bound: KL(q‖p) + sum_j q_j d_j, an upper bound on the value.
        left: `(m,)` b_i - KL(q_i‖p) - sum_j q_ij d_j, at most 0 up to rounding.
        missing: `(m,)` b_i - KL(q_i‖p).
        towards: lam `(m,)` in the dual domain with lam·missing = sum_j q_j d_j.
    """

    bound: float
    left: np.ndarray
    missing: np.ndarray
    towards: np.ndarray


#: u below this is left to be bought: what is bought has the same price per nat as what u = e^{-d} gives, so p, raised
#: to here at a mass of no more than this, proves the same, whatever rounding made of u.
SHALLOW = 1e-12


def beyond(ratios: LogRatios, levels: np.ndarray, log_weights: np.ndarray) -> Beyond:
    """What any density of log masses `(n,)` proves about `ForwardKL` at levels `(m,)`.

    Divide p by e^{d_j/s} on a part of node j of relative mass s: as s falls to 0 every KL(q_i‖p) rises by q_ij d_j and
    KL(q‖p) by q_j d_j, while p tends to itself (theory, minimising sequences). So missing levels cost no more than

        min{ sum_j q_j d_j : d ≥ 0, sum_j q_ij d_j ≥ missing_i } = max{ lam·missing : lam in the dual domain }.
    """
    kept = ratios.partition.order
    values, log_q = ratios.values[kept], ratios.log_weights[kept]
    log_u = np.maximum(log_weights[kept] - log_q, np.log(SHALLOW))
    log_u = ratios.partition.normalised(log_q + log_u)[0] - log_q
    masses = np.exp(values + log_q[:, None])
    finite = np.where(masses > 0, values, 0.0)
    missing = levels - (masses * (finite - log_u[:, None])).sum(axis=0)
    top = values.max(axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    rows = np.exp(values - top)
    found = packing(rows, np.exp(-top) * missing)
    gained = np.exp(top) * (found.prices @ rows[found.nodes])
    bound = float(-np.exp(log_q) @ log_u) + found.bound
    return Beyond(bound, missing - gained, missing, np.exp(-top) * found.point)


def beyond_signed(ratios: LogRatios, mixtures: Mixtures, log_weights: np.ndarray) -> Beyond:
    """The same where some KL(q_k‖p) are bounded above, which what is bought raises as well: a plain linear program.

    min{ sum_j y_j : y ≥ 0, sum_j s_i r_ij y_j ≥ s_i (b_i - KL(q_i‖p)) },   y_j = q_j d_j
    """
    kept = ratios.partition.order
    values, log_q = mixtures.values[kept], ratios.log_weights[kept]
    log_u = np.maximum(log_weights[kept] - log_q, np.log(SHALLOW))
    log_u = ratios.partition.normalised(log_q + log_u)[0] - log_q
    masses = np.exp(values + log_q[:, None])
    reached = (masses * (np.where(masses > 0, values, 0.0) - log_u[:, None])).sum(axis=0)
    missing = mixtures.signs * (mixtures.levels - reached)
    cost = float(-np.exp(log_q) @ log_u)
    top = values.max(axis=0)
    rows = mixtures.signs * np.exp(values - top)
    program = linprog(np.ones(len(rows)), A_ub=-rows.T, b_ub=-np.exp(-top) * missing, method="highs", options=TIGHT)
    if program.x is None:
        return Beyond(float("inf"), missing, missing, np.zeros(missing.size))
    bought = np.maximum(np.asarray(program.x), 0.0)
    towards = np.maximum(-np.asarray(program.ineqlin.marginals), 0.0)
    towards /= max(float((rows @ towards).max()), 1.0)
    left = missing - np.exp(top) * (bought @ rows)
    return Beyond(cost + float(bought.sum()), left, missing, np.exp(-top) * towards)


def leave_false_faces(dual: Dual, units: np.ndarray, found: Climb, prove: Callable[[np.ndarray], Beyond]) -> Climb:
    """The maximiser of g, from a climb that may have stopped on a face which is not the optimum's.

    On a face u is 1e-15 at some node, and a Newton step off it is no longer than u: a gain too small to be seen among
    doubles. Where the target proves less than the multipliers, the climb goes on from the best point on the way to
    those that price what is missing: g is concave, so it rises towards them by as much as the two bounds differ.
    """
    for _ in range(ESCAPES):
        proved = prove(found.dual.log_masses(found.x))
        if proved.bound - found.at.value <= CLOSE * (1.0 + abs(found.at.value)):
            break
        lam = found.dual.to_natural(found.x)
        start = _highest_between(dual, lam, proved.towards * (1.0 - 64 * dual.touch), found.at.value)
        if start is None:
            break
        again = climb(dual, np.maximum(dual.from_natural(start), dual.lower), units)
        if not again.at.value > found.at.value:
            break
        found = replace(again, iterations=found.iterations + again.iterations)
    return found


def _highest_between(dual: Dual, lam: np.ndarray, towards: np.ndarray, value: float) -> np.ndarray | None:
    """The highest of points on the segment, at distances of powers of two; None where none exceeds `value`."""
    points = [lam + 2.0**-k * (towards - lam) for k in range(45)]  # near a face everything happens at the scale of u
    values = [dual.evaluate(dual.from_natural(point)).value for point in points]
    best = int(np.argmax(values))
    return points[best] if values[best] > value else None
