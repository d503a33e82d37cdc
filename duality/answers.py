"""What maximising a dual function came to, before it is read as a `Solution`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
        smooth: whether g has derivatives at lam, on which standard errors rest.
    """

    multipliers: np.ndarray
    value: float
    natural: np.ndarray
    log_weights: np.ndarray
    active: np.ndarray
    climb: Climb
    iterations: int
    limit: bool
    smooth: bool = True


def read_climb(found: Climb) -> Answer:
    """The point that a climb ended at; multipliers are its natural parameters, as they are for most problems."""
    natural = found.dual.to_natural(found.x)
    return Answer(
        multipliers=natural,
        value=found.at.value,
        natural=natural,
        log_weights=found.dual.log_masses(found.x),
        active=found.active,
        climb=found,
        iterations=found.iterations,
        limit=bool(found.pressure.any()),
    )
