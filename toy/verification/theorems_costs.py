"""Theorems about other costs and constraints: Rényi divergences, tails, and levels that errors leave safe."""

from __future__ import annotations

import numpy as np

import duality as du
from toy.mixtures import Array
from toy.verification.table import theorem
from toy.verification.theorems_groups import space


@theorem(
    "Renyi", "(1 - lam·(l - b)/k)_+^(k-1) has the least Renyi divergence, chi-squared at order 2: cost = dual", 1e-10
)
def renyi(generator: np.random.Generator) -> float:
    n, order = int(generator.integers(6, 80)), float(generator.choice([1.1, 1.5, 2.0]))
    q, seen = generator.dirichlet(np.full(n, 2.0)), generator.beta(0.4, 0.6, size=(n, 2))
    k = order / (order - 1)
    # v = (1 - theta·l)_+ first; levels that its target reaches then say what lam is.
    theta = 10 ** generator.uniform(-1.0, 0.5, size=2)
    theta *= min(1.0, 1 / float(np.median(seen @ theta)))  # half of the weights vanish, at most
    v = np.maximum(1 - seen @ theta, 0)
    p = q * v ** (k - 1)
    p /= p.sum()
    levels = p @ seen
    scale = 1 - float(theta @ levels)  # v = scale (1 - lam·(l - b)/k)_+
    lam = k * theta / scale
    cost = float(np.log(q @ (p / q) ** order)) / (order - 1)
    dual = -float(np.log(q @ (v / scale) ** k))
    found = du.solve(du.Renyi(levels, kind="detector", order=order), du.LogRatios(None, np.log(q), detectors=seen))
    at = du.dual_function(found.problem, du.LogRatios(None, np.log(q), detectors=seen), lam)
    apart = 0.5 * float(np.abs(np.exp(found.log_weights) - p).sum())
    size = 1 + abs(cost)
    return max(
        abs(found.primal - cost) / size, abs(found.dual - dual) / size, abs(at.value - cost) / size, 1e-3 * apart
    )


@theorem("tail", "the mean of the worst share of p: one outer scalar over LU, against every threshold", 1e-9, every=10)
def tail(generator: np.random.Generator) -> float:
    made = space(generator, detectors=1)
    assert made.ratios.detectors is not None
    seen, share = made.ratios.detectors[:, 0], float(generator.uniform(0.05, 1.0))
    own = tail_mean(made.q, seen, share)
    lowest = np.full(made.shares.size, np.inf)
    np.minimum.at(lowest, made.groups, seen)
    least = tail_mean(made.shares, lowest, share)
    if own - least < 1e-6:
        return 0.0  # q has next to the least of all tails
    level = least + generator.uniform(0.1, 0.95) * (own - least)
    ratios = du.LogRatios(None, made.ratios.log_weights, None, None, made.groups, made.shares, seen)
    found = du.solve(du.TailLikelihood(level, kind="detector", tail=share), ratios)
    best = np.inf
    for t in np.unique(seen[seen < level]):
        raised = t + np.maximum(seen - t, 0) / share
        each = du.LogRatios(None, made.ratios.log_weights, None, None, made.groups, made.shares, raised)
        try:
            best = min(best, du.solve(du.Likelihood(level, kind="detector"), each).dual)
        except du.InfeasibleError:
            continue
    reached = tail_mean(np.exp(found.log_weights), seen, share)
    return max(abs(found.dual - best) / (1 + best), abs(reached - level), found.gap)


def tail_mean(p: Array, values: Array, share: float) -> float:
    """The mean of the worst share of p, by sorting."""
    falling = np.argsort(-values)
    taken = np.diff(np.minimum(np.cumsum(p[falling]), share), prepend=0.0)
    return float(taken @ values[falling]) / share


@theorem("robust", "levels moved by the error of the ratios hold for all ratios within it, and no milder ones do", 1e-8)
def robust(generator: np.random.Generator) -> float:
    made = space(generator)
    known, q = made.ratios, made.q
    error = generator.uniform(0.0, 0.3, size=2)
    change = error * np.clip(generator.normal(size=known.values.shape), -1, 1)
    if generator.random() < 0.5:
        own = np.array([made.divergence(q, part) for part in (q[:, None] * np.exp(known.values)).T])
        asked = own + generator.uniform(0.05, 1.0, size=2)
        found = du.solve(du.ReverseKL(asked).robust(error), known)
        p = np.exp(found.log_weights)
        cost = made.divergence(p, q)
        here, worst = (cost - p @ (known.values + each) - asked for each in (change, error))
    else:
        assert known.priors is not None
        asked = (q @ (known.priors * np.exp(known.values))) * generator.uniform(0.9, 1.2)
        try:
            found = du.solve(du.Likelihood(asked).robust(error), known)
        except du.InfeasibleError:
            return 0.0
        p = np.exp(found.log_weights)
        here, worst = (asked - p @ (known.priors * np.exp(known.values + each)) for each in (change, error))
    if found.status not in (du.Status.OPTIMAL, du.Status.INACTIVE):
        return 0.0  # the target is a limit, which need not meet the levels itself
    active = found.multipliers > 0
    return max(float(np.maximum(-here, 0).max()), float(np.abs(worst[active]).max(initial=0.0)))
