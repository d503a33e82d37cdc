r"""Rounds of the alternating algorithm around a trainer: what players share, and the state that a checkpoint holds.

::

    for each round:  optimiser steps at fixed multipliers  ->  levels of the averaged weights  ->  dual step

A checkpoint may fall inside a round; the multipliers saved with it are those of that round, the levels are measured
again from the same seeds, and so the resumed run is the uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

import duality as du
from diffusion.methods.base import Outcome
from diffusion.methods.dual_steps import converged, exceeds_by_one_se, within_one_se
from diffusion.methods.gain import gain_of
from diffusion.runtime.distributed import broadcast_object
from diffusion.runtime.trackers import log_round
from diffusion.training.trainer import Trainer
from duality import primal_dual as pd

# The number of a round to levels (m,) and their standard errors (m,) of the network as it then stands.
Measure = Callable[[int], tuple[np.ndarray, np.ndarray]]


def ends_of(inner: int, steps: int) -> list[int]:
    """Rounds of ``inner`` steps each. The last ends with the fit: what it measures are the weights delivered."""
    if inner < 1:
        raise ValueError(f"inner must be at least 1 step, got {inner}")
    return [*range(inner, steps, inner), steps]


@dataclass(frozen=True)
class Stopping:
    """When rounds end before the last of them.

    Attributes:
        patience: see :func:`diffusion.methods.dual_steps.converged`; None takes all steps.
        enough: rounds after which the run ends as soon as every level is met within one standard error, and overshot by
            more only where the next multiplier is zero.
        one_sided: levels are bounds that a method aims beyond: the run ends when each is met by a standard error, and
            has settled when they are met; passing them is no reason to go on.
    """

    patience: int | None = None
    enough: int | None = None
    one_sided: bool = False


NEVER = Stopping()


class Rounds:
    """The player of :class:`duality.primal_dual.PrimalDual` that trains a network, and a trainer's further state.

    Args:
        problem: levels (m,), in the unit of ``measure``.
        rule, start, project: of the multipliers (m,).
        ends: optimiser steps done when each round ends, increasing. What the trainer's settings have beyond the last
            is trained at the multipliers that it leaves, and not measured.
        stopping: when the run ends before its last step.
        anew: whether the mean of the weights starts again after each round: where multipliers move by much, a mean
            that remembers the old ones is measured too late, and corrected twice.

    ``multipliers`` are for the objective to read, as plain numbers; ``pool`` is for tensors that the measurement leaves
    to the steps that follow (samples of the student), and is saved too.
    """

    def __init__(
        self,
        problem: du.Problem,
        rule: pd.DualRule,
        start: np.ndarray,
        project: Callable[[np.ndarray], np.ndarray],
        measure: Measure,
        ends: Sequence[int],
        stopping: Stopping = NEVER,
        anew: bool = False,
    ) -> None:
        self.problem, self.measure, self.ends, self.stopping, self.anew = problem, measure, tuple(ends), stopping, anew
        self.rule = rule
        self.ceiling: np.ndarray | None = None  # (m,) where project holds multipliers below one: there they run away
        self.loop = pd.PrimalDual(problem, self, rule, start, project)
        self.path: list[np.ndarray] = [self.loop.multipliers]
        self.gains: list[float] = self._gain()
        self.seen: list[tuple[list[float], list[float]]] = []
        self.pool: dict[str, Tensor] = {}
        self.trainer: Trainer | None = None

    @property
    def multipliers(self) -> np.ndarray:
        return self.loop.multipliers

    def run(self, trainer: Trainer) -> Outcome:
        """All rounds of the trainer's steps, or as many as it takes to settle; averaged weights in place."""
        self.train(trainer)
        return self.outcome(trainer.finish())

    def train(self, trainer: Trainer) -> None:
        """All rounds, and the steps that are left after them; the trainer is not finished."""
        self.trainer = trainer
        while self.loop.rounds < len(self.ends) and not self._converged() and not self._enough():
            self.loop.round()
            self.path.append(self.loop.multipliers)
            self.gains += self._gain()
            if self.anew:
                trainer.average_anew()
            trainer.save()  # with the multipliers that the round has left
        if not self._converged():
            trainer.run()

    def outcome(self, losses: list[float]) -> Outcome:
        levels, errors = self._seen()
        known = len(self.gains) == len(self.path)  # a fit that the version before began has not kept them
        gains = np.array(self.gains if known else [])
        return Outcome(losses, np.array(self.path), levels, errors, capped=self.capped(), gains=gains)

    def capped(self) -> np.ndarray:
        """(m,) whether what was asked for was held back, by its rule or by ``ceiling``, and its level is missed in the
        last round: what the network followed in the end did not run away."""
        held = np.asarray(getattr(self.rule, "capped", False)) | np.zeros(self.multipliers.size, dtype=bool)
        if self.ceiling is not None:
            held = held | (np.array(self.path) >= self.ceiling).any(0)
        return held & (self.problem.slack(np.array(self.seen[-1][0])) < 0) if self.seen else held

    def _gain(self) -> list[float]:
        """Of the present round; none where it does not move."""
        gain = gain_of(self)
        return [] if gain is None else [gain()]

    def _seen(self) -> tuple[np.ndarray, np.ndarray]:
        m = self.loop.multipliers.size
        levels, errors = (np.array([row[k] for row in self.seen]).reshape(-1, m) for k in (0, 1))
        return levels, errors

    def _converged(self) -> bool:
        if self.stopping.patience is None:
            return False
        levels, errors = self._seen()
        slacks = np.array([self.problem.slack(row) for row in levels])
        prices = np.array(self.path[:-1]) * (not self.stopping.one_sided)
        return converged(slacks, errors, prices, self.stopping.patience)

    def _enough(self) -> bool:
        if self.stopping.enough is None or self.loop.rounds < self.stopping.enough:
            return False
        levels, errors = self._seen()
        if self.stopping.one_sided:
            return exceeds_by_one_se(self.problem, levels[-1], errors[-1])
        return within_one_se(self.problem, levels[-1], errors[-1], self.path[-1])

    # -- the player -----------------------------------------------------------------------------------------------

    def step(self, multipliers: np.ndarray) -> None:
        assert self.trainer is not None  # set by run(), which alone makes rounds
        self.trainer.run(self.ends[self.loop.rounds])

    def levels(self) -> np.ndarray:
        assert self.trainer is not None
        with self.trainer.saved_if_interrupted(), self.trainer.averaged():
            levels, errors = broadcast_object(self.measure(self.loop.rounds))
        self.seen.append((levels.tolist(), errors.tolist()))
        log_round(self.trainer.done, self.multipliers, levels, errors, self.problem.slack(levels))
        return levels

    # -- the state, saved and resumed with the weights ------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        return self.pool

    def data(self) -> Any:
        path = [row.tolist() for row in self.path]
        return {"dual": self.loop.state_dict(), "path": path, "seen": self.seen, "gains": self.gains}

    def load(self, tensors: dict[str, Tensor], data: Any) -> None:
        self.loop.load_state_dict(data["dual"])
        self.path = [np.array(row) for row in data["path"]]
        self.seen = [(row[0], row[1]) for row in data["seen"]]
        self.gains = list(data.get("gains", []))
        self.pool = tensors
