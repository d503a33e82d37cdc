"""The least cost where divergences from p are bounded on both sides: `ReverseKL` beside `Keep(kind="reverse-kl")`.

Without atoms p may be concentrated until KL(p‖q) is any C above what it is, and no expectation changes. So, as in
`duality.convex_form`, ::

    V = min{C : V_LU(beta + s C) ≤ C},      s_i = 1, 0, -1,

V_LU being the value of the likelihood problem, convex in C. It is finite between two ends, each a linear program:
below, what is to be unlearned cannot be had, above, what is to be kept cannot. Where the least C is the lower end,
S = 0 at the dual maximum, and the target is a limit; otherwise it is the tilt at the root of V_LU(beta + s C) = C.
"""

from __future__ import annotations

import numpy as np

from duality.convex_form import CLOSE, WIDER, Search
from duality.group_programs import minimise

ROUNDS = 120
STALLED = 3


class MixedSearch(Search):
    """`Search` between two ends."""

    def run(self) -> bool:
        """Close the interval; True where the target is a limit, not the tilt at the multipliers."""
        game = self._end()
        if not np.isfinite(game.least):  # no C will do, which `finish` is to find: the answer stays that of the climb
            return not self._agree()
        if game.value > self.low:
            self.low, self.multipliers = game.value, game.multipliers
        if game.value >= self.low - self.close:
            # Just above the end, the density is a limit, and rounding hides its last digits.
            for room in (CLOSE, *WIDER):
                wide = room / CLOSE * self.close
                self._try(max(game.least, self.low) + 0.5 * wide)
                if self.low > game.value + self.close:  # the maximum lies inside after all, close to the end
                    break
                if self.high <= self.low + wide:
                    return True
        right, stalled = self._top(), 0
        for _ in range(ROUNDS):
            before = min(self.high, right) - self.low
            self._probe(self.low + min(0.5 * self.close, before / 2))
            middle = 0.5 * (self.low + min(self.high, right))
            if self.high - self.low > self.close and middle > self.low and not self._probe(middle):
                right = min(right, middle)
            after = min(self.high, right) - self.low
            stalled = stalled + 1 if after > 0.75 * before else 0
            if self.high <= self.low + self.close or stalled == STALLED:
                break
        return not self._agree()

    def _top(self) -> float:
        """The most C at which the expectations can be had."""
        found = minimise(self.table, -self.sharing, np.zeros(self.levels.size), self.partition)
        return self.low if found is None else max(-found.value, self.low)

    def _probe(self, cost: float) -> bool:
        """Both bounds from this cost; False where the least one lies below it, although it will not do itself."""
        low = self.low
        natural = self._try(cost)
        return self.high <= cost + self.close or self.low > low or 1.0 + float(self.sharing @ natural) > 0.0
