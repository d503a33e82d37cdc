"""ReverseKL as a convex problem in the cost c, for levels beyond what the climb of its dual function can settle.

Without atoms, min KL(p‖q) subject to KL(p‖q_i) ≥ b_i has the value of ::

    min c   subject to   KL(p‖q) ≤ c,   E_p[rho_i] ≤ c - b_i,

so that V(b) = min{c ≥ 0 : V_LU(c - b) ≤ c}, with V_LU the value of the log-ratio `Likelihood` (theory, "a second proof
for reverse KL"). Hence *any* density p proves V ≤ max(KL(p‖q), max_i b_i + E_p[rho_i]), as any multipliers prove
V ≥ g(lam). Two cases:

- the least c is the least for which V_LU(c - b) is finite. There sum lam = 1, the dual is a linear program, and the
  target is the limit of the likelihood problem's as c falls to it;
- it is above. Then c is the root of V_LU(c - b) = c, and the likelihood's target is ReverseKL's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from duality._arrays import expectation
from duality.answers import Answer
from duality.exponential_dual import ExponentialDual
from duality.family_dual import FamilyDual
from duality.group_programs import minimise
from duality.groups import Partition
from duality.matrix_game import Saddle, saddle
from duality.newton import MET, Climb, climb
from duality.ratios import LogRatios
from duality.slices import spread

ROUNDS = 60  # each halves the interval between the two bounds, at least
#: Where the two bounds count as one, relative to 1 + |c|; and by how much c exceeds its threshold in the limit.
CLOSE = 1e-12
WIDER = (1e-11, 1e-10, 1e-9)


def shown(table: np.ndarray, sharing: np.ndarray, log_q: np.ndarray, log_p: np.ndarray) -> float:
    """max(KL(p‖q), E_p[v_i] for s_i = 1) for v = T - beta: a cost at which the levels can be had.

    inf where an expectation with s_i = 0 is missed by more than rounding, or one with s_i = -1 at that cost.
    """
    p = np.exp(log_p)
    held = p > 0
    # Where q_i is absent on positive mass, densities next to p have KL(p‖q_i) = inf, if p itself does not.
    reached = np.where(np.isfinite(table).all(axis=0) | (sharing == 0), expectation(p, table), -np.inf)
    fixed = sharing == 0
    if (reached[fixed] > MET * np.abs(table[:, fixed]).max(axis=0)).any():
        return float("inf")
    cost = max(float(p[held] @ (log_p[held] - log_q[held])), float(reached[sharing > 0].max()))
    kept = sharing < 0
    return float("inf") if (reached[kept] + cost > MET * (1.0 + cost)).any() else cost


def solve_by_cost(
    ratios: LogRatios,
    table: np.ndarray,
    limits: np.ndarray,
    sharing: np.ndarray,
    found: Climb,
    kind: type[Search] | None = None,
) -> Answer:
    """The answer to `ReverseKL`, alone or among other constraints, that the climb `found` has not settled.

    Args:
        ratios: the nodes.
        table: T `(n, m)`: rho_i where s_i = 1.
        limits: beta `(m,)`: -b_i where s_i = 1.
        sharing: s `(m,)`, 1 for KL(p‖q_i) ≥ b_i, 0 for E_p[T_i] ≤ beta_i, -1 for KL(p‖q_k) ≤ c (`MixedSearch`).
        found: where the climb of the dual function ended.
        kind: the search, where it is not this module's.
    """
    kept = ratios.partition.order
    values, log_q = table[kept], ratios.log_weights[kept]
    used = np.isfinite(values).all(axis=0)  # the others hold for q itself, and for densities next to any p
    search = (kind or Search)(values[:, used], log_q, limits[used], sharing[used], ratios.partition)
    search.raise_low(found.dual.to_natural(found.x)[used], found.at.value)
    limit = search.run()
    multipliers, natural = np.zeros(used.size), np.zeros(used.size)
    multipliers[used], natural[used] = search.multipliers, search.natural
    if not limit:  # the target is the tilt at the multipliers: standard errors are those of any maximiser
        x = found.dual.from_natural(natural)
        nothing = np.zeros(used.size)
        found = replace(found, x=x, at=found.dual.evaluate(x), active=x > found.dual.lower, pressure=nothing)
    return Answer(
        multipliers=multipliers,
        value=search.low,
        natural=natural,
        log_weights=spread(search.log_p, kept, ratios.n),
        active=multipliers > 0,
        climb=found,
        iterations=found.iterations + search.iterations,
        limit=limit,
        smooth=not limit,
    )


class Search:
    """Bounds low ≤ V ≤ high that close in on each other, with the multipliers and the density that prove them."""

    def __init__(
        self, values: np.ndarray, log_q: np.ndarray, limits: np.ndarray, sharing: np.ndarray, partition: Partition
    ) -> None:
        self.table, self.log_q, self.levels, self.sharing = values - limits, log_q, limits, sharing
        self.partition = replace(partition, order=np.arange(log_q.size))
        self.dual = self._dual(values, limits, sharing)
        self.units = 1.0 + np.abs(limits)
        self.low, self.high = -np.inf, np.inf
        self.multipliers, self.natural, self.log_p = np.zeros(limits.size), np.zeros(limits.size), log_q
        self.iterations = 0

    def _dual(self, table: np.ndarray, levels: np.ndarray, sharing: np.ndarray) -> ExponentialDual:
        if self.partition.count == 1 and (self.sharing == 1).all():
            return ExponentialDual(table, self.log_q, levels, shared=bool(sharing.any()))
        return FamilyDual(table, levels, sharing, self.partition, self.log_q)

    @property
    def close(self) -> float:
        return CLOSE * (1.0 + abs(self.low) + float(np.abs(self.levels).max()))

    def run(self) -> bool:
        """Close the interval; True where the target is a limit, not the tilt at the multipliers."""
        game = self._end()
        at_end = game.value >= self.low - self.close
        if game.value > self.low:
            self.low, self.multipliers = game.value, game.multipliers
        if at_end:
            self._try(max(game.least, self.low) + 0.5 * self.close)
            if self.high <= self.low + self.close:
                return True
            for wider in WIDER if (self.sharing == 0).any() else ():
                # Expectations that only just can be had: the density is a limit, and rounding hides its last digits.
                room = wider / CLOSE * self.close
                self._try(max(game.least, self.low) + 0.5 * room)
                if self.low > game.value + self.close:  # the maximum lies inside after all, close to the end
                    break
                if self.high <= self.low + room:
                    return True
        stalled = 0
        for _ in range(ROUNDS):
            before = self.high - self.low
            tilt = self._try(self.low + min(0.5 * self.close, before / 2))
            if self.high <= self.low + self.close:
                break
            # From here Newton's steps on g itself are few, if rounding lets them.
            again = climb(self.dual, self.dual.from_natural(tilt), self.units)
            self.iterations += again.iterations
            self.raise_low(again.dual.to_natural(again.x), again.at.value)
            self.lower_high(again)
            if self.high <= self.low + self.close:
                break
            if self.high - self.low > 0.5 * before:
                self._try((self.low + self.high) / 2 if np.isfinite(self.high) else self.low + 1.0 + abs(self.low))
            # Two rounds that halve nothing: what is left between the bounds is rounding.
            stalled = stalled + 1 if self.high - self.low > 0.75 * before else 0
            if stalled == 2:
                break
        return not self._agree()

    def _agree(self) -> bool:
        """Whether the multipliers that belong to the target prove as much as the best; then they are the answer."""
        value = self.dual.evaluate(self.dual.from_natural(self.natural)).value
        if value < self.low - self.close:
            return False
        self.low = max(self.low, value)
        self.multipliers = self.natural / (1.0 + float(self.sharing @ self.natural))
        return True

    def _end(self) -> Saddle:
        """The greatest g with sum lam = 1, its multipliers, and the density that proves that it is the maximum."""
        if self.partition.count == 1 and (self.sharing == 1).all():
            return saddle(self.table)
        found = minimise(self.table, self.sharing, np.zeros(self.levels.size), self.partition)
        if found is None:  # the expectations cannot be had, which the climb should have found
            return Saddle(np.zeros(self.levels.size), -np.inf, np.empty(0, dtype=int), np.empty(0), np.inf)
        held = np.flatnonzero(found.masses)
        least = float(found.reached[self.sharing > 0].max())
        return Saddle(found.prices, found.value, held, found.masses[held], least)

    def _try(self, cost: float) -> np.ndarray:
        """Both bounds from the likelihood problem at levels c - b; its natural parameters."""
        dual = self._dual(self.table, cost * self.sharing, np.zeros(self.levels.size))
        found = climb(dual, np.zeros(self.levels.size), self.units)
        self.iterations += found.iterations
        self.lower_high(found)
        natural = found.dual.to_natural(found.x)
        self.raise_low(natural, self.dual.evaluate(self.dual.from_natural(natural)).value)
        return natural

    def raise_low(self, natural: np.ndarray, value: float) -> None:
        if value > self.low:
            self.low, self.multipliers = value, natural / (1.0 + float(self.sharing @ natural))

    def lower_high(self, found: Climb) -> None:
        log_p = found.dual.log_masses(found.x)
        high = shown(self.table, self.sharing, self.log_q, log_p)
        if high < self.high:
            self.high, self.natural, self.log_p = high, found.dual.to_natural(found.x), log_p
