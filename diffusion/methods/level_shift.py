r"""What has to be asked of the solver so that a network arrives at what is wanted.

Under the multipliers that solve for levels b a network does not have the levels b: its ratios, its guidance and its fit
have errors of their own. A dual step on measured levels moves what is asked, b' (m,), and solves again::

    u(b')  <-  u(b') + (u(b) - u(level)) / (slope (1 + turns)),        lam  <-  lam*(b'),

    u(b) = log b                          for likelihoods that are shares of all samples,
    u(b) = log (1 - b)                    for shares that are to be kept,
    u(b) = log (distance of b from the level of q)              for all others,

so a level that is missed by a factor is answered by that factor, in whatever unit it is, and multipliers stay inside
the dual domain however far a network is off. ``slope``, du(level)/du(b'), is 1 until two rounds lie far enough apart to
tell; ``turns`` counts how often the miss has changed sign, so that steps shrink once all that is left is noise. A step
is at most a factor of :data:`STEP`, and all steps together at most one of :data:`REACH`: a network that does not follow
by then follows no multiplier, and they would run away. Weak duality holds at the multipliers of every round.

Source: the gain is Kesten's, Accelerated Stochastic Approximation (Ann. Math. Statist. 1958); what it is for, theory,
"Dual first" and the end of "Into a LoRA": a last dual correction on measured levels.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

import duality as du

STEP = 4.0
REACH = 16.0

# Two rounds tell a slope if what they asked differs by this factor: nearer ones differ by the noise of the samples.
APART = 1.5
SLOPES = (0.5, 4.0)

# log of the least distance that is told from none; a step is cut anyway.
NOWHERE = -30.0


class Asking:
    """A dual rule (:class:`duality.primal_dual.DualRule`) for ``problem`` (m levels), solved on ``ratios``."""

    def __init__(self, problem: du.Problem, ratios: du.LogRatios) -> None:
        self.problem, self.ratios = problem, ratios
        self.asked = np.array(problem.levels, dtype=np.float64)
        self.q = problem.levels_of(ratios, ratios.log_weights)
        self.shares = problem.probability
        self.kept = self.shares & np.broadcast_to(np.asarray(problem.direction) > 0, self.asked.shape)
        # Where q itself is on the right side nothing is asked; but what is kept q has, and unlearning may take it.
        self.active = self.kept | (problem.direction * (problem.levels - self.q) > 0)
        self.target: np.ndarray | None = None  # levels (m,) of the last target, where something is kept
        self.slope, self.turns = np.ones(self.asked.size), np.zeros(self.asked.size)
        self.last: tuple[np.ndarray, np.ndarray] | None = None  # u of what was asked and of what was had
        self.capped = np.zeros(self.asked.size, dtype=bool)  # where more was to be asked than REACH allows

    def coordinate(self, levels: np.ndarray) -> np.ndarray:
        """``u`` (m,) of levels (m,); :data:`NOWHERE` at or beyond the level of q (at a share of zero)."""
        share = np.where(self.kept, 1 - levels, levels)
        far = share if self.shares else self.problem.direction * (levels - self.q)
        return np.asarray(np.log(np.maximum(far, np.exp(NOWHERE))))

    def levels(self, coordinate: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`coordinate`."""
        far = np.exp(coordinate)
        return np.where(self.kept, 1 - far, far) if self.shares else self.q + self.problem.direction * far

    def update(self, multipliers: np.ndarray, misses: np.ndarray) -> np.ndarray:
        """Next multipliers (m,); ``misses`` are minus the slacks of what was measured."""
        had = self.coordinate(self.problem.levels - self.problem.direction * misses)
        if self.kept.any():
            # Of what is kept the target may have more than was asked for: from there on asking has a price.
            if self.target is None:
                self._solved()
            lost = self.kept & (misses > 0)
            self.asked = np.where(lost, np.maximum(self.asked, np.asarray(self.target)), self.asked)
        asked, wanted = self.coordinate(self.asked), self.coordinate(self.problem.levels)
        if self.last is not None:
            moved, answered = asked - self.last[0], had - self.last[1]
            telling = (np.abs(moved) > np.log(APART)) & (np.minimum(had, self.last[1]) > NOWHERE)
            ratio = answered / np.where(telling, moved, 1.0)
            self.slope = np.where(telling, np.clip(ratio, *SLOPES), self.slope)
            self.turns += (wanted - had) * (wanted - self.last[1]) < 0
        self.last = asked, had
        # A constraint without a price that is met has nothing to ask for.
        moves = self.active & ((multipliers > 0) | (misses > 0))
        step = np.clip((wanted - had) / (self.slope * (1 + self.turns)), -np.log(STEP), np.log(STEP))
        within = np.clip(asked + step, wanted - np.log(REACH), wanted + np.log(REACH))
        self.capped |= moves & (within != asked + step)
        self.asked = np.where(moves, self.levels(np.where(moves, within, 0.0)), self.asked)
        return self._solved()

    def farthest(self) -> np.ndarray:
        """Multipliers (m,) for all levels beyond those wanted by the factor :data:`REACH`, or as far as can be had."""
        far = self.coordinate(self.problem.levels) + (-1 if self.shares else 1) * np.log(REACH)
        before, self.asked = self.asked, np.where(self.active, self.levels(far), self.problem.levels)
        try:
            return self._solved()
        finally:
            self.asked = before

    def _solved(self) -> np.ndarray:
        with warnings.catch_warnings():
            # On how many samples the answer rests is said once, by the first solve; levels are measured from here on.
            warnings.simplefilter("ignore", du.FewDrawsWarning)
            try:
                found = du.solve(replace(self.problem, levels=self.asked), self.ratios)
            except du.InfeasibleError as error:
                # What was asked at first could be had; from the edge of what can be, a quarter of the way back to it.
                self.asked = error.least + (self.problem.levels - error.least) / 4
                found = du.solve(replace(self.problem, levels=self.asked), self.ratios)
        # Beyond the critical levels the multipliers of a reverse KL may add up to one, where there is no tilt.
        self.target = np.array(found.levels)
        inside = self.problem.domain(found.multipliers)
        return found.multipliers if inside else np.asarray(self.problem.project(found.multipliers))

    # -- the state, saved and resumed with the weights ------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        last = None if self.last is None else [row.tolist() for row in self.last]
        names = ("asked", "slope", "turns", "capped")
        target = None if self.target is None else self.target.tolist()
        return {name: getattr(self, name).tolist() for name in names} | {"last": last, "target": target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self.asked, self.slope, self.turns = (np.array(state[name]) for name in ("asked", "slope", "turns"))
        self.capped = np.array(state["capped"], dtype=bool)
        self.target = None if state["target"] is None else np.array(state["target"])
        self.last = None if state["last"] is None else (np.array(state["last"][0]), np.array(state["last"][1]))
