"""Where to begin on many nodes: at the maximum of the dual function on some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from duality.dual_protocol import Dual
from duality.exponential_dual import ExponentialDual
from duality.mixture_dual import MixtureDual
from duality.newton import Patience, climb
from duality.ratios import LogRatios
from duality.shards import shared

if TYPE_CHECKING:
    from duality.problems import Problem

MANY = 50_000  # nodes, below which a climb from the origin costs no more
SHARE = 50  # one node in so many is taken, or in fewer
LEAST, MOST = 2500, 200_000  # so that there are so many nodes
ENOUGH = 200.0  # nodes of equal weight that those taken must amount to
ROUGHLY = 1e-5  # the residual at which a climb on some nodes may stop: scatter is a hundred times that


@dataclass(frozen=True)
class Start:
    """A point `(m,)` in the coordinates of a dual function, with the curvature `(m, m)` that is expected there."""

    x: np.ndarray
    bend: np.ndarray | None = None


def nearby(problem: Problem, ratios: LogRatios, dual: Dual) -> Start | None:
    """The maximum on one node in `SHARE` or fewer, as a start for the climb on all; None where there is none.

    Nodes are taken at even distances, each displaced at random by a generator of its own. The answer does not depend on
    them: what a start leads to is used where it is the maximum beyond doubt (`solve`).
    """
    if type(dual) not in (ExponentialDual, MixtureDual) or ratios.n < MANY or shared():
        return None
    share = max(min(SHARE, ratios.n // LEAST), ratios.n // MOST)
    size = ratios.n // share
    places = np.arange(size) * share + np.random.default_rng(0).integers(share, size=size)
    some = ratios.some(places).remembering()
    q = np.exp(some.log_weights)
    if float(q @ q) > 1.0 / ENOUGH:
        return None
    try:
        small = problem.dual(some)
    except ValueError:
        return None
    found = climb(small, np.zeros(small.m), problem.units(some), ROUGHLY, Patience(steps=30, pressed=3))
    if found.exhausted or found.gave_up or found.pressure.any() or not found.stationary(problem.units(some), 1e-3):
        return None
    x = np.maximum(dual.from_natural(found.dual.to_natural(found.x)), dual.lower)
    if isinstance(dual, MixtureDual):
        x = dual.inwards(x)
    zero, one = np.zeros(small.m), np.ones(small.m)
    mine = dual.to_natural(one) - dual.to_natural(zero)
    theirs = found.dual.to_natural(one) - found.dual.to_natural(zero)
    factor = mine / theirs
    return Start(x, found.at.curvature * np.outer(factor, factor))
