"""Likelihoods at the nodes, with what is known of them once they have all been looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.columns import Columns
from duality.passes import longest, parts, run
from duality.shards import merged
from duality.tensor_columns import TensorColumns
from duality.tensor_means import likelihood_sums


@dataclass(frozen=True)
class LikelihoodFacts:
    """l `(n, m)` and its sums under q.

    Attributes:
        columns: l.
        ends: least and greatest l `(m,)` on the nodes that have weight.
        unit: `max(|E_q[l] - b|, sd)`, sd the standard deviation of l under q, `(m,)`.
    """

    columns: Columns
    ends: tuple[np.ndarray, np.ndarray]
    unit: np.ndarray


class _Sums:
    def __init__(self, m: int) -> None:
        self.first, self.second = np.zeros(m), np.zeros(m)

    def merge(self, other: _Sums) -> None:
        self.first, self.second = self.first + other.first, self.second + other.second


def survey(given: Columns, log_weights: np.ndarray, levels: np.ndarray, about: np.ndarray) -> LikelihoodFacts:
    """One pass over the likelihoods, which are kept where they are not there already and what they are made of is.

    Args:
        given: l `(n, m)`.
        log_weights: `(n,)`.
        levels: b `(m,)`.
        about: least and greatest l `(2, m)` on the nodes that have weight.
    """
    m, n = given.m, given.n
    table = np.empty((m, n)) if given.resident and not given.direct else None
    miss = np.abs(np.where(np.isfinite(about), about, 0.0) - levels).max(axis=0)
    size = np.where(miss > 0, miss, 1.0)
    out_of_range = not ((size > 1e-100) & (size < 1e100)).all()  # squares would be
    finite, everywhere = bool(np.isfinite(about).all()), float(log_weights.min()) > -np.inf

    def visit(blocks: list[slice]) -> _Sums:
        sums, weights = _Sums(m), np.empty(longest(blocks))
        out, scaled = np.empty((m, weights.size)), np.empty((m, weights.size))
        for part in blocks:
            k = part.stop - part.start
            rows, log_q = given.block(part, out if table is None else table[:, part]), log_weights[part]
            q = np.exp(log_q, out=weights[:k])
            miss = np.subtract(rows, levels[:, None], out=scaled[:, :k])
            if out_of_range:
                miss /= size[:, None]
            if not everywhere:
                miss[:, log_q == -np.inf] = 0.0
            if not finite:
                miss[~np.isfinite(miss)] = 0.0
            sums.first += miss @ q
            sums.second += np.square(miss, out=miss) @ q
        return sums

    if isinstance(given, TensorColumns):
        sums = _Sums(m)
        sums.first, sums.second = likelihood_sums(given, log_weights, levels, size)
        sums = merged(sums)
    else:
        sums = run(parts(n, m), visit)
    scale = size if out_of_range or isinstance(given, TensorColumns) else np.ones(m)
    # Where the variance cancels it is far below the square of the mean, and the mean is the unit.
    spread = np.sqrt(np.maximum(sums.second - sums.first**2, 0.0))
    unit = scale * np.maximum(np.abs(sums.first), spread)
    return LikelihoodFacts(given if table is None else Columns.kept(table.T, given), (about[0], about[1]), unit)
