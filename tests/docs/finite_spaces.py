"""Small finite spaces for the statements in docs/theory."""

from __future__ import annotations

import numpy as np

import duality as du


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p‖q) of two positive measures on nodes."""
    held = p > 0
    return float(p[held] @ np.log(p[held] / q[held]))


def space(seed: int, n: int = 12, m: int = 2) -> tuple[np.ndarray, np.ndarray, du.LogRatios]:
    """Random q `(n,)` and q_i `(n, m)` on a finite set."""
    generator = np.random.default_rng(seed)
    q = generator.dirichlet(np.full(n, 2.0))
    parts = generator.dirichlet(np.full(n, 2.0), size=m).T
    return q, parts, du.LogRatios(np.log(parts / q[:, None]), np.log(q), priors=np.full(m, 0.9 / m))
