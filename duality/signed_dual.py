"""The dual function of signed mixtures with one normaliser for each group, and with constraints that keep."""

from __future__ import annotations

import numpy as np

from duality.columns import Columns
from duality.dual_protocol import Evaluation, rounding
from duality.groups import Partition
from duality.jackknife import over_groups
from duality.mixture_dual import MixtureDual
from duality.slices import spread


class SignedDual(MixtureDual):
    """-E[u log u] + sum_c P(c) Z_c log Z_c + sum_i lam_i s_i (b_i - E[e^rho_i rho_i]).

    u = 1 - sum_i s_i lam_i e^rho_i, E is the mean over groups and within them, `Z_c = E_{q_c}[u]`. With s_i = 1 the
    constraint is KL(q_i‖p) ≥ b_i (`ForwardKL`), with s_i = -1 it is KL(q_i‖p) ≤ b_i (`Keep`). What is not written here
    is `MixtureDual`'s, read with s_i e^rho_i in the place of e^rho_i and s_i b_i in that of b_i.

    Args:
        values: rho `(n, m)`.
        levels: b `(m,)`.
        signs: s `(m,)`, 1 or -1.
        partition: the nodes that count, by group.
        log_weights: joint log weights `(n,)`, in which group c has the share P(c).
    """

    def __init__(
        self,
        values: np.ndarray,
        levels: np.ndarray,
        signs: np.ndarray,
        partition: Partition,
        log_weights: np.ndarray,
    ) -> None:
        order = partition.order
        super().__init__(np.asfortranarray(values[order]), log_weights[order], levels * signs)
        self._n, self._kept, self._groups, self._signs = log_weights.size, order, partition, signs
        self._values, self._q = self._columns.whole(), np.exp(self._log_q)
        self._relative = np.asfortranarray(self.table * signs)
        self._ratio = Columns(self._relative)
        self._slack: np.ndarray = np.ones(order.size)
        self._mass = self._relative * self._q[:, None] * np.exp(self._top)
        self._totals = partition.total(self._mass)
        self._self = self._self * signs
        self._labels = np.repeat(np.arange(partition.count), partition.sizes)
        if (signs < 0).any():
            # Levels that conflict let g rise without bound; what is met with any room to spare costs less than this.
            self.ceiling = 1e5 * (1.0 + float(np.abs(levels).max()))

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        unlearned = self._signs > 0
        chosen = self._relative[:, unlearned].argmax(axis=0)
        if self._base.any():
            chosen = np.append(chosen, self._slack.argmin())
        rows, limits = self._relative[chosen], np.maximum(self._slack[chosen] - self.floor, 0.0)
        if not unlearned.all():  # multipliers that keep have no bound but this, which stands for infinity
            kept = np.where(unlearned, 0.0, 2.0**-46)
            rows, limits = np.vstack([rows, kept]), np.append(limits, 1.0 - float(kept @ self._base))
        return rows, limits

    def _log(self, u: np.ndarray, fall: np.ndarray) -> np.ndarray:
        """log u, for u = slack - fall: around the origin by log1p, which keeps the digits of small multipliers."""
        return np.log(u) if self._base.any() else np.log1p(-fall)

    def _state(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u and log u `(k,)`, and Z_c `(C,)`."""
        fall = self._relative @ x
        u = self._slack - fall
        log_u = self._log(u, fall)
        return u, log_u, self._groups.total(self._q * u) / self._groups.shares

    def evaluate(self, x: np.ndarray) -> Evaluation:
        if (self._slack - self._relative @ x).min() <= 0.0:
            nothing = np.zeros(self.m)
            return Evaluation(-np.inf, nothing, np.zeros((self.m, self.m)), nothing, 0.0, 0.0)
        u, log_u, z = self._state(x)
        log_z = np.log(z)
        misses = self._levels - (self._self - log_u @ self._mass + log_z @ self._totals)
        mass = self._q * u
        cost, normal, lam = -(mass * log_u), self._groups.shares * z * log_z, self.to_natural(x)
        value = float(cost.sum() + normal.sum()) + float(lam @ (self._levels - self._self))
        terms = float(np.abs(cost).sum() + np.abs(normal).sum())
        terms += float(np.abs(lam) @ (np.abs(self._levels) + self._self_terms))
        # Z_c times the covariance of r/u within each group under the target, as in `MixtureDual`.
        means = self._groups.total(self._q[:, None] * self._relative) / (self._groups.shares * z)[:, None]
        curvature = np.zeros((self.m, self.m))
        for part in self._slices:
            deviation = self._relative[part] / u[part, None] - means[self._labels[part]]
            curvature += deviation.T @ (deviation * mass[part, None])
        gradient = self._shrink * misses
        faint = self._faint(float(u.min()), mass.size)
        noise = rounding(value, terms, mass.size)
        return Evaluation(value, gradient, curvature, misses, float((self._base + x) @ gradient), noise, faint)

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        _, log_u, z = self._state(x)
        return spread(self._log_q + log_u - self._groups.spread(np.log(z)), self._kept, self._n)

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By draws within groups: the terms of `MixtureDual.influence`, each centred within its group."""
        pull, conditions, _, _ = self._terms(x)
        groups = self._groups
        n = self._q.size
        weights = self._q / groups.spread(groups.shares)
        pull = pull - groups.spread(groups.total(weights * pull))
        conditions = conditions - groups.spread(groups.total(weights[:, None] * conditions))
        return n * self._q * pull, n * self._q[:, None] * conditions / self.price(x)

    def group_influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By groups `(C,)` and `(C, m)`, where these are a sample: their parts of g and of the conditions, centred."""
        _, _, value, conditions = self._terms(x)
        shares = self._groups.shares
        size = shares.size * shares
        pull = size * (value - shares @ value)
        return pull, size[:, None] * (conditions - shares @ conditions) / self.price(x)

    def _terms(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each node `(k,)`, `(k, m)` the derivative of g and of the conditions; of each group their values."""
        u, log_u, z = self._state(x)
        log_z = np.log(z)
        groups, lam = self._groups, self.to_natural(x)
        ratio = self._mass / self._q[:, None]
        finite = np.where(self._mass != 0, self._values, 0.0)
        log_spread, z_spread = groups.spread(log_z), groups.spread(z)
        totals = self._totals / groups.shares[:, None]
        information = ratio * (finite - log_u[:, None])
        pull = -u * log_u + (1.0 + log_spread) * u - (ratio * finite) @ lam
        conditions = -information - ratio * log_spread[:, None] - groups.spread(totals) * (u / z_spread)[:, None]
        own = groups.total(self._mass * finite) / groups.shares[:, None]
        value = groups.total(-self._q * u * log_u) / groups.shares + z * log_z - own @ lam
        levels = groups.total(self._q[:, None] * information) / groups.shares[:, None] + totals * log_z[:, None]
        return pull, conditions, value, -levels

    def log_mean_bias(self, x: np.ndarray) -> float:
        # Of Z log Z: a mean times its logarithm, each without one draw.
        u, _, z = self._state(x)
        sizes = self._groups.sizes.astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            left = (self._groups.spread(sizes * z) - u) / self._groups.spread(sizes - 1)
            terms = self._groups.total(left * np.log(left)) / sizes
        return over_groups((sizes - 1) * (terms - z * np.log(z)), self._groups)
