"""The dual function of signed mixtures over bounded expectations: `ForwardKL` beside `Likelihood` and `Keep`."""

from __future__ import annotations

from copy import copy

import numpy as np

from duality.dual_protocol import Evaluation, rounding
from duality.families import Mixtures, Statistics
from duality.groups import Partition
from duality.jackknife import over_groups
from duality.ratios import EPS
from duality.signed_dual import SignedDual
from duality.slices import spread

ROOT_STEPS = 200


class QuotientDual(SignedDual):
    """max_mu  -E[u log(u/eta)] + E[u] - E_c mu_c + sum_i s_i lam_i (b_i - E[e^rho_i rho_i]).

    u = 1 - sum_i s_i lam_i e^rho_i, eta = mu_c + nu·(T - beta), and the target is p = q u/eta, whose mass in each group
    is one at the best mu_c. For the cost KL(q‖p) with s_i KL(q_i‖p) ≥ s_i b_i and E_p[T_j] ≤ beta_j. What concerns u is
    `SignedDual`'s. The climb is in lam_i e^{max rho_i} and nu_j max|T_j - beta_j|, in which mu_c is 1 at the start.

    Args:
        mixtures: rho `(n, k)`, b and s.
        statistics: T `(n, l)` and beta; their s is zero.
        mixed: `(m,)`, which of the m = k + l constraints are mixtures; both kinds are in their own order.
        partition: the nodes that count, by group.
        log_weights: joint log weights `(n,)`.
    """

    def __init__(
        self,
        mixtures: Mixtures,
        statistics: Statistics,
        mixed: np.ndarray,
        partition: Partition,
        log_weights: np.ndarray,
    ) -> None:
        super().__init__(*mixtures, partition, log_weights)
        table = statistics.table[partition.order] - statistics.limits
        # -inf on positive mass: q has E_q[T] = -inf, and so has all that costs anything finite. It is met as it is.
        self._free = ~np.isfinite(table).all(axis=0)
        table = np.where(self._free, 0.0, table)
        reach = np.abs(table).max(axis=0)
        reach[reach == 0] = 1.0
        self._table = np.asfortranarray(table / reach)
        self.mixed, self.m = mixed, mixed.size
        self.lower = np.zeros(self.m)
        self._offset = np.zeros(reach.size)  # nu at the base, what it adds to eta, and what of that mu_c is to take up
        self._push, self._lift = np.zeros(partition.order.size), np.zeros(partition.count)
        self._price = np.empty(self.m)
        self._price[mixed], self._price[~mixed] = 1.0 / self._shrink, reach
        # Levels that conflict let g rise without bound; what is met with any room to spare costs less than this.
        self.ceiling = 1e5 * (1.0 + float(np.abs(mixtures.levels).max()))

    # -- the set that the climb is on --------------------------------------------------------------------------------

    def _wide(self, row: np.ndarray) -> np.ndarray:
        """Coefficients of x_i of the mixtures `(..., k)` as those of all x `(..., m)`."""
        wide = np.zeros((*row.shape[:-1], self.m))
        wide[..., self.mixed] = row
        return wide

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        rows, limits = super().rows()
        far = np.where(self.mixed, 0.0, 2.0**-46)  # prices of expectations have no bound but this
        return np.vstack([self._wide(rows), far]), np.append(limits, 1.0 - 2.0**-46 * float(self._offset.sum()))

    def cut(self, x: np.ndarray) -> tuple[np.ndarray, float] | None:
        found = super().cut(x[self.mixed])
        return None if found is None else (self._wide(found[0]), found[1])

    def refined(self, x: np.ndarray) -> QuotientDual | None:
        # As u, so eta may be 1e-15 at some nodes: those of least T, where it is a difference of large numbers.
        u, eta, _, _ = self._at(x)
        largest = self._groups.spread(np.maximum.reduceat(eta, self._groups.starts))
        if min(float(u.min()), float((eta / largest).min())) > 1e-3:
            return None
        finer = copy(self)
        finer._slack = u
        finer._base, finer._offset = self._base + x[self.mixed], self._offset + x[~self.mixed]
        push = self._push + self._table @ x[~self.mixed]
        least = np.minimum.reduceat(push, self._groups.starts)
        finer._push, finer._lift = push - self._groups.spread(least), self._lift + least
        finer.lower = np.empty(self.m)
        finer.lower[self.mixed], finer.lower[~self.mixed] = -finer._base, -finer._offset
        return finer

    def stride(self, x: np.ndarray, step: np.ndarray) -> float:
        return super().stride(x[self.mixed], step[self.mixed])

    def price(self, x: np.ndarray) -> np.ndarray:
        return self._price

    def _absolute(self, x: np.ndarray) -> np.ndarray:
        """x as it is without a base."""
        whole = np.array(x)
        whole[self.mixed] += self._base
        whole[~self.mixed] += self._offset
        return whole

    def to_natural(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._absolute(x) / self._price)

    def from_natural(self, natural: np.ndarray) -> np.ndarray:
        return np.asarray(natural * self._price - self._absolute(np.zeros(self.m)))

    # -- the function --------------------------------------------------------------------------------------------------

    def _levelled(self, u: np.ndarray, push: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """eta `(k,)` with `E_{q_c}[u/eta] = 1` in each group, eta = mu_c + push, and mu `(C,)`.

        By Newton's method on 1/E - 1 in the distance of mu_c from where eta vanishes at the node of least push (that
        keeps its digits however close the two are). A harmonic mean is concave, so steps from the left never pass the
        root; at a distance of that node's own weight E is at least one.
        """
        groups = self._groups
        weight = self._q * u / groups.spread(groups.shares)
        least = np.minimum.reduceat(push, groups.starts)
        above = push - groups.spread(least)
        distance = np.maximum(weight[groups.modes(-push)], np.finfo(float).tiny)
        for _ in range(ROOT_STEPS):
            eta = above + groups.spread(distance)
            ratio = weight / eta
            mean = groups.total(ratio)
            step = mean * (mean - 1.0) / groups.total(ratio / eta)
            distance = distance + np.maximum(step, -0.5 * distance)
            if (np.abs(step) <= 4 * EPS * distance).all():
                break
        return above + groups.spread(distance), distance - least

    def _at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """u, eta and log p/q `(k,)`, and mu `(C,)`."""
        fall = self._relative @ x[self.mixed]
        u = self._slack - fall
        eta, mu = self._levelled(u, self._push + self._table @ x[~self.mixed])
        return u, eta, self._log(u, fall) - np.log(eta), mu - self._lift

    def evaluate(self, x: np.ndarray) -> Evaluation:
        if (self._slack - self._relative @ x[self.mixed]).min() <= 0.0:
            nothing = np.zeros(self.m)
            return Evaluation(-np.inf, nothing, np.zeros((self.m, self.m)), nothing, 0.0, 0.0)
        u, eta, tilt, _ = self._at(x)
        p = self._q * u / eta
        divergence, whole = float(-self._q @ tilt), self._absolute(x)
        misses = np.empty(self.m)
        misses[self.mixed] = self._levels - (self._self - tilt @ self._mass)
        misses[~self.mixed] = (p @ self._table) * self._price[~self.mixed]
        gradient = misses / self._price
        excess = float(whole @ gradient)
        if self._free.any():
            free = np.flatnonzero(~self.mixed)[self._free]
            misses[free], gradient[free] = -np.inf, -1.0
        # |T| ≤ 1 in these coordinates, and the levels' terms are those of their two sums.
        size = np.abs(self._levels) + self._self_terms + np.abs(tilt) @ np.abs(self._mass)
        terms = float(self._q @ np.abs(tilt)) + float(whole[self.mixed] * self._shrink @ size)
        noise = rounding(divergence + excess, terms + float(whole[~self.mixed].sum()), u.size)
        return Evaluation(divergence + excess, gradient, self._curvature(u, eta), misses, excess, noise)

    def _curvature(self, u: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """E[u a aᵀ] with a = (s r/u, T/eta), less what mu_c takes up within each group; `(m, m)`."""
        taken = self._taken(u, eta)
        curvature = np.zeros((self.m, self.m))
        for part in self._slices:
            deviation = -taken[self._labels[part]] / eta[part, None]
            deviation[:, self.mixed] += self._relative[part] / u[part, None]
            deviation[:, ~self.mixed] += self._table[part] / eta[part, None]
            curvature += deviation.T @ (deviation * (self._q * u)[part, None])
        return curvature

    def _taken(self, u: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """-d mu_c / dx `(C, m)`: E_c[r/eta] and E_c[u T/eta²] over E_c[u/eta²]."""
        groups, weight = self._groups, self._q * u / eta**2
        taken = np.empty((groups.count, self.m))
        taken[:, self.mixed] = groups.total((self._q / eta)[:, None] * self._relative)
        taken[:, ~self.mixed] = groups.total(weight[:, None] * self._table)
        return np.asarray(taken / groups.total(weight)[:, None])

    def hessian(self, x: np.ndarray) -> np.ndarray:
        return -self.evaluate(x).curvature * np.outer(self._price, self._price)

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        tilt = self._at(x)[2]
        return spread(self._groups.normalised(self._log_q + tilt)[0], self._kept, self._n)

    def of_target(self, x: np.ndarray) -> np.ndarray:
        """Natural parameters `(m,)` with which `MixtureFamily.tilt` is this target's; NaN for nu in several groups."""
        natural = self.to_natural(x)
        if self._groups.count > 1:
            natural[~self.mixed] = np.nan
            return natural
        share = 1.0 - float(self._signs @ natural[self.mixed])
        natural[~self.mixed] *= share / float(self._at(x)[3][0])
        return natural

    # -- draws ---------------------------------------------------------------------------------------------------------

    def _terms(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As in `SignedDual`: g and its gradient by each node `(k,)`, `(k, m)`, mu following; and of each group.

        mu is a maximiser, so that g does not move with it. A gradient does: at a node of p/q = w, mu_c moves by
        (w - 1)/E_c[u/eta²].
        """
        u, eta, tilt, mu = self._at(x)
        groups, lam = self._groups, self.to_natural(x)[self.mixed]
        ratio = self._mass / self._q[:, None]
        finite = np.where(self._mass != 0, self._values, 0.0)
        pull = -u * tilt + u - (ratio * finite) @ lam
        own = np.empty((u.size, self.m))
        own[:, self.mixed] = -ratio * (finite - tilt[:, None])
        own[:, ~self.mixed] = (u / eta)[:, None] * self._table * self._price[~self.mixed]
        follow = self._taken(u, eta) * self._price
        conditions = own - groups.spread(follow) * (u / eta - 1.0)[:, None]
        weights = self._q / groups.spread(groups.shares)
        return pull, conditions, groups.total(weights * pull) - mu, groups.total(weights[:, None] * own)

    def log_mean_bias(self, x: np.ndarray) -> float:
        """Var_c(p/q)/(2 n_c E_c[u/eta²]): g is a maximum over mu, of a function that is linear in the law of draws."""
        u, eta, _, _ = self._at(x)
        groups, sizes = self._groups, self._groups.sizes.astype(float)
        weights = self._q / groups.spread(groups.shares)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = groups.total(weights * (u / eta - 1.0) ** 2) * sizes / (sizes - 1)
        return over_groups(variance / (2 * sizes * groups.total(weights * u / eta**2)), groups)
