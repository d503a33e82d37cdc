"""Misses of levels read on a scale where tilts move them nearly in proportion: a Newton step then goes farther.

Newton's method solves level(theta) = b as well as f(level) = f(b), for any increasing f, and needs fewest steps where
f(level) is nearly linear: ::

    KL(p‖q_i)    f = sqrt    q and q_i normal with one covariance: KL = (1 + a)²/2 · the squared distance of their means
    E_p[l_i]     f = log     l_i rarely far from 0: E_p[l_i] falls as e^-lam

Its step goes by (f(b) - f(level)) / f'(level), which is the miss to first order: near the maximum nothing changes.
"""

from __future__ import annotations

from math import log1p, sqrt

import numpy as np

from duality.dual_protocol import Dual, Evaluation
from duality.exponential_dual import ExponentialDual

SHORT = 0.99  # of a level, that a miss is taken to leave at least a hundredth of


def root_factors(misses: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """2 sqrt(L) (sqrt(b) - sqrt(L)) / (b - L) for misses b - L `(m,)` of levels b > 0, else 1."""
    short = [min(miss / b, SHORT) if b > 0 else 0.0 for miss, b in zip(misses.tolist(), levels.tolist(), strict=True)]
    return np.array([2.0 / (1.0 + 1.0 / sqrt(1.0 - part)) for part in short])


def log_factors(misses: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """L log(L/b) / (L - b) for misses L - b `(m,)` of levels b > 0, else 1."""
    over = [max(miss / b, -SHORT) if b > 0 else 0.0 for miss, b in zip(misses.tolist(), levels.tolist(), strict=True)]
    return np.array([(1.0 + part) * log1p(part) / part if part else 1.0 for part in over])


def aim(dual: Dual, x: np.ndarray, at: Evaluation) -> np.ndarray:
    """The gradient `(m,)` at x with misses read like this; as it is elsewhere, where T < 0, and where S is nearly 0."""
    if not isinstance(dual, ExponentialDual):
        return at.gradient
    if not dual._shared:
        return at.gradient * log_factors(at.misses, dual._levels) if dual._positive else at.gradient
    theta = dual.to_natural(x)
    share = 1.0 / (1.0 + sum(theta.tolist()))
    if dual._any_free or share < 0.1:
        return at.gradient
    read = at.misses * root_factors(at.misses, -dual._levels)
    return np.asarray((read - share * float(theta @ read)) / (dual._scale * share))
