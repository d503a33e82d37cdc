"""What is to be kept: lower bounds on expectations, and upper bounds on divergences."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import Array, beside, safe_log
from duality.dual_functions import MixtureDual
from duality.dual_protocol import Dual
from duality.families import Mixtures, Statistics
from duality.family_dual import FamilyDual
from duality.feasibility import least_each
from duality.forward_kl import ForwardKL
from duality.likelihood import Likelihood
from duality.likelihoods import KINDS
from duality.problem_checks import checked_error
from duality.problems import Problem
from duality.ratios import LogRatios
from duality.relaxation import conflict_of, least_levels_of
from duality.reverse_kl import ReverseKL
from duality.signed_dual import SignedDual

DIVERGENCES = ("reverse-kl", "forward-kl")


@dataclass(frozen=True, eq=False)
class Keep(Problem):
    """min KL(p‖q) subject to E_p[k_i] ≥ c_i: what p is to retain, such as the share of a class or a judge's score.

    The optimal target is q exp(sum_i nu_i k_i)/Z. Alone it raises what q has too little of; beside constraints that
    unlearn, in `Joint`, it holds what q has enough of.

    Args:
        levels: c, a number for all constraints or `(m,)`.
        kind: what k_i is: "detector" (default), "posterior", "density", "log-ratio" as in `Likelihood`; or which
            divergence from q_i is bounded *above* by c_i: "reverse-kl", KL(p‖q_i) ≤ c_i, with the objective KL(p‖q), or
            "forward-kl", KL(q_i‖p) ≤ c_i, with the objective KL(q‖p). Log ratios are then to be finite.
        priors: as in `Likelihood`; posterior only.

    Raises:
        ValueError: for an unknown kind, or levels and priors that do not fit it.

    Source: docs/theory, "what is to be kept".
    """

    kind: str = "detector"
    priors: Any = None
    of: Any = field(init=False, repr=False)  # the problem whose constraint is turned round

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = (*KINDS, *DIVERGENCES)
        if self.kind not in kinds:
            raise ValueError(f"kind: {self.kind!r} given, one of {', '.join(map(repr, kinds))} is needed")
        if self.kind in DIVERGENCES:
            if self.priors is not None:
                raise ValueError(f"priors: given, but kind={self.kind!r} has no use for them")
            inner: Problem = ReverseKL(self.levels) if self.kind == "reverse-kl" else ForwardKL(self.levels)
        else:
            inner = Likelihood(self.levels, kind=self.kind, priors=self.priors)
            object.__setattr__(self, "priors", inner.priors)
        object.__setattr__(self, "of", inner)

    @property
    def direction(self) -> int:  # type: ignore[override]
        """+1 for expectations, which are to be at least c, -1 for divergences, which are to be at most c."""
        return -1 if self.kind in DIVERGENCES else 1

    @property
    def probability(self) -> bool:
        return self.kind not in DIVERGENCES and bool(self.of.probability)

    @property
    def source(self) -> str:
        return str(self.of.source)

    def robust(self, error: Any) -> Self:
        given = checked_error(error, self.levels)
        if self.kind == "forward-kl":
            return super().robust(error)
        if self.kind == "reverse-kl":
            if (self.levels < given).any():
                raise ValueError(
                    f"error: {error} given, but no divergence is known to be at most {self.levels.min():.6g} nats where"
                    " log ratios are off by more than that"
                )
            return replace(self, levels=self.levels - given)
        return replace(self, levels=self.of.rule.moved(self.levels, -given))

    def bind(self, ratios: LogRatios) -> Self:
        inner = self.of.bind(ratios)
        if self.kind in DIVERGENCES and not np.isfinite(ratios.values[ratios.partition.order]).all():
            raise ValueError(
                f"values: a log ratio of -inf given, but where q_i vanishes p would have to, too, for {self.kind} to be"
                " bounded; leave those points out of q"
            )
        return replace(self, levels=inner.levels, priors=getattr(inner, "priors", None))

    # The multiplier of a constraint that is turned round enters tilts with the other sign.

    def tilt(self, values: Array, natural: Array) -> Array:
        if self.kind != "forward-kl":
            return self.of.tilt(values, -natural)
        return signed_tilt(values, natural, -np.ones(self.levels.size))

    def noised_tilt(self, values: Array, natural: Array) -> Array:
        return self.tilt(values, natural) if self.kind == "forward-kl" else self.of.noised_tilt(values, -natural)

    def strengths(self, values: Array, natural: Array) -> Array:
        if self.kind != "forward-kl":
            return self.of.strengths(values, -natural)
        return signed_strengths(values, natural, -np.ones(self.levels.size))

    def natural(self, multipliers: Array) -> Array:
        return multipliers / (1 + multipliers.sum()) if self.kind == "reverse-kl" else multipliers

    def multipliers(self, natural: np.ndarray) -> np.ndarray:
        return natural / (1 - natural.sum()) if self.kind == "reverse-kl" else natural

    def jacobian(self, natural: np.ndarray) -> np.ndarray:
        if self.kind != "reverse-kl":
            return super().jacobian(natural)
        share = 1 / (1 - natural.sum())
        return np.asarray(share * (np.eye(natural.size) + share * natural[:, None]))

    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        return float(self.of.cost(ratios, log_weights))

    def levels_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return np.asarray(self.of.levels_of(ratios, log_weights))

    def slack_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return -np.asarray(self.of.slack_of(ratios, log_weights))

    def resolution(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return np.asarray(self.of.resolution(ratios, log_weights))

    def level_influence(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return np.asarray(self.of.level_influence(ratios, log_weights))

    def level_terms(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return np.asarray(self.of.level_terms(ratios, log_weights))

    def inputs(self, ratios: LogRatios) -> np.ndarray:
        return np.asarray(self.of.inputs(ratios))

    def units(self, ratios: LogRatios) -> np.ndarray:
        return np.asarray(self.of.units(ratios))

    def statistics(self, ratios: LogRatios) -> Statistics | None:
        if self.kind == "forward-kl":
            return None
        table, limits, sharing = self.of.statistics(ratios)
        return Statistics(-table, -limits, -sharing)

    def mixtures(self, ratios: LogRatios) -> Mixtures | None:
        if self.kind != "forward-kl":
            return None
        return Mixtures(ratios.values, self.levels, -np.ones(self.levels.size))

    def dual(self, ratios: LogRatios) -> Dual:
        statistics, mixtures = self.statistics(ratios), self.mixtures(ratios)
        if statistics is not None:
            return FamilyDual(*statistics, ratios.partition, ratios.log_weights)
        assert mixtures is not None
        return SignedDual(*mixtures, ratios.partition, ratios.log_weights)

    def out_of_reach(self, ratios: LogRatios) -> bool:
        statistics = self.statistics(ratios)
        if statistics is None or statistics.sharing.any():
            return False
        return bool((statistics.limits <= least_each(statistics.table, ratios.partition)).any())

    def least_levels(self, ratios: LogRatios) -> np.ndarray:
        return least_levels_of(self, ratios, self._mixed)

    def conflict(self, ratios: LogRatios) -> np.ndarray | None:
        return conflict_of(self, ratios, self._mixed)

    @property
    def _mixed(self) -> np.ndarray:
        return np.full(self.levels.size, self.kind == "forward-kl")


def signed_tilt(values: Array, natural: Array, signs: np.ndarray) -> Array:
    """log(1 - sum_i s_i lam_i e^{rho_i}), -inf where that is negative; `(..., m)` -> `(...)`."""
    xp = array_namespace(values)
    u = 1 - xp.sum(beside(values, signs) * natural * xp.exp(values), axis=-1)
    return safe_log(xp, xp.maximum(u, xp.zeros_like(u)))


def signed_strengths(values: Array, natural: Array, signs: np.ndarray) -> Array:
    """s_i lam_i e^{rho_i}/u, `(..., m)`, with u no smaller than what the solver tells from zero."""
    xp = array_namespace(values)
    terms = beside(values, signs) * natural * xp.exp(values)
    u = 1 - xp.sum(terms, axis=-1)
    return terms / xp.maximum(u, xp.full_like(u, MixtureDual.RESOLUTION))[..., None]
