"""The dual function of exponential tilts, `ReverseKL` and `Likelihood`, in coordinates to climb in."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import ClassVar

import numpy as np

from duality.columns import Columns
from duality.dual_protocol import Dual, Evaluation, rounding
from duality.passes import longest, parts, weighed
from duality.pulls import Pulls
from duality.ratio_tables import EPS
from duality.shards import least_of, total
from duality.slices import slices, spread
from duality.tilt_passes import tilt_pass
from duality.tilt_pulls import tilt_pulls
from duality.tilt_sums import TiltSums


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

    The table is read in blocks, in one pass for each evaluation, and never copied as a whole.

    Args:
        table: T `(n, m)`.
        log_weights: `(n,)`, adding up to one.
        levels: b `(m,)`; -b for shared.
        shared: see above.
        ends: least and greatest T `(m,)` on the nodes that have weight, where they are known.
    """

    def __init__(
        self,
        table: np.ndarray | Columns,
        log_weights: np.ndarray,
        levels: np.ndarray,
        *,
        shared: bool,
        ends: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        columns = table if isinstance(table, Columns) else Columns(np.asfortranarray(table))
        self._n = log_weights.size
        self._kept: np.ndarray | None = None
        lightest = float(log_weights.min())
        if not np.isfinite(lightest):
            self._kept = np.isfinite(log_weights)
            columns, log_weights = columns.at(self._kept), log_weights[self._kept]
            lightest = float(log_weights.min())
        self.m = columns.m
        self.lower = np.zeros(self.m)
        self._columns = columns
        self._log_q = log_weights
        self._shared = shared
        least, greatest = columns.ends() if ends is None else ends
        # A statistic of -inf on positive mass: q itself has E_q[T_i] = -inf (for ReverseKL, KL(q‖q_i) = inf), and so
        # has every tilt by the other statistics. The constraint holds whatever b is and its multiplier is zero.
        self._free = ~(np.isfinite(least) & np.isfinite(greatest))
        self._any_free = bool(self._free.any())
        least, greatest = np.where(self._free, 0.0, least), np.where(self._free, 0.0, greatest)
        # Statistics are centred where digits matter: at the level itself where E_p[T] is compared with it, in their own
        # range, at zero if that is there, where it is compared with the level and the cost together.
        self._shift = np.minimum(np.maximum(least, 0.0), greatest) if shared else np.where(self._free, 0.0, levels)
        below, above = self._shift - least, greatest - self._shift
        reach = np.maximum(above, below)
        if not shared:
            # Exponents that matter are those of nodes below the level: where they lie a billionth as far from it as the
            # nodes above, exponents in units of the latter would have to pass REACH (weights of 1e-300, for instance).
            # (Within limits: squares of the table and multipliers have to stay below 1e308.)
            reach = np.where(below > 0, np.maximum(below, np.maximum(1e-100 * reach, 1e-290)), reach)
        reach[reach <= 0] = 1.0
        self._scale = reach
        self._positive = not self._any_free and bool((least >= 0).all())
        # Where centring would win less than two bits, and squares are in range, blocks are taken as they come.
        size = np.maximum(np.abs(least), np.abs(greatest))
        self._plain = not self._any_free and bool(
            ((np.abs(self._shift) <= 4 * reach) & (size < 1e100) & (reach > 1e-100)).all()
        )
        self._slope = -1.0 / reach if self._plain else np.full(self.m, -1.0)
        self._metric = self._slope * self._slope[:, None]
        self._base = np.zeros(self.m)
        self._tilt: np.ndarray | float = 0.0  # log weight at the base, but for a constant
        self._levels, self._beta = levels, (levels - self._shift) / self._scale
        self.touch = 1e-12 * self.REACH
        self.ceiling = np.inf if shared else -least_of(lightest)
        self._size = int(total(log_weights.size))  # of all nodes, those of other processes included
        self._slices = slices(log_weights.size)
        self._parts = parts(log_weights.size, self.m)
        self._latest: tuple[bytes, TiltSums] | None = None
        self._mode: tuple[np.ndarray, float] | None = None
        self._own = type(self).evaluate is ExponentialDual.evaluate

    # Where the tilt has concentrated on its extreme nodes the curvature vanishes and steps are without bound: exponents
    # stop here, fourteen decades out, beyond which nothing changes that double precision could show.
    REACH: ClassVar[float] = 2.0**46
    grain = 1.0  # how much coarser the numbers are than doubles

    @cached_property
    def _table(self) -> np.ndarray:
        """T centred and scaled `(k, m)`, as a whole."""
        return np.asfortranarray((np.where(self._free, 0.0, self._columns.whole()) - self._shift) / self._scale)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((1, self.m)), np.array([max(self.REACH - float(self._base.sum()), 0.0)])

    def cut(self, x: np.ndarray) -> tuple[np.ndarray, float] | None:
        return None

    def refined(self, x: np.ndarray) -> Dual | None:
        # Exponents of size x are off by eps x; where that reaches the tolerance, all digits of a correction count.
        if float((self._base + x).sum()) * EPS < 1e-13:
            return None
        finer = copy(self)
        finer._base, finer._tilt, finer.lower = self._base + x, self._tilt_at(x), -(self._base + x)
        finer._latest = None
        return finer

    def _tilt_at(self, x: np.ndarray) -> np.ndarray:
        return self._tilt - self._table @ x  # log weight (k,), but for a constant

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

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _block(self, part: slice, out: np.ndarray) -> np.ndarray:
        """T `(m, k)` of some nodes: centred and scaled, unless `_plain`."""
        rows = self._columns.block(part, out)
        if self._plain:
            return rows
        centred = out[:, : part.stop - part.start]
        if self._any_free:
            rows = np.where(self._free[:, None], 0.0, rows)
        np.subtract(rows, self._shift[:, None], out=centred)
        centred /= self._scale[:, None]
        return centred

    def _falls(self, x: np.ndarray) -> np.ndarray:
        # The factors (m,) of what `_block` gives in the tilt.
        return np.asarray(x * self._slope, dtype=self._log_q.dtype)

    def _sums(self, x: np.ndarray, curved: bool) -> TiltSums:
        """One pass over the nodes, of the tilt at x."""
        seen = self._latest
        if seen and seen[0] == x.tobytes() and not (curved and seen[1].moments.second is None):
            return seen[1]
        found = tilt_pass(self, self._falls(x), curved)
        self._latest = (x.tobytes(), found)
        return found

    def _share(self, x: np.ndarray) -> float:
        """1 - sum lam = 1 / (1 + sum a) for the perspective, else 1."""
        return 1.0 / (1.0 + sum(self.to_natural(x).tolist())) if self._shared else 1.0

    def evaluate(self, x: np.ndarray) -> Evaluation:
        return self._read(x, self._sums(x, True))

    def glance(self, x: np.ndarray) -> Evaluation:
        """As `evaluate`, with the curvature in a pass of its own if it is asked for."""
        return self._read(x, self._sums(x, False)) if self._own else self.evaluate(x)

    def _read(self, x: np.ndarray, sums: TiltSums) -> Evaluation:
        # Of a few numbers each: lists cost less than arrays, of which every operation is a call.
        divergence, scale = sums.divergence, self._scale.tolist()
        exponents = [base + each for base, each in zip(self._base.tolist(), x.tolist(), strict=True)]
        theta = [each / unit for each, unit in zip(exponents, scale, strict=True)]
        share = 1.0 / (1.0 + sum(theta)) if self._shared else 1.0
        goals = (self._levels if self._plain else self._beta).tolist()
        factors = [1.0] * self.m if self._plain else scale
        means = zip(sums.moments.mean.tolist(), goals, factors, strict=True)
        apart = divergence if self._shared else 0.0
        wrong = [(mean - goal) * factor - apart for mean, goal, factor in means]
        # g = KL(p‖q) + lam·misses, the Lagrangian at its minimiser: no large terms cancel in it.
        excess = share * sum(each * miss for each, miss in zip(theta, wrong, strict=True))
        misses = np.array(wrong)
        if not self._shared:
            core = wrong
        elif share > 0.1:
            core = [miss - excess for miss in wrong]
        else:
            # r_i = misses_i - lam·misses, by differences where sum lam nears 1 and the two would cancel.
            core = (share * misses + (misses[:, None] - misses) @ (share * np.array(theta))).tolist()
        gradient = np.array([each / (unit * share) for each, unit in zip(core, scale, strict=True)])
        if self._any_free:
            gradient = np.where(self._free, -1.0, gradient)
            misses = np.where(self._free, -np.inf, misses)
        value = divergence + excess
        # |T| ≤ 1 in these coordinates, so the terms of lam·E_p[T] add up to no more than this.
        noise = self.grain * rounding(value, sums.terms + share * sum(exponents), self._size)
        lazy = sums.moments.second is None
        bend = (lambda: self._scaled(share, self._sums(x, True))) if lazy else self._scaled(share, sums)
        return Evaluation(value, gradient, bend, misses, excess, noise)

    def _scaled(self, share: float, sums: TiltSums) -> np.ndarray:
        """Of g in the coordinates of the climb, from the covariance of T."""
        assert sums.moments.second is not None
        return np.asarray(sums.moments.second * (self._metric / (sums.moments.total * share)))

    def hessian(self, x: np.ndarray) -> np.ndarray:
        share = self._share(x)
        covariance = share * self.evaluate(x).curvature * np.outer(self._scale, self._scale)
        if not self._shared:
            return -covariance
        # The perspective: da/dlam = (I + a 1ᵀ)/c, and c · (da/dlam)ᵀ Cov (da/dlam) is what curvature g has in lam.
        change = (np.eye(self.m) + self.to_natural(x)[:, None]) / share
        return np.asarray(-share * change.T @ covariance @ change)

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        return spread(self._log_masses(x), self._kept, self._n)

    def _log_masses(self, x: np.ndarray) -> np.ndarray:
        sums, falls = self._sums(x, False), self._falls(x)
        log_total = float(np.log(sums.moments.total))
        self._columns.release()
        exponent = np.empty(self._log_q.size)
        out = np.empty((self.m, longest(self._parts)))
        for part in self._parts:
            tilt = weighed(falls, self._block(part, out), exponent[part])
            if isinstance(self._tilt, np.ndarray):
                tilt += self._tilt[part]
            tilt -= sums.tilt
            tilt += self._log_q[part]
            tilt -= sums.log_q + log_total
        return exponent

    def pulls(self, x: np.ndarray) -> Pulls:
        """`influence` block by block."""
        return tilt_pulls(self, x)

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pull, conditions = self.pulls(x)(slice(0, self._log_q.size))
        return pull, conditions.T
