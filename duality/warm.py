"""Where to begin on many nodes: at the maximum of the dual function on some of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from duality.coarse import coarse
from duality.dual_functions import plain
from duality.dual_protocol import Dual
from duality.exponential_dual import ExponentialDual
from duality.mixture_dual import MixtureDual
from duality.newton import Climb, Patience, maximise
from duality.problems import Problem
from duality.quick import CLOSE, FEW, finest, quick
from duality.ratios import LogRatios
from duality.shards import shared
from duality.thinning import RUN, Thin, thinned

MANY = 100_000  # entries of a table, below which a climb from the origin costs no more
SHARE = 16  # one node in so many is taken,
WORTH = 8  # one in fewer costs about as much as it saves
LEAST = 150  # or more, so that there are so many nodes for each multiplier
ENOUGH = 200.0  # nodes of equal weight that those taken must amount to
PART = 0.5  # the residual at which a climb on some nodes may stop, as a part of their scatter 1/sqrt(n)


SOME = 3  # constraints, from where single precision pays,
MUCH = 20_000_000  # on tables of MANY entries and no more than so many,
COARSE = 3e-3  # to a residual from which on a Newton step leaves what single precision does
SEVERAL = 2000  # nodes, from where plain steps are tried before careful ones


@dataclass(frozen=True)
class Start:
    """A point `(m,)` in the coordinates of a dual function, with the curvature `(m, m)` that is expected there."""

    x: np.ndarray
    bend: np.ndarray | None = None


def nearby(problem: Problem, ratios: LogRatios, dual: Dual) -> Start | None:
    """The maximum on one node in `SHARE`, as a start for the climb on all; None where there is none.

    That climb starts from the maximum on still fewer nodes, where there are many. The answer does not depend on which
    nodes these are: what a start leads to is used where it is the maximum beyond doubt (`solve`).
    """
    if type(dual) not in (ExponentialDual, MixtureDual) or shared():
        return None
    units = problem.units(ratios)
    first = _start(dual, units)  # type: ignore[type-var]
    if not MANY <= ratios.n * dual.m <= MUCH or dual.m < SOME or ratios.n < SEVERAL:
        return first
    rough = coarse(dual)  # type: ignore[type-var]
    if rough is None:
        return first
    begin = Start(np.zeros(dual.m)) if first is None else first
    halt = quick(rough, begin.x, units, COARSE**2, leap=COARSE)
    return Start(halt.climb.x, halt.bend) if halt.arrived else first


def _start(dual: Thin, units: np.ndarray) -> Start | None:
    n = dual._log_q.size
    share = min(SHARE, n // (LEAST * max(dual.m, 4)))
    if n * dual.m < MANY or share < WORTH or n < RUN * share:
        return None
    small = thinned(dual, share, ENOUGH)
    if small is None:
        return None
    first = _start(small, units)
    found = _climbed(small, units, first)
    if found is None:
        return None
    # Where constraints are few the curvature comes nearly for nothing with the gradient.
    return Start(found.x, found.at.curvature if dual.m > FEW else None)


def _climbed(small: Dual, units: np.ndarray, first: Start | None) -> Climb | None:
    """The maximum on some nodes, to a part of their scatter."""
    target = PART / float(np.sqrt(small._log_q.size))  # type: ignore[attr-defined]
    first = Start(np.zeros(small.m)) if first is None else first
    halt = quick(small, first.x, units, target, first.bend, float(np.sqrt(target)))
    if halt.arrived:
        return halt.climb
    found = maximise(small, halt.climb.x, units, target, Patience(steps=30, pressed=3))
    if found.exhausted or found.gave_up or not np.isfinite(found.at.value):
        return None
    if found.pressure.any():  # a face of the domain that fewer nodes have elsewhere
        if not isinstance(small, MixtureDual):
            return None
        x = small.inwards(found.x)
        return replace(found, x=x, at=small.evaluate(x))
    return found


def at_once(dual: Dual, units: np.ndarray, tolerance: float, first: Start | None) -> Climb | None:
    """The maximum by plain steps from `first`, or from 0, where these lead to it; else None."""
    if not plain(dual):
        return None
    n: int = dual._size  # type: ignore[attr-defined]
    if n < SEVERAL:
        return None
    target = max(tolerance, finest(n), CLOSE)
    first = Start(np.zeros(dual.m)) if first is None else first
    halt = quick(dual, first.x, units, target, first.bend)
    return halt.climb if halt.arrived and dual.refined(halt.climb.x) is None else None
