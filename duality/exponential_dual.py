"""The dual function of exponential tilts, `ReverseKL` and `Likelihood`, in coordinates to climb in."""

from __future__ import annotations

from copy import copy
from typing import ClassVar

import numpy as np

from duality.dual_protocol import Dual, Evaluation, rounding
from duality.ratios import EPS
from duality.slices import slices, spread

FEW = 1000  # nodes, below which counting those that carry mass costs more than it saves


class ExponentialDual:
    """-log E_q[e^{-theta·(T - b)}], or the same divided by 1 + sum theta (shared=True).

    With statistics T and theta ≥ 0 the maximum over theta is the value of min KL(p‖q), E_p[T_i] ≤ b_i: `Likelihood`.
    For `ReverseKL`, T = rho and theta = a = lam/(1 - sum lam). Its dual in lam is the perspective of the above, ::

        g = lam·b - (1 - L) log E_q[e^{-lam·rho/(1 - L)}] = ( a·b - log E_q[e^{-a·rho}] ) / (1 + sum a),

    and the bound L < 1 becomes no bound on a at all. The map lam -> a is projective, so it carries line segments to
    line segments, and Newton's direction for the concave g in lam is, in a, the solution d of ::

        Cov_p(rho) d = r,       r_i = E_p[rho_i] + b_i - g,

    which is the Newton step for `Likelihood(kind="log-ratio")` at the levels g - b_i: the two problems share every
    line of code but the "- g". Gradient and curvature are both returned times 1 + sum a: that makes the gradient along
    a segment proportional to the slope of the *concave* g along the same segment in lam, so that the line search,
    which compares slopes, may rely on concavity (in a itself g is only quasiconcave).

    The climb is in x = theta · scale - base with T scaled to [-1, 1]: ratios of 1e-12 nats and of 1e4 look alike.
    The base is zero at first; `refined` moves it to where the climb arrived, so that targets which hang on small
    differences of large exponents (conflicting concepts, extreme nodes) are set to all digits.
    """

    def __init__(self, table: np.ndarray, log_weights: np.ndarray, levels: np.ndarray, *, shared: bool) -> None:
        self._n = log_weights.size
        self._kept: np.ndarray | None = None
        if not np.isfinite(log_weights).all():
            self._kept = np.isfinite(log_weights)
            table, log_weights = np.asfortranarray(table[self._kept]), log_weights[self._kept]
        self.m = table.shape[1]
        self.lower = np.zeros(self.m)
        self._log_q = log_weights
        self._shared = shared
        q = np.exp(log_weights)
        # A statistic of -inf on positive mass: q itself has E_q[T_i] = -inf (for ReverseKL, KL(q‖q_i) = inf), and so
        # has every tilt by the other statistics. The constraint holds whatever b is and its multiplier is zero.
        self._free = ~np.isfinite(table).all(axis=0)
        self._any_free = bool(self._free.any())
        if self._any_free:
            table = np.where(self._free, 0.0, table)
        # Statistics are centred where digits matter: at the level itself where E_p[T] is compared with it, at the mean
        # under q where it is compared with the level and the cost together.
        self._shift = q @ table if shared else np.where(self._free, 0.0, levels)
        centred = table - self._shift
        reach = np.maximum(centred.max(axis=0), -centred.min(axis=0))
        if not shared:
            # Exponents that matter are those of nodes below the level: where they lie a billionth as far from it as the
            # nodes above, exponents in units of the latter would have to pass REACH (weights of 1e-300, for instance).
            # (Within limits: squares of the table and multipliers have to stay below 1e308.)
            below = -centred.min(axis=0)
            reach = np.where(below > 0, np.maximum(below, np.maximum(1e-100 * reach, 1e-290)), reach)
        reach[reach <= 0] = 1.0
        centred /= reach
        self._scale = reach
        self._table = centred
        self._base = np.zeros(self.m)
        self._tilt: np.ndarray | float = 0.0  # log weight at the base
        self._beta = (levels - self._shift) / self._scale
        self.touch = 1e-12 * self.REACH
        self.ceiling = np.inf if shared else float(-log_weights.min())
        self._slices = slices(log_weights.size)

    # Where the tilt has concentrated on its extreme nodes the curvature vanishes and steps are without bound: exponents
    # stop here, fourteen decades out, beyond which nothing changes that double precision could show.
    REACH: ClassVar[float] = 2.0**46

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((1, self.m)), np.array([max(self.REACH - float(self._base.sum()), 0.0)])

    def cut(self, x: np.ndarray) -> tuple[np.ndarray, float] | None:
        return None

    def refined(self, x: np.ndarray) -> Dual | None:
        # Exponents of size x are off by eps x; where that reaches the tolerance, all digits of a correction count.
        if float((self._base + x).sum()) * EPS < 1e-13:
            return None
        finer = copy(self)
        finer._base, finer._tilt, finer.lower = self._base + x, self._tilt - self._table @ x, -(self._base + x)
        return finer

    def stride(self, x: np.ndarray, step: np.ndarray) -> float:
        return 1.0

    def price(self, x: np.ndarray) -> np.ndarray:
        return self._scale * self._share(x)

    def horizon(self, x: np.ndarray, at: Evaluation) -> np.ndarray:
        # ReverseKL's face sum lam = 1 lies at infinity in a. Its multiplier is the same miss for every active
        # constraint, and so their mean, lam·misses. At exponents of 1e9 nats a positive miss is no accident.
        reached = self._shared and float((self._base + x).sum()) > 1e9
        return np.full(self.m, max(at.excess, 0.0) if reached else 0.0)

    def to_natural(self, x: np.ndarray) -> np.ndarray:
        return (self._base + x) / self._scale

    def from_natural(self, natural: np.ndarray) -> np.ndarray:
        # A free constraint has no multiplier but zero, whatever was given: any other makes g = -inf.
        return np.where(self._free, self.lower, natural * self._scale - self._base)

    def _tilted(self, x: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Node masses p of the tilt `(n,)`, KL(p‖q), and the size of the terms that it is summed from.

        The divergence is summed over p, not taken from x·E_p[T] + log Z, which cancels where x is large.
        """
        tilt, mode = self._centred_tilt(x)
        p = np.exp(self._log_q + tilt - self._log_q[mode])
        total = float(p.sum())
        p /= total
        divergence = float(p @ tilt) - (float(np.log(total)) + float(self._log_q[mode]))
        return p, divergence, float(p @ np.abs(tilt)) + 1.0  # the masses add up to one, and the logarithm is of that

    def _centred_tilt(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """log w at the nodes `(n,)` relative to the heaviest node of the target, and which that is.

        Large tilts are subtracted from each other before anything small is added to them, or their rounding would
        enter the masses and not the divergence.
        """
        tilt = self._tilt - self._table @ x
        mode = int((self._log_q + tilt).argmax())
        tilt -= tilt[mode]
        return tilt, mode

    def _share(self, x: np.ndarray) -> float:
        """1 - sum lam = 1 / (1 + sum a) for the perspective, else 1."""
        return 1.0 / (1.0 + float(self.to_natural(x).sum())) if self._shared else 1.0

    def evaluate(self, x: np.ndarray) -> Evaluation:
        p, divergence, terms = self._tilted(x)
        mean = p @ self._table
        curvature = self._covariance(p, mean)
        core = mean - self._beta
        share = self._share(x)
        misses = core * self._scale
        if self._shared:
            misses -= divergence
        # g = KL(p‖q) + lam·misses, the Lagrangian at its minimiser: no large terms cancel in it.
        lam = share * self.to_natural(x)
        excess = float(lam @ misses)
        if self._shared:
            # r_i = misses_i - lam·misses, by differences: as sum lam nears 1 the two would cancel.
            core = (share * misses + (misses[:, None] - misses) @ lam) / self._scale
        gradient = core / share
        if self._any_free:
            gradient = np.where(self._free, -1.0, gradient)
            misses = np.where(self._free, -np.inf, misses)
        value = divergence + excess
        # |T| ≤ 1 in these coordinates, so the terms of lam·E_p[T] add up to no more than this.
        noise = rounding(value, terms + share * float((self._base + x).sum()), p.size)
        return Evaluation(value, gradient, curvature / share, misses, excess, noise)

    def _covariance(self, p: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Of the statistics under node masses p, `(m, m)`."""
        carrying = np.flatnonzero(p) if p.size > FEW else np.arange(p.size)
        if 4 * carrying.size < p.size:  # far out most masses are zero to the last bit, and say nothing
            deviation = self._table[carrying] - mean
            return np.asarray(deviation.T @ (deviation * p[carrying, None]))
        covariance = np.zeros((self.m, self.m))
        for part in self._slices:
            deviation = self._table[part] - mean
            covariance += deviation.T @ (deviation * p[part, None])
        return covariance

    def hessian(self, x: np.ndarray) -> np.ndarray:
        share = self._share(x)
        covariance = share * self.evaluate(x).curvature * np.outer(self._scale, self._scale)
        if not self._shared:
            return -covariance
        # The perspective: da/dlam = (I + a 1ᵀ)/c, and c · (da/dlam)ᵀ Cov (da/dlam) is what curvature g has in lam.
        change = (np.eye(self.m) + self.to_natural(x)[:, None]) / share
        return np.asarray(-share * change.T @ covariance @ change)

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        exponent = self._log_q + self._centred_tilt(x)[0]
        top = float(exponent.max())
        exponent -= top + np.log(np.exp(exponent - top).sum())
        return spread(exponent, self._kept, self._n)

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = self._tilted(x)[0]
        weight = p * self._log_q.size  # w/Z, of mean 1 over draws
        mean = p @ self._table
        share = self._share(x)
        pull = -share * (weight - 1.0)
        if self._shared:
            conditions = weight[:, None] * (self._table - mean) - pull[:, None] / self._scale
        else:
            conditions = weight[:, None] * (self._table - self._beta)
        return pull, conditions / share
