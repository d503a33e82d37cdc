"""How much each draw pulls the dual function of an exponential tilt: the terms of the delta method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from duality.pulls import Pulls

if TYPE_CHECKING:
    from duality.exponential_dual import ExponentialDual


def tilt_pulls(dual: ExponentialDual, x: np.ndarray) -> Pulls:
    """`ExponentialDual.influence` block by block."""
    sums, share, n = dual._sums(x, False), dual._share(x), dual._size
    falls, log_total = dual._falls(x), float(np.log(sums.moments.total))
    scale = dual._scale if dual._plain else np.ones(dual.m)
    centre = sums.moments.mean if dual._shared else dual._beta * scale + (dual._shift if dual._plain else 0.0)

    def pulled(part: slice) -> tuple[np.ndarray, np.ndarray]:
        rows = dual._block(part, np.empty((dual.m, part.stop - part.start)))
        tilt = falls @ rows + (dual._tilt[part] if isinstance(dual._tilt, np.ndarray) else 0.0)
        # w/Z, of mean 1 over draws.
        weight = np.exp(dual._log_q[part] + (tilt - sums.tilt) - (sums.log_q + log_total)) * n
        pull = -share * (weight - 1.0)
        conditions = weight * ((rows - centre[:, None]) / scale[:, None])
        if dual._shared:
            conditions -= pull / dual._scale[:, None]
        return pull, conditions / share

    return pulled
