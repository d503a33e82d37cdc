"""Concave maximisation over a polyhedron in a few variables: projected Newton with cuts and a careful line search."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from duality.dual_protocol import Dual, Evaluation, glance
from duality.quadratic import newton_step
from duality.ratio_tables import EPS


@dataclass(frozen=True)
class Climb:
    """Where a climb ended.

    Attributes:
        dual: the function climbed, in the coordinates that x refers to.
        x: `(m,)`.
        at: the evaluation there.
        active: `(m,)`, which multipliers are positive.
        pressure: `(m,)`, the part of the misses that faces of the domain answer for; zero at an interior optimum.
        iterations: Newton steps taken.
        exhausted: whether the value passed the dual's ceiling, which certifies that the problem is infeasible.
        gave_up: whether patience ended it.
    """

    dual: Dual
    x: np.ndarray
    at: Evaluation
    active: np.ndarray
    pressure: np.ndarray
    iterations: int
    exhausted: bool
    gave_up: bool = False

    def stationary(self, units: np.ndarray, tolerance: float = 0.0) -> bool:
        """Whether every level is met, and met with equality where its multiplier is positive: x is the maximiser."""
        wrong = np.where(self.active, np.abs(self.at.misses), self.at.misses)
        return not (wrong > max(SURE, tolerance) * units).any()


# A level counts as met when it is missed by less than this, relative to its unit: far above the rounding of a climb
# that converged (1e-14 to 1e-11), far below anything that a user could mean.
MET = 1e-8
SURE = 1e-10  # a climb that ends with less than this has arrived; others are looked after
TARGET = 1e-14  # relative residual to aim at; rounding decides how much of it is reached
#: From a residual of NEAR on, a step that takes it down to this part of what it was is followed by another with the
#: same curvature, since evaluations without one cost half: an error in the curvature only slows down the last digits.
NEAR, FAST = 1e-3, 1e-2
#: Where patience ends with levels missed by no more than ALMOST, Newton's method is on its last few steps: it has LAST.
ALMOST, LAST = 1e-4, 8


@dataclass(frozen=True)
class Patience:
    """How long a climb may take: steps in all, steps with a face of the domain in the way, and faces to know of."""

    steps: int = 200
    pressed: int = 200
    faces: int = 1_000_000


ENDLESS = Patience()


def climb(
    dual: Dual,
    start: np.ndarray,
    units: np.ndarray,
    target: float = TARGET,
    patience: Patience = ENDLESS,
    bend: np.ndarray | None = None,
) -> Climb:
    """`maximise`, and once more in finer coordinates where the dual says that these were too coarse."""
    first = maximise(dual, start, units, target, patience, bend)
    if first.gave_up and first.stationary(units, ALMOST):
        more = maximise(dual, first.x, units, target, Patience(steps=LAST))
        first = replace(more, iterations=first.iterations + more.iterations)
    if first.gave_up:
        return first
    finer = dual.refined(first.x)
    if finer is None:
        return first
    second = maximise(finer, np.zeros(dual.m), units, target, patience)
    return Climb(
        finer,
        second.x,
        second.at,
        second.active,
        second.pressure,
        first.iterations + second.iterations,
        second.exhausted,
    )


def maximise(
    dual: Dual,
    start: np.ndarray,
    units: np.ndarray,
    target: float = TARGET,
    patience: Patience = ENDLESS,
    bend: np.ndarray | None = None,
) -> Climb:
    """max g(x) over {x ≥ lower, rows·x ≤ limits}, by Newton steps that solve the quadratic model on that set.

    Args:
        dual: the function and its linear constraints, which it may reveal one cut at a time.
        start: `(m,)`, feasible.
        units: `(m,)`, sizes against which misses of the levels are judged.
        target: the relative residual at which to stop.
        patience: how many steps to take at most.
        bend: `(m, m)`, about the curvature at the start, for the first step.

    Each step maximises the quadratic model over the set (adding the node whose constraint it violates most, until
    it violates none), then searches along it. The search accepts by slope as well as by value, because within
    sqrt(eps) of the optimum values no longer differ and slopes still do; it *lengthens* a step along which the
    slope has hardly fallen, because exponential tails make Newton's unit step far too short.
    """
    rows, limits = dual.rows()
    lower = dual.lower
    x, at = start, dual.evaluate(start) if bend is None else glance(dual, start)
    best_residual, stale, still = np.inf, 0, 0
    top, flattest = -np.inf, np.inf
    best = (x, at, np.zeros(dual.m))
    iteration = pressing = 0
    last_residual, lent = np.inf, bend is not None
    while iteration < patience.steps and pressing < patience.pressed and limits.size <= patience.faces:
        if at.value > dual.ceiling + 1.0:
            return Climb(dual, x, at, x > lower, np.zeros(dual.m), iteration, True)
        held = limits - rows @ x <= dual.touch
        step: np.ndarray | None = None
        pressure = np.zeros(dual.m)
        push = np.zeros(dual.m)  # the same in the coordinates of the climb
        pressed = False
        if held.any():  # only faces that x has reached hold it back; those that the step would reach do not yet
            bend = at.curvature
            step, multipliers, rows, limits = _model_step(dual, x, at, bend, rows, limits)
            push = rows[: held.size].T @ np.where(held, multipliers[: held.size], 0.0)
            pressure = dual.price(x) * push
            pressed = bool(pressure.any())
        if not pressed:
            pressure = dual.horizon(x, at)
            pressed = bool(pressure.any())
        pressing += bool(push.any())
        residual = _residual(at, x > lower, pressure if pressed else None, units)
        stale = 0 if residual < 0.5 * best_residual else stale + 1
        best_residual = min(best_residual, residual)
        # The highest point is the answer. Only among points whose values rounding cannot tell apart, the flattest is.
        blur = at.noise + best[1].noise
        still = 0 if stale == 0 or at.value > top + 4 * blur else still + 1
        if at.value > top + blur or (at.value >= top - blur and residual < flattest):
            flattest, best = residual, (x, at, pressure)
        top = max(top, at.value)
        # A residual that no longer falls, while the value no longer rises, is rounding if it is small, and if it is
        # not, thirty steps are a fair trial.
        if residual <= target or (still >= 3 and best_residual < 1e-7) or stale >= 30:
            break
        known = limits.size
        if step is None:
            if bend is None or not (lent or (residual <= FAST * last_residual and last_residual <= NEAR)):
                bend = at.curvature
            lent = False
            step, _, rows, limits = _model_step(dual, x, at, bend, rows, limits)
        last_residual = residual
        moved = _search(dual, x, at, step, push, rows, limits, close=residual <= NEAR)
        # A step below the spacing of doubles leads to where it began, and so will the next unless a cut was learned.
        if moved is None or (limits.size == known and np.array_equal(moved[0], x)):
            break
        x, at = moved
        iteration += 1
    else:  # patience is at its end, with one point that nobody has looked at
        if at.value > top:
            best = (x, at, np.zeros(dual.m))
        return _ended(dual, best, iteration, gave_up=True)
    return _ended(dual, best, iteration, gave_up=False)


def _ended(dual: Dual, best: tuple[np.ndarray, Evaluation, np.ndarray], iterations: int, *, gave_up: bool) -> Climb:
    x, at, pressure = best
    return Climb(dual, x, at, x > dual.lower, pressure, iterations, False, gave_up)


def _model_step(
    dual: Dual, x: np.ndarray, at: Evaluation, bend: np.ndarray, rows: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The maximiser of the quadratic model on the set, with the multipliers of the rows and the cuts that it needed."""
    lower = dual.lower
    for _ in range(30):
        room = limits - rows @ lower
        step, multipliers = newton_step(bend, at.gradient, x - lower, rows, room, at.noise, at.faint)
        cut = dual.cut(x + step)
        if cut is None:
            break
        rows, limits = np.vstack([rows, cut[0]]), np.append(limits, cut[1])
    return step, multipliers, rows, limits


def _residual(at: Evaluation, active: np.ndarray, pressure: np.ndarray | None, units: np.ndarray) -> float:
    """The largest relative violation of stationarity: misses in the units of the levels, their total against the value.

    pressure `(m,)` is the part of the misses that faces of the domain are to answer for, None where there is none.
    """
    misses = at.misses if pressure is None else at.misses - pressure
    wrong = max(float((np.where(active, np.abs(misses), misses) / units).max()), 0.0)
    return wrong if pressure is not None else max(wrong, abs(at.excess) / (1.0 + abs(at.value)))


def _search(
    dual: Dual,
    x: np.ndarray,
    at: Evaluation,
    step: np.ndarray,
    push: np.ndarray,
    rows: np.ndarray,
    limits: np.ndarray,
    close: bool = False,
) -> tuple[np.ndarray, Evaluation] | None:
    """A point along the step with a higher value and a flatter slope; None where rounding leaves no progress.

    close: whether the curvature is not expected to be needed there.

    push `(m,)` is the part of the gradient that faces answer for. A step along them is orthogonal to it, but for
    rounding, which where the push is strong would hide all that is left of the slope: so slopes are taken without it.
    """
    slope = float((at.gradient - push) @ step)
    # Below the noise of a value slopes may have no digit left: what is flatter is then nearer to the maximum.
    blind, moving = abs(slope) <= at.noise, step != 0
    if not (slope > 0 or blind):
        return None

    def steepness(there: Evaluation) -> float:
        return float(np.abs(there.gradient - push)[moving].max(initial=0.0))

    longest = None
    best: tuple[np.ndarray, Evaluation] | None = None
    t = dual.stride(x, step)
    if t < 1.0 and float((limits - rows @ (x + step)).min()) <= dual.touch:
        # The model ends on a face. Where g still rises there, walking towards it by careful strides would only cost.
        point = _along(dual.lower, x, step, 1.0)
        there = dual.evaluate(point)
        if there.value >= at.value and float((there.gradient - push) @ step) >= 0.0:
            return point, there
    for trial in range(80):
        point = _along(dual.lower, x, step, t)
        there = glance(dual, point) if close or trial else dual.evaluate(point)
        reached = float((there.gradient - push) @ step)
        nearer = (slope > 0 and reached >= -0.9 * slope) or (blind and steepness(there) < 0.5 * steepness(at))
        if not (nearer and there.value >= at.value - at.noise - there.noise):
            if best is not None or slope <= 0:
                break
            # Halve twice, then fall faster: an overlong step is overlong by orders of magnitude.
            t *= 0.5 if trial < 2 else 0.1
            continue
        # A longer step, too, then has to flatten all of g.
        if best is not None and blind and steepness(there) > steepness(best[1]):
            break
        best = (point, there)
        if t < 1.0 or reached <= 0.3 * slope:
            break
        if longest is None:
            longest = _room(x - dual.lower, step, rows, limits - rows @ x)
        if t >= longest:
            break
        t = min(4.0 * t, longest)
    return best


def _along(lower: np.ndarray, x: np.ndarray, step: np.ndarray, t: float) -> np.ndarray:
    """x + t·step, where a coordinate that meets its bound meets it exactly."""
    point = x + t * step
    return np.where(point - lower <= EPS * (x - lower), lower, point)


def _room(above: np.ndarray, step: np.ndarray, rows: np.ndarray, room: np.ndarray) -> float:
    """The largest t for which x + t·step keeps its bounds and the known rows; cuts not yet known show as value -inf."""
    falling, speed = step < 0, rows @ step
    rising = speed > 0
    with np.errstate(over="ignore"):  # what moves by next to nothing has room without end
        to_bounds = (above[falling] / -step[falling]).min(initial=np.inf)
        to_rows = (room[rising] / speed[rising]).min(initial=np.inf)
    return max(float(min(to_bounds, to_rows)), 1.0)
