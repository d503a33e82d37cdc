"""Energy distance between two sets of draws, with the permutation test that says what is noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from toy.mixtures import Array


class EnergyDistance(NamedTuple):
    """A distance between two sets of points, and what chance makes of one law.

    Attributes:
        value: the unbiased estimate (units of x; may be negative).
        null_stderr: its standard deviation when both sets have one law.
        p_value: share of permutations at least as large (the given one counted).
    """

    value: float
    null_stderr: float
    p_value: float


def energy_distance(
    x: ArrayLike, y: ArrayLike, generator: np.random.Generator, permutations: int = 199
) -> EnergyDistance:
    """`2 E|X - Y| - E|X - X'| - E|Y - Y'|`, zero exactly when the laws agree.

    The means leave out pairs of a point with itself, so the estimate is unbiased. Time and memory grow with (n + k)^2.
    Source: Székely & Rizzo, Energy statistics, 2013.

    Args:
        x: (n, d).
        y: (k, d).

    Raises:
        ValueError: shapes that do not match or fewer than two points.
    """
    one, two = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[1] or min(len(one), len(two)) < 2:
        raise ValueError(f"x, y: shapes (n, d) and (k, d), n, k >= 2, are needed, given {one.shape} and {two.shape}")
    both = np.vstack([one, two])
    table = cdist(both, both)
    n, k = len(one), len(two)
    given = _statistic(table, np.repeat([1.0, 0.0], [n, k])[:, None], n, k)[0]
    signs = np.zeros((n + k, permutations))
    for column in range(permutations):
        signs[generator.permutation(n + k)[:n], column] = 1.0
    null = _statistic(table, signs, n, k)
    return EnergyDistance(float(given), float(null.std()), float((1 + (null >= given).sum()) / (1 + permutations)))


def _statistic(table: Array, member: Array, n: int, k: int) -> Array:
    """The statistic for each column of a 0/1 membership table (n + k, c), through one matrix product."""
    within = np.einsum("jc,jc->c", member, table @ member)
    across = np.einsum("jc,jc->c", 1 - member, table @ member)
    other = table.sum() - within - 2 * across
    return 2 * across / (n * k) - within / (n * (n - 1)) - other / (k * (k - 1))
