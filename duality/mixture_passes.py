"""One pass over the nodes of a signed mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from duality.mixture_sums import MixtureSums
from duality.passes import centred, gram, longest, run, weighed

if TYPE_CHECKING:
    from duality.mixture_dual import MixtureDual


def mixture_pass(dual: MixtureDual, x: np.ndarray, curved: bool) -> MixtureSums:
    """Sums over the nodes at x, with second moments where curved; it ends early where u is not positive."""
    m = dual.m

    def visit(blocks: list[slice]) -> MixtureSums:
        size, kind = longest(blocks), dual._log_q.dtype
        sums, factors = MixtureSums(m, curved), np.asarray(x, dtype=kind)
        falls, logs, out = np.empty(size, kind), np.empty(size, kind), np.empty((m, size), kind)
        weighted = np.empty_like(out) if curved else out
        for part in blocks:
            k = part.stop - part.start
            r, q = dual._ratio.block(part, out), dual._qs(part)
            u, log_u = dual._logs(part, weighed(factors, r, falls[:k]), logs[:k])
            sums.least = min(sums.least, float(u.min()))
            if sums.least <= 0.0:
                break
            weight = np.multiply(q, log_u, out=log_u)
            sums.logs += r @ weight
            sums.cost -= float(weight @ u)
            mass = float(q @ u)
            sums.mass += mass
            if curved:
                # sum_j q_j r_j r_jᵀ/u_j - (E_q[r] E_q[r]ᵀ)/Z is Z times the covariance of r/u under the target.
                mean = np.asarray(r @ q, dtype=np.float64) / mass
                second = centred(gram(r, np.multiply(r, q / u, out=weighted[:, :k])), mass, mean)
                if second is None:
                    deviation = np.divide(r, u, out=out[:, :k])
                    deviation -= mean[:, None]
                    second = gram(deviation, np.multiply(deviation, q * u, out=weighted[:, :k]))
                sums.moments.add(mass, mean, second)
        return sums

    return run(dual._parts, visit)
