"""Passes over the nodes in blocks that stay in the cache, on one thread or several, with sums that merge.

A pass visits every block once and keeps only sums, so that its working memory is a few blocks, whatever n is. Each
thread walks consecutive blocks and the threads' sums are merged in their order: how many there are changes the order of
sums and nothing else. NumPy lets go of the interpreter within each operation on a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Protocol, Self, TypeVar

import numpy as np

from duality.shards import merged

#: Doubles per block: 2 MB. Smaller ones of wide tables would stay in the cache, and cost more in calls than that saves;
#: of narrow ones the vectors that a pass makes are no longer than NODES, which do stay there.
BLOCK, NODES = 245_760, 30_720
_workers: ContextVar[int] = ContextVar("workers", default=1)


class Sums(Protocol):
    """What a pass adds up."""

    def merge(self, other: Self) -> None:
        """Add what the blocks after one's own came to."""


State = TypeVar("State", bound=Sums)


@contextmanager
def workers(count: int) -> Iterator[None]:
    """Passes within run on so many threads."""
    token = _workers.set(count)
    try:
        yield
    finally:
        _workers.reset(token)


def parts(n: int, m: int) -> list[slice]:
    """Consecutive ranges that cover n nodes, in blocks of at most `BLOCK` doubles of a table `(n, m)`."""
    size = min(max(BLOCK // max(m, 1), 1024), NODES)
    return [slice(k, min(k + size, n)) for k in range(0, n, size)]


def run(blocks: list[slice], visit: Callable[[list[slice]], State]) -> State:
    """What visiting all blocks comes to, those of other processes included where nodes are shared out."""
    return merged(_visited(blocks, visit))


def _visited(blocks: list[slice], visit: Callable[[list[slice]], State]) -> State:
    count = min(_workers.get(), len(blocks))
    if count <= 1:
        return visit(blocks)
    ends = [len(blocks) * k // count for k in range(count + 1)]
    shares = [blocks[a:b] for a, b in pairwise(ends)]
    with ThreadPoolExecutor(count) as pool:
        states = list(pool.map(visit, shares))
    for other in states[1:]:
        states[0].merge(other)
    return states[0]


def longest(blocks: list[slice]) -> int:
    """The most nodes that a block has."""
    return max(part.stop - part.start for part in blocks)


def weighed(weights: np.ndarray, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
    """weights `(m,)` times rows `(m, k)` -> `(k,)`, in out. BLAS is slow on one row."""
    if weights.size == 1:
        return np.multiply(rows[0], weights[0], out=out)
    return np.matmul(weights, rows, out=out)


def gram(deviation: np.ndarray, weighted: np.ndarray) -> np.ndarray:
    """deviation weightedᵀ of blocks `(m, k)` -> `(m, m)`.

    In pieces: OpenBLAS has kernels for small products that are three times as fast as those for large ones.
    """
    m, k = deviation.shape
    if m == 1:
        return np.asarray([[deviation[0] @ weighted[0]]])
    piece = max(900_000 // (m * m), 64)
    if k <= piece:
        return np.asarray(weighted @ deviation.T)
    total = np.zeros((m, m))
    for start in range(0, k, piece):
        total += weighted[:, start : start + piece] @ deviation[:, start : start + piece].T
    return total


def centred(raw: np.ndarray, total: float, mean: np.ndarray) -> np.ndarray | None:
    """raw - total · mean meanᵀ, second moments about the mean `(m, m)`; None where that costs more than four bits."""
    second = raw - mean[:, None] * (mean * total)
    for after, before in zip(second.diagonal().tolist(), raw.diagonal().tolist(), strict=True):
        if not 16.0 * after >= before:
            return None
    return second


class Moments:
    """Total mass, mean `(m,)` and central second moments `(m, m)` (times the mass) of a statistic.

    Blocks are centred at their own mean, and merged by sum_b C_b + sum_b M_b (mean_b - mean)(mean_b - mean)ᵀ, which has
    no cancellation and stays positive semidefinite (Chan, Golub and LeVeque 1983).
    """

    def __init__(self, m: int, curved: bool) -> None:
        self.total = 0.0
        self.mean = np.zeros(m)
        self.second: np.ndarray | None = np.zeros((m, m)) if curved else None

    def add(self, total: float, mean: np.ndarray, second: np.ndarray | None) -> None:
        """Those of more nodes."""
        if total <= 0.0:
            return
        if self.total == 0.0:
            self.total, self.mean, self.second = total, mean, second
            return
        both = self.total + total
        apart = mean - self.mean
        if self.second is not None and second is not None:
            self.second = self.second + second + np.outer(apart, apart * (self.total * (total / both)))
        self.mean = self.mean + apart * (total / both)
        self.total = both

    def scale(self, factor: float) -> None:
        """All masses times this."""
        self.total *= factor
        if self.second is not None:
            self.second = self.second * factor
