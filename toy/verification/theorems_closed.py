"""Theorems with a closed form to hold the solver against: Gaussians, disjoint supports, images, atoms, draws."""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy.optimize import brentq

import duality as du
from toy.dual import dual_value, log_mean_exp
from toy.mixtures import Array, GaussianMixture, log_ratio
from toy.verification.table import theorem


def gaussian_divergence(mean: float, variance: float, mean_2: float, variance_2: float) -> float:
    """`KL(N(mean, variance) || N(mean_2, variance_2))`, nats, one dimension."""
    ratio = variance / variance_2
    return 0.5 * (ratio - 1 - np.log(ratio) + (mean - mean_2) ** 2 / variance_2)


# 1e-8: the lattice of 401 nodes over 24 deviations errs by e^-40; what is left is rounding times the conditioning of
# lam in b, which is below 1e4 for the tilts drawn here.
@theorem(
    "RU of Gaussians", "q = N(0, v), q_1 = N(mu, u): p* = N(-s a mu/u, s), 1/s = (1+a)/v - a/u, lam* = a/(1+a)", 1e-8
)
def reverse_gaussians(generator: np.random.Generator) -> float:
    v, u = generator.uniform(0.5, 2.0, size=2)
    mu = float(generator.normal()) + 1.0
    # At most 60 % of the way to the end of the dual domain, a < u/(v - u), where v > u.
    a = float(generator.uniform(0.05, 1.5))
    if v > u:
        a = min(a, 0.6 * u / (v - u))
    s = 1 / ((1 + a) / v - a / u)
    mean = -s * a * mu / u
    level, cost = gaussian_divergence(mean, s, mu, u), gaussian_divergence(mean, s, 0.0, v)
    spread = 12 * np.sqrt(max(v, s))
    x = np.linspace(min(-spread, mean - spread), max(spread, mean + spread), 401)[:, None]
    q, part = GaussianMixture([1.0], [0.0], v), GaussianMixture([1.0], [mu], u)
    log_weights = q.log_prob(x)
    log_weights -= log_mean_exp(log_weights, np.zeros(len(x)))
    found = du.solve(du.ReverseKL(np.array([level])), du.LogRatios(log_ratio(q, part, x), log_weights))
    return max(abs(found.primal - cost) / (1 + cost), abs(float(found.multipliers[0]) - a / (1 + a)))


@theorem("FU, disjoint", "lam* = (pi e^b - 1)/(e^b - 1), V = pi log(pi(1-lam)/(pi-lam)) + (1-pi) log(1-lam)", 1e-9)
def forward_disjoint(generator: np.random.Generator) -> float:
    pi = float(generator.uniform(0.05, 0.95))
    level = float(-np.log(pi) + generator.uniform(0.1, 6.0))
    lam = (pi * np.exp(level) - 1) / np.expm1(level)
    value = pi * np.log(pi * (1 - lam) / (pi - lam)) + (1 - pi) * np.log1p(-lam)
    found = du.solve(du.ForwardKL(np.array([level])), _disjoint(generator, pi))
    return max(abs(float(found.multipliers[0]) - lam), abs(found.primal - value) / (1 + abs(value)))


@theorem("LU, disjoint", "posterior: V = b log(b/pi) + (1-b) log((1-b)/(1-pi)), lam* = log(pi(1-b)/(b(1-pi)))", 1e-9)
def likelihood_disjoint(generator: np.random.Generator) -> float:
    pi = float(generator.uniform(0.05, 0.95))
    level = float(pi * 10 ** generator.uniform(-5.0, -0.05))
    lam = np.log(pi * (1 - level) / (level * (1 - pi)))
    value = level * np.log(level / pi) + (1 - level) * (np.log1p(-level) - np.log1p(-pi))
    found = du.solve(du.Likelihood(np.array([level]), priors=np.array([pi])), _disjoint(generator, pi))
    return max(abs(float(found.multipliers[0]) - lam) / (1 + lam), abs(found.primal - value) / (1 + abs(value)))


@theorem("forgetting images", "images apart: lam_i = pi_i - (1 - L) e^-b_i, inside [0, pi_i], larger for repeats", 1e-9)
def images(generator: np.random.Generator) -> float:
    n = int(generator.integers(3, 7))
    m = int(generator.integers(1, n))
    repeats = generator.integers(1, 6, size=n)
    pi = repeats / repeats.sum()
    levels = -np.log(pi[:m]) + generator.uniform(0.2, 4.0, size=m)
    # lam_i = pi_i - (1 - L) e^-b_i summed over i: 1 - L = (1 - sum pi)/(1 - sum e^-b).
    left = (1 - pi[:m].sum()) / (1 - np.exp(-levels).sum())
    lam = pi[:m] - left * np.exp(-levels)
    values = np.full((n, m), -np.inf)
    values[np.arange(m), np.arange(m)] = -np.log(pi[:m])
    found = du.solve(du.ForwardKL(levels), du.LogRatios(values, np.log(pi)))
    return float(np.abs(found.multipliers - lam).max())


@theorem(
    "atoms", "on two atoms RU has a gap exactly beyond -log q_1(argmax q/q_1); splitting the atoms closes it", 1e-9
)
def atoms(generator: np.random.Generator) -> float:
    q, part = np.maximum(generator.dirichlet([2.0, 2.0], size=2), 1e-3)
    q, part = q / q.sum(), part / part.sum()
    ratios = du.LogRatios(np.log(part) - np.log(q), np.log(q))
    best = int(np.argmax(q / part))
    threshold, highest = -np.log(part[best]), -np.log(part[1 - best])
    own = float(q @ (np.log(q) - np.log(part)))
    inside = own + float(generator.uniform(0.1, 0.9)) * (threshold - own)
    cost = _least_cost(q, part, inside)
    error = abs(cost - du.solve(du.ReverseKL(np.array([inside])), ratios).dual) / (1 + cost)
    # Beyond the threshold the dual's supremum b - threshold - log q(best) is approached as lam -> 1.
    beyond = threshold + float(generator.uniform(0.2, 2.0))
    supremum = beyond - threshold - float(np.log(q[best]))
    near = dual_value(du.ReverseKL(np.array([beyond])), ratios, [1 - 1e-7])
    error = max(error, near - supremum - 1e-12, (supremum - near) - 1e-5)
    if beyond < highest and not _least_cost(q, part, beyond) > supremum + 1e-6:
        return 1.0
    # Cut each atom into k and spread p over j of the best one's parts: level >= b, cost <= supremum + log(1 + 1/j).
    k = int(10 ** generator.uniform(2.0, 6.0))
    j = int(np.exp(threshold - beyond) * k)
    level, refined = -np.log(part[best] * j / k), -np.log(q[best] * j / k)
    return max(error, beyond - level - 1e-12, refined - supremum - np.log1p(1 / j), supremum - refined - 1e-12)


def miscoverage(missed: Array) -> float:
    """By how much the share of missed intervals differs from 5 %, beyond four binomial standard errors."""
    noise = 4 * np.sqrt(0.05 * 0.95 / len(missed))
    return max(abs(float(missed.mean()) - 0.05) - noise, 0.0)


# Two points: what the delta method may be off by at 400 draws (its error is of order 1/n plus that of the normal law).
@theorem("draws", "from 400 draws, 95 % intervals for the value cover the exact one", 0.02, miscoverage)
def draws(generator: np.random.Generator) -> float:
    x = generator.normal(size=400)
    mu = float(generator.uniform(0.5, 1.5))
    ratios = du.LogRatios(mu * x - mu**2 / 2)
    level = float(generator.uniform(1.2, 2.0)) * mu**2 / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        found = du.solve(du.ReverseKL(np.array([level])), ratios)
    exact = 0.5 * (np.sqrt(2 * level) - mu) ** 2
    return float(abs(found.dual - exact) > 1.959964 * found.primal_stderr)


def too_low(deviations: Array) -> float:
    """By how much their mean lies below zero, beyond four of its standard errors."""
    return max(-float(deviations.mean()) - 4 * float(deviations.std()) / math.sqrt(len(deviations)), 0.0)


@theorem("draws overstate", "the value from draws is at least the exact one on average", 1e-12, too_low, every=5)
def overstated(generator: np.random.Generator) -> float:
    pi = float(generator.uniform(0.2, 0.6))
    ratios = _disjoint(generator, pi)
    chosen = generator.choice(ratios.n, size=150, p=np.exp(ratios.log_weights))
    drawn = du.LogRatios(ratios.values[chosen])
    share = float(generator.uniform(0.1, 0.6))
    if generator.random() < 0.5:
        level = np.array([pi * share])
        problem: du.Problem = du.Likelihood(level, priors=np.array([pi]))
        exact = float(level[0] * np.log(share) + (1 - level[0]) * (np.log1p(-level[0]) - np.log1p(-pi)))
    else:
        problem = du.ForwardKL(np.array([-np.log(pi * share)]))
        left = pi * share
        exact = float(pi * np.log(pi / left) + (1 - pi) * np.log((1 - pi) / (1 - left)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        return du.solve(problem, drawn).dual - exact


def _disjoint(generator: np.random.Generator, pi: float) -> du.LogRatios:
    """q_1 on a few nodes of total mass pi, nothing of it elsewhere."""
    inside, outside = generator.dirichlet(np.ones(4)), generator.dirichlet(np.ones(5))
    values = np.concatenate([np.full(4, -np.log(pi)), np.full(5, -np.inf)])
    return du.LogRatios(values, np.log(np.concatenate([pi * inside, (1 - pi) * outside])))


def _least_cost(q: Array, part: Array, level: float) -> float:
    """min KL(p||q) over p = (s, 1-s) with KL(p||part) >= level: the roots of KL(p||part) = level on either side."""

    def divergence(s: float, base: Array) -> float:
        return sum(x * math.log(x / y) for x, y in zip((s, 1 - s), base.tolist(), strict=True) if x > 0)

    costs = [0.0] if divergence(float(q[0]), part) >= level else []
    for end in (0.0, 1.0):
        if divergence(end, part) >= level:
            root = brentq(lambda s: divergence(s, part) - level, float(part[0]), end, xtol=1e-15)
            costs.append(divergence(root, q))
    return min(costs, default=math.inf)
