"""Reverse KL: stay close to q, and so far from every q_i."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import (
    Array,
    divergence,
    expectation,
    namespace,
    pick,
)
from duality.answers import Answer
from duality.convex_form import solve_by_cost
from duality.dual_functions import exponential_dual
from duality.dual_protocol import Dual
from duality.families import Statistics
from duality.family_dual import FamilyDual
from duality.newton import MET, SURE, Climb, Patience
from duality.problem_checks import check_nonnegative, checked_error, odds, refuse_weighed
from duality.problems import Problem, Shown
from duality.ratios import LogRatios
from duality.reached import Reached, tilt_means


class ReverseKL(Problem):
    """min KL(p‖q) subject to KL(p‖q_i) ≥ b_i: concept unlearning, of which negative guidance is the naive form.

    The optimal target is q prod_i (q/q_i)^{a_i}/Z with a_i = lam_i/(1 - sum_k lam_k) and sum_k lam_k < 1.

    Args:
        levels: b, a number for all constraints or `(m,)`, in nats, ≥ 0.

    Raises:
        ValueError: for levels that are negative or not finite.

    Source: problem RU of arXiv:2605.30825; the tilt and its dual, docs/theory.
    """

    mass = "at most one"
    patience: ClassVar[Patience] = Patience(steps=16)  # beyond, `duality.convex_form` is faster
    not_attained = (
        "not attained by a tilt: the value is right, but the multipliers add up to 1, where tilts end, on the nodes of"
        " least sum lam_i rho_i; densities that are as uneven as it takes on these nodes (or near them) reach the"
        " levels at this cost, and the target shown is the most even one; if only the nodes end there, take more"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative(self.levels)

    def bind(self, ratios: LogRatios) -> Self:
        refuse_weighed(ratios, "ReverseKL")
        return super().bind(ratios)

    def natural(self, multipliers: Array) -> Array:
        xp, multipliers = namespace(multipliers)
        return multipliers / (1 - xp.sum(multipliers))

    def multipliers(self, natural: np.ndarray) -> np.ndarray:
        return natural / (1 + natural.sum())

    def jacobian(self, natural: np.ndarray) -> np.ndarray:
        share = 1 / (1 + natural.sum())
        return share * (np.eye(natural.size) - share * natural[:, None])

    def domain(self, multipliers: np.ndarray) -> bool:
        return super().domain(multipliers) and float(np.sum(multipliers)) < 1

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        # The domain is open at sum lam = 1; a = lam/(1 - sum lam) ≤ 10^4 is beyond any tilt that a player can follow.
        multipliers = np.maximum(multipliers, 0.0)
        return multipliers * min(1.0, (1 - 1e-4) / max(float(multipliers.sum()), 1e-300))

    def tilt(self, values: Array, natural: Array) -> Array:
        return -pick(array_namespace(values), natural, values)

    noised_tilt = tilt

    def strengths(self, values: Array, natural: Array) -> Array:
        return array_namespace(values).zeros_like(values) + natural

    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        return divergence(log_weights, ratios.log_weights)

    def levels_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return self.cost(ratios, log_weights) - expectation(np.exp(log_weights), ratios.values)

    def reached(self, ratios: LogRatios, log_weights: np.ndarray) -> Reached:
        if type(self) is not ReverseKL:
            return super().reached(ratios, log_weights)
        cost, means, _, squares = tilt_means(ratios.table, log_weights, ratios.log_weights)
        return Reached(cost, cost - means, self.slack(cost - means), squares)

    def level_influence(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # level_i = E_p[t - rho_i], t = log p/q. With omega = p/q, E_p[f] moves by omega (f - E_p f), and t itself by
        # 1 - omega, that of -log Z.
        omega, tilt = odds(ratios, log_weights)
        gap = np.where(omega[:, None] > 0, tilt[:, None] - ratios.values, 0.0)
        finite = np.isfinite(gap).all(axis=0)  # an infinite level stays one
        gap = np.where(finite, gap, 0.0)
        mean = ratios.mean_within(np.exp(log_weights), gap)
        influence = omega[:, None] * (gap - mean) - (omega[:, None] - 1)
        return np.where(finite, influence, np.nan)

    def level_terms(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        p = np.exp(log_weights)[:, None]
        tilt = log_weights - ratios.log_weights
        return np.where(p > 0, p * np.where(p > 0, tilt[:, None] - ratios.values, 0.0), 0.0)

    def dual(self, ratios: LogRatios) -> Dual:
        if ratios.grouped:
            return FamilyDual(*self.statistics(ratios), ratios.partition, ratios.log_weights)
        return exponential_dual(ratios.table, ratios.log_weights, -self.levels, shared=True, ends=ratios.ends)

    def statistics(self, ratios: LogRatios) -> Statistics:
        return Statistics(ratios.values, -self.levels, np.ones(self.levels.size))

    def robust(self, error: Any) -> Self:
        return replace(self, levels=self.levels + checked_error(error, self.levels))

    def answer(self, ratios: LogRatios, dual: Dual, found: Climb, tolerance: float) -> Answer:
        if found.stationary(self.units(ratios), tolerance):
            return super().answer(ratios, dual, found, tolerance)
        read = super().answer(ratios, dual, found, tolerance)
        by_cost = solve_by_cost(ratios, *self.statistics(ratios), found)
        # Where ratios are small beside the levels a tilt is known to fewer digits than SURE, and still the answer.
        close = by_cost.value <= read.value + SURE * (1.0 + abs(read.value))
        return read if close and found.stationary(self.units(ratios), max(MET, tolerance)) else by_cost

    def shown(self, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray) -> Shown:
        # Where p lives, mass may be concentrated without changing E_p[rho], until KL(p‖q) is the larger of the two
        # costs below: at that cost every KL(p‖q_i) = KL(p‖q) - E_p[rho_i] is at least b_i.
        costs = self.levels + expectation(np.exp(log_weights), ratios.values)
        # Where q_i is absent on positive mass, densities next to p have KL(p‖q_i) = inf, if p itself does not.
        costs = np.where(np.isfinite(ratios.values[ratios.partition.order]).all(axis=0), costs, -np.inf)
        bound = max(self.cost(ratios, log_weights), float(costs.max()))
        return Shown(bound, np.where(multipliers > 0, multipliers, 0.0) * np.where(multipliers > 0, bound - costs, 0.0))
