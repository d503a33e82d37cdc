"""The dual function of signed mixtures, `ForwardKL`, in coordinates to climb in."""

from __future__ import annotations

from copy import copy
from typing import ClassVar

import numpy as np

from duality.dual_protocol import Dual, Evaluation, rounding
from duality.ratios import EPS
from duality.slices import slices, spread


class MixtureDual:
    """-E_q[u log u] + Z log Z + sum_i lam_i (b_i - E_q[e^{rho_i} rho_i]), with u = 1 - sum_i lam_i e^{rho_i}.

    u is the unnormalised density of the target against q and Z = E_q[u]. The domain is the polyhedron u ≥ 0 at every
    node of positive weight, and g is finite and continuous up to its boundary, because u log u -> 0. Only the
    *levels* run off there, as -log u: that is how a level beyond the critical one shows.

    **Attained or not.** On finitely many nodes the level can always be had, by driving u to e^{-missing/mass} at the
    one node (or few) that define the face: an artefact, since on the continuum that node is a set whose mass tends to
    zero as the nodes are refined. The ratios are known to a relative `eps (1 + |rho|)`, so u cannot be told from zero
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
        # Scales are kept where e^top and e^-top are finite. A q_i that is nowhere above e^-700 is as good as absent.
        absent = top < -700.0
        if absent.any():
            values = np.asfortranarray(np.where(absent, -np.inf, values))
        self._top = np.where(absent, 0.0, top)
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
        self._slices = slices(log_weights.size)

    @property
    def log_q(self) -> np.ndarray:
        """`(k,)`, on the k nodes that have weight."""
        return self._log_q

    @property
    def table(self) -> np.ndarray:
        """e^{rho_i - max rho_i} on these nodes, `(k, m)`, in [0, 1]."""
        return self._relative

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
        return np.asarray(self._levels - self._self + log_ratio @ self._mass)

    def spread(self, log_p: np.ndarray) -> np.ndarray:
        """Log masses on these nodes as log masses on all `(n,)`."""
        return spread(log_p, self._kept, self._n)

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
        with np.errstate(over="ignore"):  # what hardly falls has room without end
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
        faint = self._faint(float(u.min()), mass.size)
        noise = rounding(value, terms, mass.size)
        return Evaluation(value, gradient, curvature, misses, float((self._base + x) @ gradient), noise, faint)

    def _faint(self, least: float, n: int) -> float:
        """By how much rounding may move an entry of the gradient, where u is at least `least`."""
        # log u is off by eps (|log u| + 1/u) unless the base keeps its digits; where it is not, this is generous.
        off = EPS * (4.0 - np.log(least) + 1.0 / least)
        sums = EPS * (16.0 + 4.0 * np.sqrt(n)) * (np.abs(self._levels) + self._self_terms)
        return float((self._shrink * (sums + off * (1.0 + np.abs(self._total)))).max())

    def hessian(self, x: np.ndarray) -> np.ndarray:
        return -self.evaluate(x).curvature / np.outer(self._shrink, self._shrink)

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        fall = self._relative @ x
        u = self._slack - fall
        log_u = self._log(u, fall)
        z = float(self._q @ u)
        return spread(self._log_q + log_u - np.log(z), self._kept, self._n)

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
