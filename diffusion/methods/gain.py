r"""How many times over a change is asked for, so that a network arrives at the levels of its target.

The solved multipliers are the target's, and stay. What a fit to a few thousand samples learns of the target's change is
less than all of it, and asking for a lower level does not mend that: multipliers saturate, since a weight cannot fall
below zero. So the *gain* g of :mod:`diffusion.methods.guided_tilt` moves by the levels that were measured, ::

    log g  <-  log g + max_i (u_i(level) - u_i(b)) / (slope (1 + turns)),

u the coordinate of :mod:`diffusion.methods.level_shift` (for shares log b): the constraint that is missed by most says
how much more of the change is needed, of all constraints at once. By how much the others are then passed their
multipliers fall, by the rule of that module, and what is kept and was lost is asked for by it too. With one
constraint the multiplier does not move. ``slope``, du(level)/dlog g, is :data:`SLOPE` until two rounds lie far enough
apart to tell; ``turns`` counts how often the miss has changed sign. A step is at most a factor of :data:`STEP`, all
steps together at most one of :data:`REACH`.

Source: as for :mod:`diffusion.methods.level_shift`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import duality as du
from diffusion.methods.level_shift import NOWHERE, Asking

if TYPE_CHECKING:
    from diffusion.methods.dual_loop import Rounds

# A fit that is not at its end has learned less than it will: large steps would ask for that a second time.
STEP = 1.3
REACH = 4.0

# On digits, from 2 to 3, a level of about 1 % became .5 % (docs/measured.md): a slope of 1.7. A fit under way has less.
SLOPE = 1.25
SLOPES = (0.5, 3.0)
APART = 1.2


class Gain:
    """A dual rule (:class:`duality.primal_dual.DualRule`) whose ``value`` moves first, from ``start``."""

    def __init__(self, problem: du.Problem, ratios: du.LogRatios, start: float) -> None:
        self.asking, self.start = Asking(problem, ratios), start
        self.value, self.slope, self.turns = start, SLOPE, 0
        self.last: tuple[float, float] | None = None  # log gain and the miss that it left
        self.held = False  # whether more was needed than REACH allows

    @property
    def capped(self) -> np.ndarray:
        """(m,) whether what is asked for was held back."""
        return self.asking.capped | (self.held & self.asking.active & ~self.asking.kept)

    def update(self, multipliers: np.ndarray, misses: np.ndarray) -> np.ndarray:
        """Next multipliers (m,); ``misses`` are minus the slacks of what was measured."""
        asking, problem = self.asking, self.asking.problem
        moving = asking.active & ~asking.kept & ((multipliers > 0) | (misses > 0))
        if not moving.any():
            return asking.update(multipliers, misses)
        levels = problem.levels - problem.direction * misses
        # How much more of the change is needed, in logs: shares are to fall, distances to grow.
        side = 1.0 if asking.shares else -1.0
        needed = side * (asking.coordinate(levels) - asking.coordinate(problem.levels))
        worst = float(needed[moving].max())
        self._move(worst)
        # As if the gain had mended what is common to all constraints: the others are passed by the rest.
        mended = asking.levels(np.maximum(asking.coordinate(levels) - side * worst, NOWHERE))
        rest = np.where(moving, problem.direction * (problem.levels - mended), misses)
        rest = np.where(moving & (needed == worst), 0.0, rest)
        return asking.update(multipliers, rest)

    def _move(self, needed: float) -> None:
        at = float(np.log(self.value))
        if self.last is not None:
            moved = at - self.last[0]
            if abs(moved) > np.log(APART) and min(needed, self.last[1]) > NOWHERE / 2:
                self.slope = float(np.clip((self.last[1] - needed) / moved, *SLOPES))
            self.turns += needed * self.last[1] < 0
        self.last = at, needed
        step = float(np.clip(needed / (self.slope * (1 + self.turns)), -np.log(STEP), np.log(STEP)))
        middle, far = float(np.log(self.start)), float(np.log(REACH))
        self.held |= at + step > middle + far
        self.value = float(np.exp(np.clip(at + step, middle - far, middle + far)))

    def state_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("value", "slope", "turns", "held")}
        return own | {"last": self.last, "asking": self.asking.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self.value, self.slope = float(state["value"]), float(state["slope"])
        self.turns, self.held = int(state["turns"]), bool(state["held"])
        self.last = None if state["last"] is None else (float(state["last"][0]), float(state["last"][1]))
        self.asking.load_state_dict(state["asking"])


def gain_of(rounds: Rounds | None) -> Callable[[], float] | None:
    """The gain of the present step; None where it does not move."""
    rule = rounds and rounds.rule
    return (lambda: rule.value) if isinstance(rule, Gain) else None
