"""Bounded expectations on a face of the dual domain, where steps along u leave their prices unsettled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from duality.dual_protocol import Dual, Evaluation
from duality.newton import SURE, Climb, maximise
from duality.quotient_dual import QuotientDual


def settle_expectations(found: Climb, units: np.ndarray) -> Climb:
    """A climb of a `QuotientDual` that went on in nu alone, where expectations are missed.

    On a face u is 1e-15 at some node, its curvature 1e15, and Newton's steps in all multipliers at once keep no digits
    for nu. Given lam, g is smooth in nu: the target then meets the expectations, and what it misses of the divergences
    is bought (`beyond_signed`).
    """
    dual = found.dual
    if not isinstance(dual, QuotientDual):
        return found
    bounded = ~dual.mixed
    wrong = np.where(found.active, np.abs(found.at.misses), found.at.misses)
    if not (wrong > SURE * units)[bounded].any():
        return found
    dual = dual.refined(found.x) or dual
    start = np.zeros(dual.m) if dual is not found.dual else found.x
    part = _Expectations(dual, start)
    again = maximise(part, start[bounded], units[bounded])
    x = part.whole(again.x)
    at = dual.evaluate(x)
    if not at.value >= found.at.value - found.at.noise - at.noise:
        return found
    return replace(found, dual=dual, x=x, at=at, active=x > dual.lower, iterations=found.iterations + again.iterations)


class _Expectations:
    """A `QuotientDual` in the prices of its expectations alone, the others as they are at x."""

    def __init__(self, dual: QuotientDual, x: np.ndarray) -> None:
        self._dual, self._x, self._bounded = dual, x, ~dual.mixed
        self.m = int(self._bounded.sum())
        self.lower, self.touch, self.ceiling = dual.lower[self._bounded], dual.touch, np.inf

    def whole(self, x: np.ndarray) -> np.ndarray:
        every = self._x.copy()
        every[self._bounded] = x
        return every

    def evaluate(self, x: np.ndarray) -> Evaluation:
        at, chosen = self._dual.evaluate(self.whole(x)), self._bounded
        curvature = at.curvature[np.ix_(chosen, chosen)]
        excess = float((x - self.lower) @ at.gradient[chosen])
        return Evaluation(at.value, at.gradient[chosen], curvature, at.misses[chosen], excess, at.noise)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        rows, limits = self._dual.rows()
        return rows[-1:, self._bounded], limits[-1:]

    def cut(self, x: np.ndarray) -> tuple[np.ndarray, float] | None:
        return None

    def refined(self, x: np.ndarray) -> Dual | None:
        return None

    def stride(self, x: np.ndarray, step: np.ndarray) -> float:
        return 1.0

    def price(self, x: np.ndarray) -> np.ndarray:
        return self._dual.price(self._x)[self._bounded]

    def horizon(self, x: np.ndarray, at: Evaluation) -> np.ndarray:
        return np.zeros(self.m)

    def to_natural(self, x: np.ndarray) -> np.ndarray:
        return self._dual.to_natural(self.whole(x))[self._bounded]

    def from_natural(self, natural: np.ndarray) -> np.ndarray:
        return natural * self.price(natural) + self.lower

    def hessian(self, x: np.ndarray) -> np.ndarray:
        return self._dual.hessian(self.whole(x))[np.ix_(self._bounded, self._bounded)]

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        return self._dual.log_masses(self.whole(x))

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pull, conditions = self._dual.influence(self.whole(x))
        return pull, conditions[:, self._bounded]
