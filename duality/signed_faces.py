"""Faces of the dual domain of signed mixtures in groups: leaving false ones, and what a density there proves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from duality.dual_protocol import Dual
from duality.faces import CLOSE, SHALLOW, Beyond
from duality.families import Mixtures
from duality.linear_program import tightest
from duality.newton import Climb, climb
from duality.ratios import LogRatios

ESCAPES = 60


@dataclass(frozen=True)
class Priced(Beyond):
    """What a density proves, with the multipliers `towards` `(m,)` in the dual domain that price what it misses."""

    towards: np.ndarray


def beyond_signed(ratios: LogRatios, mixtures: Mixtures, log_weights: np.ndarray) -> Priced:
    """As `beyond`, in groups and where some KL(q_k‖p) are bounded above, which what is bought raises as well::

        min{ sum_j y_j : y ≥ 0, sum_j s_i r_ij y_j ≥ s_i (b_i - KL(q_i‖p)) },   y_j = q_j d_j

    Args:
        ratios: the nodes.
        mixtures: rho, b and s.
        log_weights: log masses of the density `(n,)`.
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
    program = tightest(c=np.ones(len(rows)), A_ub=-rows.T, b_ub=-np.exp(-top) * missing)
    if program is None:
        return Priced(float("inf"), missing, np.zeros(missing.size))
    bought = np.maximum(np.asarray(program.x), 0.0)
    towards = np.maximum(-np.asarray(program.ineqlin.marginals), 0.0)
    towards /= max(float((rows @ towards).max()), 1.0)
    left = missing - np.exp(top) * (bought @ rows)
    return Priced(cost + float(bought.sum()), left, np.exp(-top) * towards)


def leave_false_faces(dual: Dual, units: np.ndarray, found: Climb, prove: Callable[[np.ndarray], Priced]) -> Climb:
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
