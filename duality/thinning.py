"""The dual function on some of its nodes, in the same coordinates: where a climb on all of them may begin."""

from __future__ import annotations

from copy import copy
from typing import TypeVar

import numpy as np

from duality.exponential_dual import ExponentialDual
from duality.mixture_dual import MixtureDual
from duality.passes import parts
from duality.slices import slices

RUN = 8  # neighbours that are taken together: those of a line of the cache
STRIDE = 40_503  # an odd number near 2^16 over the golden mean: its multiples fall evenly between any two limits

Thin = TypeVar("Thin", ExponentialDual, MixtureDual)


def places(n: int, share: int) -> np.ndarray:
    """One node in `share` of n, in runs of `RUN` at even distances, each displaced by a part of the distance."""
    span = RUN * share
    run = np.arange(n // span)
    starts = run * span + (run * STRIDE) % (span - RUN + 1)
    return np.asarray((starts[:, None] + np.arange(RUN)).ravel())


def thinned(dual: Thin, share: int, enough: float) -> Thin | None:
    """The dual function of one node in `share`, with their weights made to add up to one.

    None where the weights of these are worth less than `enough` nodes of equal weight. Only for a dual function as it
    is made, at the origin of its coordinates.
    """
    chosen = places(dual._log_q.size, share)
    log_q = dual._log_q[chosen]
    q = np.exp(log_q - log_q.max())
    total = float(q.sum())
    if total**2 < enough * float(q @ q):
        return None
    small = copy(dual)
    small._log_q = log_q - (float(log_q.max()) + np.log(total))
    small._kept, small._n, small._size, small._latest = None, chosen.size, chosen.size, None
    small._parts, small._slices = parts(chosen.size, dual.m), slices(chosen.size)
    if isinstance(small, ExponentialDual):
        small._columns = small._columns.some(chosen)
        small.ceiling = np.inf  # some of the nodes say nothing of what cannot be had
    else:
        small._ratio = small._ratio.some(chosen)
        # E_q[e^rho rho], which g has times lam, is kept as it is on all nodes: that much less scatters.
        small._weigh(q / total)
    return small
