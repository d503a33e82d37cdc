"""The two dual functions, in coordinates that the solver climbs in.

Both are expectations under q of the log weight of a tilt, so both need one pass over the nodes for value, gradient
and curvature together::

    ExponentialDual   g(x) = c(x) · ( -x·beta - log E_q[e^{-x·T}] )         ReverseKL, Likelihood
    MixtureDual       g(x) = -E_q[u log u] + Z log Z + lam·(b - E_q[e^rho rho]),  u = 1 - sum_i lam_i e^{rho_i}
                                                                              ForwardKL

Nodes without weight are dropped on entry. Large tables are walked in slices, so that the working memory beyond the
table itself stays a few vectors of length n.
"""

from __future__ import annotations

from duality.exponential_dual import ExponentialDual
from duality.mixture_dual import MixtureDual

__all__ = ["ExponentialDual", "MixtureDual"]
