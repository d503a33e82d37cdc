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
    known: tuple[float, np.ndarray, np.ndarray, np.ndarray, float, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """By how much each of some draws moves g `(k,)` and the levels' conditions `(m, k)`.

    Args:
        ratio: e^rho `(m, k)`.
        values: rho `(m, k)`.
        u: `(k,)`.
        log_u: `(k,)`.
        known: means over all draws: of u, e^rho, e^rho rho, e^rho (rho - log u), and -u log u; and lam.
    """
    z, total, own, informed, cost, lam = known
    log_z = float(np.log(z))
    finite, centred = np.where(ratio > 0, values, 0.0), u - z
    conditions = informed[:, None] - ratio * (finite - log_u)
    conditions -= (ratio - total[:, None]) * log_z + np.outer(total, centred) / z
    pull = -(u * log_u + cost) + (1.0 + log_z) * centred - lam @ (ratio * finite - own[:, None])
    return pull, conditions
