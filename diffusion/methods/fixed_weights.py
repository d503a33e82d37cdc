r"""Weights set by hand, for comparison: the paper's Lagrangian with multipliers that nobody solves for or moves.

::

    min over f of  retention(f) + constraint(f; lam),       lam fixed, or lam_i = c for all i

with the terms of :mod:`diffusion.methods.lagrangians`.

Source: the paper's comparison with equal weights for several concepts (arXiv:2605.30825); sweeping such weights is what
NegGrad, SISS and multi-concept ESD do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import duality as du
from diffusion.methods.base import FitContext, Method, Outcome
from diffusion.methods.primal_dual import Alternation, PrimalDual


class FixedUpdate:
    """A dual rule that never moves."""

    def update(self, multipliers: np.ndarray, misses: np.ndarray) -> np.ndarray:
        return multipliers

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class FixedWeights(Method):
    """``weights``: (m,) multipliers; a number serves every concept; None takes the mean of the solved ones (equal
    weights of the same total). Levels are measured once, at the end.
    """

    weights: float | tuple[float, ...] | None = None
    samples: int = 256
    noise_levels: int = 20

    def fit(self, context: FitContext) -> Outcome:
        """ValueError for weights of another number than the concepts, or outside the dual domain."""
        solution, m = context.solution, len(context.estimate.prompts.concepts)
        given = np.asarray(solution.multipliers.mean() if self.weights is None else self.weights, float)
        if given.shape not in ((), (m,)) or not solution.problem.domain(np.broadcast_to(given, (m,))):
            raise ValueError(f"weights: {self.weights} given; one for all or for each of {m}, in the dual domain")
        once = PrimalDual(
            inner=context.config.max_train_steps,
            rule=lambda _gain: FixedUpdate(),
            samples=self.samples,
            noise_levels=self.noise_levels,
        )
        start = np.array(np.broadcast_to(given, (m,)))
        return Alternation(once, context, start).run()

    def needs_prompts(self, kind: type[du.Problem]) -> bool:
        return PrimalDual().needs_prompts(kind)
