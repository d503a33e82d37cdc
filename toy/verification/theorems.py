"""Theorems about the solution itself: optima known from construction, values from ``toy.dual``, costs by definition."""

from __future__ import annotations

import numpy as np

import duality as du
from toy.dual import dual_value, log_mean_exp
from toy.mixtures import Array, log_ratio
from toy.solving import Problem
from toy.verification import instances
from toy.verification.table import cost_of, levels_of, theorem, with_levels


# Tolerance 1e-10: sums over a hundred nodes round at 1e-14; the solver promises 1e-10.
@theorem(
    "zero gap", "min = max: the target's cost is the dual value, and it meets the levels with no slack wasted", 1e-10
)
def zero_gap(generator: np.random.Generator) -> float:
    return certificate(instances.instance(generator))


def certificate(case: instances.Instance) -> float:
    """The largest relative error of the solver's answer: gap by two accounts, cost, missed levels, wasted slack."""
    found = du.solve(case.problem, case.ratios)
    value = dual_value(case.problem, case.ratios, found.multipliers)
    log_p = np.asarray(found.log_weights)
    cost = cost_of(case.problem, case.ratios, log_p)
    scale = 1 + abs(case.cost)
    slack = case.problem.direction * (levels_of(case.problem, case.ratios, log_p) - case.problem.levels)
    missed = np.maximum(-slack, 0) / (1 + np.abs(case.problem.levels))
    wasted = float(np.abs(np.asarray(found.multipliers) * slack).sum()) / scale
    return max(abs(cost - value) / scale, abs(cost - case.cost) / scale, float(missed.max()), wasted, found.gap)


# Tolerance 1e-7: a density is known less well than its cost. By Pinsker total variation is at most sqrt(excess/2), and
# a cost that sums over a hundred nodes have rounded to 2e-14 leaves sqrt(2e-14/2).
@theorem("tilt", "the optimal density is q exp(log w(rho; lam*))/Z: total variation to the known one", 1e-7)
def optimal_tilt(generator: np.random.Generator) -> float:
    case = instances.instance(generator)
    found = du.solve(case.problem, case.ratios)
    weight = np.asarray(found.log_weight(found.problem.inputs(case.ratios)))
    from_formula = case.ratios.log_weights + weight - log_mean_exp(case.ratios.log_weights, weight)
    known, given = np.exp(case.log_weights), np.exp(np.asarray(found.log_weights))
    return 0.5 * max(float(np.abs(given - known).sum()), float(np.abs(np.exp(from_formula) - known).sum()))


@theorem("weak duality", "g(lam) <= cost(p) for every p that meets the levels and every lam in the domain", 1e-12)
def weak_duality(generator: np.random.Generator) -> float:
    case = instances.instance(generator)
    # Any density at all: rough, smooth, or concentrated; asked for is what it reaches, so that it is feasible.
    roughness = 10 ** generator.uniform(-2, 1.3)
    log_p = case.ratios.log_weights + roughness * generator.normal(size=case.ratios.n)
    log_p -= log_mean_exp(log_p, np.zeros(case.ratios.n))
    reached = levels_of(case.problem, case.ratios, log_p)
    if not isinstance(case.problem, du.Likelihood):
        reached = np.maximum(reached, 0.0)
    cost = cost_of(case.problem, case.ratios, log_p)
    value = dual_value(with_levels(case.problem, reached), case.ratios, case.multipliers)
    return max(value - cost, 0.0) / (1 + abs(cost))


@theorem("sensitivity", "dV/db_i = lam_i (RU, FU), -lam_i (LU): V lies above its tangents, from both sides", 1e-10)
def sensitivity(generator: np.random.Generator) -> float:
    case = instances.instance(generator)
    sign = case.problem.direction
    active = np.flatnonzero(case.multipliers > 0)
    moved = case.problem.levels.copy()
    index = int(generator.choice(active))
    # Towards what q has, so that the level can be had; a relative 1e-3 makes the two tangents nearly one line.
    moved[index] -= sign * 1e-3 * abs(moved[index])
    found = du.solve(with_levels(case.problem, moved), case.ratios)
    step = sign * float(moved[index] - case.problem.levels[index])
    below = case.cost + case.multipliers[index] * step - found.dual
    above = found.dual - found.multipliers[index] * step - case.cost
    return max(below, above, 0.0) / (1 + abs(case.cost))


@theorem("convex value", "V((b + b')/2) <= (V(b) + V(b'))/2", 1e-10)
def convexity(generator: np.random.Generator) -> float:
    case = instances.instance(generator)
    scale = generator.uniform(0.8, 1.0, size=case.multipliers.shape)
    eased = case.problem.levels - case.problem.direction * (1 - scale) * np.abs(case.problem.levels)
    # V is the dual value: where easing one level leaves another that no density attains, the primal is a limit's cost.
    levels = np.array([0.5 * (case.problem.levels + eased), eased])
    middle, end = (found.dual for found in du.frontier(case.problem, case.ratios, levels))
    return max(middle - 0.5 * (case.cost + end), 0.0) / (1 + abs(case.cost))


@theorem("monotone value", "asking for less never costs more, and the multipliers price it", 1e-10)
def monotonicity(generator: np.random.Generator) -> float:
    case = instances.instance(generator)
    ease = generator.uniform(0.0, 0.3, size=case.multipliers.shape) * np.abs(case.problem.levels)
    eased = with_levels(case.problem, case.problem.levels - case.problem.direction * ease)
    cheaper = du.solve(eased, case.ratios).dual
    bound = case.cost - case.multipliers @ ease
    return max(cheaper - case.cost, bound - cheaper, 0.0) / (1 + abs(case.cost))


@theorem("inactive", "lam* = 0 and p* = q exactly when q meets every level; a hair beyond, lam* > 0", 1e-12)
def inactive(generator: np.random.Generator) -> float:
    case = instances.instance(generator)
    own = levels_of(case.problem, case.ratios, case.ratios.log_weights)
    hair = 1e-4 * np.maximum(np.abs(own), 1e-6)
    sign = case.problem.direction
    met = du.solve(with_levels(case.problem, _allowed(case.problem, own - sign * hair)), case.ratios)
    beyond = own - sign * hair
    index = int(generator.integers(len(own)))
    beyond[index] = own[index] + sign * hair[index]
    missed = du.solve(with_levels(case.problem, _allowed(case.problem, beyond)), case.ratios)
    if not met.inactive or met.multipliers.any() or missed.inactive or not missed.multipliers[index] > 0:
        return 1.0
    return max(abs(met.primal), float(np.abs(np.asarray(met.log_weights) - case.ratios.log_weights).max()))


@theorem("not attained", "FU beyond b_crit: lam* = lam_max, V grows linearly, and no density attains it", 1e-8)
def not_attained(generator: np.random.Generator) -> float:
    made = instances.toy(generator, 1)
    end = float(np.exp(-made.ratios.values.max()))
    beyond = float(generator.uniform(40.0, 60.0))
    found = du.solve(du.ForwardKL(np.array([beyond])), made.ratios)
    if found.attained or found.critical_levels is None or found.critical_levels[0] >= beyond:
        return 1.0
    # V(b) = V(b_crit) + lam_max (b - b_crit): cost and level of the limit density, and the dual value, must agree.
    value = cost_of(found.problem, made.ratios, np.asarray(found.log_weights))
    critical = levels_of(found.problem, made.ratios, np.asarray(found.log_weights))[0]
    line = value + end * (beyond - critical)
    return max(abs(found.multipliers[0] / end - 1), abs(found.dual - line) / (1 + abs(line)))


@theorem("RU is log-ratio LU", "lam/(1 - lam) is the multiplier of the log-ratio likelihood with the same target", 1e-9)
def reverse_is_log_ratio(generator: np.random.Generator) -> float:
    made = instances.toy(generator, int(generator.integers(1, 4)))
    case = instances.reverse(generator, made.ratios)
    levels = np.exp(case.log_weights) @ made.ratios.values
    eased = np.where(case.multipliers > 0, levels, levels + 1 + np.abs(levels))
    found = du.solve(du.Likelihood(eased, kind="log-ratio"), made.ratios)
    same = 0.5 * float(np.abs(np.exp(np.asarray(found.log_weights)) - np.exp(case.log_weights)).sum())
    if (case.multipliers > 0).sum() > 1:
        return same  # nearly collinear log ratios leave the split of the multipliers open, never the target
    total = case.multipliers / (1 - case.multipliers.sum())
    return max(same, float(np.abs(found.multipliers - total).max()) / (1 + float(total.max())))


@theorem("relabelling", "the order of the constraints does not matter", 1e-10)
def relabelling(generator: np.random.Generator) -> float:
    case = instances.instance(generator, int(generator.integers(2, 5)))
    order = generator.permutation(len(case.multipliers))
    values, densities, priors = case.ratios.values, case.ratios.log_densities, case.ratios.priors
    if densities is None or priors is None:
        raise ValueError("instances carry densities and priors")
    shuffled = du.LogRatios(values[:, order], case.ratios.log_weights, densities[:, order], priors[order])
    problem: Problem = with_levels(case.problem, case.problem.levels[order])
    if isinstance(problem, du.Likelihood) and problem.priors is not None:
        problem = du.Likelihood(problem.levels, kind=problem.kind, priors=priors[order])
    return abs(du.solve(problem, shuffled).primal - case.cost) / (1 + abs(case.cost))


@theorem("splitting", "splitting a node into two of its mass changes nothing (no atoms are meant by nodes)", 1e-10)
def splitting(generator: np.random.Generator) -> float:
    case = instances.instance(generator)
    index = generator.integers(case.ratios.n, size=30)
    index = np.unique(index)
    share = generator.uniform(0.01, 0.99, size=len(index))
    log_weights = np.append(case.ratios.log_weights, case.ratios.log_weights[index] + np.log(share))
    log_weights[index] += np.log1p(-share)
    rows = np.append(np.arange(case.ratios.n), index)
    densities = case.ratios.log_densities
    split = du.LogRatios(
        case.ratios.values[rows], log_weights, None if densities is None else densities[rows], case.ratios.priors
    )
    found = du.solve(case.problem, split)
    both = np.exp(np.asarray(found.log_weights))
    mass = both[: case.ratios.n].copy()
    np.add.at(mass, index, both[case.ratios.n :])
    moved = 0.5 * float(np.abs(mass - np.exp(case.log_weights)).sum())
    # The level of FU or RU is a divergence of measures; splitting moves none of its terms.
    return max(abs(found.primal - case.cost) / (1 + abs(case.cost)), 1e-1 * moved)


@theorem("duplicates", "a constraint stated twice: the value stays, the two multipliers share one", 1e-9)
def duplicates(generator: np.random.Generator) -> float:
    made = instances.toy(generator, 1)
    case = instances.KINDS[int(generator.integers(5))](generator, made.ratios)
    densities = made.ratios.log_densities
    twice = du.LogRatios(
        np.repeat(made.ratios.values, 2, axis=1),
        made.ratios.log_weights,
        None if densities is None else np.repeat(densities, 2, axis=1),
        np.repeat(made.priors, 2),
    )
    problem: Problem = with_levels(case.problem, np.repeat(case.problem.levels, 2))
    if isinstance(problem, du.Likelihood) and problem.priors is not None:
        problem = du.Likelihood(problem.levels, kind=problem.kind, priors=np.repeat(made.priors, 2))
    found = du.solve(problem, twice)
    shared = abs(float(found.multipliers.sum()) - float(case.multipliers[0])) / (1 + float(case.multipliers[0]))
    return max(abs(found.primal - case.cost) / (1 + abs(case.cost)), shared)


@theorem("affine maps", "x -> A x + c, applied to q and the q_i alike, moves no log ratio, so no answer", 1e-9)
def affine(generator: np.random.Generator) -> float:
    q = instances.mixture(generator, 3, dimension=2)
    matrix = generator.normal(size=(2, 2)) + 2 * np.eye(2)
    if np.linalg.cond(matrix) > 30:
        matrix = np.array([[2.0, 1.0], [0.0, -0.5]])
    shift = 10 * generator.normal(size=2)
    x = q.sample(40, generator)
    mapped = q.mapped(matrix, shift)
    before = log_ratio(q, q.component(0), x)
    after = log_ratio(mapped, mapped.component(0), x @ matrix.T + shift)
    return float(np.max(np.abs(after - before) / (1 + np.abs(before))))


@theorem("infeasible", "LU below the least likelihood is refused with that level; just above, it is met", 1e-10)
def infeasible(generator: np.random.Generator) -> float:
    made = instances.toy(generator, 1, nodes=31)
    least = float((made.priors * np.exp(made.ratios.values)).min())
    most = float((made.priors * np.exp(made.ratios.values)).max())
    room = 0.01 * (most - least)
    try:
        du.solve(du.Likelihood(np.array([least - room])), made.ratios)
    except du.InfeasibleError as error:
        found = du.solve(du.Likelihood(np.array([least + room])), made.ratios)
        return max(abs(float(error.least[0]) - least), float(-found.slack[0])) / (1 + least)
    return 1.0


def _allowed(problem: Problem, levels: Array) -> Array:
    return levels if isinstance(problem, du.Likelihood) else np.maximum(levels, 0.0)
