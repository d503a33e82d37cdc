"""A bounded tail: the mean of the worst share of what p makes (conditional value at risk)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import Array, pick
from duality.dual_protocol import Dual
from duality.exponential_dual import ExponentialDual
from duality.family_dual import FamilyDual
from duality.groups import Partition
from duality.likelihood import Likelihood
from duality.newton import climb
from duality.ratios import LogRatios

#: Where two costs count as one, relative to 1 + |cost|.
CLOSE = 1e-12


@dataclass(frozen=True, eq=False)
class TailLikelihood(Likelihood):
    """min KL(p‖q) subject to CVaR_p(l) = min_t { t + E_p[(l - t)_+]/tail } ≤ b, the mean of the worst `tail` of p.

    At the threshold t that is best for the cost this is the `Likelihood` of l' = t + (l - t)_+/tail, and the optimal
    target is q exp(-lam l')/Z: what lies below the threshold is left alone. The mean of l' is at least the CVaR, so
    that levels are met at any threshold; at the best one the two are the same. Standard errors take it as given.

    Args:
        levels: b, one number, in the unit of l.
        kind, priors: as in `Likelihood`.
        tail: the share of p, in (0, 1], that is worst in l; 1 is `Likelihood` itself.
        threshold: t; left out, the best for the ratios at hand is found when they are first seen (`solve`).

    Raises:
        ValueError: as `Likelihood`; for more than one level, or a tail outside (0, 1].

    Source: docs/theory, "other costs and constraints"; the threshold, Rockafellar and Uryasev 2000.
    """

    tail: float = 0.05
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.tail <= 1.0:
            raise ValueError(f"tail: {self.tail} given, a share in (0, 1] is needed")
        if self.levels.size != 1:
            raise ValueError(
                f"levels: {self.levels.size} given; each tail has a threshold of its own, and one is all that is looked"
                " for: give one level (further ones as parts of a Joint, with a threshold each)"
            )
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise ValueError(f"threshold: {self.threshold} given, a finite number is needed")

    def bind(self, ratios: LogRatios) -> Self:
        if self.count(ratios) != 1:
            raise ValueError(f"columns: {self.count(ratios)} given for one tail; give one, or name it in a Joint")
        bound = super().bind(ratios)
        if bound.threshold is not None:
            return bound
        return replace(bound, threshold=_best(bound, ratios))

    def excess(self, values: Array, threshold: float) -> Array:
        """threshold + (l - threshold)_+/tail, `(..., 1)`."""
        xp = array_namespace(values)
        above = super().likelihoods(values) - threshold
        return threshold + xp.maximum(above, xp.zeros_like(above)) / self.tail

    def likelihoods(self, values: Array) -> Array:
        return self.excess(values, self._threshold())

    def slopes(self, values: Array) -> Array:
        xp = array_namespace(values)
        inner = super().slopes(values)
        return xp.where(super().likelihoods(values) > self._threshold(), inner, xp.zeros_like(inner)) / self.tail

    def tilt(self, values: Array, natural: Array) -> Array:
        return -pick(array_namespace(values), natural, self.likelihoods(values))

    noised_tilt = tilt  # to leading order: no closure is known for a threshold

    def strengths(self, values: Array, natural: Array) -> Array:
        return natural * self.slopes(values)

    def _threshold(self) -> float:
        if self.threshold is None:
            raise ValueError("threshold: this problem has none yet; solve it, or give TailLikelihood(threshold=...)")
        return float(self.threshold)


def _best(problem: TailLikelihood, ratios: LogRatios) -> float:
    """The threshold at which the least cost is the least.

    For any p, t + E_p[(l - t)_+]/tail is affine in t between neighbouring values of l, so that one of these is best.
    The multiplier that solves one threshold bounds the costs at all others from below, by weak duality; those whose
    bound exceeds the best cost so far are left, and of the others the one of least bound is next.
    """
    inputs, order, partition = problem.inputs(ratios), ratios.partition.order, ratios.partition
    likelihood, log_q = Likelihood.likelihoods(problem, inputs)[order, 0], ratios.log_weights[order]
    level = float(problem.levels[0])
    places = np.unique(likelihood)
    # What the density that puts every group on its least value has at each threshold: below that nothing can be had.
    lowest = np.minimum.reduceat(likelihood, partition.starts)
    least = _means_above(lowest, partition.shares, problem.tail, places)
    places, least, none = places[least < level], least[least < level], float(places[least.argmin()])
    if places.size == 0:
        return none
    at = _start(likelihood, log_q, problem.tail, places)
    bounds = np.full(places.size, -np.inf)
    grouped = _Bounds(likelihood, log_q, partition, level, problem.tail)
    pooled = grouped.pooled() if partition.count > 1 else None
    best, cost = none, np.inf
    while bounds[at] < cost - CLOSE * (1.0 + abs(cost)) or bounds[at] == -np.inf:
        table = np.asarray(problem.excess(inputs, float(places[at])))
        found = climb(_dual(problem, ratios, table), np.zeros(1), np.array([float(np.abs(table - level).max())]))
        value = np.inf if found.exhausted else found.at.value
        if value < cost:
            best, cost = float(places[at]), value
        lam = float(found.dual.to_natural(found.x)[0])
        bounds[at] = np.inf  # done with
        if pooled is not None:  # the logarithm of a mean over groups is weaker, and rules out most at once
            bounds = np.maximum(bounds, pooled.at(lam, places))
        open_ = bounds < cost - CLOSE * (1.0 + abs(cost))
        bounds[open_] = np.maximum(bounds[open_], grouped.at(lam, places[open_]))
        at = int(bounds.argmin())
        if bounds[at] == np.inf:
            break
    return best


def _means_above(values: np.ndarray, masses: np.ndarray, tail: float, places: np.ndarray) -> np.ndarray:
    """t + sum_j masses_j (values_j - t)_+/tail at thresholds t `(k,)`."""
    falling = np.argsort(-values)
    mass = np.concatenate([[0.0], np.cumsum(masses[falling])])
    sums = np.concatenate([[0.0], np.cumsum(masses[falling] * values[falling])])
    above = np.searchsorted(-values[falling], -places, side="left")
    return np.asarray(places + (sums[above] - places * mass[above]) / tail)


def _start(likelihood: np.ndarray, log_q: np.ndarray, tail: float, places: np.ndarray) -> int:
    """The position of the threshold above which q has the share of the tail, or of the nearest to it."""
    falling = np.argsort(-likelihood)
    above = np.cumsum(np.exp(log_q[falling]))
    own = likelihood[falling[min(int(np.searchsorted(above, tail)), falling.size - 1)]]
    return int(np.abs(places - own).argmin())


class _Bounds:
    """`lam (t - b) - sum_c P_c log E_{q_c}[e^{-lam (l - t)_+/tail}]`, at many thresholds t at once."""

    def __init__(
        self, likelihood: np.ndarray, log_q: np.ndarray, partition: Partition, level: float, tail: float
    ) -> None:
        self._given = likelihood, log_q, level, tail
        self._groups = []
        ends = np.append(partition.starts[1:], likelihood.size)
        for start, end, share in zip(partition.starts, ends, partition.shares, strict=True):
            rising = start + np.argsort(likelihood[start:end], kind="stable")
            log_weights = log_q[rising] - np.log(share)
            below = np.concatenate([[0.0], np.cumsum(np.exp(log_weights))])
            self._groups.append((share, likelihood[rising], log_weights, below))

    def pooled(self) -> _Bounds:
        """The same with all groups as one, which by Jensen's inequality is no larger."""
        likelihood, log_q, level, tail = self._given
        one = Partition(np.arange(log_q.size), np.zeros(1, dtype=np.intp), np.array([log_q.size]), np.ones(1))
        return _Bounds(likelihood, log_q, one, level, tail)

    def at(self, lam: float, places: np.ndarray) -> np.ndarray:
        _, _, level, tail = self._given
        value = lam * (places - level)
        if places.size == 0:
            return np.asarray(value)
        for share, rising, log_weights, below in self._groups:
            known = np.searchsorted(rising, places, side="right")  # how many are not above each threshold
            rates = log_weights - lam / tail * rising
            above = np.append(np.logaddexp.accumulate(rates[::-1])[::-1], -np.inf)[known] + lam / tail * places
            value = value - share * np.log(below[known] + np.exp(above))
        return np.asarray(value)


def _dual(problem: TailLikelihood, ratios: LogRatios, table: np.ndarray) -> Dual:
    if ratios.grouped:
        return FamilyDual(table, problem.levels, np.zeros(1), ratios.partition, ratios.log_weights)
    return ExponentialDual(table, ratios.log_weights, problem.levels, shared=False)
