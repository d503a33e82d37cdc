"""The trade-off curve: the least cost as a function of the levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from duality._arrays import to_numpy
from duality.dual_protocol import Dual
from duality.grouped_duals import dual_of
from duality.newton import TARGET
from duality.problems import Problem
from duality.ratios import LogRatios
from duality.solution import InfeasibleError, Solution
from duality.solve import finish, inside, optimise, solve
from duality.warm import Start


def frontier(problem: Problem, ratios: LogRatios, levels: Any, tolerance: float = TARGET) -> list[Solution]:
    """V(b) = min{cost : levels b} along a list of levels; dV/db_i = lam_i, or -lam_i for Likelihood.

    V is convex for all three problems (by duality it is a supremum of functions that are affine in b), so the
    solutions are a curve whose slope is read off their multipliers. Each solve starts from the multipliers of the
    last one that was attained, or from the line through the last two where the dual function is higher there, which
    saves most of the steps where neighbouring levels are close or evenly spaced.

    Args:
        problem: its own levels are ignored; kind and priors count.
        ratios: as for `solve`.
        levels: `(k, m)`, or `(k,)` where every constraint is to have the same level, in the order to be walked.
        tolerance: the relative miss of the levels at which a solve may stop. The value errs by its square only, so
            1e-8 is plenty for a curve to be looked at.

    Returns:
        k solutions, in the order of the levels.

    Raises:
        ValueError: for levels of another shape.
        InfeasibleError: at the first levels that cannot be had.
    """
    table, m = to_numpy("levels", levels), problem.count(ratios)
    if table.ndim == 1:
        table = np.repeat(table[:, None], m, axis=1)
    if table.ndim != 2 or table.shape[1] != m or table.shape[0] == 0:
        raise ValueError(f"levels: shape {table.shape} given, (k, {m}) or (k,) is needed")
    solutions: list[Solution] = []
    last: Solution | None = None  # attained: beyond, multipliers lie on a face of the domain, or at infinity
    before: Solution | None = None
    for row in table:
        bound = replace(problem, levels=row).bind(ratios)
        if last is None:
            solutions.append(solve(bound, ratios))
            last = solutions[-1] if solutions[-1].attained else None
            continue
        if bound.out_of_reach(ratios):
            raise InfeasibleError(bound.levels, bound.least_levels(ratios), bound.conflict(ratios))
        dual = dual_of(bound, ratios)
        found = optimise(bound, ratios, dual, Start(_start(dual, last, before)), tolerance)
        solutions.append(finish(bound, ratios, found, tolerance))
        if solutions[-1].attained:
            before, last = last, solutions[-1]
    return solutions


def _start(dual: Dual, last: Solution, before: Solution | None) -> np.ndarray:
    """Where to begin: at the last solution, or where the line from the one before it leads, whichever is higher.

    Towards a face of the domain steps get shorter as the room does: levels run off as its logarithm.
    """
    start = dual.from_natural(_natural(last))
    if before is None:
        return start
    past = dual.from_natural(_natural(before))
    rows, limits = dual.rows()
    room, had = float((limits - rows @ start).min()), float((limits - rows @ past).min())
    ahead = np.maximum(start + min(1.0, room / max(had, 1e-300)) * (start - past), dual.lower)
    if not inside(dual, ahead):
        return start
    return ahead if dual.evaluate(ahead).value > dual.evaluate(start).value else start


def _natural(solution: Solution) -> np.ndarray:
    """Natural parameters to start from; from the multipliers, where those of the target are not known."""
    if np.isfinite(solution.natural).all():
        return solution.natural
    return np.asarray(solution.problem.natural(solution.multipliers))


def fixed_weights(problem: Problem, ratios: LogRatios, multipliers: Sequence[Any]) -> list[tuple[float, np.ndarray]]:
    """What sweeping weights by hand reaches: (cost, levels) of the tilt at each of the given multipliers.

    Every weight is the multiplier of *some* levels: the tilt at lam is optimal for the very levels that it reaches.
    With several constraints, though, equal weights reach levels that nobody asked for: at the smallest equal weight
    that meets the levels asked, some are overshot, and the cost lies above the frontier.

    Args:
        problem: its levels are ignored.
        ratios: as for `solve`.
        multipliers: k entries, numbers (the same weight for every constraint) or `(m,)`, inside the dual domain.

    Returns:
        k pairs of the cost in nats and the levels `(m,)`.

    Raises:
        ValueError: for multipliers outside the dual domain of the problem on these nodes.
    """
    bound = problem.bind(ratios)
    dual = dual_of(bound, ratios)
    curve = []
    for given in multipliers:
        lam = np.broadcast_to(to_numpy("multipliers", given), bound.levels.shape)
        if not bound.domain(lam):
            raise ValueError(f"multipliers: {lam} lie outside the dual domain of {type(problem).__name__}")
        x = dual.from_natural(np.asarray(bound.natural(lam)))
        if not np.isfinite(dual.evaluate(x).value):
            raise ValueError(f"multipliers: at {lam} the target is not a density on these nodes")
        log_weights = dual.log_masses(x)
        curve.append((bound.cost(ratios, log_weights), bound.levels_of(ratios, log_weights)))
    return curve
