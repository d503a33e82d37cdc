"""The dual function of power tilts, `Renyi`."""

from __future__ import annotations

import numpy as np

from duality.dual_protocol import Evaluation, rounding
from duality.exponential_dual import ExponentialDual
from duality.slices import spread


class RenyiDual(ExponentialDual):
    """-log E_q[v^k],   v = (1 - lam·(T - b)/k)_+,   k = order/(order - 1).

    The target is q v^{k-1}/Z. As k grows v^k tends to e^{-lam·(T - b)}, the dual function of `Likelihood`, from whose
    class all that is not written here is taken: T is centred at b and scaled to [-1, 1], the climb is in lam · scale.

    B = E_q[v^k] is convex and g = -log B rises and falls along a line as -B does. Newton's direction is that of B,
    B''⁻¹B', so that the curvature is B''/B. The gradient of g is (E_p T - b) E_q[v^{k-1}]/B, and at the maximum, where
    lam·(E_p T - b) = 0, E_q[v^{k-1}] = B.
    """

    def __init__(self, table: np.ndarray, log_weights: np.ndarray, levels: np.ndarray, order: float) -> None:
        super().__init__(table, log_weights, levels, shared=False)
        self._k = order / (order - 1.0)
        self._q = np.exp(self._log_q)

    def _roots(self, x: np.ndarray) -> np.ndarray:
        """v `(n,)`."""
        return np.maximum(1.0 - self._table @ x / self._k, 0.0)

    def refined(self, x: np.ndarray) -> None:
        return None

    def to_natural(self, x: np.ndarray) -> np.ndarray:
        return super().to_natural(x) / self._k

    def from_natural(self, natural: np.ndarray) -> np.ndarray:
        return super().from_natural(natural * self._k)

    def evaluate(self, x: np.ndarray) -> Evaluation:
        k, v = self._k, self._roots(x)
        top = float(v.max())
        if top <= 0.0:  # lam·(T - b) ≥ k everywhere: no density has E_p[T] ≤ b
            nothing = np.zeros(self.m)
            return Evaluation(np.inf, nothing, np.zeros((self.m, self.m)), nothing, 0.0, 0.0)
        relative = v / top
        lower = self._q * relative ** (k - 1.0)  # the target, but for its mass
        mass, total = float(lower.sum()), float(lower @ relative)
        value = -(k * float(np.log(top)) + float(np.log(total)))
        mean = lower @ self._table / mass
        gradient = (mass / total / top) * mean
        bend = np.where(relative > 0, self._q * relative ** (k - 2.0), 0.0)
        curvature = np.zeros((self.m, self.m))
        for part in self._slices:
            curvature += self._table[part].T @ (self._table[part] * bend[part, None])
        curvature *= (k - 1.0) / k / (total * top**2)
        misses = gradient * self._scale  # d g/d lam, which is the miss itself at the maximum
        if self._any_free:
            gradient, misses = np.where(self._free, -1.0, gradient), np.where(self._free, -np.inf, misses)
        used = x > 0
        excess = float(x[used] @ gradient[used])
        return Evaluation(value, gradient, curvature, misses, excess, rounding(value, 1.0, v.size))

    def hessian(self, x: np.ndarray) -> np.ndarray:
        at = self.evaluate(x)
        bent = np.outer(at.gradient, at.gradient) - at.curvature
        return np.asarray(bent * np.outer(self._scale, self._scale))

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        v = self._roots(x)
        if not v.any():
            v = np.ones_like(v)  # no density is left: the climb has passed its ceiling
        with np.errstate(divide="ignore"):
            exponent = self._log_q + (self._k - 1.0) * np.log(v)
        top = float(exponent.max())
        return spread(exponent - (top + np.log(np.exp(exponent - top).sum())), self._kept, self._n)

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v = self._roots(x)
        powers = v ** (self._k - 1.0)
        total = float(self._q @ (powers * v))
        return -(powers * v / total - 1.0), (powers / total)[:, None] * self._table
