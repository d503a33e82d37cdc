"""The alternating algorithm: a player lowers the Lagrangian, multipliers follow how far the levels are missed.

::

    p    <- a step of the player towards argmin_p cost(p) + sum_i lam_i · miss_i(p)
    lam  <- [ lam + eta · miss(p) ]_+ ,      miss_i = b_i - level_i  (level_i - b_i for Likelihood)

The player is anything with two methods: an exact tilt on nodes, a network that takes a few optimiser steps. It is
handed the multipliers as plain numbers; they live in the state of `PrimalDual`, are saved and resumed with it, and are
never updated inside a loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from duality._arrays import to_numpy
from duality.grouped_duals import dual_of
from duality.problems import Problem
from duality.ratios import LogRatios


class Player(Protocol):
    """Whoever holds the density."""

    def step(self, multipliers: np.ndarray) -> None:
        """Move the density towards the minimiser of the Lagrangian at these multipliers `(m,)`."""

    def levels(self) -> np.ndarray:
        """The constrained functionals `(m,)` at the present density, or an estimate of them."""


class DualRule(Protocol):
    """How multipliers answer to misses."""

    def update(self, multipliers: np.ndarray, misses: np.ndarray) -> np.ndarray:
        """Next multipliers `(m,)`, before they are brought back into the domain."""

    def state_dict(self) -> dict[str, Any]:
        """What must be saved for an exact resumption."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume."""


@dataclass
class Ascent:
    """Plain ascent, lam + rate · misses.

    Converges on exact players for 0 < rate < 2/h, with h the largest eigenvalue of the dual function's curvature.
    """

    rate: float

    def __post_init__(self) -> None:
        _positive("rate", self.rate)

    def update(self, multipliers: np.ndarray, misses: np.ndarray) -> np.ndarray:
        return multipliers + self.rate * misses

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"state: plain ascent keeps none, got {sorted(state)}")


class NuPI:
    """The nuPI controller of cooper: `lam + rate · (integral · miss_t + proportional · (xi_t - xi_{t-1}))`.

    xi is an exponential average of the misses with coefficient `smoothing`. The proportional term damps the
    oscillation that plain ascent shows once the player answers late (Sohrabi et al., ICML 2024).

    Raises:
        ImportError: without torch and cooper.
        ValueError: for a rate that is not positive.
    """

    def __init__(self, rate: float, proportional: float = 1.0, integral: float = 1.0, smoothing: float = 0.0) -> None:
        _positive("rate", rate)
        try:
            import torch
            from cooper.optim import nuPI
        except ImportError as error:
            raise ImportError(
                "NuPI needs torch and cooper: pip install 'unlearning-duality[torch]'", name=error.name
            ) from error
        self._torch = torch
        self._make: Callable[[Any], Any] = lambda parameter: nuPI(
            [parameter],
            lr=rate,
            Kp=torch.tensor(proportional, dtype=torch.float64),
            Ki=torch.tensor(integral, dtype=torch.float64),
            ema_nu=smoothing,
            maximize=True,
        )
        self._parameter: Any = None
        self._optimizer: Any = None

    def _start(self, m: int) -> None:
        self._parameter = self._torch.nn.Parameter(self._torch.zeros(m, dtype=self._torch.float64))
        self._optimizer = self._make(self._parameter)

    def update(self, multipliers: np.ndarray, misses: np.ndarray) -> np.ndarray:
        if self._parameter is None:
            self._start(multipliers.size)
        # The controller starts from the multipliers as they are *after* the projection of the step before.
        self._parameter.data = self._torch.tensor(multipliers)
        self._parameter.grad = self._torch.tensor(misses)
        self._optimizer.step()
        return np.asarray(self._parameter.detach().numpy().copy())

    def state_dict(self) -> dict[str, Any]:
        # Plain numbers: the settings come with the constructor, and so the state fits into JSON beside the multipliers.
        if self._optimizer is None:
            return {}
        memory = self._optimizer.state[self._parameter]
        return {"size": int(self._parameter.numel()), "memory": {name: memory[name].tolist() for name in memory}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:
            self._parameter = self._optimizer = None
            return
        self._start(int(state["size"]))
        memory = {name: self._torch.tensor(value, dtype=self._torch.float64) for name, value in state["memory"].items()}
        self._optimizer.state[self._parameter] = memory


@dataclass(frozen=True)
class Path:
    """Multipliers `(k + 1, m)` before each of k rounds and after the last, and levels `(k, m)` measured in each."""

    multipliers: np.ndarray
    levels: np.ndarray


class PrimalDual:
    """Alternate player and multipliers for a problem.

    Args:
        problem: one level for each constraint.
        player: holds the density.
        rule: `Ascent` or `NuPI`.
        start: `(m,)` first multipliers, zero if left out; those of `solve` are the best start there is.
        project: brings multipliers back into the dual domain; left out, `problem.project`.

    Raises:
        ValueError: for a start of another shape, or outside the domain.
    """

    def __init__(
        self,
        problem: Problem,
        player: Player,
        rule: DualRule,
        start: Any = None,
        project: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.problem, self.player, self.rule = problem, player, rule
        self._project = problem.project if project is None else project
        self.rounds = 0
        self.multipliers = np.zeros(problem.levels.size) if start is None else to_numpy("start", start)
        if self.multipliers.shape != problem.levels.shape or not problem.domain(self.multipliers):
            raise ValueError(
                f"start: {self.multipliers} given, {problem.levels.size} multipliers inside the dual domain are needed"
            )

    def round(self) -> np.ndarray:
        """One step of the player, one of the multipliers; the levels `(m,)` measured in between."""
        self.player.step(self.multipliers)
        levels = np.asarray(self.player.levels(), dtype=np.float64)
        self.multipliers = self._project(self.rule.update(self.multipliers, -self.problem.slack(levels)))
        self.rounds += 1
        return levels

    def run(self, rounds: int) -> Path:
        """Several rounds."""
        path, levels = [self.multipliers], []
        for _ in range(rounds):
            levels.append(self.round())
            path.append(self.multipliers)
        return Path(np.array(path), np.array(levels).reshape(rounds, self.multipliers.size))

    def state_dict(self) -> dict[str, Any]:
        """Everything but the player, which saves itself: multipliers, the rule's memory, rounds done."""
        return {"multipliers": self.multipliers.tolist(), "rounds": self.rounds, "rule": self.rule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume exactly. ValueError for the state of a problem of another size."""
        multipliers = np.array(state["multipliers"], dtype=np.float64)
        if multipliers.shape != self.multipliers.shape:
            raise ValueError(f"state: {multipliers.size} multipliers given, {self.multipliers.size} are needed")
        self.rule.load_state_dict(state["rule"])
        self.multipliers, self.rounds = multipliers, int(state["rounds"])


class ExactPlayer:
    """The player that answers with the exact minimiser of the Lagrangian on given nodes: the tilt at the multipliers.

    Outside ForwardKL's domain the Lagrangian has no minimiser; the answer is then the tilt at the multipliers drawn
    back towards zero until they are inside, where the levels are so large that the multipliers come back by themselves.
    """

    def __init__(self, problem: Problem, ratios: LogRatios) -> None:
        self._problem = problem.bind(ratios)
        self._ratios = ratios
        self._dual = dual_of(self._problem, ratios)
        self.log_weights = ratios.log_weights

    def step(self, multipliers: np.ndarray) -> None:
        x = self._dual.from_natural(np.asarray(self._problem.natural(multipliers)))
        while not np.isfinite(self._dual.evaluate(x).value):
            x = 0.99 * x
        self.log_weights = self._dual.log_masses(x)

    def levels(self) -> np.ndarray:
        return self._problem.levels_of(self._ratios, self.log_weights)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: {value} given, a positive number is needed")
