r"""Dual steps for networks: scaled by curvature, held back until the network follows, and stopped when all is met.

::

    lam <- lam + gain · (b - level)_i / |d²g/dlam_i²|            (d²g/dlam² of the solved dual function)

A plain rate would have to suit levels in nats and in probabilities at once; divided by the curvature the gain is a
number without unit, 1 for a Newton step, and ascent with an exact player converges for gains below 2/m.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import duality as du
from duality.primal_dual import DualRule


class Scaled:
    """A dual rule on misses times ``scale`` (m,), which rests for the first ``warmup`` rounds.

    A network needs some rounds to follow even a fixed multiplier; moved at once, multipliers would answer to the
    training that has not happened yet. ``limit`` (m,): what a scaled miss counts at most, either way; a network that is
    thrown far past a level would otherwise throw its multiplier as far. ``decays``: what a miss counts in each round, 1
    where left out: at a lower rate of its optimiser a network answers later, and the same dual step is too large.
    """

    def __init__(
        self,
        rule: DualRule,
        scale: np.ndarray,
        warmup: int = 0,
        limit: np.ndarray | float = np.inf,
        decays: Sequence[float] | None = None,
    ) -> None:
        self.rule, self.scale, self.warmup, self.limit, self.decays = rule, scale, warmup, limit, decays
        self.calls = 0

    def update(self, multipliers: np.ndarray, misses: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls <= self.warmup:
            return multipliers
        decay = 1.0 if self.decays is None else self.decays[self.calls - 1]
        return self.rule.update(multipliers, decay * np.clip(self.scale * misses, -self.limit, self.limit))

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "rule": self.rule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = int(state["calls"])
        self.rule.load_state_dict(state["rule"])


def newton_scale(problem: du.Problem, ratios: du.LogRatios, multipliers: np.ndarray) -> np.ndarray:
    """``1 / |d²g/dlam_i²|`` (m,) at multipliers (m,).

    Where the curvature is infinite or zero (at the end of the dual domain) a miss of one unit of the level moves the
    multiplier by its own size.
    """
    curvature = np.abs(np.diag(du.dual_function(problem, ratios, multipliers).hessian))
    usable = np.isfinite(curvature) & (curvature > 1e-12)
    own = np.maximum(multipliers, 1e-3) / problem.units(ratios)
    return np.where(usable, 1 / np.where(usable, curvature, 1.0), own)


def within_one_se(problem: du.Problem, levels: np.ndarray, errors: np.ndarray, multipliers: np.ndarray) -> bool:
    """Whether levels (m,) are those asked for within one standard error; without a price they may be beyond."""
    slack = problem.slack(levels)
    return bool(((slack >= -errors) & ((slack <= errors) | (multipliers <= 0))).all())


def exceeds_by_one_se(problem: du.Problem, levels: np.ndarray, errors: np.ndarray) -> bool:
    """Whether levels (m,) are beyond those asked for by a standard error, as a method that aims beyond them can be.

    Of a level that asks for nothing it is enough that nothing was lost, as far as one can tell.
    """
    beyond = np.where(np.asarray(problem.levels) > 0, errors, -errors)
    return bool((problem.slack(levels) >= beyond).all())


def converged(slacks: np.ndarray, errors: np.ndarray, multipliers: np.ndarray, patience: int) -> bool:
    """Whether the last ``patience`` rounds met all levels, and stood still.

    Met: slack ≥ -2 standard errors, and slack ≤ 2 standard errors where the multiplier is positive (complementary
    slackness: an overshot level with a price has not settled). Arguments (k, m), in the order of rounds.
    """
    if len(slacks) < patience:
        return False
    slack, error, lam = slacks[-patience:], errors[-patience:], multipliers[-patience:]
    return bool(((slack >= -2 * error) & ((slack <= 2 * error) | (lam <= 0))).all())
