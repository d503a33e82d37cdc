"""A barrier method for concave functions of degree one on a cone: how much constraints have to be relaxed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

#: The weights of the barriers fall by this factor, from stage to stage,
SHRINK = 0.1
#: until all of them together move the value by no more than this, relative to 1 + |value|.
CLOSE = 1e-11
#: A promised gain of less than this, relative to 1 + |value|, is one that rounding hides.
NOISE = 1e-15
NEWTON_STEPS = 40
TO_BOUNDARY = 0.99


class Homogeneous(NamedTuple):
    """h, its gradient `(m,)` and less its Hessian `(m, m)` at one point; h = y·gradient."""

    value: float
    gradient: np.ndarray
    curvature: np.ndarray


Function = Callable[[np.ndarray], Homogeneous]


def maximise_on_cone(
    function: Function, rows: np.ndarray, weights: np.ndarray, direction: np.ndarray, start: np.ndarray
) -> tuple[float, np.ndarray]:
    """max{h(y) : y ≥ 0, rows·y ≥ 0, direction·y = 1} and where, for concave h with h(ty) = t h(y).

    h(y) + tau (sum_i log y_i + weights·log(rows·y)) is maximised by Newton's method, for tau -> 0. At its maximum the
    value is within tau (m + sum weights) of the one sought (Boyd and Vandenberghe 2004, §11.2). What is returned is h
    at a point of the set, whatever became of the convergence: never more than the maximum.

    Args:
        function: h at points inside.
        rows: `(r, m)`.
        weights: `(r,)`, > 0, of the barriers of the rows.
        direction: `(m,)`, ≥ 0 and not all zero.
        start: `(m,)`, strictly inside the cone.
    """
    y = start / float(direction @ start)
    at = function(y)
    best = at.value, y
    size = y.size + float(weights.sum())
    tau = max(1.0, abs(at.value))
    while True:
        y, at = _centre(function, Walls(rows, weights, direction), y, at, tau)
        if at.value > best[0]:
            best = at.value, y
        if tau * size <= CLOSE * (1.0 + abs(at.value)):
            return best
        tau *= SHRINK


class Walls(NamedTuple):
    """What y keeps within: rows @ y > 0, each with a weight in the barrier, and direction · y = 1."""

    rows: np.ndarray
    weights: np.ndarray
    direction: np.ndarray


def _centre(
    function: Function, walls: Walls, y: np.ndarray, at: Homogeneous, tau: float
) -> tuple[np.ndarray, Homogeneous]:
    """Newton's method at one tau, in steps relative to y, so that prices that vanish keep their digits."""
    rows, weights, direction = walls
    m = y.size
    for _ in range(NEWTON_STEPS):
        room = rows @ y
        gradient = y * (at.gradient + tau * (rows.T @ (weights / room))) / tau + 1.0
        bend = (at.curvature / tau + (rows.T * (weights / room**2)) @ rows) * np.outer(y, y) + np.eye(m)
        # The coordinate with the greatest part in direction·y = 1 is the one that keeps it.
        along = direction * y
        kept = int(along.argmax())
        free = np.delete(np.eye(m), kept, axis=1)
        free[kept] = -np.delete(along, kept) / along[kept]
        if m == 1:
            break
        # Close to a face its row outweighs all others by 1e16 and more: what it hides then is left as it is.
        step = free @ np.linalg.lstsq(free.T @ bend @ free, free.T @ gradient, rcond=None)[0]
        gain = float(gradient @ step)
        if not gain > max(1e-6, NOISE * (1.0 + abs(at.value)) / tau):
            break
        moved = _move(function, walls, y, at, step, gain, tau)
        if moved is None:
            break
        y, at = moved
    return y, at


def _move(
    function: Function, walls: Walls, y: np.ndarray, at: Homogeneous, step: np.ndarray, gain: float, tau: float
) -> tuple[np.ndarray, Homogeneous] | None:
    """Along the step until the value has risen by a part of what the slope promises; None where it does not rise."""
    rows, weights, direction = walls
    room, change = rows @ y, rows @ (y * step)
    fastest = max(float((-step).max()), float((-change / room).max(initial=0.0)))
    t = min(1.0, TO_BOUNDARY / fastest) if fastest > 0 else 1.0
    for _ in range(40):
        point = y * (1.0 + t * step)
        point /= float(direction @ point)
        left = rows @ point
        if (left > 0).all():
            there = function(point)
            rise = (there.value - at.value) / tau + float(np.log(point / y).sum() + weights @ np.log(left / room))
            if rise >= 1e-3 * t * gain:
                return point, there
        t *= 0.5
    return None
