"""What others than the climb read of the nodes of a signed mixture."""

from __future__ import annotations

import numpy as np

from duality.columns import Columns
from duality.slices import spread


class MixtureNodes:
    """The k nodes that have weight."""

    _ratio: Columns
    _log_q: np.ndarray
    _top: np.ndarray
    _shrink: np.ndarray
    _levels: np.ndarray
    _self: np.ndarray
    _kept: np.ndarray | None
    _n: int

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
        return np.asarray(
            self._levels - self._self + (np.exp(self._log_q) * log_ratio) @ self.table * np.exp(self._top)
        )

    def spread(self, log_p: np.ndarray) -> np.ndarray:
        """Log masses on these nodes as log masses on all `(n,)`."""
        return spread(log_p, self._kept, self._n)
