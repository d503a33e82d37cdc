"""What maximising a dual function came to, before it is read as a `Solution`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.dual_protocol import Dual
from duality.newton import Climb


@dataclass(frozen=True)
class Answer:
    """Multipliers with the value that they prove, and a density with the cost that it proves.

    Attributes:
        multipliers: lam `(m,)`.
        value: g(lam), nats.
        natural: `(m,)` natural parameters of the target; those of lam, unless the target is a limit.
        log_weights: `(n,)` log masses of the target.
        active: `(m,)`, which multipliers are positive.
        climb: where the climb of the dual function ended: for standard errors.
        iterations: Newton steps, all climbs together.
        limit: whether the dual maximum lies on the boundary of its domain, so that the target is a limit of densities
            and need not meet the levels itself.
    """

    multipliers: np.ndarray
    value: float
    natural: np.ndarray
    log_weights: np.ndarray
    active: np.ndarray
    climb: Climb
    iterations: int
    limit: bool

    @property
    def dual(self) -> Dual:
        """The function climbed last."""
        return self.climb.dual
