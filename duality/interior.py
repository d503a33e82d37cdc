"""An interior-point method for the dual function of `ForwardKL`, where the climb is held up by faces of its domain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import qr, solve_triangular

STEPS = 150
MU = 1e-13  # the complementarity to end at: m + 1 times this is left of the value, and what is solved stays well posed
SHARE = 1e-3  # prices of nodes of next to no mass are set as if their mass were this part of the mean
#: How much of the way to the boundary a step may go, and by what factor it must leave mu at least: at first boldly.
#: Where all of q is to be forgotten every u falls to zero with mu, at ratios that are to be found: bold steps then put
#: u where its logarithm says nothing of its old value, and the path is lost. Careful ones keep to it.
BOLD = (0.995, 0.0)
CAREFUL = (0.7, 0.2)
ON_PATH = 1e-9  # a residual from which bold steps count as having arrived
LOST = 1e3  # times the least mu so far: the path is lost
HEAVY = 1e4  # times the median bend, from where rows are factored one by one
MOST_HEAVY = 2000


@dataclass(frozen=True)
class Interior:
    """Where it ended.

    Attributes:
        y: `(m,)`, ≥ 0: lam_i e^{max rho_i}.
        u: `(n,)`, > 0: 1 - rows·y, each with its own digits, however small.
        prices: `(n,)`, ≥ 0, of u ≥ 0.
        slack: `(m,)`, ≥ 0: the prices of y ≥ 0.
        residual: the largest violation of stationarity.
        steps: Newton steps taken.
    """

    y: np.ndarray
    u: np.ndarray
    prices: np.ndarray
    slack: np.ndarray
    residual: float
    steps: int


def maximise_inside(q: np.ndarray, rows: np.ndarray, gain: np.ndarray) -> Interior:
    """`follow`, and once more with care where bold steps have lost the path."""
    bold = follow(q, rows, gain, *BOLD)
    if bold.residual <= ON_PATH:
        return bold
    careful = follow(q, rows, gain, *CAREFUL)
    better = min((careful, bold), key=lambda one: one.residual)
    return replace(better, steps=bold.steps + careful.steps)


def follow(q: np.ndarray, rows: np.ndarray, gain: np.ndarray, reach: float, least: float) -> Interior:
    """max gain·y - sum_j q_j u_j log(u_j/Z) over y ≥ 0, u = 1 - rows·y ≥ 0, Z = sum_j q_j u_j.

    Args:
        q: `(n,)` masses, their sum one.
        rows: `(n, m)` in [0, 1].
        gain: `(m,)`.
        reach: how much of the way to the boundary a step may go.
        least: by what factor a step must leave mu at least.

    Primal-dual path following with Mehrotra's predictor and corrector (Nocedal and Wright 2006, §14.2): with prices
    w_j d_j on u_j ≥ 0 (w_j = q_j, but for the least masses) and z_i on y_i ≥ 0, ::

        gain + rowsᵀ(q (log u - log Z) - w d) + z = 0,   u_j d_j = mu,   y_i z_i = mu,   mu -> MU.

    The slacks u move along with y, so that those that vanish keep their digits. Where u falls by decades in a step its
    logarithm is far from linear; at the last mu Newton's steps go on until stationarity is restored.
    """
    n, m = rows.shape
    w = np.maximum(q, SHARE / n)
    y = np.full(m, 0.5 / max(float(rows.sum(axis=1).max()), 1.0))
    u = 1.0 - rows @ y
    d, z = 0.1 / u, 0.1 / y
    total = q @ rows
    best = Interior(y, u, w * d, z, np.inf, 0)
    stale, lowest = 0, np.inf
    for step in range(STEPS):
        mass = float(q @ u)
        mu = (float(w @ (u * d)) + float(y @ z)) / (float(w.sum()) + m)
        stationary = gain + rows.T @ (q * (np.log(u) - np.log(mass)) - w * d) + z
        residual = float(np.abs(stationary).max())
        lowest = min(lowest, mu)
        if mu > LOST * lowest:
            break
        if mu <= 2 * MU:
            stale = 0 if residual < 0.5 * best.residual else stale + 1
            if residual < best.residual:
                best = Interior(y, u, w * d, z, residual, step)
            if residual <= 1e-14 or stale >= 12:
                break
        curvature = _Curvature(rows, q, u, w * d / u, total / mass, z / y)
        aim, second_u, second_y = 0.0, np.zeros(n), np.zeros(m)
        for corrected in (False, True):
            rest_d = (aim - second_u) / u - d  # what d moves by, but for what u's own movement makes of it
            rest_z = (aim - second_y) / y - z
            dy = curvature.solve(stationary - rows.T @ (w * rest_d) + rest_z)
            du = -(rows @ dy)
            dd, dz = rest_d - d * du / u, rest_z - z * dy / y
            t = min(1.0 / reach, _room(u, du), _room(y, dy), _room(d, dd), _room(z, dz))
            if not corrected:
                ahead = float(w @ ((u + t * du) * (d + t * dd))) + float((y + t * dy) @ (z + t * dz))
                aim = max(mu * min(max((ahead / ((float(w.sum()) + m) * mu)) ** 3, least), 1.0), MU)
                second_u, second_y = du * dd, dy * dz
        t *= reach
        y, u, d, z = y + t * dy, u + t * du, d + t * dd, z + t * dz
        if not np.isfinite(y).all():
            break
    return best


class _Curvature:
    """sum_j q_j u_j c_j c_jᵀ + p_j r_j r_jᵀ + diag(bounds) for rows r_j, c_j = r_j/u_j - mean, factored with care.

    At the faces terms are 1e12 times those of the other nodes. Summed into one matrix they would leave nothing of what
    the others say; so the others are summed, and the rows of the faces are joined to a root of that sum by QR, heaviest
    first and with column pivots, which is stable row by row (Higham 2002, §20.4).
    """

    def __init__(
        self, rows: np.ndarray, q: np.ndarray, u: np.ndarray, p: np.ndarray, mean: np.ndarray, bounds: np.ndarray
    ) -> None:
        bend = q / u + p
        heavy = bend > HEAVY * float(np.median(bend))
        if np.count_nonzero(heavy) > MOST_HEAVY:
            heavy = bend >= np.partition(bend, -MOST_HEAVY)[-MOST_HEAVY]
        rest = np.where(heavy, 0.0, q)
        pull = np.outer(rest @ rows, mean)
        light = rows.T @ (rows * np.where(heavy, 0.0, bend)[:, None]) - pull - pull.T
        light += float(rest @ u) * np.outer(mean, mean)
        light.flat[:: mean.size + 1] += bounds
        roots, vectors = np.linalg.eigh(light)
        root = np.sqrt(np.maximum(roots, np.finfo(float).eps * max(float(roots[-1]), 0.0)))[:, None] * vectors.T
        near, part = rows[heavy], u[heavy, None]
        parts = np.vstack([np.sqrt(q[heavy, None] * part) * (near / part - mean), np.sqrt(p[heavy, None]) * near, root])
        order = np.argsort(-np.abs(parts).max(axis=1))
        self._triangle, self._pivots = qr(parts[order], mode="r", pivoting=True)
        self._triangle = self._triangle[: mean.size]

    def solve(self, right: np.ndarray) -> np.ndarray:
        half = solve_triangular(self._triangle, right[self._pivots], trans="T")
        out = np.empty_like(right)
        out[self._pivots] = solve_triangular(self._triangle, half)
        return out


def _room(x: np.ndarray, dx: np.ndarray) -> float:
    """The largest t for which x + t dx ≥ 0."""
    falling = dx < 0
    with np.errstate(over="ignore"):
        return float((x[falling] / -dx[falling]).min(initial=np.inf))
