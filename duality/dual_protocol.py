"""What the solver asks of a dual function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np

from duality.ratios import EPS


@dataclass(slots=True)  # not frozen: one is made in every pass, and frozen ones take longer
class Evaluation:
    """The dual function at one point: all that a Newton step and a stopping rule need.

    Attributes:
        value: g, nats.
        gradient: `(m,)`.
        bend: the curvature, or what computes it on demand.
        misses: `(m,)`, by how much the tilt misses each level, in the level's unit; positive where it is not met.
        excess: lam·misses, by which the value exceeds the cost of the tilt.
        noise: how far rounding may have moved the value, nats; see `rounding`.
        faint: how far it may have moved the gradient, where directions without curvature are to be expected; else 0.
    """

    value: float
    gradient: np.ndarray
    bend: np.ndarray | Callable[[], np.ndarray]
    misses: np.ndarray
    excess: float
    noise: float
    faint: float = 0.0

    @property
    def curvature(self) -> np.ndarray:
        """`(m, m)`, positive semidefinite; the metric of the Newton step."""
        if not isinstance(self.bend, np.ndarray):
            self.bend = self.bend()
        return np.asarray(self.bend)


def glance(dual: Dual, x: np.ndarray) -> Evaluation:
    """`dual.evaluate(x)`, by a dual function that has a `glance` of its own without the curvature until it is asked."""
    return getattr(dual, "glance", dual.evaluate)(x)  # type: ignore[no-any-return]


def rounding(value: float, terms: float, n: int) -> float:
    """`eps (16 (1 + |value|) + 4 sqrt(n) terms)`: by how much rounding may move a value that sums over n nodes.

    terms is the sum of the absolute values of all summands. A sum of n doubles in *any* order is off by at most
    8 sqrt(n) u times that, u = eps/2, but for a chance of 2n e^-32, roundings being about as good as independent
    (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis", theorem 3.1). The order is the
    processor's: what eight accumulators add to 2e-16, one adds to 1e-14. The first part is for the logarithms.
    """
    return EPS * (16.0 * (1.0 + abs(value)) + 4.0 * sqrt(n) * terms)


class Dual(Protocol):
    """What the solver asks of a concave dual function on the set {x ≥ lower, row·x ≤ limit for all rows}."""

    m: int
    #: Lower bounds `(m,)`, where the multipliers vanish.
    lower: np.ndarray
    #: How close to its limit a row counts as reached.
    touch: float
    #: No feasible problem has a larger value, so that a dual value above it certifies infeasibility.
    ceiling: float

    def evaluate(self, x: np.ndarray) -> Evaluation:
        """Value -inf where x is outside the domain."""

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Linear constraints `(k, m)` and limits `(k,)` to start with."""

    def cut(self, x: np.ndarray) -> tuple[np.ndarray, float] | None:
        """The most violated linear constraint at x, or None."""

    def refined(self, x: np.ndarray) -> Dual | None:
        """The same function in coordinates centred at x, if these are too coarse to tell points near x apart."""

    def stride(self, x: np.ndarray, step: np.ndarray) -> float:
        """The part in (0, 1] of a step that may be trusted to the quadratic model."""

    def price(self, x: np.ndarray) -> np.ndarray:
        """Misses of the levels per unit of gradient, `(m,)`."""

    def horizon(self, x: np.ndarray, at: Evaluation) -> np.ndarray:
        """The part `(m,)` of the misses that a face of the domain at infinity is to answer for."""

    def to_natural(self, x: np.ndarray) -> np.ndarray:
        """Natural parameters of the tilt."""

    def from_natural(self, natural: np.ndarray) -> np.ndarray:
        """The inverse."""

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """d²g/dlam² `(m, m)`, negative semidefinite, in the multipliers themselves."""

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        """log p on all nodes `(n,)`, normalised; -inf on nodes without weight."""

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How much each node pulls g `(n,)` and the stationarity conditions `(n, m)`: the terms of the delta method."""
