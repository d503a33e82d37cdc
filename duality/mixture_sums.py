"""What one pass over a signed mixture adds up, as sums that merge."""

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


class Least:
    """The smallest entry of what is passed over, with r `(m,)` and u at the base at its first node."""

    def __init__(self, m: int) -> None:
        self.value, self.slack, self.row = np.inf, 1.0, np.zeros(m)

    def add(self, values: np.ndarray, r: np.ndarray | None = None, slack: np.ndarray | None = None) -> None:
        """Entries `(k,)` at further nodes, with r `(m, k)` and the slack `(k,)` there."""
        j = int(values.argmin())
        if values[j] < self.value:
            self.value = float(values[j])
            if r is not None and slack is not None:
                self.row, self.slack = np.array(r[:, j]), float(slack[j if slack.size > 1 else 0])

    def merge(self, other: Least) -> None:
        if other.value < self.value:
            self.value, self.slack, self.row = other.value, other.slack, other.row


class Peaks:
    """Where each r_i is largest: `heights` r_i `(m,)`, `rows` r `(m, m)` and `slacks` u at the base `(m,)`."""

    def __init__(self, m: int) -> None:
        self.heights, self.rows, self.slacks = np.full(m, -np.inf), np.zeros((m, m)), np.ones(m)

    def add(self, r: np.ndarray, slack: np.ndarray | None = None) -> None:
        """r `(m, k)` at further nodes, and the slack `(k,)` there; None for 1."""
        nodes = r.argmax(axis=1)
        heights = r[np.arange(nodes.size), nodes]
        higher = np.flatnonzero(heights > self.heights)
        if higher.size:
            self.heights[higher], self.rows[higher] = heights[higher], r[:, nodes[higher]].T
            self.slacks[higher] = 1.0 if slack is None else slack[nodes[higher]]

    def merge(self, other: Peaks) -> None:
        for i in np.flatnonzero(other.heights > self.heights):
            self.heights[i], self.rows[i], self.slacks[i] = other.heights[i], other.rows[i], other.slacks[i]
