"""Random problems whose answers are known before they are solved.

A tilt with chosen multipliers is optimal for the levels that it reaches (its dual value is its cost), so drawing
multipliers first and reading the levels off gives instances of any size with the optimum known in closed form.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import duality as du
from toy.dual import log_mean_exp
from toy.mixtures import Array, GaussianMixture
from toy.solving import Problem

NODES = 101


class Instance(NamedTuple):
    """A problem on nodes and its optimum: multipliers (m,), cost in nats, log masses of the target (n,)."""

    problem: Problem
    ratios: du.LogRatios
    multipliers: Array
    cost: float
    log_weights: Array


class Toy(NamedTuple):
    """Log ratios of m components of a random 1-D mixture on a lattice, and the components' weights in it, (m,)."""

    ratios: du.LogRatios
    priors: Array


def mixture(generator: np.random.Generator, components: int, dimension: int = 1) -> GaussianMixture:
    """A random mixture: means within some deviations of each other, widths within a factor of three."""
    weights = generator.dirichlet(np.full(components, 3.0))
    means = 2.0 * generator.normal(size=(components, dimension))
    roots = 0.35 * generator.normal(size=(components, dimension, dimension))
    scale = generator.uniform(0.3, 1.0, size=(components, 1, 1))
    covariances = scale * np.eye(dimension) + roots @ np.swapaxes(roots, 1, 2)
    return GaussianMixture(weights, means, covariances)


def toy(generator: np.random.Generator, m: int, nodes: int = NODES) -> Toy:
    """A random 1-D mixture of m + 1 to m + 3 components, m of which are to be unlearned, on a lattice.

    The densities are written out: at ten thousand instances a mixture object for each would be most of the time.
    """
    k = m + int(generator.integers(1, 4))
    weights = generator.dirichlet(np.full(k, 3.0))
    means = 2.0 * generator.normal(size=k)
    widths = generator.uniform(0.55, 1.3, size=k)
    points = np.linspace((means - 7 * widths).min(), (means + 7 * widths).max(), nodes)[:, None]
    parts = -0.5 * np.square((points - means) / widths) - np.log(widths * np.sqrt(2 * np.pi))
    top = parts.max(axis=1, keepdims=True)
    log_q = top[:, 0] + np.log(np.exp(parts - top) @ weights)
    log_weights = log_q - log_mean_exp(log_q, np.zeros(nodes))
    wanted = parts[:, :m]
    return Toy(du.LogRatios(wanted - log_q[:, None], log_weights, wanted, weights[:m]), weights[:m])


def drawn(generator: np.random.Generator, m: int, n: int) -> du.LogRatios:
    """n draws of a random mixture of m + 1 to m + 3 components in the plane, m of which are the concepts."""
    k = m + int(generator.integers(1, 4))
    weights = generator.dirichlet(np.full(k, 3.0))
    means = 2.0 * generator.normal(size=(k, 2))
    widths = generator.uniform(0.55, 1.3, size=k)
    chosen = generator.choice(k, size=n, p=weights)
    x = means[chosen] + widths[chosen, None] * generator.normal(size=(n, 2))
    parts = -0.5 * np.square(x[:, None] - means).sum(axis=-1) / widths**2 - 2 * np.log(widths)
    top = parts.max(axis=1)
    log_q = top + np.log(np.exp(parts - top[:, None]) @ weights)
    return du.LogRatios(parts[:, :m] - log_q[:, None])


def instance(generator: np.random.Generator, m: int | None = None) -> Instance:
    """A problem of random kind with m (by default 1 to 3) constraints, about one in five of them inactive."""
    made = toy(generator, int(generator.integers(1, 4)) if m is None else m)
    kind = int(generator.integers(5))
    return (reverse, forward, posterior, density, log_ratio_likelihood)[kind](generator, made.ratios)


def reverse(generator: np.random.Generator, ratios: du.LogRatios) -> Instance:
    """RU at the levels of the tilt q prod_i (q/q_i)^a_i, sum a below 1.5."""
    natural = _natural(generator, ratios, 1.5)
    log_target = _tilted(ratios, -(ratios.values @ natural))
    while _at_edge(log_target):
        natural *= 0.5
        log_target = _tilted(ratios, -(ratios.values @ natural))
    lam = natural / (1 + natural.sum())
    cost = _divergence(log_target, ratios.log_weights)
    reached = cost - np.exp(log_target) @ ratios.values
    return Instance(du.ReverseKL(_loosened(generator, reached, lam, -1.0, 0.0)), ratios, lam, cost, log_target)


def forward(generator: np.random.Generator, ratios: du.LogRatios) -> Instance:
    """FU at the levels of (q - sum lam_i q_i)/(1 - L), from 3 to 98 % of the way to the end of the domain."""
    direction = _natural(generator, ratios, 1.0)
    share = np.exp(ratios.values) @ direction
    lam = direction * generator.uniform(0.03, 0.98) / share.max()
    log_target = _tilted(ratios, np.log1p(-(np.exp(ratios.values) @ lam)))
    base = ratios.log_weights
    cost = _divergence(base, log_target)
    under = np.exp(ratios.values + base[:, None])
    # Kullback-Leibler divergences of the q_i as they are on the nodes: measures whose mass is 1 up to the rule's error.
    reached = np.array([mass @ (np.log(mass) - log_target) for mass in np.maximum(under, 1e-320).T])
    return Instance(du.ForwardKL(_loosened(generator, reached, lam, -1.0, 0.0)), ratios, lam, cost, log_target)


def posterior(generator: np.random.Generator, ratios: du.LogRatios) -> Instance:
    """LU with posteriors, multipliers of 0.1 to 30."""
    return _likelihood(generator, ratios, du.Likelihood(np.ones(ratios.m), priors=ratios.priors), 30.0)


def density(generator: np.random.Generator, ratios: du.LogRatios) -> Instance:
    """LU with densities, multipliers of up to 30."""
    return _likelihood(generator, ratios, du.Likelihood(np.ones(ratios.m), kind="density"), 30.0)


def log_ratio_likelihood(generator: np.random.Generator, ratios: du.LogRatios) -> Instance:
    """LU with log ratios, multipliers of up to 1.5: the family of RU."""
    return _likelihood(generator, ratios, du.Likelihood(np.ones(ratios.m), kind="log-ratio"), 1.5)


KINDS = (reverse, forward, posterior, density, log_ratio_likelihood)


def _likelihood(generator: np.random.Generator, ratios: du.LogRatios, blank: du.Likelihood, largest: float) -> Instance:
    lam = _natural(generator, ratios, largest)
    unwanted = np.asarray(blank.bind(ratios).likelihoods(blank.inputs(ratios)))
    log_target = _tilted(ratios, -(unwanted @ lam))
    while _at_edge(log_target):
        lam *= 0.5
        log_target = _tilted(ratios, -(unwanted @ lam))
    cost = _divergence(log_target, ratios.log_weights)
    reached = np.exp(log_target) @ unwanted
    room = np.exp(ratios.log_weights) @ unwanted
    levels = _loosened(generator, reached, lam, 1.0, np.abs(room))
    return Instance(du.Likelihood(levels, kind=blank.kind, priors=blank.priors), ratios, lam, cost, log_target)


def _natural(generator: np.random.Generator, ratios: du.LogRatios, largest: float) -> Array:
    natural = largest * 10 ** generator.uniform(-2.0, 0.0) * generator.dirichlet(np.ones(ratios.m))
    natural[generator.random(ratios.m) < 0.2] = 0.0
    if not natural.any():
        natural[int(generator.integers(ratios.m))] = 0.3 * largest
    return natural


def _loosened(generator: np.random.Generator, reached: Array, lam: Array, sign: float, room: Array | float) -> Array:
    """Levels as reached, eased where the multiplier is zero, so that those constraints hold with slack."""
    ease = generator.uniform(0.05, 0.5, size=reached.shape) * np.maximum(np.abs(reached), room)
    return np.where(lam > 0, reached, reached + sign * ease)


def _tilted(ratios: du.LogRatios, log_weight: Array) -> Array:
    return ratios.log_weights + log_weight - log_mean_exp(ratios.log_weights, log_weight)


def _at_edge(log_target: Array) -> bool:
    """Whether the tilt has run to the ends of the lattice: there Z is infinite, or nearly, on the line itself."""
    return bool(np.exp(log_target[[0, 1, -2, -1]]).sum() > 1e-8)


def _divergence(log_p: Array, log_q: Array) -> float:
    p = np.exp(log_p)
    return float(np.where(p > 0, p * (log_p - log_q), 0.0).sum())
