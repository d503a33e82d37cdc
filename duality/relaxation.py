"""Constraints that cannot be had together: the least relaxation, and who conflicts, for all kinds that can be joined.

Whether levels can be had is a question to the dual function alone: g(ty)/t tends to ::

    h(y) = inf_p sum_i y_i miss_i(p),

so that g is bounded, but for levels that only just conflict, if and only if h ≤ 0 on y ≥ 0. By the same convexity that
leaves no duality gap, min{t : some density has miss_i ≤ t d_i} = max{h(y) : y ≥ 0, d·y = 1} (docs/theory, "levels that
conflict").
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from duality.barrier import Homogeneous, maximise_on_cone
from duality.families import Mixtures, Statistics
from duality.group_programs import least_at_any_cost, minimise
from duality.groups import Partition
from duality.problems import Problem
from duality.ratios import LogRatios
from duality.recession import QuotientRecession, SignedRecession
from duality.signed_dual import SignedDual

#: The relaxation of constraints that can only just be had is this small, relative to their sizes, at most.
JUST = 1e-10
#: Nats below the largest density ratio: e^-FAINT is lost in any sum with it, and its square is still a double.
FAINT = 300.0
#: relax(direction, chosen): the least t for the chosen constraints; -inf where they can always be had.
Relax = Callable[[np.ndarray, np.ndarray], float]


def least_levels_of(problem: Problem, ratios: LogRatios, mixed: np.ndarray) -> np.ndarray:
    """The least levels `(m,)` that can be had: the same part of the way to what q has, for all that q misses.

    Where no divergence is bounded above, those that are bounded below can always be had, and stay as they are.

    Args:
        problem: bound, with `statistics` or `mixtures` or both.
        ratios: the nodes.
        mixed: `(m,)`, which constraints are those of `mixtures`.
    """
    statistics, mixtures = problem.statistics(ratios), problem.mixtures(ratios)
    gaps = -problem.slack_of(ratios, ratios.log_weights)
    gaps = np.maximum(np.where(np.isfinite(gaps), gaps, 0.0), 0.0)
    kinds = np.zeros(mixed.size)
    if statistics is not None:
        kinds[~mixed] = statistics.sharing
    if mixtures is not None:
        kinds[mixed] = mixtures.signs
    if not (kinds < 0).any():
        gaps[kinds > 0] = 0.0
    if not gaps.any():
        return problem.levels
    least = _relax(problem, ratios, mixed)(gaps, np.ones(gaps.size, dtype=bool))
    return np.asarray(problem.levels - problem.direction * gaps * min(max(least, 0.0), 1.0))


def conflict_of(problem: Problem, ratios: LogRatios, mixed: np.ndarray) -> np.ndarray:
    """Which constraints cannot be had together `(m,)`: a set that conflicts, and without any one of them not.

    One after the other is left out of those that have no interior point in common, for good where the rest has none
    either (a deletion filter). Arguments as for `least_levels_of`.
    """
    relax, sizes = _relax(problem, ratios, mixed), 1.0 + np.abs(problem.levels)
    statistics = problem.statistics(ratios)
    if statistics is not None:
        miss = np.abs(statistics.table[ratios.partition.order] - statistics.limits).max(axis=0)
        usable = (statistics.sharing == 0) & np.isfinite(miss) & (miss > 0)
        sizes[~mixed] = np.where(usable, miss, sizes[~mixed])
    named = np.ones(sizes.size, dtype=bool)
    if relax(sizes, named) < -JUST:
        return named  # only just infeasible: all that is known
    for i in range(sizes.size):
        without = named & (np.arange(sizes.size) != i)
        if without.any() and relax(sizes, without) >= -JUST:
            named = without
    return named


def _relax(problem: Problem, ratios: LogRatios, mixed: np.ndarray) -> Relax:
    statistics, mixtures = problem.statistics(ratios), problem.mixtures(ratios)
    if mixtures is not None:
        return relax_mixtures(mixtures, statistics, mixed, ratios.partition, ratios.log_weights)
    assert statistics is not None  # a problem that is neither does not ask
    return relax_tilts(statistics, ratios.partition, ratios.log_weights)


def relax_tilts(statistics: Statistics, partition: Partition, log_weights: np.ndarray) -> Relax:
    """For constraints E_p[T_i] - s_i KL(p‖q) ≤ beta_i: `h(y) = -y·beta - sigma E_c log E_{q_c}[e^{-y·T/sigma}]`.

    sigma = -s·y ≥ 0, and inf y·T where it is zero, a linear program; where sigma < 0 nothing conflicts, as p may be
    concentrated.
    """
    kept = partition.order
    table, log_q = statistics.table[kept], log_weights[kept] - partition.spread(np.log(partition.shares))
    finite = np.isfinite(table).all(axis=0)

    def relax(direction: np.ndarray, chosen: np.ndarray) -> float:
        used = chosen & finite
        fixed = used & (statistics.sharing == 0)
        least = -np.inf
        if fixed.any() and direction[fixed].any():
            found = minimise(table[:, fixed], direction[fixed], statistics.limits[fixed], partition)
            least = np.inf if found is None else found.value
        s = statistics.sharing[used]
        if not (s < 0).any():
            return least
        centred = table[:, used] - statistics.limits[used]
        size = np.abs(centred).max(axis=0)
        size[size == 0] = 1.0
        slope, share = direction[used] / size, s / size
        if not slope.any():
            return least
        centred /= size
        labels = np.repeat(np.arange(partition.count), partition.sizes)

        def function(y: np.ndarray) -> Homogeneous:
            sigma = -float(share @ y)
            tilt = -(centred @ y) / sigma
            tilt -= partition.spread(tilt[partition.modes(log_q + tilt)])
            p = np.exp(log_q + tilt)
            totals = partition.total(p)
            p *= partition.spread(partition.shares / totals)
            means = partition.total(p[:, None] * centred) / partition.shares[:, None]
            divergence = float(p @ tilt) - float(partition.shares @ np.log(totals))
            misses = partition.shares @ means - share * divergence
            deviation = centred - means[labels]
            change = np.eye(y.size) + np.outer(y, share) / sigma
            curvature = change.T @ (deviation.T @ (deviation * p[:, None])) @ change / sigma
            return Homogeneous(float(y @ misses), misses, curvature)

        start = np.ones(s.size)
        start[s > 0] = 0.5 * (s < 0).sum() / max(int((s > 0).sum()), 1)
        inside = maximise_on_cone(function, -share[None, :], np.ones(1), slope, start * size)[0]
        # Where the maximum is at sigma = 0, p hangs on ties that a barrier keeps no digits of: there it is an LP.
        return max(least, inside, least_at_any_cost(centred, slope, share, partition))

    return relax


def _seen(mixtures: Mixtures, held: np.ndarray, partition: Partition) -> np.ndarray:
    """Some columns of rho, those of divergences that are bounded above no more than FAINT below their largest.

    u is made of these alone, and where e^rho is zero to doubles so would u be, whose logarithm and inverse are needed.
    """
    values, upper = mixtures.values[:, held], mixtures.signs[held] < 0
    least = np.where(upper, values[partition.order].max(axis=0) - FAINT, -np.inf)
    return np.asarray(np.maximum(values, least))


def relax_mixtures(
    mixtures: Mixtures,
    statistics: Statistics | None,
    mixed: np.ndarray,
    partition: Partition,
    log_weights: np.ndarray,
) -> Relax:
    """For s_i KL(q_i‖p) ≥ s_i b_i and E_p[T_j] ≤ beta_j: the dual functions with u = -sum_i s_i y_i e^rho_i ≥ 0.

    Without upper bounds on divergences u can only be zero, and the expectations alone can conflict.
    """
    signs = np.zeros(mixed.size)
    signs[mixed] = mixtures.signs

    def relax(direction: np.ndarray, chosen: np.ndarray) -> float:
        least = -np.inf
        fixed = chosen[~mixed]
        table, limits = np.empty((log_weights.size, 0)), np.empty(0)
        if statistics is not None:
            fixed = fixed & np.isfinite(statistics.table[partition.order]).all(axis=0)
            table, limits = statistics.table[:, fixed], statistics.limits[fixed]
            slope = direction[~mixed][fixed]
            if slope.any():
                found = minimise(table[partition.order], slope, limits, partition)
                least = np.inf if found is None else found.value
        held = chosen[mixed]
        if not (mixtures.signs[held] < 0).any():
            return least
        some = Mixtures(_seen(mixtures, held, partition), mixtures.levels[held], mixtures.signs[held])
        slope = np.concatenate([direction[mixed][held], direction[~mixed][fixed]])
        if not slope.any():
            return least
        which = np.repeat([True, False], [int(held.sum()), limits.size])
        bounds = Statistics(table, limits, np.zeros(limits.size))
        dual: SignedDual
        if limits.size:
            dual = QuotientRecession(some, bounds, which, partition, log_weights)
        else:
            dual = SignedRecession(*some, partition, log_weights)
        price = dual.price(np.zeros(slope.size))

        def function(x: np.ndarray) -> Homogeneous:
            at = dual.evaluate(x)
            return Homogeneous(at.excess, at.gradient, at.curvature)

        rows = np.zeros((partition.order.size, slope.size))
        rows[:, which] = -dual.table
        start = np.ones(slope.size)
        lowers = np.append(some.signs > 0, np.zeros(limits.size, dtype=bool))
        if lowers.any():  # so little of them that half of u is left everywhere
            above = rows[:, which & ~lowers].sum(axis=1)
            below = -rows[:, lowers].sum(axis=1)
            seen = below > 1e-200  # at others they take nothing that counts, and where they are largest it is 1
            start[lowers] = 0.5 * float((above[seen] / below[seen]).min())
        weights = np.exp(log_weights[partition.order])
        return max(least, maximise_on_cone(function, rows, weights, slope / price, start)[0])

    return relax
