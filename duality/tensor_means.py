"""Means over a table that lies on an accelerator, in one pass each: what is known of ratios, and what a target reaches.

Each is what the function of its name says of a table in memory; sums are in double precision on the device.
"""

from __future__ import annotations

import numpy as np

from duality._arrays import Array
from duality.pulls import PullSums
from duality.shards import merged
from duality.tensor_columns import TensorColumns, joined, over


def log_sums(columns: TensorColumns, log_q: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """As `mass_sums.log_means` or, without log_q, `log_powers`: `(m,)` and, without log_q only, `(m,)` of squares."""
    m, logs = columns.m, None if log_q is None else columns.logs(log_q)

    def block(rows: Array, part: slice) -> Array:
        terms = rows if logs is None else rows + over(logs, part)
        return joined(terms.logsumexp(1), (2 * rows).logsumexp(1))

    found = columns.sums(block)
    with np.errstate(under="ignore"):
        both = np.logaddexp.reduce(found, axis=0)
    return both[:m], both[m:]


def likelihood_sums(
    columns: TensorColumns, log_q: np.ndarray, levels: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """E_q of (l - b)/size and of its square, `(m,)` each."""
    logs, levels, size = columns.logs(log_q), columns.number(levels), columns.number(size)

    def block(rows: Array, part: slice) -> Array:
        q = over(logs, part).exp().expand(rows.shape[1])
        lost = q == 0
        miss = (rows - levels[:, None]) / size[:, None]
        miss = miss.masked_fill(lost | ~miss.isfinite(), 0.0)
        return joined(miss @ q, miss.square() @ q)

    first, second = np.split(columns.sums(block).sum(axis=0), 2)
    return first, second


def tilt_sums(columns: TensorColumns, log_p: np.ndarray, log_q: np.ndarray, levels: np.ndarray | None) -> np.ndarray:
    """KL(p‖q), sum p², E_p[T] and E_p[T - b] as `(2 + 2 m,)`; b = 0 without levels."""
    masses, logs = columns.number(log_p), columns.logs(log_q)
    asked = columns.number(np.zeros(columns.m) if levels is None else levels)

    def block(rows: Array, part: slice) -> Array:
        log_mass = masses[part]
        p = log_mass.exp()
        lost = p == 0  # a node without mass says nothing
        apart = (log_mass - over(logs, part)).masked_fill(lost, 0.0)
        rows = rows.masked_fill(lost, 0.0)
        return joined(p @ apart, p @ p, rows @ p, (rows - asked[:, None]) @ p)

    return np.asarray(columns.sums(block).sum(axis=0))


def mixture_sums(columns: TensorColumns, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(q‖p), sum p² and KL(q_i‖p) as `(2 + m,)`."""
    masses, logs = columns.number(log_p), columns.logs(log_q)

    def block(rows: Array, part: slice) -> Array:
        log_mass, log_own = masses[part], over(logs, part).expand(rows.shape[1])
        p, q = log_mass.exp(), log_own.exp()
        cost = (log_own - log_mass).masked_fill(q == 0, 0.0)
        log_one = rows + log_own
        one = log_one.exp()
        apart = (log_one - log_mass).masked_fill(one == 0, 0.0)
        return joined(q @ cost, p @ p, (one * apart).sum(1))

    return np.asarray(columns.sums(block).sum(axis=0))


def pull_block(pull: Array, conditions: Array) -> Array:
    """The sums of `PullSums` over a block: pulls `(k,)` on g and `(m, k)` on the conditions."""
    return joined(
        pull.sum(), pull @ pull, conditions.abs().sum(1), conditions.square().sum(1), conditions @ conditions.T
    )


def pull_sums(found: np.ndarray, m: int) -> PullSums:
    """`PullSums` from what `pull_block` says of every block, `(blocks, …)`."""
    sums, added = PullSums(m), found.sum(axis=0)
    sums.first, sums.second = float(added[0]), float(added[1])
    sums.sizes, sums.squares, sums.products = added[2 : 2 + m], added[2 + m : 2 + 2 * m], added[2 + 2 * m :]
    sums.products = sums.products.reshape(m, m)
    return merged(sums)
