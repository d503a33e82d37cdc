"""The bias of logarithms of means of few draws, group by group."""

from __future__ import annotations

import numpy as np

from duality.groups import Partition


def jackknife_log(parts: np.ndarray, partition: Partition) -> np.ndarray:
    """`(n_c - 1) (mean_j log mean_{k≠j} w_k - log mean_k w_k)` `(C,)`: the bias of the log of a mean of few weights.

    parts `(k,)` are w_j / sum_k w_k within each group. To leading order this is -Var(w)/(2 n_c Z_c²). NaN for a single
    draw, which has no other to be told by; -inf where one draw is all of its group's weight.
    """
    sizes = partition.sizes.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.log1p(-np.minimum(parts, 1.0)) + partition.spread(np.log(sizes / (sizes - 1)))
        return np.asarray((sizes - 1) / sizes * partition.total(left))


def over_groups(bias: np.ndarray, partition: Partition) -> float:
    """sum_c P(c) bias_c; groups of a single draw, of which nothing is known, are taken to be like the others."""
    known = ~np.isnan(bias)
    if not known.any():
        return float("nan")
    return float(partition.shares[known] @ bias[known] / partition.shares[known].sum())
