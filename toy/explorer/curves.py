"""The two curves beside a solution: the dual function along one multiplier, the least cost along one level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicHermiteSpline

import duality as du
from toy.dual import dual_values, places_along
from toy.explorer.levels import Range
from toy.explorer.posed import direction, parts_of
from toy.mixtures import Array

# Points of the trade-off curve that are solved for, and drawn. RU has the smoothest curve: between nine points it is
# off by 1e-3 of its height, others between eleven by up to 6e-3.
_SOLVES, _SOLVES_REVERSE, _DRAWN = 11, 9, 97
_MISS = 1e-8  # relative miss of the levels there: V errs by its square


@dataclass(frozen=True, eq=False)
class Curve:
    """y against x; ``attained`` says of each point whether a tilt of q reaches it."""

    x: Array
    y: Array
    attained: np.ndarray


def dual_curve(problem: du.Problem, ratios: du.LogRatios, solution: du.Solution, index: int, end: float) -> Curve:
    """g along lam_index with the other multipliers at their optimum, from 0 to beyond lam* or to the domain's end."""
    best, lam = np.array(solution.multipliers), float(solution.multipliers[index])
    places = places_along(lam, float(solution.slack[index]), end, 33)
    moved = np.repeat(best[None], len(places), axis=0)
    moved[:, index] = places
    if (
        isinstance(problem, du.Joint) or ratios.grouped
    ):  # with normalisers of several prompts, and constraints of several kinds
        values = np.array([du.dual_function(problem, ratios, one).value for one in moved])
    else:
        values = dual_values(problem, ratios, moved)
    finite = np.isfinite(values)
    return Curve(places[finite], values[finite], np.ones(int(finite.sum()), dtype=bool))


def frontier_curve(solution: du.Solution, ratios: du.LogRatios, one: Range, index: int) -> Curve:
    """V(b) along the level of one concept, the others as asked for, over its range and on to the present level.

    V is solved for at a few levels; between them runs the cubic with the right slopes, which are the multipliers.
    """
    problem, levels = solution.problem, solution.problem.levels
    level, sign = float(levels[index]), direction(problem, index)
    first = parts_of(problem)[0]
    solves = _SOLVES_REVERSE if isinstance(first, du.ReverseKL) else _SOLVES
    spread = np.array([one.level(t) for t in np.linspace(0, 1, solves)])
    if not min(one.little, one.much) <= level <= max(one.little, one.much):
        ends = np.linspace(spread[-1] if one.position(level) == 1 else spread[0], level, 5)
        spread = np.concatenate([spread, ends])
    spread = np.unique(spread)[:: int(sign)]  # from mild to severe, so that warm starts help
    table = np.repeat(levels[None], len(spread), axis=0)
    table[:, index] = spread
    solutions = _walk(problem, ratios, table)
    if len(solutions) < 2:
        return Curve(np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool))
    order = np.argsort(spread[: len(solutions)])
    x = spread[order]
    y = np.array([solutions[k].dual for k in order])
    slopes = np.array([slope(solutions[k], index) for k in order])
    attained = np.array([solutions[k].attained for k in order], dtype=bool)
    fine = np.geomspace(x[0], x[-1], _DRAWN) if one.log else np.linspace(x[0], x[-1], _DRAWN)
    fine[0], fine[-1] = x[0], x[-1]
    # A level between two is attained where the next more severe one is.
    after = np.searchsorted(x, fine, side="left" if sign > 0 else "right") - (sign < 0)
    return Curve(fine, CubicHermiteSpline(x, y, slopes)(fine), attained[np.clip(after, 0, len(x) - 1)])


def slope(solution: du.Solution, index: int) -> float:
    """dV/db of one level."""
    return direction(solution.problem, index) * float(solution.multipliers[index])


def _walk(problem: du.Problem, ratios: du.LogRatios, table: Array) -> list[du.Solution]:
    """Solutions up to the first row of levels that cannot be had."""
    while len(table):
        try:
            return du.frontier(problem, ratios, table, _MISS)
        except du.InfeasibleError as error:
            failed = int(np.abs(table - error.levels).sum(axis=1).argmin())
            table = table[:failed]
    return []
