"""What a density reaches, in one pass over its log masses: cost, levels, slack, and how many nodes it amounts to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from duality.columns import Columns
from duality.passes import longest, parts, run
from duality.shards import merged
from duality.tensor_columns import TensorColumns
from duality.tensor_means import mixture_sums, tilt_sums


class Reached(NamedTuple):
    """Of a density p given by its log masses.

    Attributes:
        cost: nats.
        levels: `(m,)`.
        slack: `(m,)`, ≥ 0 where a level is met.
        squares: sum_j p_j².
    """

    cost: float
    levels: np.ndarray
    slack: np.ndarray
    squares: float


class _Sums:
    def __init__(self, m: int) -> None:
        self.cost = self.squares = 0.0
        self.first, self.second = np.zeros(m), np.zeros(m)

    def merge(self, other: _Sums) -> None:
        self.cost, self.squares = self.cost + other.cost, self.squares + other.squares
        self.first, self.second = self.first + other.first, self.second + other.second


def _read(found: np.ndarray, m: int) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Cost, first and second means and sum p², of what passes on a device say: cost, sum p² and the means."""
    sums = _Sums(m)
    sums.cost, sums.squares = float(found[0]), float(found[1])
    sums.first, sums.second = found[2 : 2 + m], found[2 + m :]
    sums = merged(sums)
    return sums.cost, sums.first, sums.second, sums.squares


def tilt_means(
    columns: Columns, log_p: np.ndarray, log_q: np.ndarray, levels: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """KL(p‖q), E_p[T] and, with levels, E_p[T - b] `(m,)`, and sum p²; 0 · (±inf) = 0: no mass says nothing."""
    if isinstance(columns, TensorColumns):
        return _read(tilt_sums(columns, log_p, log_q, levels), columns.m)

    def visit(blocks: list[slice]) -> _Sums:
        sums, out = _Sums(columns.m), np.empty((columns.m, longest(blocks)))
        centred = np.empty_like(out)
        for part in blocks:
            k = part.stop - part.start
            rows, log_mass, p = columns.block(part, out), log_p[part], np.exp(log_p[part])
            held = p > 0
            if held.all():
                sums.cost += float(p @ (log_mass - log_q[part]))
            else:
                rows, p = rows[:, held], p[held]
                k = p.size
                sums.cost += float(p @ (log_mass[held] - log_q[part][held]))
            sums.squares += float(p @ p)
            sums.first += rows @ p
            if levels is not None:
                sums.second += np.subtract(rows, levels[:, None], out=centred[:, :k]) @ p
        return sums

    found = run(parts(columns.n, columns.m), visit)
    return found.cost, found.first, found.second, found.squares


def mixture_means(columns: Columns, log_p: np.ndarray, log_q: np.ndarray) -> tuple[float, np.ndarray, float]:
    """KL(q‖p), sum_j q_ij (log q_ij - log p_j) `(m,)` with log q_ij = log q_j + rho_ij, and sum p²."""
    if isinstance(columns, TensorColumns):
        cost, first, _, squares = _read(mixture_sums(columns, log_p, log_q), columns.m)
        return cost, first, squares

    def visit(blocks: list[slice]) -> _Sums:
        sums, out = _Sums(columns.m), np.empty((columns.m, longest(blocks)))
        masses = np.empty_like(out)
        for part in blocks:
            k = part.stop - part.start
            log_mass, log_own, log_target = columns.block(part, out), log_q[part], log_p[part]
            p = np.exp(log_target)
            sums.squares += float(p @ p)
            q = np.exp(log_own)
            held = q > 0
            if not held.all():
                log_mass, log_own, log_target, q = log_mass[:, held], log_own[held], log_target[held], q[held]
                k = q.size
            sums.cost += float(q @ (log_own - log_target))
            log_mass = np.add(log_mass, log_own, out=out[:, :k])
            mass = np.exp(log_mass, out=masses[:, :k])
            apart = np.subtract(log_mass, log_target, out=log_mass)
            if not np.isfinite(apart).all():  # a node without mass says nothing
                apart[mass == 0] = 0.0
            sums.first += np.multiply(mass, apart, out=apart).sum(axis=1)
        return sums

    found = run(parts(columns.n, columns.m), visit)
    return found.cost, found.first, found.squares
