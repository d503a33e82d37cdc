"""Linear programs over densities with given shares of groups: the least levels, and the end of a dual domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, hstack

from duality.groups import Partition
from duality.linear_program import tightest
from duality.ratios import EPS

ENTERING = 50  # nodes that join in one round, where there is one group; of several, one of each
WORKING_SET = 4000
SIGN = 300  # nodes to start with where only the sign of t is asked
ROUNDS = 200


@dataclass(frozen=True)
class Program:
    """Both sides of min{t : E_p[T_i] - d_i t ≤ r_i, p has the shares} = max{sum_c P(c) min_c y·T - y·r : d·y = 1}.

    Attributes:
        value: the lower bound that y proves, whatever p.
        prices: y `(m,)`, ≥ 0.
        masses: p `(k,)` on the nodes of the partition.
        reached: E_p[T_i] `(m,)`.
    """

    value: float
    prices: np.ndarray
    masses: np.ndarray
    reached: np.ndarray


def minimise(
    table: np.ndarray,
    direction: np.ndarray,
    limits: np.ndarray,
    partition: Partition,
    threshold: float | None = None,
) -> Program | None:
    """The least t, for T `(k, m)` on the nodes of the partition; None where no t will do.

    HiGHS on a working set of nodes, which those of negative reduced cost join until none is left: exact, and a million
    nodes stay out of the simplex. Its answer is sharpened by the equations that it satisfies with equality.

    Args:
        table: T `(k, m)`, finite.
        direction: d `(m,)`, ≥ 0 and not all zero.
        limits: r `(m,)`.
        partition: the nodes' groups and shares.
        threshold: where all that is asked is on which side of it t lies: as soon as that is proved, it will do.
    """
    size = np.maximum(np.abs(table - limits).max(axis=0), direction)
    size[size == 0] = 1.0
    scaled, slope = (table - limits) / size, direction / size  # with p of mass one, E_p[T] - r = E_p[T - r]
    labels = np.repeat(np.arange(partition.count), partition.sizes)
    working = _first(scaled, partition, WORKING_SET if threshold is None else SIGN)
    best: Program | None = None
    for _ in range(ROUNDS):
        found = _restricted(scaled[working], slope, labels[working], partition.shares)
        if found is None:
            if working.size == len(scaled):
                return None
            working = np.union1d(working, np.arange(0, len(scaled), max(len(scaled) // (4 * working.size), 1)))
            continue
        prices, carried = found
        across = scaled @ prices
        ends = np.minimum.reduceat(across, partition.starts)
        value = float(partition.shares @ ends)
        if best is None or value > best.value:
            masses = np.zeros(len(scaled))
            masses[working] = carried
            best = Program(value, prices / size, masses, masses @ table)
        if threshold is not None:
            masses = np.zeros(len(scaled))
            masses[working] = carried
            reached = masses @ table
            excess = reached - limits
            above = excess[direction == 0].max(initial=-np.inf)
            with np.errstate(divide="ignore", invalid="ignore"):
                least = np.where(direction > 0, excess / direction, -np.inf).max()
            if value >= threshold or (above <= 0 and least < threshold):
                return Program(value, prices / size, masses, reached)
        held = np.full(partition.count, np.inf)
        np.minimum.at(held, labels[working], across[working])
        entering = _entering(across, held, partition)
        entering = np.setdiff1d(entering, working)
        if entering.size == 0:
            masses = np.zeros(len(scaled))
            masses[working] = carried
            return Program(value, prices / size, masses, masses @ table) if best.value <= value else best
        working = np.append(working, entering)
    return best


def least_at_any_cost(table: np.ndarray, direction: np.ndarray, sharing: np.ndarray, partition: Partition) -> float:
    """min{t : E_p[v_i] ≤ d_i t + s_i C for some C and p with the shares}, which is max{sum_c P(c) min_c y·v}.

    Over y ≥ 0 with d·y = 1 and s·y = 0. By column generation as in `minimise`; -inf where it has no solution.

    Args:
        table: v `(k, m)` on the nodes of the partition.
        direction: d `(m,)`, ≥ 0.
        sharing: s `(m,)`.
        partition: the nodes' groups and shares.
    """
    labels = np.repeat(np.arange(partition.count), partition.sizes)
    working, best = _first(table, partition), -np.inf
    for _ in range(ROUNDS):
        k = working.size
        program = tightest(
            c=np.append(np.zeros(k), [1.0, 0.0]),
            A_ub=hstack([csr_array(table[working].T), csr_array(-np.stack([direction, sharing], axis=1))]).tocsr(),
            b_ub=np.zeros(direction.size),
            A_eq=csr_array((np.ones(k), (labels[working], np.arange(k))), shape=(partition.count, k + 2)),
            b_eq=partition.shares,
            bounds=[(0, None)] * k + [(None, None)] * 2,
        )
        if program is None:
            return -np.inf
        prices = np.maximum(-np.asarray(program.ineqlin.marginals), 0.0)
        across = table @ prices
        best = max(best, float(partition.shares @ np.minimum.reduceat(across, partition.starts)))
        held = np.full(partition.count, np.inf)
        np.minimum.at(held, labels[working], across[working])
        entering = np.setdiff1d(_entering(across, held, partition), working)
        if entering.size == 0:
            break
        working = np.append(working, entering)
    return best


def _first(scaled: np.ndarray, partition: Partition, count: int = WORKING_SET) -> np.ndarray:
    """For each constraint the nodes that are least in it, one of each group, and a thin sample of all."""
    chosen = [partition.modes(-column) for column in scaled.T]
    chosen.append(partition.modes(-scaled.max(axis=1)))
    chosen.append(np.arange(0, len(scaled), max(len(scaled) // count, 1)))
    return np.unique(np.concatenate(chosen))


def _entering(across: np.ndarray, held: np.ndarray, partition: Partition) -> np.ndarray:
    """In each group the node that undercuts those held the most, in a single one several of them."""
    noise = 64 * EPS * (1.0 + float(np.abs(held).max()))
    if partition.count == 1:
        least = np.argpartition(across, min(ENTERING, across.size - 1))[:ENTERING]
        return least[across[least] < held[0] - noise]
    least = partition.modes(-across)
    return least[across[least] < held - noise]


def _restricted(
    rows: np.ndarray, slope: np.ndarray, labels: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Prices y `(m,)` with slope·y = 1 and masses `(k,)`, on a few nodes; None where it has no solution."""
    k, m = rows.shape
    columns = hstack([csr_array(rows.T), csr_array(-slope[:, None])]).tocsr()
    sums = csr_array((np.ones(k), (labels, np.arange(k))), shape=(shares.size, k + 1))
    program = tightest(
        c=np.append(np.zeros(k), 1.0),
        A_ub=columns,
        b_ub=np.zeros(m),
        A_eq=sums,
        b_eq=shares,
        bounds=[(0, None)] * k + [(None, None)],
    )
    if program is None:
        return None
    prices = np.maximum(-np.asarray(program.ineqlin.marginals), 0.0)
    masses = np.maximum(np.asarray(program.x)[:-1], 0.0)
    masses *= (shares / np.bincount(labels, weights=masses, minlength=shares.size))[labels]
    return _sharper(rows, slope, labels, shares, prices, masses)


def _sharper(
    rows: np.ndarray, slope: np.ndarray, labels: np.ndarray, shares: np.ndarray, prices: np.ndarray, masses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same answer from its equations: rows with a price are met, and nodes that share a group are equally good."""
    used = np.flatnonzero(prices > 1e-9)
    carrying = masses > 1e-9 * shares[labels]
    many = np.bincount(labels[carrying], minlength=shares.size) > 1
    split = np.flatnonzero(carrying & many[labels])  # nodes of groups that are divided among several: at most m more
    if used.size == 0:
        return prices / max(float(slope @ prices), np.finfo(float).tiny), masses
    # Prices: y·T equal within each divided group, slope·y = 1.
    first = {int(c): int(j) for j, c in reversed(list(zip(split, labels[split], strict=True)))}
    differences = [rows[j, used] - rows[first[int(labels[j])], used] for j in split if first[int(labels[j])] != j]
    system = np.vstack([*differences, slope[used]])
    right = np.append(np.zeros(len(differences)), 1.0)
    sharp = np.zeros_like(prices)
    sharp[used] = prices[used] + np.linalg.lstsq(system, right - system @ prices[used], rcond=None)[0]
    sharp = np.maximum(sharp, 0.0)
    if slope @ sharp > 0:
        prices = sharp / (slope @ sharp)
    # Masses: rows with a price met with one t, shares kept.
    rounded = np.where(carrying, masses, 0.0)
    rounded *= (shares / np.bincount(labels, weights=rounded, minlength=shares.size))[labels]
    if split.size:
        groups, place = np.unique(labels[split], return_inverse=True)
        sums = np.zeros((groups.size, split.size + 1))
        sums[place, np.arange(split.size)] = 1.0
        # Only rows that t does not enter, or differences of those that it does, fix the masses; t is one more unknown.
        system = np.vstack([np.hstack([rows[split][:, used].T, -slope[used, None]]), sums])
        level = float((rounded @ rows[:, used] / np.where(slope[used] > 0, slope[used], np.inf)).max())
        miss = np.append(slope[used] * level - rounded @ rows[:, used], shares[groups] - sums[:, :-1] @ rounded[split])
        rounded[split] = np.maximum(rounded[split] + np.linalg.lstsq(system, miss, rcond=None)[0][:-1], 0.0)
        rounded *= (shares / np.bincount(labels, weights=rounded, minlength=shares.size))[labels]
    return prices, rounded
