"""The table of theorems: each is one function from a random generator to the error of one fresh instance.

To add a theorem, write such a function under ``@theorem(...)``. Errors are relative (0 is exact); an exception counts
as an infinite error. Nothing here trusts the solver: costs and levels of arbitrary densities are by definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import duality as du
from toy.mixtures import Array
from toy.solving import Problem

Check = Callable[[np.random.Generator], float]


@dataclass(frozen=True)
class Theorem:
    """name; statement in one line; check, one instance's error; tolerance; summary over instances of all errors.

    Attributes:
        every: one in how many of the instances asked for is made, for checks that take a hundred times as long as most.
    """

    name: str
    statement: str
    check: Check
    tolerance: float
    summary: Callable[[Array], float]
    every: int = 1


THEOREMS: dict[str, Theorem] = {}


def worst(errors: Array) -> float:
    """The largest error: for statements that hold without exception."""
    return float(errors.max())


def theorem(
    name: str, statement: str, tolerance: float, summary: Callable[[Array], float] = worst, every: int = 1
) -> Callable[[Check], Check]:
    """Enter a check into the table under a name."""

    def enter(check: Check) -> Check:
        if name in THEOREMS:
            raise ValueError(f"name: {name!r} is in the table already")
        THEOREMS[name] = Theorem(name, statement, check, tolerance, summary, every)
        return check

    return enter


def cost_of(problem: Problem, ratios: du.LogRatios, log_p: Array) -> float:
    """KL(p||q), or KL(q||p) for FU, from log masses (n,), by the definition."""
    pair = (ratios.log_weights, log_p) if isinstance(problem, du.ForwardKL) else (log_p, ratios.log_weights)
    return divergence(*pair)


def levels_of(problem: Problem, ratios: du.LogRatios, log_p: Array) -> Array:
    """KL(p||q_i), KL(q_i||p) or E_p[l_i], (m,), from log masses (n,), by the definition."""
    log_parts = (ratios.values + ratios.log_weights[:, None]).T
    if isinstance(problem, du.ForwardKL):
        return np.array([divergence(log_part, log_p) for log_part in log_parts])
    if isinstance(problem, du.ReverseKL):
        return np.array([divergence(log_p, log_part) for log_part in log_parts])
    bound = problem.bind(ratios)
    if not isinstance(bound, du.Likelihood):
        raise ValueError(f"problem: ReverseKL, ForwardKL or Likelihood is needed, given {type(problem).__name__}")
    return np.exp(log_p) @ np.asarray(bound.likelihoods(bound.inputs(ratios)))


def with_levels(problem: Problem, levels: Array) -> Problem:
    """The same problem at other levels."""
    if isinstance(problem, du.Likelihood):
        return du.Likelihood(levels, kind=problem.kind, priors=problem.priors)
    return type(problem)(levels)


def divergence(log_p: Array, log_q: Array) -> float:
    """KL(p||q) from log masses (n,)."""
    p = np.exp(log_p)
    return float(np.where(p > 0, p * (log_p - log_q), 0.0).sum())
