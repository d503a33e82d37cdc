"""Energy distance between two sets of samples, and what chance makes of it where both have one law.

::

    D(P, Q) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|,   X, X' ~ P,  Y, Y' ~ Q,  all independent

is zero exactly where P = Q. The estimate puts means over pairs in the place of expectations, over pairs of *different*
samples within a set, so that it is unbiased. Rows of x and y that come from common noise are not independent of each
other: their distance says nothing of E|X - Y|, and biases the estimate unless these pairs are left out.
Source: G. J. Székely, M. L. Rizzo, Energy statistics, J. Statistical Planning and Inference 143 (2013).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

BLOCK = 512  # rows of the table of distances that are held at a time


def energy_distance(x: ArrayLike, y: ArrayLike, related: ArrayLike | None = None) -> float:
    """`2 E|X - Y| - E|X - X'| - E|Y - Y'|`, unbiased; in units of x, Euclidean distance.

    Zero in the mean where both laws agree, so a single value may be negative. Time grows with (n + k)^2.

    Args:
        x: `(n, ...)`, n ≥ 2 independent samples.
        y: `(k, ...)`, k ≥ 2, rows of the same size.
        related: `(p, 2)` indices (row of x, row of y) of pairs that are not independent; left out of E|X - Y|.

    Raises:
        ValueError: for fewer than two samples, rows of different sizes, NaN, or pairs that are no rows, are named twice
            or leave none over.
    """
    one, two = _rows(x, y)
    n, k = len(one), len(two)
    across, within = _means(np.concatenate([one, two]), np.repeat([1.0, 0.0], [n, k])[:, None], n)
    cross = float(across[0])
    if related is not None:
        i, j = _pairs(related, n, k)
        cross = (cross * n * k - float(np.linalg.norm(one[i] - two[j], axis=1).sum())) / (n * k - len(i))
    return 2 * cross - float(within[0])


def energy_null(x: ArrayLike, y: ArrayLike, permutations: int, generator: np.random.Generator) -> np.ndarray:
    """:func:`energy_distance` `(permutations,)` of x and y when their rows are dealt to the two sets at random.

    What independent samples of one law show, given the pool of both: the noise floor, and the null distribution of the
    permutation test. Every distance is computed once; a deal's value is a quadratic form of them in its indicators.

    Raises:
        ValueError: as `energy_distance` does, and for fewer than one permutation.
    """
    one, two = _rows(x, y)
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    n, total = len(one), len(one) + len(two)
    dealt = np.zeros((total, permutations))
    for column in dealt.T:
        column[generator.permutation(total)[:n]] = 1.0
    across, within = _means(np.concatenate([one, two]), dealt, n)
    return np.asarray(2 * across - within)


def _rows(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as `(n, d)` and `(k, d)`, checked."""
    given = [np.asarray(z, dtype=np.float64) for z in (x, y)]
    shapes = " and ".join(str(z.shape) for z in given)
    if any(z.ndim < 1 or len(z) < 2 for z in given):
        raise ValueError(f"x, y: at least two samples each are needed, (n, ...) and (k, ...), given {shapes}")
    one, two = (z.reshape(len(z), -1) for z in given)
    if one.shape[1] != two.shape[1]:
        raise ValueError(f"x, y: rows of one size are needed, given {shapes}")
    if np.isnan(one).any() or np.isnan(two).any():
        raise ValueError("x, y: numbers are needed, given NaN")
    return one, two


def _pairs(related: ArrayLike, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows i of x and j of y, `(p,)` each."""
    pairs = np.asarray(related, dtype=int).reshape(-1, 2)
    if (pairs < 0).any() or (pairs >= (n, k)).any():
        raise ValueError(f"related: rows of x below {n} and of y below {k} are needed, given {pairs.tolist()}")
    if len(np.unique(pairs, axis=0)) != len(pairs):
        raise ValueError("related: every pair is to be named once")
    if len(pairs) == n * k:
        raise ValueError("related: some pair must be left that is independent")
    return pairs[:, 0], pairs[:, 1]


def _means(pool: np.ndarray, first: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """E|X - Y| `(c,)`, and E|X - X'| + E|Y - Y'| `(c,)`, for each way to divide a pool `(n + k, d)`.

    ``first`` `(n + k, c)` is 1 for the n rows of the first set, else 0.
    """
    k = len(pool) - n
    second = 1.0 - first
    across, inside, outside = np.zeros((3, first.shape[1]))
    for start in range(0, len(pool), BLOCK):
        part = slice(start, start + BLOCK)
        table = cdist(pool[part], pool)
        to_first, to_second = table @ first, table @ second
        across += (first[part] * to_second).sum(axis=0)
        inside += (first[part] * to_first).sum(axis=0)
        outside += (second[part] * to_second).sum(axis=0)
    return across / (n * k), inside / (n * (n - 1)) + outside / (k * (k - 1))
