"""Likelihood: stay close to q, and bound the likelihood of what is unwanted."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import (
    Array,
    beside,
    divergence,
    expectation,
    namespace,
    pick,
)
from duality.columns import Columns
from duality.dual_functions import exponential_dual
from duality.dual_protocol import Dual
from duality.families import Statistics
from duality.family_dual import FamilyDual
from duality.feasibility import conflicting, least_each, least_levels
from duality.likelihood_facts import LikelihoodFacts, survey
from duality.likelihoods import KINDS, Kind
from duality.problem_checks import checked_error, odds, refuse_weighed
from duality.problems import Problem
from duality.ratios import EPS, LogRatios, check_priors
from duality.reached import Reached, tilt_means
from duality.tensor_columns import TensorColumns

#: Levels that are no more than so many times their units keep the digits of a miss in a difference of means.
LARGE = 10.0


@dataclass(frozen=True, eq=False)
class Likelihood(Problem):
    """min KL(p‖q) subject to E_p[l_i] ≤ b_i: bound the likelihood that p gives to what is unwanted.

    The optimal target is q exp(-sum_i lam_i l_i)/Z.

    Args:
        levels: b, a number for all constraints or `(m,)`, in the unit of l.
        kind: which likelihood l_i is:
            "posterior" (default), Pr(i|x) = priors_i e^{rho_i(x)}, a probability;
            "density", q_i(x) itself (the ratios must carry `log_densities`, which `log_weight` then reads);
            "log-ratio", rho_i(x) in nats;
            "detector", what detector i says of x (the ratios must carry `detectors`, which `log_weight` then reads).
        priors: `(m,)` Pr(i) under q; left out, those that the ratios carry. Posterior only.

    Raises:
        ValueError: for an unknown kind, levels that are not finite, priors outside (0, 1) or with another kind.

    Source: problem LU of arXiv:2605.30825 (density kind); the posterior and its closure, docs/theory.
    """

    kind: str = "posterior"
    priors: Any = None  # given as a number or a vector; kept as a frozen float64 vector (m,), or None
    rule: Kind = field(init=False, repr=False)
    direction: ClassVar[int] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} given, one of {', '.join(map(repr, KINDS))} is needed")
        object.__setattr__(self, "rule", KINDS[self.kind])
        if self.priors is not None:
            if not self.rule.needs_priors:
                raise ValueError(f"priors: given, but kind={self.kind!r} has no use for them")
            object.__setattr__(self, "priors", check_priors(self.priors))

    @property
    def probability(self) -> bool:
        return self.kind in ("posterior", "detector")

    def bind(self, ratios: LogRatios) -> Self:
        self.rule.check(ratios)
        if self.kind == "log-ratio":
            refuse_weighed(ratios, "Likelihood(kind='log-ratio')")
        bound = super().bind(ratios)
        if not self.rule.needs_priors:
            return bound
        priors = ratios.priors if self.priors is None else check_priors(self.priors, self.count(ratios))
        if priors is None:
            raise ValueError("priors: neither the problem nor the ratios carry any; a posterior needs Pr(i) in (0, 1)")
        filled = copy(bound)  # `replace` would check anew what has been checked
        object.__setattr__(filled, "priors", priors)
        return filled

    def _prior(self, values: Array) -> Array:
        if not self.rule.needs_priors:
            return None
        if self.priors is None:
            raise ValueError("priors: this problem carries none; give Likelihood(levels, priors=...)")
        return beside(values, self.priors)

    def likelihoods(self, values: Array) -> Array:
        """l_i(x) from what `log_weight` reads, `(..., m)` -> `(..., m)`."""
        _, values = namespace(values)
        return self.rule.likelihood(values, self._prior(values))

    def inputs(self, ratios: LogRatios) -> np.ndarray:
        return self.rule.inputs(ratios)

    def robust(self, error: Any) -> Self:
        return replace(self, levels=self.rule.moved(self.levels, checked_error(error, self.levels)))

    def slopes(self, values: Array) -> Array:
        """The derivatives of the likelihoods by what `log_weight` reads, `(..., m)` -> `(..., m)`."""
        return self.rule.slope(values, self._prior(values))

    def units(self, ratios: LogRatios) -> np.ndarray:
        """min(size of the level, `max(|E_q[l] - b|, standard deviation of l under q)`, b - min l), `(m,)`.

        What can be gained or lost is the distance of q from its level, or the spread of l, which may be a billionth of
        the level (a posterior that hardly varies), and at most the room below the level: near the least level the value
        grows as -log(b - min l). A miss is measured against the smallest of these.
        """
        return ratios.recall((*self._key(), "units"), lambda: self._units(self._facts(ratios)))

    def _units(self, facts: LikelihoodFacts) -> np.ndarray:
        unit, room = facts.unit, self.levels - facts.ends[0]
        room = np.where(np.isfinite(room), room, 0.0)
        unit = np.where(room > 0, np.minimum(unit, room), unit)
        size = self.rule.size(self.levels)
        return np.minimum(np.where(unit > 0, unit, np.where(np.isfinite(size), size, 1.0)), size)

    def tilt(self, values: Array, natural: Array) -> Array:
        return -pick(array_namespace(values), natural, self.likelihoods(values))

    def noised_tilt(self, values: Array, natural: Array) -> Array:
        return self.rule.noised_tilt(values, natural, self._prior(values))

    def strengths(self, values: Array, natural: Array) -> Array:
        return self.rule.strengths(values, natural, self._prior(values))

    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        return divergence(log_weights, ratios.log_weights)

    def levels_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return expectation(np.exp(log_weights), self._table(ratios))

    def reached(self, ratios: LogRatios, log_weights: np.ndarray) -> Reached:
        if type(self) is not Likelihood:
            return super().reached(ratios, log_weights)
        columns = self._facts(ratios).columns
        apart = (np.abs(self.levels) > LARGE * self.units(ratios)).any()
        asked = self.levels if apart else None
        cost, levels, missing, squares = tilt_means(columns, log_weights, ratios.log_weights, asked)
        return Reached(cost, levels, -missing if apart else self.slack(levels), squares)

    def slack_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # E_p[b - l], not b - E_p[l]: where l hardly varies the digits of the difference are in the terms.
        return -expectation(np.exp(log_weights), self._table(ratios) - self.levels)

    def resolution(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # Masses are known to eps |log p|, and the sum over them is rounded.
        held = np.isfinite(log_weights)
        miss = self._table(ratios)[held] - self.levels
        known = np.exp(log_weights[held]) * EPS * (4.0 + np.abs(log_weights[held]))
        return np.asarray(known @ np.abs(np.where(np.isfinite(miss), miss, 0.0)))

    def level_influence(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        omega, _ = odds(ratios, log_weights)
        miss = np.where(omega[:, None] > 0, self._table(ratios) - self.levels, 0.0)
        finite = np.isfinite(miss).all(axis=0)
        miss = np.where(finite, miss, 0.0)
        return np.where(finite, omega[:, None] * (miss - ratios.mean_within(np.exp(log_weights), miss)), np.nan)

    def level_terms(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        p = np.exp(log_weights)[:, None]
        return np.where(p > 0, p * np.where(p > 0, self._table(ratios), 0.0), 0.0)

    def out_of_reach(self, ratios: LogRatios) -> bool:
        # E_p[l_i] > ess inf l_i for every density, unless l_i is constant on a set: the level must be above it.
        least = least_each(self._table(ratios), ratios.partition) if ratios.grouped else self._facts(ratios).ends[0]
        return bool((self.levels <= least).any())

    @property
    def source(self) -> str:
        return self.rule.source

    def statistics(self, ratios: LogRatios) -> Statistics:
        return Statistics(self._table(ratios), self.levels, np.zeros(self.levels.size))

    def _table(self, ratios: LogRatios) -> np.ndarray:
        """l_i at the nodes, `(n, m)`."""
        return self._facts(ratios).columns.whole()

    def _facts(self, ratios: LogRatios) -> LikelihoodFacts:
        """l_i at the nodes and under q."""
        if type(self).likelihoods is not Likelihood.likelihoods:  # another function of the inputs, not to be kept
            columns = Columns(np.asfortranarray(self.likelihoods(self.inputs(ratios))))
            about = np.stack(columns.ends(np.isfinite(ratios.log_weights)))
            return survey(columns, ratios.log_weights, self.levels, about)
        return ratios.recall(self._key(), lambda: self._looked_at(ratios))

    def _key(self) -> tuple[Any, ...]:
        return type(self), self.kind, self.levels.tobytes(), None if self.priors is None else self.priors.tobytes()

    def _looked_at(self, ratios: LogRatios) -> LikelihoodFacts:
        columns = self.rule.table(ratios)
        known = type(self.rule).inputs is Kind.inputs  # of the ratios themselves
        ends = np.stack(ratios.ends if known else columns.ends(np.isfinite(ratios.log_weights)), axis=1)
        function = self.rule.in_place(self.priors)
        if function is not None:
            on_device = isinstance(columns, TensorColumns)
            columns = columns.mapped((lambda rows: self.likelihoods(rows.T).T) if on_device else function)
            function(ends)  # they are increasing, and each row is laid out as those of blocks are
        return survey(columns, ratios.log_weights, self.levels, ends.T)

    def least_levels(self, ratios: LogRatios) -> np.ndarray:
        return least_levels(self._table(ratios), ratios.log_weights, self.levels, ratios.partition)

    def conflict(self, ratios: LogRatios) -> np.ndarray:
        return conflicting(self._table(ratios), ratios.log_weights, self.levels, ratios.partition)

    def dual(self, ratios: LogRatios) -> Dual:
        if ratios.grouped:
            return FamilyDual(*self.statistics(ratios), ratios.partition, ratios.log_weights)
        facts = self._facts(ratios)
        return exponential_dual(facts.columns, ratios.log_weights, self.levels, shared=False, ends=facts.ends)
