"""The linear program of `ForwardKL` beyond what densities attain: what missing levels cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.linear_program import tightest

ENTERING = 50  # rows that join the restricted program in one round
ROUNDS = 200
BROKEN = 1e-9  # by how much a row must be broken to join: what HiGHS can see, and ten times as much


@dataclass(frozen=True)
class Packing:
    """Both sides of max{gain·y : y ≥ 0, rows·y ≤ 1} = min{sum_j d_j : d ≥ 0, sum_j d_j rows_j ≥ gain}.

    Attributes:
        point: y `(m,)`, feasible.
        nodes: `(k,)` the rows that carry d.
        prices: `(k,)` d there, feasible.
        bound: sum_j d_j.
    """

    point: np.ndarray
    nodes: np.ndarray
    prices: np.ndarray
    bound: float


def packing(rows: np.ndarray, gain: np.ndarray, first: np.ndarray) -> Packing:
    """max gain·y over {y ≥ 0, rows·y ≤ 1}, for rows `(n, m)` in [0, 1], each column with a 1 in it, or all zero.

    Solved by HiGHS on a working set of rows, at first those numbered in `first`, which the most violated ones join
    until none is. Both answers are then relieved of the part in 1e10 by which they miss, so that both are feasible and
    their values bounds.
    """
    n, m = rows.shape
    point = np.zeros(m)
    size = float(gain.max(initial=0.0))
    wanted = np.flatnonzero(gain > 1e-16 * size) if size > 0 else np.empty(0, dtype=int)
    if wanted.size == 0:
        return Packing(point, np.empty(0, dtype=int), np.empty(0), 0.0)
    table, wish = rows[:, wanted], gain[wanted] / size
    if not table.max(axis=0).all():  # nothing limits this one, so no price is high enough
        return Packing(point, np.empty(0, dtype=int), np.empty(0), np.inf)
    entering = np.unique(np.append(table.argmax(axis=0), first))
    working = entering[:0]
    for _ in range(ROUNDS):
        tried = np.append(working, entering)
        program = tightest(c=-wish, A_ub=table[tried], b_ub=np.ones(tried.size))
        if program is None:  # the last answer stands
            break
        working, y = tried, np.maximum(program.x, 0.0)
        prices = np.maximum(-np.asarray(program.ineqlin.marginals), 0.0)
        load = table @ y
        heaviest = np.argpartition(-load, min(ENTERING, n - 1))[:ENTERING]
        entering = np.setdiff1d(heaviest[load[heaviest] > 1.0 + BROKEN], working)
        if entering.size == 0:
            break
    if working.size == 0:
        return Packing(point, working, np.empty(0), np.inf)
    point[wanted] = y / max(float(load.max()), 1.0)
    # What the prices fall short of a gain is bought where its column is 1, and nothing else is to be scaled for it.
    short = np.maximum(wish - prices @ table[working], 0.0)
    nodes = np.append(working, table.argmax(axis=0))
    prices = size * np.append(prices, short)
    held = prices > 0
    return Packing(point, nodes[held], prices[held], float(prices.sum()))
