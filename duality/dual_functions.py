"""The two dual functions, in coordinates that the solver climbs in.

Both are expectations under q of the log weight of a tilt, so both need one pass over the nodes for value, gradient
and curvature together::

    ExponentialDual   g(x) = c(x) · ( -x·beta - log E_q[e^{-x·T}] )         ReverseKL, Likelihood
    MixtureDual       g(x) = -E_q[u log u] + Z log Z + lam·(b - E_q[e^rho rho]),  u = 1 - sum_i lam_i e^{rho_i}
                                                                              ForwardKL

Nodes without weight are dropped on entry. Large tables are walked in slices, so that the working memory beyond the
table itself stays a few vectors of length n. Where the table lies on an accelerator the passes are made there
(`TensorTilt`, `TensorMixture`), and the climb is the same.
"""

from __future__ import annotations

import numpy as np

from duality.columns import Columns
from duality.dual_protocol import Dual
from duality.exponential_dual import ExponentialDual
from duality.mixture_dual import MixtureDual
from duality.tensor_columns import TensorColumns
from duality.tensor_mixture import TensorMixture
from duality.tensor_tilt import TensorTilt

__all__ = ["ExponentialDual", "MixtureDual", "exponential_dual", "mixture_dual", "plain"]


def exponential_dual(
    columns: Columns,
    log_weights: np.ndarray,
    levels: np.ndarray,
    *,
    shared: bool,
    ends: tuple[np.ndarray, np.ndarray],
) -> ExponentialDual:
    """`ExponentialDual` of a table where it lies."""
    kind = TensorTilt if isinstance(columns, TensorColumns) else ExponentialDual
    return kind(columns, log_weights, levels, shared=shared, ends=ends)


def mixture_dual(columns: Columns, log_weights: np.ndarray, levels: np.ndarray, top: np.ndarray) -> MixtureDual:
    """`MixtureDual` of a table where it lies."""
    kind = TensorMixture if isinstance(columns, TensorColumns) else MixtureDual
    return kind(columns, log_weights, levels, top)


def plain(dual: Dual) -> bool:
    """Whether it is one of the two, wherever its table lies, and not one that only takes something from them."""
    return type(dual) in (ExponentialDual, MixtureDual, TensorTilt, TensorMixture)
