"""Ratios to test on: the worked mixture, random finite spaces with exact masses, Gaussians on trapezoids."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

import duality as du

WEIGHTS = np.array([0.3, 0.4, 0.3])
MEANS = np.array([[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]])
VARIANCE = 0.5


def mixture_ratios(x: np.ndarray, log_weights: np.ndarray | None, concepts: tuple[int, ...] = (0,)) -> du.LogRatios:
    """Log ratios of components of the worked mixture at points `(n, 2)`."""
    squares = ((x[:, None, :] - MEANS) ** 2).sum(axis=-1)
    components = -squares / (2 * VARIANCE) - np.log(2 * np.pi * VARIANCE)
    log_q = logsumexp(components + np.log(WEIGHTS), axis=1)
    chosen = components[:, concepts]
    return du.LogRatios(chosen - log_q[:, None], log_weights, log_densities=chosen, priors=WEIGHTS[list(concepts)])


def worked_mixture(side: int = 161, reach: float = 9.0, concepts: tuple[int, ...] = (0,)) -> du.LogRatios:
    """q = .3 N((-3,0),.5 I) + .4 N((0,3),.5 I) + .3 N((3,0),.5 I) on a grid of side² nodes."""
    line = np.linspace(-reach, reach, side)
    x = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    squares = ((x[:, None, :] - MEANS) ** 2).sum(axis=-1)
    log_q = logsumexp(-squares / (2 * VARIANCE) + np.log(WEIGHTS), axis=1)
    return mixture_ratios(x, log_q - logsumexp(log_q), concepts)


def mixture_draws(rng: np.random.Generator, n: int, concepts: tuple[int, ...] = (0,)) -> du.LogRatios:
    """n draws of the worked mixture."""
    x = MEANS[rng.choice(3, size=n, p=WEIGHTS)] + np.sqrt(VARIANCE) * rng.normal(size=(n, 2))
    return mixture_ratios(x, None, concepts)


def finite_space(rng: np.random.Generator, n: int, m: int, spread: float = 1.0) -> du.LogRatios:
    """Random q and q_1 … q_m on n nodes, all of total mass one; ratios of about `spread` nats."""
    log_q = rng.normal(size=n)
    log_q -= logsumexp(log_q)
    log_i = log_q[:, None] + spread * rng.normal(size=(n, m))
    log_i -= logsumexp(log_i, axis=0)
    priors = rng.uniform(0.3, 1.0, size=m) * 0.9 / m
    return du.LogRatios(log_i - log_q[:, None], log_q, log_densities=log_i, priors=priors)


def own_levels(problem: du.Problem, ratios: du.LogRatios) -> np.ndarray:
    """The levels of q itself, `(m,)`: what "inactive" is measured against."""
    return problem.bind(ratios).levels_of(ratios, ratios.log_weights)


def bound_case(kind, bounds: tuple[float, float], n: int, m: int, seed: int) -> tuple[du.Problem, du.LogRatios]:
    """A random problem on n nodes, levels between ``bounds`` times those of q; ``kind``: levels (m,) to a problem."""
    rng = np.random.default_rng(seed)
    ratios = finite_space(rng, n, m, spread=0.7)
    own = own_levels(kind(1.0), ratios)
    return kind(own * rng.uniform(*bounds, size=m)).bind(ratios), ratios


def trapezoid(q: du.gaussians.Gaussian, others: list[du.gaussians.Gaussian], side: int, reach: float) -> du.LogRatios:
    """Ratios of Gaussians on a grid of side^d nodes, `reach` standard deviations of q to each side.

    For Gaussians the trapezoidal rule converges faster than any power of the step: with ten nodes to a standard
    deviation its error is below rounding, and what is left is the mass beyond the reach.
    """
    d = q.mean.size
    line = np.linspace(-reach, reach, side)
    z = np.stack(np.meshgrid(*([line] * d), indexing="ij"), axis=-1).reshape(-1, d)
    x = q.mean + z @ np.linalg.cholesky(q.covariance).T
    log_q = q.log_prob(x)
    log_i = np.stack([other.log_prob(x) for other in others], axis=1)
    return du.LogRatios(log_i - log_q[:, None], log_q - logsumexp(log_q), log_densities=log_i)
