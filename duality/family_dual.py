"""The dual function of exponential tilts with one normaliser for each group, and with constraints of several kinds."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from duality.dual_protocol import Evaluation, rounding
from duality.exponential_dual import ExponentialDual
from duality.groups import Partition
from duality.jackknife import jackknife_log, over_groups
from duality.slices import spread


class FamilyDual(ExponentialDual):
    """`g(lam) = -lam·beta - S sum_c P(c) log E_{q_c}[e^{-theta·T}]`,   theta = lam/S,  S = 1 - sum_i s_i lam_i.

    The constraints are E_p[T_i] - s_i KL(p‖q) ≤ beta_i. With s_i = 0 that bounds an expectation (`Likelihood`, and with
    -T `Keep`); with s_i = 1 and T = rho_i it is -KL(p‖q_i) ≤ -b_i (`ReverseKL`). All share the tilt e^{-theta·T}. g is
    a perspective as in `ExponentialDual`, from which all that is not written here is taken: Newton's direction in theta
    is the solution d of Cov d = r with r_i = misses_i - s_i lam·misses, covariances being those within groups.

    Args:
        table: T `(n, m)`.
        levels: beta `(m,)`.
        sharing: s `(m,)`: 0, 1 or -1.
        partition: the nodes that count, by group.
        log_weights: joint log weights `(n,)`, in which group c has the share P(c).
    """

    def __init__(
        self,
        table: np.ndarray,
        levels: np.ndarray,
        sharing: np.ndarray,
        partition: Partition,
        log_weights: np.ndarray,
    ) -> None:
        order = partition.order
        super().__init__(np.asfortranarray(table[order]), log_weights[order], levels, shared=False)
        self._n, self._kept = log_weights.size, order
        self._groups = partition
        self._sharing = sharing
        self._shared = bool(sharing.any())
        if self._shared:  # compared with the level and the cost together: centred at the mean under q
            used = ~self._free
            mean = np.exp(self._log_q) @ self._table
            self._table = self._table - np.where((sharing > 0) & used, mean, 0.0)
            self._shift = self._shift + np.where((sharing > 0) & used, mean * self._scale, 0.0)
            reach = np.abs(self._table).max(axis=0)
            reach[reach == 0] = 1.0
            self._table /= reach
            self._scale = self._scale * reach
            self._beta = (levels - self._shift) / self._scale
        self._labels = np.repeat(np.arange(partition.count), partition.sizes)
        # q within its group; the most that any density on these nodes can cost.
        self._log_conditional = self._log_q - partition.spread(np.log(partition.shares))
        most = partition.shares @ -np.minimum.reduceat(self._log_conditional, partition.starts)
        self.ceiling = float(most)
        if self._shared:
            # Cost of a density that meets E_p[T_i] ≤ beta_i + s_i c, concentrated within nodes until KL(p‖q) = c.
            tops = (self._table.max(axis=0) - self._beta) * self._scale
            if (sharing > 0).all():
                self.ceiling = np.inf  # the KL levels alone can always be had
            elif (sharing > 0).any():
                self.ceiling = max(self.ceiling, float(tops[sharing > 0].max()))

    # Where constraints KL(p‖q_i) ≤ c take part, S may grow without bound: theta then nears the face 1 + s·theta = 0.
    FACE: ClassVar[float] = 2.0**-40

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        rows, limits = super().rows()
        if not (self._sharing < 0).any():
            return rows, limits
        face = -self._sharing / self._scale
        room = 1.0 - self.FACE - float(face @ self._base)
        return np.vstack([rows, face * self.REACH]), np.append(limits, room * self.REACH)

    def _share(self, x: np.ndarray) -> float:
        return 1.0 / (1.0 + float(self._sharing @ self.to_natural(x)))

    def horizon(self, x: np.ndarray, at: Evaluation) -> np.ndarray:
        return super().horizon(x, at) * (self._sharing > 0)

    def _grouped_tilt(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log w at the nodes `(k,)` relative to the heaviest of their group, and which nodes those are `(C,)`."""
        tilt = self._tilt - self._table @ x
        modes = self._groups.modes(self._log_conditional + tilt)
        tilt -= self._groups.spread(tilt[modes])
        return tilt, modes

    def _tilted(self, x: np.ndarray) -> tuple[np.ndarray, float, float]:
        p, divergence, _, _ = self._at(x)
        return p, divergence, divergence + 1.0 + float(np.abs(self._base + x).sum())

    def _at(self, x: np.ndarray) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
        """Joint masses of the tilt `(k,)`, KL(p‖q), `E_{p_c} T` `(C, m)`, log Z_c `(C,)`."""
        groups = self._groups
        tilt, modes = self._grouped_tilt(x)
        absolute = (self._tilt[modes] if isinstance(self._tilt, np.ndarray) else self._tilt) - self._table[modes] @ x
        base = self._log_conditional[modes]
        p = np.exp(self._log_conditional + tilt - groups.spread(base))
        totals = groups.total(p)
        p *= groups.spread(groups.shares / totals)
        log_z = np.log(totals) + base  # relative to the tilt at the mode
        if groups.count == 1:
            means = (p @ self._table)[None]
        else:
            means = groups.total(p[:, None] * self._table) / groups.shares[:, None]
        return p, float(p @ tilt) - float(groups.shares @ log_z), means, log_z + absolute

    def evaluate(self, x: np.ndarray) -> Evaluation:
        if not 1.0 + float(self._sharing @ self.to_natural(x)) > 0:
            nothing = np.zeros(self.m)
            return Evaluation(-np.inf, nothing, np.zeros((self.m, self.m)), nothing, 0.0, 0.0)
        p, divergence, means, _ = self._at(x)
        mean = self._groups.shares @ means
        curvature = np.zeros((self.m, self.m))
        for part in self._slices:
            deviation = self._table[part] - means[self._labels[part]]
            curvature += deviation.T @ (deviation * p[part, None])
        share, s = self._share(x), self._sharing
        misses = (mean - self._beta) * self._scale - s * divergence
        excess = float(share * self.to_natural(x) @ misses)
        core = misses
        if self._shared:
            # misses_i - lam·misses, by differences: as S nears 0 the two would cancel.
            among = share * misses + (np.outer(misses, s) - misses) @ (share * self.to_natural(x))
            core = np.where(s > 0, among, misses - s * excess)
        gradient = core / (self._scale * share)
        if self._any_free:
            gradient = np.where(self._free, -1.0, gradient)
            misses = np.where(self._free, -np.inf, misses)
        value = divergence + excess
        # |T| ≤ 1 in these coordinates: the terms of lam·E_p[T] add up to no more, nor, within 1 nat, do those of KL.
        reach = float(np.abs(self._base + x).sum())
        noise = rounding(value, divergence + 1.0 + (1.0 + share) * reach, p.size)
        return Evaluation(value, gradient, curvature / share, misses, excess, noise)

    def hessian(self, x: np.ndarray) -> np.ndarray:
        share = self._share(x)
        covariance = share * self.evaluate(x).curvature * np.outer(self._scale, self._scale)
        change = (np.eye(self.m) + np.outer(self.to_natural(x), self._sharing)) / share
        return np.asarray(-share * change.T @ covariance @ change)

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        tilt, _ = self._grouped_tilt(x)
        exponent, _ = self._groups.normalised(self._log_conditional + tilt)
        return spread(exponent, self._kept, self._n)

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By draws within groups: with omega = p/q, -S (omega - 1), and `omega (T - E_{p_c} T)` less s_i the first."""
        p, _, means, _ = self._at(x)
        pull = -self._share(x) * (p - np.exp(self._log_q)) * p.size
        conditions = (p * p.size)[:, None] * (self._table - self._groups.spread(means))
        return pull, (conditions - np.outer(pull, self._sharing / self._scale)) / self._share(x)

    def group_influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where groups are a sample, `(C,)` and `(C, m)`: -S log Z_c and `E_{p_c} T`, centred, times C P(c)."""
        _, _, means, log_z = self._at(x)
        shares = self._groups.shares
        size = shares.size * shares
        pull = -self._share(x) * size * (log_z - shares @ log_z)
        conditions = size[:, None] * (means - shares @ means) - np.outer(pull, self._sharing / self._scale)
        return pull, conditions / self._share(x)

    def log_mean_bias(self, x: np.ndarray) -> float:
        p, _, _, _ = self._at(x)
        bias = jackknife_log(p / self._groups.spread(self._groups.shares), self._groups)
        return -self._share(x) * over_groups(bias, self._groups)
