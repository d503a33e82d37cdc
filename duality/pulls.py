"""The terms of the delta method added up in one pass: how much each draw pulls the value and the conditions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from duality.passes import gram, parts, run

#: Draws of a block to their pull `(k,)` on g and `(m, k)` on the conditions of stationarity.
Pulls = Callable[[slice], tuple[np.ndarray, np.ndarray]]


class PullSums:
    """Sums over draws.

    Attributes:
        first, second: of the pull on g, and of its square.
        sizes, squares: of absolute values and squares of the pulls on each condition `(m,)`.
        products: of the pulls on two conditions `(m, m)`, where they are asked for.
    """

    def __init__(self, m: int) -> None:
        self.first = self.second = 0.0
        self.sizes, self.squares, self.products = np.zeros(m), np.zeros(m), np.zeros((m, m))

    def merge(self, other: PullSums) -> None:
        self.first, self.second = self.first + other.first, self.second + other.second
        self.sizes, self.squares = self.sizes + other.sizes, self.squares + other.squares
        self.products = self.products + other.products

    def deviation(self, n: int) -> float:
        """Standard deviation of the pull on g; its mean is zero but for rounding."""
        return float(np.sqrt(max(self.second / n - (self.first / n) ** 2, 0.0)))


def added_up(pulls: Pulls, n: int, m: int, products: bool) -> PullSums:
    """One pass over n draws and m conditions."""

    def visit(blocks: list[slice]) -> PullSums:
        sums = PullSums(m)
        for part in blocks:
            pull, conditions = pulls(part)
            sums.first += float(pull.sum())
            sums.second += float(pull @ pull)
            size = np.abs(conditions)
            sums.sizes += size.sum(axis=1)
            sums.squares += np.square(size, out=size).sum(axis=1)
            if products:
                sums.products += gram(conditions, conditions)
        return sums

    return run(parts(n, m), visit)
