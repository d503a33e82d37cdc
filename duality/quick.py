"""Newton's method with borrowed curvature, for maxima in plain sight: away from faces, on well-conditioned ground.

It does what `duality.newton` does where nothing is in the way, at a fraction of the cost: the curvature comes from some
of the nodes, or from a point before, and is kept up to date by what gradients show (BFGS), so that most passes over the
nodes are for a value and a gradient only. Wherever anything is out of the ordinary it stops, and says where it was.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from duality.aim import aim
from duality.dual_protocol import Dual, Evaluation, glance
from duality.newton import SURE, Climb
from duality.ratio_tables import EPS

STEPS = 30
FEW = 4  # constraints, up to which a pass for the curvature costs little more than one without
TRIALS = 4  # points along a step
#: A step must leave no more than this of the residual, or the next one has curvature of its own; once it has had that,
#: no more than SLOWER: a pass for the curvature costs as much as several for the gradient.
SLOW, SLOWER = 0.03, 0.3
#: From this residual on the next point is close enough for the curvature of the last: the more constraints there are,
#: the more a pass for the curvature costs.
NEARLY, NEARER, VERY_NEARLY = 0.05, 1e-3, 1e-4
#: The residual that is aimed at on many nodes; 1e-10 is what is promised.
CLOSE = 5e-11
#: The least pivot of the curvature with unit diagonal: below, directions are told apart by a few digits only.
PIVOT = 1e-4
#: Times that a guess of the bounds which end a step is put right; more go to the quadratic program.
GUESSES = 12


class Halt(NamedTuple):
    """Where it stopped: the climb so far, the curvature `(m, m)` it went by, and whether x is the maximum."""

    climb: Climb
    bend: np.ndarray | None
    arrived: bool


def finest(n: int) -> float:
    """The relative residual that sums over n nodes can show: `eps (16 + 4 sqrt(n))`, see `rounding`."""
    return EPS * (16.0 + 4.0 * float(np.sqrt(n)))


def quick(
    dual: Dual, x: np.ndarray, units: np.ndarray, target: float, bend: np.ndarray | None = None, leap: float = 0.0
) -> Halt:
    """max g(x) over x ≥ lower, as long as every step is a plain one.

    Args:
        dual: the function.
        x: `(m,)`, where to begin.
        units: `(m,)`, sizes against which misses of the levels are judged.
        target: the relative residual at which to stop; where rounding ends it before, below SURE, it stops there.
        bend: `(m, m)`, about the curvature at x; asked for where it is left out.
        leap: the residual from which on one more step is taken and x is believed to be near enough, unseen.
    """
    rows, limits = dual.rows()
    lower = dual.lower
    at = dual.evaluate(x) if bend is None else glance(dual, x)
    if not np.isfinite(at.value):
        return Halt(_climb(dual, x, at, x > lower, 0), bend, False)
    fresh = bend is None
    bend = at.curvature if bend is None else bend
    nearly = VERY_NEARLY if dual.m == 1 else NEARER if dual.m <= FEW else NEARLY
    last, slow = np.inf, SLOWER if fresh else SLOW
    for iteration in range(STEPS):
        active = x > lower
        residual = _residual(at, active, units)
        if residual <= target:
            return Halt(_climb(dual, x, at, active, iteration), bend, True)
        if not fresh and residual > slow * last:
            bend, fresh, slow = at.curvature, True, SLOWER
        step = _aimed(dual, x, at, bend)
        if step is None:
            break
        if fresh and residual <= leap and not (rows @ (x + step) > limits).any():
            return Halt(_climb(dual, np.maximum(x + step, lower), at, active, iteration + 1), bend, True)
        curved = fresh and (residual > nearly or leap > 0.0)
        moved = _moved(dual, x, at, step, rows, limits, curved=curved)
        if moved is None:
            if residual <= SURE:
                return Halt(_climb(dual, x, at, active, iteration), bend, True)
            if fresh:
                break
            bend, fresh, last = at.curvature, True, np.inf
            continue
        point, there = moved
        last = residual
        if not curved:
            bend, fresh = _updated(bend, point - x, at.gradient - there.gradient), False
        else:
            bend = there.curvature
        x, at = point, there
    active = x > lower
    return Halt(_climb(dual, x, at, active, 0), bend if fresh else None, False)


def _aimed(dual: Dual, x: np.ndarray, at: Evaluation, bend: np.ndarray) -> np.ndarray | None:
    """A step by misses as the dual function reads them (`duality.aim`), if that is uphill; else Newton's."""
    goal = aim(dual, x, at)
    step = _step(bend, goal, x - dual.lower)
    if goal is at.gradient or step is None or float(at.gradient @ step) > 0.0:
        return step
    return _step(bend, at.gradient, x - dual.lower)


def _moved(
    dual: Dual,
    x: np.ndarray,
    at: Evaluation,
    step: np.ndarray,
    rows: np.ndarray,
    limits: np.ndarray,
    *,
    curved: bool,
) -> tuple[np.ndarray, Evaluation] | None:
    """A point along the step, higher and of a flatter slope; None where there is none, or a face in the way."""
    slope, lower = float(at.gradient @ step), dual.lower.tolist()
    if not slope > 0:
        return None
    t = 1.0
    for trial in range(TRIALS):
        point = x + step if t == 1.0 else x + t * step
        above = zip(point.tolist(), x.tolist(), lower, strict=True)
        gone = [after - end <= EPS * (before - end) for after, before, end in above]
        if any(gone):
            point = np.where(gone, dual.lower, point)
        there = None
        if not min((limits - rows @ point).tolist()) < 0.0:
            there = dual.evaluate(point) if curved else glance(dual, point)
        # Where the domain ends is asked once the point has been passed over, which says it as well.
        if there is None or not there.value > -np.inf or dual.cut(point) is not None:
            t = 0.5 * t if trial else min(0.5, dual.stride(x, step))
            continue
        reached = float(there.gradient @ step)
        # Uphill, and flatter than before whichever way: what the careful search asks for, too.
        if there.value >= at.value - at.noise - there.noise and abs(reached) <= 0.9 * slope:
            return point, there
        if not reached < 0.0:
            return None
        t *= slope / (slope - reached)  # where a straight line between the two slopes crosses zero
    return None


def _climb(dual: Dual, x: np.ndarray, at: Evaluation, active: np.ndarray, iterations: int) -> Climb:
    return Climb(dual, x, at, active, np.zeros(x.size), iterations, False)


def _residual(at: Evaluation, active: np.ndarray, units: np.ndarray) -> float:
    """As in `duality.newton`, where no face presses."""
    worst = 0.0
    parts = [abs(at.excess) / (1.0 + abs(at.value))]
    for miss, unit, used in zip(at.misses.tolist(), units.tolist(), active.tolist(), strict=True):
        parts.append((abs(miss) if used else miss) / unit)
    for part in parts:
        if not part <= worst:  # NaN included, and that is returned
            worst = part
            if part != part:
                break
    return worst


def _step(bend: np.ndarray, gradient: np.ndarray, above: np.ndarray) -> np.ndarray | None:
    """argmax_d gradient·d - d·bend·d/2 over above + d ≥ 0; None where the curvature is close to singular.

    Which coordinates end at their bounds is guessed and put right until the guess is its own consequence (the
    primal-dual active sets of Hintermüller, Ito and Kunisch 2003).
    """
    if above.size == 1:
        curvature = float(bend[0, 0])
        return np.array([max(float(gradient[0]) / curvature, -float(above[0]))]) if curvature > 0 else None
    held = (above <= 0) & (gradient <= 0)
    if not held.any():
        step = _solved(bend, gradient)
        if step is None or min((step + above).tolist()) >= 0:
            return step
    for _ in range(GUESSES):
        step = _on_face(bend, gradient, above, held)
        if step is None:
            return None
        still = np.where(held, gradient - bend @ step <= 0, step < -above)
        if (still == held).all():
            return step
        held = still
    return None


def _on_face(matrix: np.ndarray, slope: np.ndarray, room: np.ndarray, held: np.ndarray) -> np.ndarray | None:
    """The same where coordinates that are held go to their bounds, and others wherever they like."""
    free = ~held
    if free.all():
        return _solved(matrix, slope)
    step = np.where(held, -room, 0.0)
    if free.any():
        found = _solved(matrix[free][:, free], (slope - matrix @ step)[free])
        if found is None:
            return None
        step[free] = found
    return step


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """matrix⁻¹ right; None where a pivot is small, were the diagonal one (which changes no more than pivots' units)."""
    root, failed = dpotrf(matrix, lower=1)
    if failed:
        return None
    pivots = zip(root.diagonal().tolist(), matrix.diagonal().tolist(), strict=True)
    if not all(pivot * pivot > PIVOT * PIVOT * entry for pivot, entry in pivots):
        return None
    return np.asarray(dpotrs(root, right, lower=1)[0])


def _updated(bend: np.ndarray, step: np.ndarray, fall: np.ndarray) -> np.ndarray:
    """BFGS: curvature that explains by how much the gradient fell (Nocedal and Wright 2006, §6.1)."""
    along = float(fall @ step)
    if not along > 0:
        return bend
    if step.size == 1:
        return np.array([[float(fall[0]) / float(step[0])]])
    known = bend @ step
    return np.asarray(bend + fall[:, None] * (fall / along) - known[:, None] * (known / float(known @ step)))
