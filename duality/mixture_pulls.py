"""How much each draw pulls the dual function of a signed mixture: the terms of the delta method."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import Array
from duality.pulls import Pulls

if TYPE_CHECKING:
    from duality.mixture_dual import MixtureDual


def mixture_pulls(dual: MixtureDual, x: np.ndarray) -> Pulls:
    """`MixtureDual.influence` block by block."""
    sums, scale = dual._sums(x, False), np.exp(dual._top)
    known = sums.mass, dual._total, dual._self, dual._self - sums.logs * scale, sums.cost, dual.to_natural(x)

    def pulled(part: slice) -> tuple[np.ndarray, np.ndarray]:
        out = np.empty((2, dual.m, part.stop - part.start))
        r = dual._ratio.block(part, out[0])
        u, log_u = dual._logs(part, x @ r, np.empty(r.shape[1]))
        mass = dual._qs(part) * dual._size * (r * scale[:, None])
        pull, conditions = pulls(mass, dual._columns.block(part, out[1]), u, log_u, known)
        return pull, conditions * dual._shrink[:, None]

    return pulled


def pulls(
    ratio: Array, values: Array, u: Array, log_u: Array, known: tuple[float, Array, Array, Array, float, Array]
) -> tuple[Array, Array]:
    """By how much each of some draws moves g `(k,)` and the levels' conditions `(m, k)`.

    Args:
        ratio: e^rho `(m, k)`.
        values: rho `(m, k)`.
        u: `(k,)`.
        log_u: `(k,)`.
        known: means over all draws: of u, e^rho, e^rho rho, e^rho (rho - log u), and -u log u; and lam.
    """
    z, total, own, informed, cost, lam = known
    xp, log_z = array_namespace(ratio), log(z)
    finite, centred = xp.where(ratio > 0, values, xp.zeros_like(values)), u - z
    conditions = informed[:, None] - ratio * (finite - log_u)
    conditions -= (ratio - total[:, None]) * log_z + total[:, None] * centred / z
    pull = -(u * log_u + cost) + (1.0 + log_z) * centred - lam @ (ratio * finite - own[:, None])
    return pull, conditions
