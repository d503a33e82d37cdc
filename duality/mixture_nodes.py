"""What others than the climb read of the nodes of a signed mixture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from duality.columns import Columns
from duality.passes import longest, run
from duality.slices import spread

#: Terms of a level that are so many times its unit leave it all the digits that a certificate asks for.
LARGE = 100.0


class _Means:
    def __init__(self, m: int) -> None:
        self.cost = self.squares = 0.0
        self.first = np.zeros(m)

    def merge(self, other: _Means) -> None:
        self.cost, self.squares = self.cost + other.cost, self.squares + other.squares
        self.first = self.first + other.first


class MixtureNodes:
    """The k nodes that have weight."""

    _ratio: Columns
    _log_q: np.ndarray
    _top: np.ndarray
    _growth: np.ndarray
    _shrink: np.ndarray
    _levels: np.ndarray
    _self: np.ndarray
    _self_terms: np.ndarray
    _parts: list[slice]
    _qs: Callable[[slice], np.ndarray]
    _kept: np.ndarray | None
    _n: int
    m: int

    @property
    def log_q(self) -> np.ndarray:
        """`(k,)`, on the k nodes that have weight."""
        return self._log_q

    @property
    def table(self) -> np.ndarray:
        """e^{rho_i - max rho_i} on these nodes, `(k, m)`, in [0, 1]."""
        return self._ratio.whole()

    @property
    def shrink(self) -> np.ndarray:
        """e^{-max rho_i} `(m,)`, multipliers per unit of x."""
        return self._shrink

    @property
    def gain(self) -> np.ndarray:
        """The part of g that is linear in x, `(m,)`."""
        return self._shrink * (self._levels - self._self)

    def misses_of(self, log_ratio: np.ndarray) -> np.ndarray:
        """b_i - KL(q_i‖p) `(m,)` for a density with log p/q `(k,)` on these nodes."""
        return np.asarray(self._levels - self._self + (np.exp(self._log_q) * log_ratio) @ self.table * self._growth)

    def means_of(self, log_p: np.ndarray, units: np.ndarray) -> tuple[float, np.ndarray, float] | None:
        """What `mixture_means` says of log masses `(n,)`, from the ratios that are kept; None where digits would go.

        KL(q_i‖p) = E_q[e^{rho_i} rho_i] - E_q[e^{rho_i} log p/q]: a difference, that keeps the digits of a level
        where the terms are not much larger than its unit. It is off by eps (16 + 4 sqrt(n)) of them.
        """
        if self._kept is not None or not self._ratio.direct or (self._self_terms > LARGE * units).any():
            return None

        def visit(blocks: list[slice]) -> _Means:
            sums, size = _Means(self.m), longest(blocks)
            out, apart, mass = np.empty((self.m, size)), np.empty(size), np.empty(size)
            for part in blocks:
                k = part.stop - part.start
                p = np.exp(log_p[part], out=mass[:k])
                sums.squares += float(p @ p)
                gap = np.subtract(self._log_q[part], log_p[part], out=apart[:k])
                gap *= self._qs(part)
                sums.cost += float(gap.sum())
                sums.first += self._ratio.block(part, out) @ gap
            return sums

        found = run(self._parts, visit)
        levels = self._self + self._growth * found.first
        return (found.cost, levels, found.squares) if np.isfinite(levels).all() else None

    def spread(self, log_p: np.ndarray) -> np.ndarray:
        """Log masses on these nodes as log masses on all `(n,)`."""
        return spread(log_p, self._kept, self._n)
