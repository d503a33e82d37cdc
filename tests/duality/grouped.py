"""Random problems on nodes in groups, and their conditions of optimality written from the definitions."""

from __future__ import annotations

import numpy as np

import duality as du


def grouped_space(
    rng: np.random.Generator, count: int | None = None, most: int = 40, detectors: int = 0, m: int | None = None
) -> du.LogRatios:
    """A finite space in `count` groups (by default 1 to 4) of 1 to many nodes, q_i,c of mass one in each."""
    count = int(rng.integers(1, 5)) if count is None else count
    m = int(rng.integers(1, 4)) if m is None else m
    n = int(rng.integers(2 * count, max(most, 2 * count + 1)))
    groups = rng.permutation(np.concatenate([np.arange(count), rng.integers(0, count, n - count)]))
    shares = rng.dirichlet(np.full(count, 2.0))
    log_weights = np.log(rng.dirichlet(np.full(n, 2.0)))
    rho = rng.uniform(0.3, 1.5) * rng.normal(size=(n, m))
    for c in range(count):
        inside = groups == c
        q = np.exp(log_weights[inside])
        rho[inside] -= np.log(q @ np.exp(rho[inside]) / q.sum())
    seen = rng.beta(0.4, 0.6, size=(n, detectors)) if detectors else None
    return du.LogRatios(rho, log_weights, None, np.full(m, 0.9 / m), groups, shares, seen)


def divergences(p: np.ndarray, q: np.ndarray, groups: np.ndarray, shares: np.ndarray) -> float:
    """sum_c P(c) KL(p_c‖q_c), group by group, from joint masses `(n,)`."""
    total = 0.0
    for c, share in enumerate(shares):
        one, other = p[groups == c] / share, q[groups == c] / share
        held = one > 0
        total += share * float(one[held] @ np.log(one[held] / other[held]))
    return total
