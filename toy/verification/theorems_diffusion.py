"""Theorems about noise: lifting to paths, and which guidance rules are exact at every noise level."""

from __future__ import annotations

import numpy as np

import duality as du
from toy.guidance import guided_score
from toy.mixtures import Array, GaussianMixture, log_ratio
from toy.noised import SignedMixture
from toy.paths import sample_paths
from toy.verification import instances
from toy.verification.table import theorem


# 1e-8: two chains' log densities of up to 1e3 nats, whose kernels are conditioned by up to 1e4.
@theorem("lifting", "dQ_i/dQ of a whole reverse path equals q_i(x_0)/q(x_0): paths pose the pointwise problem", 1e-8)
def lifting(generator: np.random.Generator) -> float:
    q = instances.mixture(generator, 2, dimension=int(generator.integers(1, 3)))
    part = q.component(0)
    levels = np.append(np.sort(generator.uniform(0.02, 0.98, size=2)), 1.0)
    paths = sample_paths(q, part, levels, 8, generator)
    exact = log_ratio(q, part, paths.states[-1])
    return float((np.abs(paths.log_ratios[:, 0] - exact) / (1 + np.abs(exact))).max())


@theorem("lifted solution", "value, multiplier and target of the path problem are those of the x_0 problem", 1e-8)
def lifted_solution(generator: np.random.Generator) -> float:
    q = instances.mixture(generator, 2)
    part = q.component(0)
    paths = sample_paths(q, part, np.array([0.3, 1.0]), 60, generator)
    pointwise = log_ratio(q, part, paths.states[-1])
    unwanted = q.weights[0] * np.exp(pointwise)
    level = unwanted.min() + generator.uniform(0.1, 0.9, size=1) * (unwanted.mean() - unwanted.min())
    # Stated on nodes: as draws each would warn of its standard error, which is not the question here.
    equal = np.full(60, -np.log(60.0))
    problem = du.Likelihood(level, priors=q.weights[:1])
    one, two = (du.solve(problem, du.LogRatios(rho, equal)) for rho in (paths.log_ratios[:, 0], pointwise))
    moved = 0.5 * float(np.abs(np.exp(np.asarray(one.log_weights)) - np.exp(np.asarray(two.log_weights))).sum())
    priced = abs(float(one.multipliers[0] - two.multipliers[0])) / (1 + float(two.multipliers[0]))
    return max(moved, priced, abs(one.primal - two.primal) / (1 + abs(two.primal)))


# Near the end of the domain 1 - lam r is a small difference: 1e-16 over 2 % at worst, times scores of up to 1e2.
@theorem("FU guidance", "lam r_t/(1 - lam r_t) is the exact score of the noised target, at every noise level", 1e-9)
def forward_guidance(generator: np.random.Generator) -> float:
    q = instances.mixture(generator, 3, dimension=2)
    part = GaussianMixture(q.weights[:2] / q.weights[:2].sum(), q.means[:2], q.covariances[:2])
    share = float(q.weights[:2].sum())
    lam = np.array([share * float(generator.uniform(0.05, 0.98))])
    alpha_bar = float(generator.uniform(0.01, 1.0))
    x = q.noised(alpha_bar).sample(8, generator)
    problem = du.ForwardKL(np.array([1.0]))
    guided = guided_score(q, [part], lambda rho: np.asarray(problem.guidance(rho, lam)), x, alpha_bar)
    return _relative(guided, SignedMixture(q, part, lam).score(x, alpha_bar))


# 1e-9: Tweedie's formula divides rounding by 1 - alpha_bar, 1e-13 at the least noise drawn.
@theorem(
    "noised target", "score*_t = score_q,t + grad log E_q[w | x_t]: by quadrature over x_0, and FU's closed form", 1e-9
)
def noised_targets(generator: np.random.Generator) -> float:
    q = instances.mixture(generator, 2)
    part = q.component(0)
    lam = np.array([float(q.weights[0] * generator.uniform(0.05, 0.9))])
    alpha_bar = float(generator.uniform(0.01, 0.995))
    x = q.noised(alpha_bar).sample(6, generator)
    # 1201 nodes over some 20 units: a third of the narrowest kernel, sqrt(.005), so that aliasing is e^-170.
    reach = 9.0 * np.sqrt(q.covariances[:, 0, 0])
    lattice = np.linspace((q.means[:, 0] - reach).min(), (q.means[:, 0] + reach).max(), 1201)
    log_target = q.log_prob(lattice[:, None]) + np.log1p(-lam[0] * np.exp(log_ratio(q, part, lattice[:, None])))
    exponent = log_target - np.square(x - np.sqrt(alpha_bar) * lattice) / (2 * (1 - alpha_bar))
    mass = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    mean = mass @ lattice / mass.sum(axis=1)
    score = (np.sqrt(alpha_bar) * mean[:, None] - x) / (1 - alpha_bar)
    return _relative(score, SignedMixture(q, part, lam).score(x, alpha_bar))


@theorem("RU guidance", "constant strength a = lam/(1-lam) is exact for Gaussians of equal covariance", 1e-9)
def reverse_guidance(generator: np.random.Generator) -> float:
    single = instances.mixture(generator, 1, dimension=2)
    away = single.means + generator.normal(size=(1, 2))
    part = GaussianMixture([1.0], away, single.covariances)
    lam = np.array([float(generator.uniform(0.02, 0.7))])
    tilt = float(lam[0] / (1 - lam[0]))
    # q^(1+a)/q_1^a of equal covariances: the mean moves by -a (away - mean).
    exact = GaussianMixture([1.0], single.means - tilt * (away - single.means), single.covariances)
    alpha_bar = float(generator.uniform(0.01, 1.0))
    noised = exact.noised(alpha_bar)
    x = noised.sample(8, generator)
    problem = du.ReverseKL(np.array([1.0]))
    guided = guided_score(single, [part], lambda rho: np.asarray(problem.guidance(rho, lam)), x, alpha_bar)
    return _relative(guided, noised.score(x))


@theorem("LU guidance", "the two-valued closure is exact where Pr(i|x_0) is 0 or 1, at every noise level", 1e-9)
def likelihood_guidance(generator: np.random.Generator) -> float:
    pi = float(generator.uniform(0.05, 0.95))
    # Means 60 deviations apart: posteriors differ from 0 or 1 by e^-450.
    q = GaussianMixture([pi, 1 - pi], [[-30.0, 0.0], [30.0, 0.0]], generator.uniform(0.5, 1.0, size=2))
    lam = np.array([10 ** float(generator.uniform(-1.0, 1.0))])
    left = pi * np.exp(-lam[0])
    exact = GaussianMixture(np.array([left, 1 - pi]) / (left + 1 - pi), q.means, q.covariances)
    # Noise that lets the modes overlap: there the posterior is far from 0 and 1, and the rule is put to the test.
    alpha_bar = 10 ** float(generator.uniform(-4.0, -1.0))
    noised = exact.noised(alpha_bar)
    x = noised.sample(8, generator)
    problem = du.Likelihood(np.array([0.01]), priors=np.array([pi]))
    guided = guided_score(q, [q.component(0)], lambda rho: np.asarray(problem.guidance(rho, lam)), x, alpha_bar)
    return _relative(guided, noised.score(x))


def _relative(given: Array, exact: Array) -> float:
    size = 1 + np.linalg.norm(exact, axis=1)
    return float((np.linalg.norm(given - exact, axis=1) / size).max())
