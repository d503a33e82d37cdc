"""Masses of log ratios, in one pass over them."""

from __future__ import annotations

import numpy as np

from duality.columns import Columns
from duality.groups import Partition
from duality.passes import longest, parts, run
from duality.shards import merged
from duality.tensor_columns import TensorColumns
from duality.tensor_means import log_sums


class _Logs:
    """log sum exp of terms `(m,)`, and of twice the terms."""

    def __init__(self, m: int) -> None:
        self.first, self.second = np.full(m, -np.inf), np.full(m, -np.inf)

    def merge(self, other: _Logs) -> None:
        with np.errstate(under="ignore"):
            self.first = np.logaddexp(self.first, other.first)
            self.second = np.logaddexp(self.second, other.second)


def _log_sums(columns: Columns, log_q: np.ndarray | None) -> _Logs:
    """Of rho_i + log q over the nodes, and of 2 rho_i where there is no q."""
    if isinstance(columns, TensorColumns):
        found = _Logs(columns.m)
        found.first, found.second = log_sums(columns, log_q)
        return merged(found)

    def visit(blocks: list[slice]) -> _Logs:
        found, out = _Logs(columns.m), np.empty((columns.m, longest(blocks)))
        for part in blocks:
            terms, rows = out[:, : part.stop - part.start], columns.block(part, out)
            terms[...] = rows if log_q is None else rows + log_q[part]
            top = terms.max(axis=1)
            held = np.where(top > -np.inf, top, 0.0)
            terms -= held[:, None]
            block = _Logs(columns.m)
            with np.errstate(divide="ignore", under="ignore"):
                np.exp(terms, out=terms)
                block.first = np.log(terms.sum(axis=1)) + held
                if log_q is None:
                    block.second = np.log(np.square(terms, out=terms).sum(axis=1)) + 2 * held
            found.merge(block)
        return found

    return run(parts(columns.n, columns.m), visit)


def log_means(columns: Columns, log_q: np.ndarray) -> np.ndarray:
    """log E_q[e^{rho_i}] `(m,)`, nats; finite for ratios of any size."""
    return _log_sums(columns, log_q).first


def log_powers(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Logs of sum_j e^{rho_ji} and sum_j e^{2 rho_ji} `(m,)`."""
    found = _log_sums(columns, None)
    return found.first, found.second


def log_means_within(table: np.ndarray, log_weights: np.ndarray, partition: Partition) -> np.ndarray:
    """`log E_{q_c}[e^{rho_i}]` in each group `(C, m)`, -inf where q_i vanishes in it."""
    terms = table[partition.order] + log_weights[partition.order, None]
    top = np.maximum.reduceat(terms, partition.starts, axis=0)
    held = np.where(top > -np.inf, top, 0.0)
    with np.errstate(divide="ignore", under="ignore"):
        sums = np.log(partition.total(np.exp(terms - partition.spread(held))))
    return np.asarray(sums + held - np.log(partition.shares)[:, None])
