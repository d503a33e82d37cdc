"""Energy distance between two sets of draws (`duality.two_sample`), with its permutation test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from duality import two_sample


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

    The means leave out pairs of a point with itself, so the estimate is unbiased. Time grows with (n + k)^2.
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
    given, null = two_sample.energy_distance(one, two), two_sample.energy_null(one, two, permutations, generator)
    # A deal may be the given one, equal but for rounding. With all points within the radius of a place the means are at
    # most 12 radii together, each a sum of n + k sums of n + k terms >= 0, which errs by 2 (n + k) eps at most; twice.
    both = np.concatenate([one, two])
    rounding = 48 * len(both) * np.finfo(float).eps * float(np.linalg.norm(both - both[0], axis=1).max())
    beyond = null >= given - rounding
    return EnergyDistance(given, float(null.std()), float((1 + beyond.sum()) / (1 + permutations)))
