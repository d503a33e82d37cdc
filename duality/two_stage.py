"""Draws in groups: influence of draws within groups, or of whole groups."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from duality.dual_protocol import Dual
from duality.problems import Problem
from duality.ratios import LogRatios


class GroupedDual(Dual, Protocol):
    """A dual function that knows the groups of its nodes."""

    def group_influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `influence`, of whole groups `(C,)` and `(C, m)`."""

    def log_mean_bias(self, x: np.ndarray) -> float:
        """By how much g from these draws exceeds g on average, at given multipliers; by the jackknife, nats."""


def influence(dual: Dual, x: np.ndarray, ratios: LogRatios) -> tuple[np.ndarray, np.ndarray]:
    """The terms of the delta method, of the draws or of the groups: whichever are the independent units.

    Where the groups are all that there are (their weights were given), only draws within them scatter, n_c in group c.
    Where they are a sample of groups, whole groups do, and what draws add within is in the scatter between groups
    already. A single draw of a group says nothing of the scatter within: then groups are read as a sample, too, which
    overstates the errors. Sums of squares that were centred on n terms are n/(n - 1) times as large.
    """
    if not ratios.grouped:
        return dual.influence(x)
    partition = ratios.partition
    if of_groups(ratios):
        pull, conditions = dual.group_influence(x)  # type: ignore[attr-defined]
        factor = np.sqrt(partition.count / (partition.count - 1))
        return pull * factor, conditions * factor
    pull, conditions = dual.influence(x)
    within = partition.spread(np.sqrt(partition.sizes / (partition.sizes - 1)))
    return pull * within, conditions * within[:, None]


def of_groups(ratios: LogRatios) -> bool:
    """Whether whole groups are the independent units."""
    return ratios.grouped and (ratios.groups_sampled or bool((ratios.partition.sizes == 1).any()))


def levels_stderr(problem: Problem, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
    """Standard errors of the levels of a tilt of log masses `(n,)` at given multipliers, `(m,)`."""
    if of_groups(ratios):
        assert ratios.group_weights is not None
        shares = ratios.group_weights[:, None]
        own = ratios.by_group(problem.level_terms(ratios, log_weights)) / shares
        count = shares.size
        return _length(shares * (own - (shares * own).sum(axis=0))) * np.sqrt(count / (count - 1))
    influence = problem.level_influence(ratios, log_weights)
    if not ratios.grouped:
        return _length(influence) / ratios.n
    size = ratios.by_group(np.ones((ratios.n, 1)))[ratios.groups]
    weight = np.exp(ratios.log_weights)[:, None] * np.sqrt(size / (size - 1))
    return _length(weight * influence)


def _length(columns: np.ndarray) -> np.ndarray:
    """Euclidean lengths of columns `(n, m)`, whose squares may be out of range; NaN where an entry is."""
    size = np.abs(columns).max(axis=0)
    unit = np.where(size > 0, size, 1.0)
    return np.asarray(unit * np.sqrt(((columns / unit) ** 2).sum(axis=0)))
