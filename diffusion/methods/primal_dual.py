r"""The alternating primal-dual algorithm on a LoRA, for ReverseKL, ForwardKL and Likelihood.

::

    f    <- ``inner`` optimiser steps on retention(f) + constraint(f; lam)     (diffusion.methods.lagrangians)
    lam  <- [ lam + gain · scale · (b - level) ]_+                             (duality.primal_dual)

started at the solved multipliers lam* (m,) instead of zero, so that what is left to the alternation is what the network
makes of its target: a last correction on measured levels. Levels are those of the averaged weights
(:mod:`diffusion.methods.level_estimates`), nats or probabilities as the problem has them. Where states are noised
samples of q, a share beta of the step is ::

    |f - T - G|^2,    G = sum_i k_i (T - T_i),    k = guidance strengths at the present multipliers,

whose minimiser is that of the Lagrangian (under the closure of guidance) without the noise of a sample: with few steps
the Lagrangian alone stays short of its levels. Multipliers reach the loss as plain numbers, live in the saved state,
and are resumed with the weights.

Source: Khalafi, Ribeiro, Ding (ICML 2026, arXiv:2605.30825), their algorithm; the start, theory, "Dual first".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

import duality as du
from diffusion.guidance.guided import LIMIT
from diffusion.methods.base import FitContext, Method, Outcome, at_least_one, batches_of, trainer_of
from diffusion.methods.dual_loop import Rounds, Stopping, ends_of
from diffusion.methods.dual_steps import Scaled, newton_scale
from diffusion.methods.lagrangians import Seen, lagrangian_of
from diffusion.methods.level_estimates import Meter
from diffusion.methods.level_shift import Asking
from diffusion.pipelines import repeat, rows
from diffusion.ratios.classifier import Bottleneck, log_snr, pooled
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.training.batches import Batch, with_kept
from diffusion.training.lora import add_student, base_model
from duality import primal_dual as pd

# The share of a step that is taken from guidance.
BETA = 0.9
# What an image shows is decided at high noise; the optimum at a level does not depend on how often it is visited.
NOISE_POWER = 0.5


def blended(loss: Tensor, f: Tensor, goal: Tensor, beta: float) -> Tensor:
    """``(1 - beta) loss + beta mean |f - goal|^2`` over states (n, ...); goal is T + G."""
    return (1 - beta) * loss + beta * (f - goal).square().mean()


@dataclass(frozen=True)
class PrimalDual(Method):
    """``inner`` steps a round; multipliers rest for ``warmup`` rounds, then move by ``rule(gain)``.

    ``share``: beta in [0, 1], the part of a step that is taken from guidance; 0 is the paper's algorithm.
    ``samples``, ``noise_levels``: of the estimate of the levels in each round. ``patience``: rounds with all levels met
    and still after which the run ends early; left out, all steps are taken.
    """

    inner: int = 50
    warmup: int = 2
    gain: float = 0.3
    share: float = BETA
    rule: Callable[[float], pd.DualRule] = pd.Ascent
    samples: int = 256
    noise_levels: int = 20
    patience: int | None = None

    def fit(self, context: FitContext) -> Outcome:
        return Alternation(self, context).run()

    def needs_prompts(self, kind: type[du.Problem]) -> bool:
        """A ReverseKL's Lagrangian is in terms of the prediction under the concept's prompt."""
        return issubclass(kind, du.ReverseKL)

    def with_patience(self, rounds: int) -> PrimalDual:
        return replace(self, patience=at_least_one(rounds))


class Alternation:
    """One run: the objective, the measurement, the multipliers' domain, and the trainer between them.

    ``start`` (m,): the first multipliers, those of the solution if left out.
    """

    def __init__(self, method: PrimalDual, context: FitContext, start: np.ndarray | None = None) -> None:
        denoiser, estimate, solution, settings = context.denoiser, context.estimate, context.solution, context.config
        if not 0 <= method.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {method.share}")
        self.denoiser, self.estimate, self.share = denoiser, estimate, method.share
        self.problem = solution.problem.bind(estimate.ratios)
        self.lagrangian = lagrangian_of(self.problem)
        self.meter = Meter(denoiser, estimate, self.problem, method.samples, method.noise_levels, settings.seed)
        self._masses = estimate.values.double().exp().numpy()  # e^rho (n, m) at the samples of q
        # Only a Likelihood's multipliers have no bound of their own.
        self.ceiling = None
        if not self.lagrangian.integrated:
            farthest = Asking(self.problem, estimate.ratios).farthest()
            self.ceiling = np.maximum(farthest, np.maximum(solution.multipliers, 1e-3) * 2)
        start = self.project(np.array(solution.multipliers if start is None else start))
        scale = newton_scale(self.problem, estimate.ratios, start)
        rule = Scaled(method.rule(method.gain), scale, method.warmup)
        ends = ends_of(method.inner, settings.max_train_steps)
        stop = Stopping(patience=method.patience)
        self.rounds = Rounds(self.problem, rule, start, self.project, self.measure, ends, stop)
        self.rounds.ceiling = self.ceiling
        parameters = add_student(denoiser, settings.adapter_rank, settings.seed)
        # A concept that no prompt asks for has no prediction of its own to be guided away from.
        named = denoiser.prompt_inputs and all(concept.prompts for concept in estimate.prompts.concepts)
        if not named and self.lagrangian.on_student:
            raise ValueError("ReverseKL needs a prompt for every concept here: its Lagrangian has no other T_i")
        self.blends = not self.lagrangian.on_student and named
        self.batches = batches_of(context, 1.0 if self.lagrangian.on_student else NOISE_POWER)
        self._empty = denoiser.condition([""])
        self._concepts = denoiser.condition([concept.name for concept in estimate.prompts.concepts]) if named else {}
        self.trainer = trainer_of(context, parameters, self.objective, self.rounds)

    def run(self) -> Outcome:
        return self.rounds.run(self.trainer)

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        multipliers = self.problem.project(multipliers)
        if self.lagrangian.of_q:  # and sum_i lam_i e^rho_i ≤ 1 at every sample of q that is known
            multipliers = multipliers / max(1.0, float((self._masses @ multipliers).max()))
        return multipliers if self.ceiling is None else np.minimum(multipliers, self.ceiling)

    def measure(self, round_: int) -> tuple[np.ndarray, np.ndarray]:
        found = self.meter.measure(round_)
        if self.lagrangian.on_student:  # the next round's states are noised samples of this one's student
            self.rounds.pool = {"samples": found.samples}
        return found.levels, found.errors

    def objective(self, _step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
        self.batches.latents = self.rounds.pool.get("samples", self.estimate.anchor)
        batch = self.batches(generator).part(part)
        n = batch.tilted
        with base_model(self.denoiser), Bottleneck(self.denoiser) as caught:
            said = self.denoiser.predict(batch.x, batch.t, batch.anchored)
            inner = cast(Tensor, caught.last)
        f = self.denoiser.predict(batch.x, batch.t, batch.asked)
        # Of the student's samples the clean ratios are not known, nor asked for: those terms are in scores alone.
        rho = self.estimate.values[batch.chosen if not self.lagrangian.on_student else slice(0, 0)].to(f.device)
        seen = Seen(
            said[:n],
            batch.y[:n],
            rho,
            lambda: self._noised(inner[:n], said[:n], batch.t[:n]),
            lambda: self._towards(batch, said[:n]),
        )
        retention, constraint = self.lagrangian.terms(f[:n], seen, self.rounds.multipliers)
        part.note(retention=retention, constraint=constraint)
        loss = retention + constraint
        if self.share > 0 and self.blends:
            goal = said[:n] + self._correction(seen)
            loss = blended(loss, f[:n], goal, self.share)
        return with_kept(loss, f, said, n)

    def _correction(self, seen: Seen) -> Tensor:
        """G (n, ...) at the present multipliers; strengths at most :data:`diffusion.guidance.guided.LIMIT`."""
        lam = torch.tensor(self.rounds.multipliers, dtype=torch.float64)
        k = self.problem.guidance(seen.rho_t().cpu().double(), lam).clamp(0, LIMIT).to(seen.said)
        shape = (-1, *(1,) * (seen.said.ndim - 1))
        return sum(
            (k[:, i].view(shape) * (seen.said - goal) for i, goal in enumerate(seen.towards())),
            start=torch.zeros_like(seen.said),
        )

    def _noised(self, inner: Tensor, said: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return cast(Tensor, self.estimate.classifier(pooled(inner, said), log_snr(self.denoiser, t)))

    def _towards(self, batch: Batch, said: Tensor) -> list[Tensor]:
        """``T - (T(x|"") - T(x|u_i))`` for each concept i."""
        n = batch.tilted
        x, t, count = batch.x[:n], batch.t[:n], len(self.estimate.prompts.concepts)
        with base_model(self.denoiser):
            free = said if self.estimate.prompts.anchor == "" else self.denoiser.predict(x, t, repeat(self._empty, n))
            asked = [rows(self._concepts, slice(i, i + 1)) for i in range(count)]
            return [said - free + self.denoiser.predict(x, t, repeat(one, n)) for one in asked]
