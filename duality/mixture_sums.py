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


def pulls(
    ratio: np.ndarray,
    values: np.ndarray,
    u: np.ndarray,
    log_u: np.ndarray,
    known: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """By how much each of n draws moves g `(n,)` and the levels' conditions `(n, m)`.

    Args:
        ratio: e^rho `(n, m)`.
        values: rho `(n, m)`.
        u: `(n,)`.
        log_u: `(n,)`.
        known: E_q[e^rho], E_q[e^rho rho] and lam, `(m,)` each.
    """
    total, own, lam = known
    z = float(u.mean())
    log_z = float(np.log(z))
    finite, centred = np.where(ratio > 0, values, 0.0), u - z
    information = ratio * (finite - log_u[:, None])
    conditions = -(information - information.mean(axis=0))
    conditions -= (ratio - total) * log_z + np.outer(centred, total) / z
    pull = -(u * log_u - (u * log_u).mean()) + (1.0 + log_z) * centred - (ratio * finite - own) @ lam
    return pull, conditions
