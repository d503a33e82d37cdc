"""Nodes that belong to groups, such as the prompts of a distribution: sums and normalisers over each of them.

Groups c = 1 … C have shares P(c), and q and every candidate p have a law within each: q = (q_c), p = (p_c). As masses
of the nodes, both are P(c) q_c and P(c) p_c: densities on the pairs (c, x) whose marginal over c is held at P. Costs,
levels and Lagrangians are then what they are without groups (KL(p‖q) = sum_c P(c) KL(p_c‖q_c), and so on), and only
the normaliser is another: one for each group. Source: docs/theory, "groups".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from duality._arrays import frozen, to_numpy


@dataclass(frozen=True, eq=False)
class Partition:
    """The nodes of positive weight, sorted by group.

    Attributes:
        order: `(k,)` which nodes those are.
        starts: `(C,)` where each group begins among them.
        sizes: `(C,)` how many each has.
        shares: `(C,)` P(c), adding up to one.
    """

    order: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, log_weights: np.ndarray, groups: np.ndarray | None, shares: np.ndarray | None) -> Partition:
        """From the joint log weights `(n,)`, the group of each node `(n,)` and P `(C,)`; None for one group."""
        kept = np.flatnonzero(np.isfinite(log_weights))
        if groups is None or shares is None:
            return cls(kept, np.zeros(1, dtype=np.intp), np.array([kept.size]), np.ones(1))
        order = kept[np.argsort(groups[kept], kind="stable")]
        sizes = np.bincount(groups[kept], minlength=shares.size)
        return cls(order, np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes, shares)

    @property
    def count(self) -> int:
        """C."""
        return int(self.shares.size)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums over each group, `(k, ...)` -> `(C, ...)`."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=0))

    def modes(self, values: np.ndarray) -> np.ndarray:
        """Where each group has its first maximum, `(k,)` -> `(C,)` positions."""
        if self.count == 1:
            return np.array([int(values.argmax())])
        top = self.spread(np.maximum.reduceat(values, self.starts))
        places = np.where(values == top, np.arange(values.size), values.size)
        return np.asarray(np.minimum.reduceat(places, self.starts))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """To each node what its group has, `(C, ...)` -> `(k, ...)`."""
        return np.repeat(values, self.sizes, axis=0)

    def normalised(self, log_masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log of masses that add up to P(c) in each group `(k,)`, and the logs of what they added up to `(C,)`."""
        top = log_masses[self.modes(log_masses)]
        sums = top + np.log(self.total(np.exp(log_masses - self.spread(top))))
        return log_masses + self.spread(np.log(self.shares) - sums), sums


def check_groups(groups: Any, group_weights: Any, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups `(n,)`, P `(C,)`, and joint log weights `(n,)` in which each group has its share.

    Args:
        groups: `(n,)` whole numbers 0 … C - 1.
        group_weights: P `(C,)`, positive and adding up to one; left out, what the nodes of each group weigh.
        log_weights: `(n,)`, of which only the ratios within a group count where group_weights are given.

    Raises:
        ValueError: for groups or weights that are none of that, and for a group without a node of positive weight.
    """
    n = log_weights.size
    given = to_numpy("groups", groups)
    if given.shape != (n,):
        raise ValueError(f"groups: shape {given.shape} given, but there are {n} points; (n,) is needed")
    wrong = ~((given >= 0) & (given == np.floor(given)))
    if wrong.any():
        raise ValueError(f"groups: {given[wrong][0]:g} given, whole numbers 0, 1, 2, … are needed")
    if given.max() >= 4 * n + 1_000_000:
        raise ValueError(f"groups: {given.max():g} given for {n} points; number the groups 0, 1, 2, … without gaps")
    index = given.astype(np.intp)
    shares = None
    if group_weights is not None:
        shares = np.array(np.atleast_1d(to_numpy("group_weights", group_weights)))
        if shares.ndim != 1 or not (shares > 0).all() or not np.isfinite(shares).all():
            raise ValueError(f"group_weights: positive shares (C,) are needed, given {group_weights!r}")
        # C shares that were divided by their sum in double precision add up to one within eps (C + 1).
        if abs(float(shares.sum()) - 1) > 8 * np.finfo(float).eps * (shares.size + 1):
            raise ValueError(f"group_weights: they add up to {shares.sum():.9g}, not to one; divide them by their sum")
        shares /= shares.sum()
        if index.max() >= shares.size:
            raise ValueError(f"groups: group {index.max()} given, but group_weights are for 0 … {shares.size - 1}")
    count = int(index.max()) + 1 if shares is None else shares.size
    top = np.full(count, -np.inf)
    np.maximum.at(top, index, log_weights)
    if not np.isfinite(top).all():
        raise ValueError(f"groups: group {int(np.argmin(np.isfinite(top)))} has no node of positive weight")
    sums = np.bincount(index, weights=np.exp(log_weights - top[index]), minlength=count)
    mass = top + np.log(sums)
    if shares is None:
        return frozen(index), frozen(np.exp(mass)), log_weights
    return frozen(index), frozen(shares), log_weights + (np.log(shares) - mass)[index]
