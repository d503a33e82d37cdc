"""Theorems about nodes in groups and about constraints of several kinds: optima known from construction.

A tilt with chosen multipliers, normalised in each group, is optimal for the levels that it reaches. Costs, levels and
dual values are written out group by group from their definitions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import duality as du
from toy.mixtures import Array
from toy.verification.table import theorem


class Space(NamedTuple):
    """A finite space in groups: the ratios, joint masses q (n,), groups (n,) and shares (C,)."""

    ratios: du.LogRatios
    q: Array
    groups: np.ndarray
    shares: Array

    def within(self, terms: Array) -> Array:
        """Sums over each group, (n,) -> (C,)."""
        return np.asarray(np.bincount(self.groups, weights=terms, minlength=self.shares.size), dtype=np.float64)

    def normalised(self, weights: Array) -> Array:
        """Joint masses of q w with the groups' shares."""
        masses = self.q * weights
        return masses * (self.shares / self.within(masses))[self.groups]

    def divergence(self, p: Array, q: Array) -> float:
        """sum_c P(c) KL(p_c||q_c) from joint masses."""
        held = p > 0
        return float(p[held] @ np.log(p[held] / q[held]))

    def log_normalisers(self, weights: Array) -> Array:
        """`log E_{q_c}[w]`, (C,)."""
        return np.asarray(np.log(self.within(self.q * weights) / self.shares))


def space(generator: np.random.Generator, m: int = 2, detectors: int = 2) -> Space:
    """1 to 6 groups of 1 to some dozen nodes, m laws of mass one in each group, and detectors in [0, 1]."""
    count = int(generator.integers(1, 7))
    groups = np.repeat(np.arange(count), generator.integers(1, 25, size=count))
    # At least six nodes: on two, two levels that are met at once leave the multipliers undetermined.
    groups = generator.permutation(np.append(groups, np.zeros(5, dtype=int)))
    shares = generator.dirichlet(np.full(count, 2.0))
    q = generator.gamma(2.0, size=groups.size) + 1e-3
    q *= (shares / np.bincount(groups, weights=q))[groups]
    rho = generator.uniform(0.2, 1.5) * generator.normal(size=(groups.size, m))
    for i in range(m):
        rho[:, i] -= np.log(np.bincount(groups, weights=q * np.exp(rho[:, i])) / shares)[groups]
    seen = generator.beta(0.4, 0.6, size=(groups.size, detectors))
    ratios = du.LogRatios(rho, np.log(q), None, np.full(m, 0.9 / m), groups, shares, seen)
    return Space(ratios, q, groups, shares)


def error(
    made: Space, problem: du.Problem, cost: float, dual: float, log_p: Array, ratios: du.LogRatios | None = None
) -> float:
    """Of the solver's answer, against a known optimum: values, target, and its own certificate."""
    found = du.solve(problem, made.ratios if ratios is None else ratios)
    scale = 1 + abs(cost)
    # Costs that differ by eps leave densities sqrt(eps) apart (Pinsker): a thousandth of that error counts here.
    apart = 0.5 * float(np.abs(np.exp(found.log_weights) - np.exp(log_p)).sum())
    shares = float(np.abs(made.within(np.exp(found.log_weights)) - made.shares).max())
    return max(abs(found.primal - cost) / scale, abs(found.dual - dual) / scale, found.gap, shares, 1e-3 * apart)


@theorem("groups", "one normaliser for each group, shared multipliers: cost = dual for RU, FU, LU", 1e-10)
def grouped(generator: np.random.Generator) -> float:
    made = space(generator)
    rho, q = made.ratios.values, made.q
    parts = q[:, None] * np.exp(rho)
    kind = int(generator.integers(3))
    if kind == 0:
        natural = generator.uniform(0.05, 0.7, size=2)
        lam = natural / (1 + natural.sum())
        w = np.exp(-(rho @ natural))
        p = made.normalised(w)
        cost = made.divergence(p, q)
        levels = np.array([made.divergence(p, part) for part in parts.T])
        dual = float(lam @ levels - (1 - lam.sum()) * made.shares @ made.log_normalisers(w))
        return error(made, du.ReverseKL(levels), cost, dual, np.log(p))
    if kind == 1:
        direction = generator.dirichlet(np.ones(2))
        lam = direction * generator.uniform(0.05, 0.97) / float((np.exp(rho) @ direction).max())
        u = 1 - np.exp(rho) @ lam
        p = made.normalised(u)
        cost = made.divergence(q, p)
        levels = np.array([made.divergence(part, p) for part in parts.T])
        own = np.array([part @ log for part, log in zip(parts.T, rho.T, strict=True)])
        z = made.within(q * u) / made.shares
        dual = float(lam @ (levels - own) - (q * u) @ np.log(u) + made.shares @ (z * np.log(z)))
        return error(made, du.ForwardKL(levels), cost, dual, np.log(p))
    seen = made.ratios.detectors
    assert seen is not None
    lam = 10 ** generator.uniform(-1, 1, size=2)
    w = np.exp(-(seen @ lam))
    p = made.normalised(w)
    levels = p @ seen
    dual = float(-made.shares @ made.log_normalisers(w) - lam @ levels)
    return error(made, du.Likelihood(levels, kind="detector"), made.divergence(p, q), dual, np.log(p))


@theorem("joint", "RU, LU and keep-constraints in one tilt exp(-(lam rho + mu l - nu k)/(1 - L)): cost = dual", 1e-10)
def joint(generator: np.random.Generator) -> float:
    made = space(generator)
    rho, seen, q = made.ratios.values, made.ratios.detectors, made.q
    assert seen is not None
    lam = generator.uniform(0.05, 0.45, size=2)
    mu, nu = 10 ** generator.uniform(-1.0, 0.5, size=2)
    left = 1 - lam.sum()
    w = np.exp(-(rho @ lam + mu * seen[:, 0] - nu * seen[:, 1]) / left)
    p = made.normalised(w)
    levels = np.array([made.divergence(p, part) for part in (q[:, None] * np.exp(rho)).T])
    most, least = p @ seen
    dual = float(lam @ levels - mu * most + nu * least - left * made.shares @ made.log_normalisers(w))
    problem = du.Joint([du.ReverseKL(levels), du.Likelihood(most, kind="detector"), du.Keep(least)])
    return error(made, problem, made.divergence(p, q), dual, np.log(p))


@theorem("keep", "KL(p||q_k) <= c beside RU, KL(q_k||p) <= c beside FU: cost = dual", 1e-10)
def keep(generator: np.random.Generator) -> float:
    made = space(generator)
    rho, q = made.ratios.values, made.q
    parts = q[:, None] * np.exp(rho)
    if generator.random() < 0.5:
        lam, kappa = generator.uniform(0.05, 0.6), generator.uniform(0.1, 2.0)
        left = 1 - lam + kappa
        w = np.exp(-(lam * rho[:, 0] - kappa * rho[:, 1]) / left)
        p = made.normalised(w)
        levels = [made.divergence(p, part) for part in parts.T]
        dual = lam * levels[0] - kappa * levels[1] - left * float(made.shares @ made.log_normalisers(w))
        problem = du.Joint([du.ReverseKL(levels[0]), du.Keep(levels[1], kind="reverse-kl")])
        return error(made, problem, made.divergence(p, q), dual, np.log(p))
    kappa = generator.uniform(0.05, 1.0)
    room = float(((1 + kappa * np.exp(rho[:, 1])) / np.exp(rho[:, 0])).min())
    lam = generator.uniform(0.05, 0.95) * min(room, 1 + kappa)
    u = 1 + kappa * np.exp(rho[:, 1]) - lam * np.exp(rho[:, 0])
    p = made.normalised(u)
    cost = made.divergence(q, p)
    levels = [made.divergence(part, p) for part in parts.T]
    dual = (
        cost
        + lam * (levels[0] - made.divergence(parts[:, 0], p))
        + kappa * (made.divergence(parts[:, 1], p) - levels[1])
    )
    problem = du.Joint([du.ForwardKL(levels[0]), du.Keep(levels[1], kind="forward-kl")])
    return error(made, problem, cost, dual, np.log(p))


@theorem("own shares", "FU and LU whose constraints weigh groups by shares of their own: cost = dual", 1e-10)
def own_shares(generator: np.random.Generator) -> float:
    made = space(generator)
    q, count = made.q, made.shares.size
    own = generator.dirichlet(np.ones(count), size=2).T
    own[generator.random(own.shape) < 0.2] = 0.0
    own = np.where(own.sum(axis=0) > 0, own, 1.0)
    own /= own.sum(axis=0)
    alpha = (own / made.shares[:, None])[made.groups]
    ratio = np.exp(made.ratios.values)
    weighed = made.ratios.weighed(own)
    if generator.random() < 0.5:
        direction = generator.dirichlet(np.ones(2))
        lam = direction * generator.uniform(0.05, 0.97) / float(((alpha * ratio) @ direction).max())
        u = 1 - (alpha * ratio) @ lam
        p = made.normalised(u)
        # sum_c a_c KL(q_ic||p_c) + KL(a||P), term by term.
        each = [made.within(part * np.log(part / p)) / made.shares for part in (q[:, None] * ratio).T]
        extra = np.where(own > 0, own * np.log(np.where(own > 0, own, 1.0) / made.shares[:, None]), 0.0).sum(axis=0)
        levels = np.array([share @ one for share, one in zip(own.T, each, strict=True)]) + extra
        apart = [made.within(part * np.log(ratio[:, i])) / made.shares for i, part in enumerate((q[:, None] * ratio).T)]
        known = np.array([share @ one for share, one in zip(own.T, apart, strict=True)]) + extra
        z = made.within(q * u) / made.shares
        dual = float(lam @ (levels - known) - (q * u) @ np.log(u) + made.shares @ (z * np.log(z)))
        return error(made, du.ForwardKL(levels), made.divergence(q, p), dual, np.log(p), weighed)
    assert made.ratios.priors is not None
    seen = made.ratios.priors * ratio
    lam = 10 ** generator.uniform(-1, 1.0, size=2) / (alpha * seen).max(axis=0)
    w = np.exp(-(alpha * seen) @ lam)
    p = made.normalised(w)
    means = np.stack([made.within(p * column) / made.shares for column in seen.T], axis=1)
    levels = (own * means).sum(axis=0)
    least = np.stack([[column[made.groups == c].min() for c in range(count)] for column in seen.T], axis=1)
    if (levels - (own * least).sum(axis=0) < 1e-6).any():
        return 0.0  # groups of a single point, which no density can change
    dual = float(-made.shares @ made.log_normalisers(w) - lam @ levels)
    return error(made, du.Likelihood(levels), made.divergence(p, q), dual, np.log(p), weighed)
