"""Concave maximisation over a polyhedron in a few variables: projected Newton with cuts and a careful line search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.duals import Dual, Evaluation
from duality.quadratic import newton_step
from duality.ratios import EPS


@dataclass(frozen=True)
class Climb:
    """Where a climb ended.

    Attributes:
        x: `(m,)`, in the coordinates of the dual.
        at: the evaluation there.
        pressure: `(m,)`, normals of the faces that hold x back, times their multipliers; zero at an interior optimum.
        iterations: Newton steps taken.
        exhausted: whether the value passed the dual's ceiling, which certifies that the problem is infeasible.
    """

    x: np.ndarray
    at: Evaluation
    pressure: np.ndarray
    iterations: int
    exhausted: bool


MAX_STEPS = 200
TARGET = 1e-14  # relative residual to aim at; rounding decides how much of it is reached


def maximise(dual: Dual, start: np.ndarray, units: np.ndarray) -> Climb:
    """max g(x) over {x ≥ 0, rows·x ≤ limits}, by Newton steps that solve the quadratic model on that set.

    Args:
        dual: the function and its linear constraints, which it may reveal one cut at a time.
        start: `(m,)`, feasible.
        units: `(m,)`, sizes against which misses of the levels are judged.

    Each step maximises the quadratic model over the set (adding the node whose constraint it violates most, until
    it violates none), then searches along it. The search accepts by slope as well as by value, because within
    sqrt(eps) of the optimum values no longer differ and slopes still do; it *lengthens* a step along which the
    slope has hardly fallen, because exponential tails make Newton's unit step far too short.
    """
    rows, limits = dual.rows()
    x = start
    at = dual.evaluate(x)
    best_residual, stale = np.inf, 0
    pressure = np.zeros(dual.m)
    best = (x, at, pressure)
    iteration = 0
    for iteration in range(1, MAX_STEPS + 1):
        if at.value > dual.ceiling + 1.0:
            return Climb(x, at, pressure, iteration, True)
        step, multipliers = newton_step(at.curvature, at.gradient, x, rows, limits)
        for _ in range(30):
            cut = dual.cut(x + step)
            if cut is None:
                break
            rows, limits = np.vstack([rows, cut[0]]), np.append(limits, cut[1])
            step, multipliers = newton_step(at.curvature, at.gradient, x, rows, limits)
        # Only faces that x has reached hold it back; those that the next step would reach do not yet.
        pressure = rows.T @ np.where(limits - rows @ x <= 1e-12 * limits, multipliers, 0.0)
        residual = _residual(at, x, pressure, units)
        if residual < 0.5 * best_residual:
            best_residual, stale, best = residual, 0, (x, at, pressure)
        else:
            if residual < best_residual:
                best = (x, at, pressure)
            stale += 1
        if residual <= TARGET or (stale >= 3 and best_residual < 1e-11) or stale >= 30:
            break
        moved = _search(dual, x, at, step, rows, limits)
        if moved is None:
            break
        x, at = moved
    x, at, pressure = best
    return Climb(x, at, pressure, iteration, False)


def _residual(at: Evaluation, x: np.ndarray, pressure: np.ndarray, units: np.ndarray) -> float:
    """The largest relative violation of stationarity, in the units of the levels.

    misses are gradients up to a positive factor, so the pressure of faces is removed in the gradient, by proportion.
    """
    misses = at.misses
    pressed = pressure != 0
    if pressed.any():
        share = np.where(pressed & (at.gradient > 0), pressure / np.where(at.gradient > 0, at.gradient, 1.0), 0.0)
        misses = misses * (1.0 - np.minimum(share, 1.0))
    wrong = float((np.where(x > 0, np.abs(misses), np.maximum(misses, 0.0)) / units).max())
    return wrong if pressed.any() else max(wrong, abs(at.excess) / (1.0 + abs(at.value)))


def _search(
    dual: Dual, x: np.ndarray, at: Evaluation, step: np.ndarray, rows: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, Evaluation] | None:
    """A point along the step with a higher value and a flatter slope; None where rounding leaves no progress."""
    slope = float(at.gradient @ step)
    if not slope > 0:
        return None
    noise = 16 * EPS * (1.0 + abs(at.value))
    longest = _room(x, step, rows, limits)
    low, low_at = 0.0, at
    t = 1.0
    high = np.inf
    for trial in range(80):
        point = x + t * step
        np.maximum(point, 0.0, out=point)
        point[point < EPS * x] = 0.0  # a coordinate that meets its bound meets it exactly
        there = dual.evaluate(point)
        reached = float(there.gradient @ step)
        if not (there.value >= at.value - noise and reached >= -0.9 * slope):
            high = t
            # Halve twice, then fall faster: an overlong step is overlong by orders of magnitude.
            t = low + (t - low) * (0.5 if trial < 2 else 0.1)
            if low > 0.0:
                break
            continue
        low, low_at = t, there
        if not (reached > 0.3 * slope and t < longest and high == np.inf):
            break
        t = min(4.0 * t, longest)
    if low == 0.0:
        return None
    point = np.maximum(x + low * step, 0.0)
    point[point < EPS * x] = 0.0
    return point, low_at


def _room(x: np.ndarray, step: np.ndarray, rows: np.ndarray, limits: np.ndarray) -> float:
    """The largest t for which x + t·step keeps its signs and the known rows; cuts not yet known show as value -inf."""
    longest = np.inf
    falling = step < 0
    if falling.any():
        longest = float((x[falling] / -step[falling]).min())
    speed = rows @ step
    rising = speed > 0
    if rising.any():
        longest = min(longest, float(((limits - rows @ x)[rising] / speed[rising]).min()))
    return max(longest, 1.0)
