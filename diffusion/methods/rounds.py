r"""Rounds of the alternating algorithm around a trainer: what players share, and the state that a checkpoint holds.

    for each round:  ``inner`` optimiser steps at fixed multipliers  ->  levels of the averaged weights  ->  dual step

A checkpoint may fall inside a round; the multipliers saved with it are those of that round, the levels are measured
again from the same seeds, and so the resumed run is the uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

import duality as du
from duality import primal_dual as pd

from ..parallel import same
from ..trackers import log_round
from ..training import Trainer
from .base import Outcome
from .dual import settled

# The number of a round to levels (m,) and their standard errors (m,) of the network as it then stands.
Measure = Callable[[int], tuple[np.ndarray, np.ndarray]]


class Rounds:
    """The player of :class:`duality.primal_dual.PrimalDual` that trains a network, and a trainer's further state.

    Args:
        problem: levels (m,), in the unit of ``measure``.
        rule, start, project: of the multipliers (m,).
        inner: optimiser steps a round. patience: see :func:`diffusion.methods.dual.settled`; None runs all steps.

    ``multipliers`` are for the objective to read, as plain numbers; ``pool`` is for tensors that the measurement leaves
    to the steps that follow (draws of the student), and is saved too.
    """

    def __init__(
        self,
        problem: du.Problem,
        rule: pd.DualRule,
        start: np.ndarray,
        project: Callable[[np.ndarray], np.ndarray],
        measure: Measure,
        inner: int,
        patience: int | None = None,
    ) -> None:
        if inner < 1:
            raise ValueError(f"inner must be at least 1 step, got {inner}")
        self.problem, self.measure, self.inner, self.patience = problem, measure, inner, patience
        self.loop = pd.PrimalDual(problem, self, rule, start, project)
        self.path: list[np.ndarray] = [self.loop.multipliers]
        self.seen: list[tuple[list[float], list[float]]] = []
        self.pool: dict[str, Tensor] = {}
        self.trainer: Trainer | None = None

    @property
    def multipliers(self) -> np.ndarray:
        return self.loop.multipliers

    def run(self, trainer: Trainer) -> Outcome:
        """All rounds of the trainer's steps, or as many as it takes to settle; averaged weights in place."""
        self.trainer = trainer
        rounds = math.ceil(trainer.settings.steps / self.inner)
        while self.loop.rounds < rounds and not self._settled():
            self.loop.round()
            self.path.append(self.loop.multipliers)
        levels, errors = self._seen()
        return Outcome(trainer.finish(), np.array(self.path), levels, errors)

    def _seen(self) -> tuple[np.ndarray, np.ndarray]:
        m = self.loop.multipliers.size
        levels, errors = (np.array([row[k] for row in self.seen]).reshape(-1, m) for k in (0, 1))
        return levels, errors

    def _settled(self) -> bool:
        if self.patience is None:
            return False
        levels, errors = self._seen()
        slacks = np.array([self.problem.slack(row) for row in levels])
        return settled(slacks, errors, np.array(self.path[:-1]), self.patience)

    # -- the player -----------------------------------------------------------------------------------------------

    def step(self, multipliers: np.ndarray) -> None:
        assert self.trainer is not None  # set by run(), which alone makes rounds
        self.trainer.run(min((self.loop.rounds + 1) * self.inner, self.trainer.settings.steps))

    def levels(self) -> np.ndarray:
        assert self.trainer is not None
        with self.trainer.averaged():
            levels, errors = same(self.measure(self.loop.rounds))
        self.seen.append((levels.tolist(), errors.tolist()))
        log_round(self.trainer.done, self.multipliers, levels, errors, self.problem.slack(levels))
        return levels

    # -- the state, saved and resumed with the weights ------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        return self.pool

    def data(self) -> Any:
        return {"dual": self.loop.state_dict(), "path": [row.tolist() for row in self.path], "seen": self.seen}

    def load(self, tensors: dict[str, Tensor], data: Any) -> None:
        self.loop.load_state_dict(data["dual"])
        self.path = [np.array(row) for row in data["path"]]
        self.seen = [(row[0], row[1]) for row in data["seen"]]
        self.pool = tensors
