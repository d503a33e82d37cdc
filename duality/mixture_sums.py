"""What one pass over a signed mixture adds up, as sums that merge; and what it needs to know before the first."""

from __future__ import annotations

import numpy as np

from duality.passes import Moments


class MixtureSums:
    """Sums over nodes at one x.

    Attributes:
        least: the smallest u.
        mass: E_q[u].
        cost: -E_q[u log u].
        logs: E_q[r log u] `(m,)`, r the ratios relative to their largest.
        moments: of r/u under the masses q u.
    """

    def __init__(self, m: int, curved: bool) -> None:
        self.least = np.inf
        self.mass = self.cost = 0.0
        self.logs = np.zeros(m)
        self.moments = Moments(m, curved)

    def merge(self, other: MixtureSums) -> None:
        self.least = min(self.least, other.least)
        self.mass, self.cost = self.mass + other.mass, self.cost + other.cost
        self.logs = self.logs + other.logs
        self.moments.add(other.moments.total, other.moments.mean, other.moments.second)


class MixtureFacts:
    """Sums over nodes that do not depend on x.

    Attributes:
        total: E_q[r] `(m,)`.
        own: E_q[r rho] `(m,)`, and `own_terms` of its absolute values.
        peaks: `(m,)` the first nodes where r is largest, with `heights`, r there.
    """

    def __init__(self, m: int) -> None:
        self.total, self.own, self.own_terms = np.zeros(m), np.zeros(m), np.zeros(m)
        self.peaks, self.heights = np.zeros(m, dtype=np.intp), np.full(m, -np.inf)

    def rise(self, nodes: np.ndarray, heights: np.ndarray) -> None:
        """Nodes further on `(m,)` with r there."""
        higher = heights > self.heights
        self.peaks, self.heights = np.where(higher, nodes, self.peaks), np.where(higher, heights, self.heights)

    def merge(self, other: MixtureFacts) -> None:
        self.rise(other.peaks, other.heights)
        self.total = self.total + other.total
        self.own, self.own_terms = self.own + other.own, self.own_terms + other.own_terms


class Least:
    """The smallest entry of what is passed over, and its first node."""

    def __init__(self) -> None:
        self.value, self.node = np.inf, -1

    def add(self, values: np.ndarray, start: int) -> None:
        """Entries `(k,)` at nodes from `start` on."""
        j = int(values.argmin())
        if values[j] < self.value:
            self.value, self.node = float(values[j]), start + j

    def merge(self, other: Least) -> None:
        if other.value < self.value:
            self.value, self.node = other.value, other.node
