r"""Kernel inception distance (KID) between a law of samples and given images, and how it changes from model to model.

::

    k(h, h') = (<h, h'>/d + 1)^3,    E k(X, X') + E k(Y, Y') - 2 E k(X, Y), unbiased

h (d,) features of an image by some network, in units of their root mean square. Images y are given; a standard error is
of the samples X.

Source: Binkowski et al., Demystifying MMD GANs (ICLR 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """An estimate and its standard error."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.stderr:.4f}"


def kid(x: Array, y: Array, kept: NDArray[np.bool_] | None = None) -> Distance:
    """KID between the law of samples with features (n, d) and given images with features (k, d).

    ``kept`` (n,): the samples that count, where not all do; a law given that they do is compared then. The standard
    error is that of the U-statistic's linear part, by the samples: y is no sample of anything. Raises ``ValueError``
    with fewer than two rows in either.
    """
    value, influence = _influence(x, y, kept)
    return Distance(value, float(influence.std(ddof=1) / np.sqrt(len(x))))


def kid_change(
    before: Array,
    after: Array,
    y: Array,
    kept_before: NDArray[np.bool_] | None = None,
    kept_after: NDArray[np.bool_] | None = None,
) -> Distance:
    """``KID(after, y) - KID(before, y)``: rows of before and after (n, d) are paired, and y (k, d) is the same."""
    one, of_before = _influence(before, y, kept_before)
    two, of_after = _influence(after, y, kept_after)
    return Distance(two - one, float((of_after - of_before).std(ddof=1) / np.sqrt(len(before))))


def _influence(x: Array, y: Array, kept: NDArray[np.bool_] | None) -> tuple[float, Array]:
    """KID, and what each row of x (n,) contributes to its first-order error."""
    mask = np.ones(len(x), bool) if kept is None else kept
    some = x[mask]
    n, k, d = len(some), len(y), x.shape[1]
    if min(n, k) < 2:
        raise ValueError(f"x and y must hold at least two samples each, got {n} and {k}")

    def mean_kernel(a: Array, b: Array) -> Array:
        rows = [((a[i : i + 512] @ b.T / d + 1) ** 3).mean(1) for i in range(0, len(a), 512)]
        return np.concatenate(rows)

    def within(a: Array) -> Array:  # without the pairs of a row and itself
        count = len(a)
        return (count * mean_kernel(a, a) - ((a * a).sum(1) / d + 1) ** 3) / (count - 1)

    of_x, to_y = within(some), mean_kernel(some, y)
    value = float(of_x.mean() + within(y).mean() - 2 * to_y.mean())
    influence = np.zeros(len(x))
    difference = of_x - to_y
    influence[mask] = 2 * (difference - difference.mean()) * len(x) / n
    return value, influence
