"""Bounded likelihoods at the least Rényi divergence, chi-squared among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import Array, beside, logsumexp, pick, safe_log
from duality.dual_protocol import Dual
from duality.families import Statistics
from duality.likelihood import Likelihood
from duality.ratios import LogRatios
from duality.renyi_dual import RenyiDual


@dataclass(frozen=True, eq=False)
class Renyi(Likelihood):
    """min R_a(p‖q) = log E_q[(p/q)^a]/(a - 1) subject to E_p[l_i] ≤ b_i, with a the order.

    The optimal target is q (1 - sum_i lam_i (l_i - b_i)/k)_+^{1/(a-1)}/Z with k = a/(a - 1): weights are bounded by a
    power of lam, and vanish where l is far above the level. Order 2 is chi-squared, chi² = e^{R_2} - 1, with the target
    q ((mu - lam·l)/2)_+; as the order falls to 1 the problem becomes `Likelihood`.

    Args:
        levels: b, a number for all constraints or `(m,)`, in the unit of l.
        kind, priors: as in `Likelihood`.
        order: a in (1, 2].

    Raises:
        ValueError: as `Likelihood`, and for another order. `solve`: for ratios in several groups.

    Source: docs/theory, "other costs".
    """

    order: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1.0 < self.order <= 2.0:
            raise ValueError(
                f"order: {self.order} given, an order in (1, 2] is needed: 1 itself is Likelihood, and above 2 the dual"
                " function has kinks where weights vanish, on which its maximum cannot be certified"
            )

    @property
    def exponent(self) -> float:
        """k = a/(a - 1)."""
        return self.order / (self.order - 1.0)

    def bind(self, ratios: LogRatios) -> Self:
        if ratios.grouped:
            raise ValueError(
                "groups: given, but Renyi knows one normaliser only: a power of a mean over groups is no mean of powers"
                " within them; solve each group alone, or take Likelihood"
            )
        return super().bind(ratios)

    def natural(self, multipliers: Array) -> Array:
        return multipliers / self.exponent

    def multipliers(self, natural: np.ndarray) -> np.ndarray:
        return natural * self.exponent

    def jacobian(self, natural: np.ndarray) -> np.ndarray:
        return self.exponent * np.eye(natural.size)

    def _root(self, values: Array, natural: Array) -> Array:
        xp = array_namespace(values)
        miss = self.likelihoods(values) - beside(values, self.levels)
        v = 1 - pick(xp, natural, miss)
        return xp.maximum(v, xp.zeros_like(v))

    def tilt(self, values: Array, natural: Array) -> Array:
        return safe_log(array_namespace(values), self._root(values, natural)) / (self.order - 1.0)

    noised_tilt = tilt  # to leading order

    def strengths(self, values: Array, natural: Array) -> Array:
        xp = array_namespace(values)
        v = self._root(values, natural)
        floor = xp.full_like(v, float(np.finfo(np.float64).eps))
        return natural * self.slopes(values) / (xp.maximum(v, floor)[..., None] * (self.order - 1.0))

    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        held = np.isfinite(log_weights)
        tilt = (self.order - 1.0) * (log_weights[held] - ratios.log_weights[held])
        return float(logsumexp(np, (log_weights[held] + tilt)[None])[0]) / (self.order - 1.0)

    def statistics(self, ratios: LogRatios) -> Statistics | None:  # type: ignore[override]
        return None  # another cost than that of the problems that can be joined

    def dual(self, ratios: LogRatios) -> Dual:
        return RenyiDual(self._table(ratios), ratios.log_weights, self.levels, self.order)
