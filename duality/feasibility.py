"""The least levels that can be had jointly, when those asked for cannot."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from duality.group_programs import minimise
from duality.groups import Partition

CONFLICT = 1e-12  # of the size of a constraint: what is met by less is not met
WORKING_SET = 2000  # columns of the restricted program; the rest is priced in one matrix product per round


def least_levels(
    table: np.ndarray, log_weights: np.ndarray, levels: np.ndarray, partition: Partition | None = None
) -> np.ndarray:
    """b + s (e - b)_+ for the smallest s ≥ 0 with E_p[l_i] ≤ b_i + s (e_i - b_i)_+ for all i and some density p.

    Here e_i = E_q[l_i]. s = 1 is reached by p = q, so s lies in [0, 1]; the direction (e - b)_+ measures every
    constraint by the distance between what was asked and what q has, so it needs no other unit. A linear program in
    (p, s), solved by HiGHS on a working set of nodes; nodes with negative reduced cost join it until there are none
    (column generation), which is exact and keeps a million nodes out of the simplex.

    Args:
        table: l `(n, m)`.
        log_weights: `(n,)` under q; only nodes of positive weight can carry p.
        levels: b `(m,)`.
        partition: where p is to keep the shares of groups, these.

    Returns:
        The least levels `(m,)`.
    """
    if partition is not None and partition.count > 1:
        return _of_groups(table[partition.order], np.exp(log_weights[partition.order]), levels, partition)
    kept = np.isfinite(log_weights)
    likelihood, q = table[kept], np.exp(log_weights[kept])
    free = ~np.isfinite(likelihood).all(axis=0)  # -inf on positive mass: met by q, whatever is asked
    gaps = np.where(free, 0.0, np.maximum(q @ np.where(free, 0.0, likelihood) - levels, 0.0))
    used = np.flatnonzero(~free)
    scale = np.maximum(gaps[used], np.abs(likelihood[:, used] - levels[used]).max(axis=0))
    scale[scale == 0] = 1.0
    excess = (likelihood[:, used] - levels[used]) / scale
    direction = gaps[used] / scale
    if used.size == 1:  # all mass on the node of least likelihood
        return levels + gaps * min(max(float(excess.min() / direction[0]), 0.0), 1.0) if gaps.any() else levels
    n = len(excess)
    step = max(1, n // (WORKING_SET // 2))
    working = np.unique(np.concatenate([np.arange(0, n, step), excess.argmin(axis=0)]))
    share = 1.0
    for _ in range(200):
        columns = excess[working].T
        program = linprog(
            c=np.append(np.zeros(len(working)), 1.0),
            A_ub=np.hstack([columns, -direction[:, None]]),
            b_ub=np.zeros(len(used)),
            A_eq=np.append(np.ones(len(working)), 0.0)[None, :],
            b_eq=[1.0],
            bounds=(0, None),
            method="highs",
        )
        if program.status == 2:  # the working set does not yet hold enough of q: take more of it
            step = max(1, step // 4)
            working = np.unique(np.concatenate([working, np.arange(0, n, step)]))
            continue
        share = float(program.fun)
        prices = -np.asarray(program.ineqlin.marginals)
        reduced = excess @ prices - float(np.asarray(program.eqlin.marginals)[0])
        entering = np.argsort(reduced)[:50]
        entering = entering[reduced[entering] < -1e-12]
        entering = np.setdiff1d(entering, working)
        if entering.size == 0:
            break
        working = np.concatenate([working, entering])
    return levels + min(share, 1.0) * gaps


def conflicting(table: np.ndarray, log_weights: np.ndarray, levels: np.ndarray, partition: Partition) -> np.ndarray:
    """Which constraints E_p[l_i] ≤ b_i cannot be had together `(m,)`: a set that conflicts, and without any one not.

    One after the other is left out of those that have no interior point in common, for good where the rest has none
    either (a deletion filter). Constraints that some density meets whatever the others ask are never named.
    """
    kept = partition.order
    likelihood = table[kept]
    used = np.isfinite(likelihood).all(axis=0)
    miss = np.where(used, likelihood, 0.0) - np.where(used, levels, 0.0)
    size = np.abs(miss).max(axis=0)
    size[size == 0] = 1.0
    miss /= size
    named = _proved(miss, used, partition)
    if named is None:
        return used  # only just infeasible: all that is known
    for i in np.flatnonzero(named):
        if named[i]:
            without = _proved(miss, named & (np.arange(levels.size) != i), partition)
            named = named if without is None else without
    return named


def _proved(rows: np.ndarray, chosen: np.ndarray, partition: Partition) -> np.ndarray | None:
    """Those of the chosen constraints that already conflict, by prices y ≥ 0 with sum y_i v_i ≥ 0; None if none do.

    rows v `(k, m)` are (l - b)/size: none conflict where min_p max_i E_p[v_i] is below zero, by more than rounding.
    """
    if not chosen.any():
        return None
    part = rows[:, chosen]
    found = minimise(part, np.ones(part.shape[1]), np.zeros(part.shape[1]), partition, -CONFLICT)
    proved = chosen.copy()
    if found is not None:
        if found.value < -CONFLICT:
            return None
        proved[chosen] = found.prices > 0
    return proved


def least_each(table: np.ndarray, partition: Partition) -> np.ndarray:
    """inf_p E_p[l_i] for each constraint alone `(m,)`, over densities with the shares of the groups."""
    held = table[partition.order]
    if partition.count == 1:
        return np.asarray(held.min(axis=0))
    return np.asarray(partition.shares @ np.minimum.reduceat(held, partition.starts, axis=0))


def _of_groups(likelihood: np.ndarray, q: np.ndarray, levels: np.ndarray, partition: Partition) -> np.ndarray:
    """The same for densities that keep the shares of groups, on the nodes of the partition."""
    free = ~np.isfinite(likelihood).all(axis=0)
    gaps = np.where(free, 0.0, np.maximum(q @ np.where(free, 0.0, likelihood) - levels, 0.0))
    if not gaps.any():
        return levels
    found = minimise(likelihood[:, ~free], gaps[~free], levels[~free], partition)
    share = 1.0 if found is None else found.value  # q itself reaches 1
    return levels + min(max(share, 0.0), 1.0) * gaps
