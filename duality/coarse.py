"""The dual function in single precision, in the same coordinates: where the last steps in double precision may begin.

A pass takes half the time or less, and its curvature is good to six digits, so that two or three passes in double
precision remain.
"""

from __future__ import annotations

from copy import copy
from typing import TypeVar

import numpy as np

from duality.exponential_dual import ExponentialDual
from duality.mixture_dual import MixtureDual
from duality.passes import parts
from duality.ratio_tables import EPS

GRAIN = float(np.finfo(np.float32).eps) / EPS

Coarse = TypeVar("Coarse", ExponentialDual, MixtureDual)


def coarse(dual: Coarse) -> Coarse | None:
    """The same dual function of ratios in single precision; None where they would lose more, or are in a file.

    Only for a dual function as it is made, at the origin of its coordinates.
    """
    table = dual._columns if isinstance(dual, ExponentialDual) else dual._ratio
    if not table.direct or (isinstance(dual, ExponentialDual) and not dual._plain):
        return None
    rough = copy(dual)
    rough.grain, rough._latest = GRAIN, None
    rough._parts = parts(dual._log_q.size, (dual.m + 1) // 2)  # as many bytes
    if isinstance(rough, ExponentialDual):
        rough._log_q = dual._log_q.astype(np.float32)
        rough._columns, rough.ceiling, rough._mode = table.narrowed(), np.inf, None
    else:
        rough._log_q = np.broadcast_to(np.float32(0.0), dual._log_q.size)  # of which passes read the type alone
        rough._ratio = table.narrowed()
        q = dual._qs(slice(0, dual._log_q.size)).astype(np.float32)  # type: ignore[union-attr]
        rough._qs = lambda part: q[part]
    return rough
