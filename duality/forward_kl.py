"""Forward KL: stay close to q, and be surprised by what every q_i makes."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import (
    Array,
    divergence,
    log1mexp,
    logsumexp,
    safe_log,
)
from duality.answers import Answer
from duality.dual_functions import MixtureDual, mixture_dual
from duality.dual_protocol import Dual
from duality.faces import beyond, settle
from duality.families import Mixtures
from duality.newton import Climb, Patience
from duality.problem_checks import check_nonnegative, odds
from duality.problems import Problem, Shown
from duality.ratios import LogRatios
from duality.reached import Reached, mixture_means
from duality.signed_dual import SignedDual
from duality.signed_faces import beyond_signed, leave_false_faces


class ForwardKL(Problem):
    """min KL(q‖p) subject to KL(q_i‖p) ≥ b_i: data unlearning, of which NegGrad and SISS are the swept forms.

    The optimal target is (q - sum_i lam_i q_i)/(1 - sum_i lam_i), as long as that is nonnegative q-almost everywhere.

    Args:
        levels: b, a number for all constraints or `(m,)`, in nats, ≥ 0.

    Raises:
        ValueError: for levels that are negative or not finite.

    Source: problem FU of arXiv:2605.30825; the closed dual domain and what lies beyond it, docs/theory.
    """

    mass = "one"
    patience: ClassVar[Patience] = Patience(pressed=15, faces=128)  # beyond, `duality.faces` is faster

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative(self.levels)

    def bind(self, ratios: LogRatios) -> Self:
        top = ratios.ends[1]
        if top.max() > 700:
            raise ValueError(
                f"values: a log ratio of {top.max():.5g} nats given for constraint {int(top.argmax())}, but ForwardKL"
                " works with e^rho, which overflows above 700 (E_q[e^rho] must be 1, so exact ratios stay below -min"
                " log_weights; if only a factor is wrong, LogRatios.normalise())"
            )
        bound = super().bind(ratios)
        small = (top < -700) & (bound.levels > 0)
        if small.any():
            raise ValueError(
                f"values: no log ratio of constraint {int(small.argmax())} is above -700 nats, so that ForwardKL, which"
                " works with e^rho, sees nothing of its q_i; a law has E_q[e^rho] = 1 (if only a factor is wrong,"
                " LogRatios.normalise())"
            )
        return bound

    def tilt(self, values: Array, natural: Array) -> Array:
        xp = array_namespace(values)
        return log1mexp(xp, logsumexp(xp, safe_log(xp, natural) + values))

    noised_tilt = tilt  # exact: E_q[e^{rho_i(x_0)} | x_t] = e^{rho_i(x_t)}, so mixtures noise linearly

    def strengths(self, values: Array, natural: Array) -> Array:
        # At a noised state the exact ratios leave 1 - sum lam r above zero; a network's may not. The floor is the
        # resolution at which `solve` treats a slack as zero, so the strength is large there, never infinite.
        xp = array_namespace(values)
        floor = xp.full_like(values[..., 0], float(np.log(MixtureDual.RESOLUTION)))
        log_w = xp.maximum(self.tilt(values, natural), floor)
        return xp.exp(safe_log(xp, natural) + values - log_w[..., None])

    def conflict(self, ratios: LogRatios) -> np.ndarray | None:
        """Which constraints cannot be had together `(m,)`, where some cannot; None where a kind does not say."""
        return None

    def emptied(self, natural: np.ndarray) -> bool:
        # u = 1 - sum lam r is resolved to RESOLUTION, so that u/(1 - L), the target, keeps no five digits below this.
        return bool(1.0 - natural.sum() < 1e5 * MixtureDual.RESOLUTION)

    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        return divergence(ratios.log_weights, log_weights)

    def levels_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # q_i is the measure of masses exp(log_weights_j + rho_ji), not renormalised: levels are linear in it.
        log_masses = ratios.values + ratios.log_weights[:, None]
        return np.array([divergence(log_mass, log_weights) for log_mass in log_masses.T])

    def reached(self, ratios: LogRatios, log_weights: np.ndarray) -> Reached:
        if type(self) is not ForwardKL:
            return super().reached(ratios, log_weights)
        known = ratios.__dict__.get("memory", {}).get(self._key())
        found = None if known is None else known.means_of(log_weights, self.units(ratios))
        cost, levels, squares = found or mixture_means(ratios.table, log_weights, ratios.log_weights)
        return Reached(cost, levels, self.slack(levels), squares)

    def level_influence(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # level_i = E_q[r_i (rho_i - t)], t = log p/q = log u - log Z, and log Z moves by omega - 1.
        omega, tilt = odds(ratios, log_weights)
        ratio = np.exp(ratios.values)
        terms = np.where(ratio > 0, ratio * (np.where(ratio > 0, ratios.values, 0.0) - tilt[:, None]), 0.0)
        q = np.exp(ratios.log_weights)
        return terms - ratios.mean_within(q, terms) + ratios.mean_within(q, ratio) * (omega[:, None] - 1)

    def level_terms(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        mass = np.exp(ratios.values + ratios.log_weights[:, None])
        tilt = log_weights - ratios.log_weights
        return np.where(mass > 0, mass * np.where(mass > 0, ratios.values - tilt[:, None], 0.0), 0.0)

    def mixtures(self, ratios: LogRatios) -> Mixtures:
        return Mixtures(ratios.values, self.levels, np.ones(self.levels.size))

    def dual(self, ratios: LogRatios) -> Dual:
        if ratios.grouped:
            return SignedDual(*self.mixtures(ratios), ratios.partition, ratios.log_weights)
        return ratios.recall(
            self._key(), lambda: mixture_dual(ratios.table, ratios.log_weights, self.levels, ratios.ends[1])
        )

    def _key(self) -> tuple[type, bytes]:
        return MixtureDual, self.levels.tobytes()

    def answer(self, ratios: LogRatios, dual: Dual, found: Climb, tolerance: float) -> Answer:
        units = self.units(ratios)
        if found.stationary(units, tolerance) or not isinstance(dual, MixtureDual):
            return super().answer(ratios, dual, found, tolerance)
        if ratios.grouped:
            mixtures = self.mixtures(ratios)
            found = leave_false_faces(dual, units, found, lambda log_p: beyond_signed(ratios, mixtures, log_p))
            return super().answer(ratios, dual, found, tolerance)
        return settle(ratios, self.levels, dual, units, found)

    def shown(self, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray) -> Shown:
        if ratios.grouped:
            proved = beyond_signed(ratios, self.mixtures(ratios), log_weights)
            return Shown(proved.bound, proved.wrong(multipliers))
        alone = beyond(ratios, self.levels, log_weights)
        return Shown(alone.bound, alone.wrong(multipliers))
