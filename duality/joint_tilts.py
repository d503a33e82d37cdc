"""Parts that share the cost KL(p‖q): `ReverseKL`, `Likelihood` and `Keep`, in one exponential tilt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import Array, beside, expectation
from duality.answers import Answer
from duality.convex_form import shown, solve_by_cost
from duality.dual_protocol import Dual
from duality.families import Statistics
from duality.family_dual import FamilyDual
from duality.joint_family import Family, is_reverse
from duality.mixed_cost import MixedSearch
from duality.newton import Climb
from duality.problems import Problem, Shown
from duality.ratios import LogRatios


class TiltFamily(Family):
    """q e^{-theta·T}/Z with theta = lam/S, S = 1 - s·lam; see `FamilyDual`."""

    def __init__(self, parts: Sequence[Problem]) -> None:
        super().__init__(parts)
        #: s `(m,)`.
        self.sharing = self.each([float(part.direction) if is_reverse(part) else 0.0 for part in parts])

    def dual(self, joint: Problem, ratios: LogRatios) -> Dual:
        return FamilyDual(*_statistics(joint, ratios), ratios.partition, ratios.log_weights)

    def natural(self, multipliers: Array) -> Array:
        return multipliers / (1 - (beside(multipliers, self.sharing) * multipliers).sum())

    def multipliers(self, natural: np.ndarray) -> np.ndarray:
        return natural / (1 + float(self.sharing @ natural))

    def jacobian(self, natural: np.ndarray) -> np.ndarray:
        share = 1 / (1 + float(self.sharing @ natural))
        return np.asarray(share * (np.eye(natural.size) - share * np.outer(natural, self.sharing)))

    def domain(self, multipliers: np.ndarray) -> bool:
        return float(self.sharing @ multipliers) < 1

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        shared = float(np.maximum(self.sharing, 0.0) @ multipliers)
        return np.where(self.sharing > 0, multipliers * min(1.0, (1 - 1e-4) / max(shared, 1e-300)), multipliers)

    def tilt(self, values: Array, natural: Array) -> Array:
        return sum(part.tilt(v, a) for part, v, a in self.split(values, natural))

    def noised_tilt(self, values: Array, natural: Array) -> Array:
        return sum(part.noised_tilt(v, a) for part, v, a in self.split(values, natural))

    def strengths(self, values: Array, natural: Array) -> Array:
        xp = array_namespace(values)
        return xp.concat([part.strengths(v, a) for part, v, a in self.split(values, natural)], axis=-1)

    def answer(
        self, joint: Problem, ratios: LogRatios, dual: Dual, found: Climb, tolerance: float
    ) -> tuple[Climb, Answer | None]:
        settled = found.stationary(joint.units(ratios), tolerance)
        if settled or found.exhausted or not (self.sharing > 0).any():
            return found, None
        kind = MixedSearch if (self.sharing < 0).any() else None
        return found, solve_by_cost(ratios, *_statistics(joint, ratios), found, kind)

    def shown(
        self, joint: Problem, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray
    ) -> Shown | None:
        sharing = self.sharing
        if not (sharing > 0).any():
            return None
        # As for `ReverseKL`: concentrating p within nodes raises KL(p‖q) and changes no expectation.
        order = ratios.partition.order
        table, limits, _ = _statistics(joint, ratios)
        bound = shown(table[order] - limits, sharing, ratios.log_weights[order], log_weights[order])
        if not np.isfinite(bound):
            return None
        gap = expectation(np.exp(log_weights[order]), table[order] - limits) - sharing * bound
        gap = np.where(np.isfinite(table[order]).all(axis=0), gap, -np.inf)  # free, as in `shown`
        return Shown(bound, np.where(multipliers > 0, np.abs(gap), np.maximum(gap, 0.0)))


def _statistics(joint: Problem, ratios: LogRatios) -> Statistics:
    found = joint.statistics(ratios)
    assert found is not None  # the cost is KL(p‖q)
    return found
