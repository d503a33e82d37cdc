"""The quadratic program inside a Newton step: a few variables, sign bounds, a few linear constraints."""

from __future__ import annotations

import numpy as np

# The curvature is rounded to a relative eps; a ridge of this size on its unit diagonal decides among the directions
# in which it is singular (duplicated constraints) and is invisible in all others.
RIDGE = 1e-15
SINGULAR = 1e-13  # of the unit diagonal: what is left of the curvature here is rounding, for m up to 32 and more


def newton_step(
    curvature: np.ndarray,
    gradient: np.ndarray,
    x: np.ndarray,
    rows: np.ndarray,
    limits: np.ndarray,
    noise: float = 0.0,
    faint: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """argmax_d gradient·d - d·curvature·d/2 subject to x + d ≥ 0 and rows·(x + d) ≤ limits.

    Args:
        curvature: `(m, m)`, positive semidefinite up to rounding.
        gradient: `(m,)`.
        x: `(m,)`, feasible.
        rows: `(k, m)`, nonnegative.
        limits: `(k,)`.
        noise: how far rounding moves the value.
        faint: how far it moves the gradient. Where the curvature is singular, and neither slope nor gain in such a
            direction is more than rounding, the step does not go there: its length would be rounding over nothing.

    Returns:
        The step d `(m,)`, feasible, and the multipliers `(k,)` of the rows.

    A primal active-set method (Nocedal and Wright 2006, §16.5) from the feasible point d = 0, in coordinates where the
    curvature has unit diagonal. It stops early, at a feasible ascent direction, should degeneracy make it cycle.
    """
    m = x.size
    if m == 1:
        return _on_an_interval(float(curvature[0, 0]), float(gradient[0]), float(x[0]), rows[:, 0], limits)
    # A coordinate whose Newton step would overshoot its whole range ten-thousandfold is linear as far as doubles go.
    # The constraints will limit it, and giving it that much curvature keeps the step within reach of rounding.
    across = _reach(limits[:, None], rows).min(axis=0)
    # One along which, over its whole range, the value moves by less than rounding is left where it is: a step that went
    # there would be cut short by what it finds, and take the others with it.
    if faint > 0:
        with np.errstate(over="ignore", invalid="ignore"):  # 0 times a range without end: no idle coordinate
            over = across * (np.abs(gradient) + curvature.diagonal() * across)
        gradient = np.where((np.abs(gradient) <= faint) & (over <= noise), 0.0, gradient)
    bend = np.maximum(curvature.diagonal(), np.abs(gradient) / (1e4 * np.maximum(across, 1e-100)) + 1e-300)
    size = np.sqrt(bend)
    matrix = curvature / size / size[:, None]
    matrix.flat[:: m + 1] = 1.0 + RIDGE
    slope = gradient / size
    if faint > 0:
        roots, vectors = np.linalg.eigh(matrix)
        pull, least = np.abs(slope @ vectors), faint * (1.0 / size) @ np.abs(vectors)
        idle = (roots < SINGULAR) & (pull <= least) & (pull**2 <= 2 * noise * np.maximum(roots, RIDGE))
        matrix += vectors[:, idle] @ vectors[:, idle].T
    start = x * size

    free = (x > 0) | (gradient > 0)
    step = _unconstrained(matrix, slope, free)
    end = start + step
    inside = end.min() >= 0 and (rows @ (end / size) <= limits).all()
    if inside and (free.all() or ((slope - matrix @ step)[~free] <= 0).all()):
        return step / size, np.zeros(limits.size)
    return _active_set(matrix, slope, start, rows / size, limits, size)


def _reach(limits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """limits / rows, infinite where a row does not limit, or by so little that the quotient overflows."""
    with np.errstate(over="ignore"):
        return np.divide(limits, rows, out=np.full(rows.shape, np.inf), where=rows > 0)


def _on_an_interval(
    curvature: float, gradient: float, x: float, rows: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same for m = 1, where it is a clipped division."""
    ends = _reach(limits, rows)
    nearest = int(ends.argmin())
    across = float(ends[nearest])
    bend = max(curvature, abs(gradient) / (1e4 * max(across, 1e-100)) + 1e-300)
    step = max(min(gradient / bend, across - x), -x)
    multipliers = np.zeros(rows.size)
    pull = gradient - bend * step
    if pull > 1e-14 * abs(gradient) and step > -x:  # the row is what stops it
        multipliers[nearest] = pull / float(rows[nearest])
    return np.array([step]), multipliers


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """matrix⁻¹ right, by least squares where constraints are duplicated to the last digit."""
    if right.size == 1:
        return np.asarray(right / matrix[0, 0])
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])


def _unconstrained(matrix: np.ndarray, slope: np.ndarray, free: np.ndarray) -> np.ndarray:
    if free.all():
        return _solve(matrix, slope)
    step = np.zeros_like(slope)
    if free.any():
        step[free] = _solve(matrix[free][:, free], slope[free])
    return step


def _active_set(
    matrix: np.ndarray, slope: np.ndarray, start: np.ndarray, rows: np.ndarray, limits: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    m, k = start.size, limits.size
    # All constraints as normals·y ≤ offsets in y = start + d, with normals of unit length.
    normals = np.vstack([-np.eye(m), rows])
    length = np.linalg.norm(normals, axis=1)
    normals /= length[:, None]
    offsets = np.concatenate([np.zeros(m), limits]) / length
    y = start.copy()
    room = offsets - normals @ y
    active = [int(i) for i in np.flatnonzero(room <= 4e-16 * np.abs(offsets))]
    active = _independent(normals, active)
    locked: set[int] = set()
    for _ in range(10 * (m + k) + 20):
        direction, multipliers = _on_face(matrix, slope - matrix @ (y - start), normals, active)
        speed = normals @ direction
        blocking = speed > 1e-12 * float(np.abs(direction).max())
        blocking[active] = False
        if not float(slope @ direction - direction @ matrix @ (y - start)) > 0:
            direction = np.zeros_like(direction)  # rounding: this face has no more to gain
            blocking[:] = False
        room = np.maximum(offsets - normals @ y, 0.0)
        with np.errstate(over="ignore"):  # what hardly moves has room without end
            times = np.where(blocking, room / np.where(blocking, speed, 1.0), np.inf)
        first = int(np.argmin(times))
        y = y + min(1.0, times[first]) * direction
        y[[i for i in active if i < m]] = 0.0
        np.maximum(y, 0.0, out=y)
        if times[first] < 1.0:
            active.append(first)
            # A constraint that was dropped and comes back without a step between would do so for ever.
            locked = locked | {first} if times[first] <= 1e-14 else set()
            y[first if first < m else []] = 0.0
            continue
        # The maximum over this face: it is the answer unless some constraint pulls the wrong way.
        droppable = [
            (float(multipliers[k]), k)
            for k, index in enumerate(active)
            if index not in locked and multipliers[k] < -1e-14 * (1.0 + float(np.abs(slope).max()))
        ]
        if not droppable:
            break
        del active[min(droppable)[1]]
    on_rows = np.zeros(k)
    if max(active, default=0) < m:
        return (y - start) / size, on_rows
    _, multipliers = _on_face(matrix, slope - matrix @ (y - start), normals, active)
    for index, multiplier in zip(active, multipliers, strict=True):
        if index >= m:
            on_rows[index - m] = max(float(multiplier), 0.0) / length[index]
    return (y - start) / size, on_rows


def _on_face(
    matrix: np.ndarray, residual: np.ndarray, normals: np.ndarray, active: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The maximiser on {active normals·d = 0}, and their multipliers.

    The first m normals are the sign bounds, -1 in one coordinate: those coordinates are left out of the system, so that
    they stay exactly where they are. A rounding error there, times a slope that presses hard against the bound, would
    outweigh what the other coordinates still have to gain.
    """
    m = residual.size
    chosen = np.array(active, dtype=int)
    bounds, rows = chosen[chosen < m], normals[chosen[chosen >= m]]
    free = np.ones(m, dtype=bool)
    free[bounds] = False
    n, k = m - bounds.size, len(rows)
    direction, on_rows = np.zeros(m), np.zeros(k)
    if k == 0:
        if n:
            direction[free] = _solve(matrix[free][:, free], residual[free])
    else:
        system = np.zeros((n + k, n + k))
        system[:n, :n] = matrix[free][:, free]
        system[:n, n:] = rows[:, free].T
        system[n:, :n] = rows[:, free]
        solution = _solve(system, np.concatenate([residual[free], np.zeros(k)]))
        direction[free], on_rows = solution[:n], solution[n:]
    multipliers = np.empty(len(active))
    multipliers[chosen >= m] = on_rows
    multipliers[chosen < m] = -(residual - matrix @ direction - on_rows @ rows)[bounds]
    return direction, multipliers


def _independent(normals: np.ndarray, active: list[int]) -> list[int]:
    """A linearly independent part of the active constraints, in order.

    By Gram-Schmidt, each unit normal against those chosen before: it is dropped where less than 1e-10 of it is left.
    """
    chosen: list[int] = []
    basis = np.empty((0, normals.shape[1]))
    for index in active:
        left = normals[index] - basis.T @ (basis @ normals[index])
        left -= basis.T @ (basis @ left)  # twice is enough: what is left is then orthogonal to all digits
        length = float(np.sqrt(left @ left))
        if length > 1e-10:
            chosen.append(index)
            basis = np.vstack([basis, left / length])
    return chosen
