"""ForwardKL on the faces of its dual domain: which one is the optimum's, and what a density there proves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from duality.answers import Answer, read_climb
from duality.interior import MU, maximise_inside
from duality.mixture_dual import MixtureDual
from duality.newton import Climb, Patience, climb
from duality.packing import packing
from duality.ratios import LogRatios

#: Relative to 1 + |g|, how far apart the two bounds may be for a climb to have the last word.
CLOSE = 1e-10
NEAREST = 200
NEAR = 1e-3
POLISH = Patience(
    pressed=15
)  # steps of a climb from where the interior-point method ended, for levels that are attained after all
IDLE = 1e-12  # of the multiplier that alone would fill the domain: what the interior-point method leaves of zero


@dataclass(frozen=True)
class Beyond:
    """A density that misses levels, completed by what is bought on null sets: at node j, d_j nats more for all q_i.

    Attributes:
        bound: KL(q‖p) + sum_j q_j d_j, an upper bound on the value.
        left: `(m,)` b_i - KL(q_i‖p) - sum_j q_ij d_j, at most 0 up to rounding.
    """

    bound: float
    left: np.ndarray

    def wrong(self, multipliers: np.ndarray) -> np.ndarray:
        """`(m,)`: what is left, where something is, else what was bought in vain, at its price."""
        return np.where(self.left > 0, self.left, -self.left * multipliers)


#: u below this is left to be bought: what is bought has the same price per nat as what u = e^{-d} gives, so p, raised
#: to here at a mass of no more than this, proves the same, whatever rounding made of u.
SHALLOW = 1e-12


def beyond(ratios: LogRatios, levels: np.ndarray, log_weights: np.ndarray) -> Beyond:
    """What any density of log masses `(n,)` proves about `ForwardKL` at levels `(m,)`.

    Divide p by e^{d_j/s} on a part of node j of relative mass s: as s falls to 0 every KL(q_i‖p) rises by q_ij d_j and
    KL(q‖p) by q_j d_j, while p tends to itself (theory, minimising sequences). So missing levels cost no more than ::

        min{ sum_j q_j d_j : d ≥ 0, sum_j q_ij d_j ≥ missing_i } = max{ lam·missing : lam in the dual domain }.
    """
    kept = np.isfinite(ratios.log_weights)
    values, log_q = ratios.values[kept], ratios.log_weights[kept]
    log_u = np.maximum(log_weights[kept] - log_q, np.log(SHALLOW))
    log_u -= np.log(np.exp(log_q + log_u).sum())
    masses = np.exp(values + log_q[:, None])
    finite = np.where(masses > 0, values, 0.0)
    missing = levels - (masses * (finite - log_u[:, None])).sum(axis=0)
    top = values.max(axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    rows = np.exp(values - top)
    nearest = np.argsort(log_u)[:NEAREST]  # to a face: that is where levels are bought
    found = packing(rows, np.exp(-top) * missing, nearest)
    gained = np.exp(top) * (found.prices @ rows[found.nodes])
    bound = float(-np.exp(log_q) @ log_u) + found.bound
    return Beyond(bound, missing - gained)


def settle(ratios: LogRatios, levels: np.ndarray, dual: MixtureDual, units: np.ndarray, found: Climb) -> Answer:
    """The answer to `ForwardKL` at levels `(m,)` from a climb of `dual` that ended on a face of its domain.

    Near a face u is 1e-15 at some node. Steps that would leave it are no longer than u, and gain what doubles cannot
    show, so the climb may have ended on a face that is not the optimum's. Where its target does not prove the value,
    an interior-point method, which meets no faces, has the word, and with it what is bought at each node.
    """
    read = read_climb(found)
    if _proved(beyond(ratios, levels, read.log_weights), read, units):
        return replace(read, limit=True)
    q = np.exp(dual.log_q)
    inside = maximise_inside(q, dual.table, dual.gain)
    if not np.isfinite(inside.residual):
        return read
    # The depth -log u + d at which stationarity holds, as far as nodes can tell: what lies deeper is bought.
    depth = inside.prices / np.maximum(q, np.finfo(float).tiny)
    log_p = dual.log_q + np.maximum(np.log(inside.u) - depth, np.log(dual.floor * float(q @ inside.u)))
    log_p -= np.log(np.exp(log_p).sum())
    y = np.where((inside.y < IDLE) & (inside.y < inside.slack), 0.0, inside.y)
    value = float(y @ dual.gain - (q * inside.u) @ np.log(inside.u / (q @ inside.u)))
    # Where next to nothing is missing a climb from here may still meet the levels, to more digits than this does.
    attained = not (dual.misses_of(log_p - dual.log_q) > NEAR * units).any()
    fresh = climb(dual, inside.y * (1.0 - 64 * dual.touch), units, patience=POLISH if attained else Patience(steps=0))
    polished = replace(read_climb(fresh), iterations=read.iterations + inside.steps + fresh.iterations)
    if fresh.stationary(units) and fresh.at.value >= read.value - found.at.noise - fresh.at.noise:
        return polished  # where many multipliers are optimal, the flattest point, not the one rounded up most
    best = max((read, polished), key=lambda one: one.value)
    if fresh.stationary(units):
        return best
    lam = y * dual.shrink if value >= best.value else best.multipliers
    answer = Answer(
        multipliers=lam,
        value=max(value, best.value),
        natural=lam,
        log_weights=dual.spread(log_p),
        active=lam > 0,
        climb=fresh,
        iterations=polished.iterations,
        limit=True,
    )
    if value >= best.value - 10 * MU * (1.0 + dual.m) * (1.0 + abs(value)):
        return answer
    # Many multipliers may prove nearly the same, and say nothing of which density is the better: what it proves does.
    return min((best, answer), key=lambda one: beyond(ratios, levels, one.log_weights).bound)


def _proved(proved: Beyond, read: Answer, units: np.ndarray) -> bool:
    close = proved.bound - read.value <= CLOSE * (1.0 + abs(read.value))
    return close and not (proved.wrong(read.multipliers) > CLOSE * units).any()
