"""The two dual functions, in coordinates that the solver climbs in.

Both are expectations under q of the log weight of a tilt, so both need one pass over the nodes for value, gradient
and curvature together:

    ExponentialDual   g(x) = c(x) · ( -x·beta - log E_q[e^{-x·T}] )         ReverseKL, Likelihood
    MixtureDual       g(x) = -E_q[u log u] + Z log Z + lam·(b - E_q[e^rho rho]),  u = 1 - sum_i lam_i e^{rho_i}
                                                                              ForwardKL

Nodes without weight are dropped on entry. Large tables are walked in slices, so that the working memory beyond the
table itself stays a few vectors of length n.
"""

from __future__ import annotations

from copy import copy
from typing import ClassVar

import numpy as np

from duality.dual_protocol import Dual, Evaluation, rounding
from duality.ratios import EPS

SLICE = 1 << 16  # rows per slice: temporaries of 2 MiB at m = 4, inside the cache


class ExponentialDual:
    """-log E_q[e^{-theta·(T - b)}], or the same divided by 1 + sum theta (shared=True).

    With statistics T and theta ≥ 0 the maximum over theta is the value of min KL(p‖q), E_p[T_i] ≤ b_i: `Likelihood`.
    For `ReverseKL`, T = rho and theta = a = lam/(1 - sum lam). Its dual in lam is the perspective of the above,

        g = lam·b - (1 - L) log E_q[e^{-lam·rho/(1 - L)}] = ( a·b - log E_q[e^{-a·rho}] ) / (1 + sum a),

    and the bound L < 1 becomes no bound on a at all. The map lam -> a is projective, so it carries line segments to
    line segments, and Newton's direction for the concave g in lam is, in a, the solution d of

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
        reach[reach == 0] = 1.0
        centred /= reach
        self._scale = reach
        self._table = centred
        self._base = np.zeros(self.m)
        self._tilt: np.ndarray | float = 0.0  # log weight at the base
        self._beta = (levels - self._shift) / self._scale
        self.touch = 1e-12 * self.REACH
        self.ceiling = np.inf if shared else float(-log_weights.min())
        self._slices = [slice(k, k + SLICE) for k in range(0, log_weights.size, SLICE)]

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
        return natural * self._scale - self._base

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
        if len(self._slices) == 1:
            deviation = self._table - mean
            curvature = deviation.T @ (deviation * p[:, None])
        else:
            curvature = np.zeros((self.m, self.m))
            for part in self._slices:
                deviation = self._table[part] - mean
                curvature += deviation.T @ (deviation * p[part, None])
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
        return _spread(exponent, self._kept, self._n)

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


class MixtureDual:
    """-E_q[u log u] + Z log Z + sum_i lam_i (b_i - E_q[e^{rho_i} rho_i]), with u = 1 - sum_i lam_i e^{rho_i}.

    u is the unnormalised density of the target against q and Z = E_q[u]. The domain is the polyhedron u ≥ 0 at every
    node of positive weight, and g is finite and continuous up to its boundary, because u log u -> 0. Only the
    *levels* run off there, as -log u: that is how a level beyond the critical one shows.

    **Attained or not.** On finitely many nodes the level can always be had, by driving u to e^{-missing/mass} at the
    one node (or few) that define the face: an artefact, since on the continuum that node is a set whose mass tends to
    zero as the nodes are refined. The ratios are known to a relative eps (1 + |rho|), so u cannot be told from zero
    below about eps max(1, rho). The climb therefore stays in u ≥ RESOLUTION · max(1, max rho): where the optimum of
    that slightly smaller polyhedron presses against a face, the level is one that no density attains as far as
    these nodes can tell, and g there is the value to within RESOLUTION · log(1/RESOLUTION). This rule depends on
    neither the number of nodes nor how they are split. It errs for a face of large mass (disjoint supports) only at
    levels beyond log(1/RESOLUTION), about 33 nats, where lam itself has no digits left to say by how much it
    misses the face. And it cannot see a face that the nodes do not reach: with few draws the target may rest on the
    one with the largest ratio, which is what the warning on few draws is for.

    The climb is in x_i = lam_i e^{max_j rho_ji} - base_i, so that the polyhedron fits the unit box. The base is zero at
    first. Near a face, where u is much smaller than 1, doubles near 1 are too far apart to set u to a relative eps;
    `refined` then moves the base to where the climb arrived, so that x becomes a small correction with all its digits.
    """

    RESOLUTION: ClassVar[float] = 16 * EPS

    def __init__(self, values: np.ndarray, log_weights: np.ndarray, levels: np.ndarray) -> None:
        self._n = log_weights.size
        self._kept: np.ndarray | None = None
        if not np.isfinite(log_weights).all():
            self._kept = np.isfinite(log_weights)
            values, log_weights = np.asfortranarray(values[self._kept]), log_weights[self._kept]
        self.m = values.shape[1]
        top = values.max(axis=0)
        if top.max() > 700:
            raise ValueError(
                f"values: a log ratio of {top.max():.5g} nats given, but ForwardKL works with e^rho, which overflows"
                " above 700 (E_q[e^rho] must be 1, so exact ratios stay below -min log_weights)"
            )
        self._top = np.where(np.isfinite(top), top, 0.0)  # q_i without any mass on the nodes: its column is zero
        self._shrink = np.exp(-self._top)
        self._values = values
        self._log_q = log_weights
        self._q = np.exp(log_weights)
        self._relative = np.exp(values - self._top)
        self._mass = np.exp(values + log_weights[:, None])
        self._total = self._mass.sum(axis=0)
        finite = np.where(self._mass > 0, values, 0.0) if not np.isfinite(values).all() else values
        self._self = np.einsum("nm,nm->m", self._mass, finite)
        self._self_terms = np.einsum("nm,nm->m", self._mass, np.abs(finite))
        self._levels = levels
        self._heavy = self._mass.max(axis=1) > EPS
        self._heavy_relative = self._relative[self._heavy]
        self._base = np.zeros(self.m)
        self._slack = np.ones(len(log_weights))  # u at the base
        self.lower = np.zeros(self.m)
        self.floor = self.RESOLUTION * max(1.0, float(self._top.max()))
        self.touch = self.floor / 4
        self.ceiling = np.inf
        self._slices = [slice(k, k + SLICE) for k in range(0, log_weights.size, SLICE)]

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        # At first one node for each constraint, its largest ratio; later also the node of least slack.
        chosen = self._relative.argmax(axis=0)
        if self._base.any():
            chosen = np.append(chosen, self._slack.argmin())
        return self._relative[chosen], np.maximum(self._slack[chosen] - self.floor, 0.0)

    def cut(self, x: np.ndarray) -> tuple[np.ndarray, float] | None:
        u = self._slack - self._relative @ x
        j = int(u.argmin())
        if u[j] >= self.floor / 2:
            return None
        return self._relative[j], float(self._slack[j]) - self.floor

    def refined(self, x: np.ndarray) -> Dual | None:
        slack = self._slack - self._relative @ x
        if slack.min() > 1e-3:  # eps / 1e-3 leaves u the twelve digits that a residual of 1e-10 needs, and more
            return None
        finer = copy(self)
        finer._base, finer._slack, finer.lower = self._base + x, slack, -(self._base + x)
        return finer

    def stride(self, x: np.ndarray, step: np.ndarray) -> float:
        # Quadratic models of u log u hold over a factor, not over decades: no node that matters loses more than nine
        # tenths of its u at once. Nodes of negligible mass may go to the face directly.
        fall = self._heavy_relative @ step
        falling = fall > 0
        if not falling.any():
            return 1.0
        u = (self._slack[self._heavy] - self._heavy_relative @ x)[falling]
        return min(1.0, max(0.9 * float((u / fall[falling]).min()), 1e-3))

    def price(self, x: np.ndarray) -> np.ndarray:
        return 1.0 / self._shrink

    def horizon(self, x: np.ndarray, at: Evaluation) -> np.ndarray:
        return np.zeros(self.m)

    def to_natural(self, x: np.ndarray) -> np.ndarray:
        return (self._base + x) * self._shrink

    def from_natural(self, natural: np.ndarray) -> np.ndarray:
        return natural / self._shrink - self._base

    def _log(self, u: np.ndarray, fall: np.ndarray) -> np.ndarray:
        """log u, for u = slack - fall: around the origin by log1p, which keeps the digits of small multipliers."""
        return np.log(u) if self._base.any() else np.log1p(-fall)

    def evaluate(self, x: np.ndarray) -> Evaluation:
        fall = self._relative @ x
        u = self._slack - fall
        if u.min() <= 0.0:
            nothing = np.zeros(self.m)
            return Evaluation(-np.inf, nothing, np.zeros((self.m, self.m)), nothing, 0.0, 0.0)
        log_u = self._log(u, fall)
        z = float(self._q @ u)
        log_z = float(np.log(z))
        reached = self._self - log_u @ self._mass + self._total * log_z
        misses = self._levels - reached
        mass = self._q * u
        cost, lam = -float(mass @ log_u), self.to_natural(x)
        value = cost + z * log_z + float(lam @ (self._levels - self._self))
        # u ≤ 1, so the terms of the cost have one sign; those of E_q[e^rho rho] may cancel, by the size of rho.
        terms = cost + abs(z * log_z) + float(lam @ (np.abs(self._levels) + self._self_terms))
        # sum_j q_j r_j r_jᵀ/u_j - (E_q[r] E_q[r]ᵀ)/Z is Z times the covariance of r/u under the target: centred, it
        # neither cancels nor turns indefinite where q_i and q are nearly the same.
        mean = (self._q @ self._relative) / z
        curvature = np.zeros((self.m, self.m))
        for part in self._slices:
            deviation = self._relative[part] / u[part, None] - mean
            curvature += deviation.T @ (deviation * mass[part, None])
        gradient = self._shrink * misses
        noise = rounding(value, terms, mass.size)
        return Evaluation(value, gradient, curvature, misses, float((self._base + x) @ gradient), noise)

    def hessian(self, x: np.ndarray) -> np.ndarray:
        return -self.evaluate(x).curvature / np.outer(self._shrink, self._shrink)

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        fall = self._relative @ x
        u = self._slack - fall
        log_u = self._log(u, fall)
        z = float(self._q @ u)
        return _spread(self._log_q + log_u - np.log(z), self._kept, self._n)

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = self._log_q.size
        fall = self._relative @ x
        u = self._slack - fall
        log_u = self._log(u, fall)
        z = float(u.mean())
        log_z = float(np.log(z))
        ratio = self._mass * n
        finite = np.where(self._mass > 0, self._values, 0.0)
        centred = u - z
        information = ratio * (finite - log_u[:, None])
        conditions = -(information - information.mean(axis=0))
        conditions -= (ratio - self._total) * log_z + np.outer(centred, self._total) / z
        own = ratio * finite - self._self
        pull = -(u * log_u - (u * log_u).mean()) + (1.0 + log_z) * centred - own @ self.to_natural(x)
        return pull, conditions * self._shrink


def _spread(kept_values: np.ndarray, kept: np.ndarray | None, n: int) -> np.ndarray:
    """Back from the nodes that have weight to all n, with -inf elsewhere."""
    if kept is None:
        return kept_values
    full = np.full(n, -np.inf)
    full[kept] = kept_values
    return full
