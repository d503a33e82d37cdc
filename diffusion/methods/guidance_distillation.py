r"""Guidance distillation: the student regresses onto the base model's guided output.

::

    min over f of  E_{x_0 ~ q, eps, t} | f(x_t, c) - ( T(x_t) + sum_i k_i(rho_t) (T(x_t) - T(x_t | u_i)) ) |^2,

x_t = signal x_0 + noise eps; T the frozen network's raw output (n, ...) under the anchor, `T(·|u_i)` under concept i, k
= ``solution.guidance(rho_t)`` (n, m) with rho_t (n, m) from the ratio classifier at the state, c the anchor or any
paraphrase that asks for a concept. The same network function :class:`diffusion.guidance.guided.Guided` that samples
without training is the base model here, so both share every line of the formula. Retained prompts are held to the plain
base model.

The optimum is the guided output itself: exact for ForwardKL always, for Likelihood where Pr(i|x_0) is 0 or 1, for
ReverseKL for equal-covariance Gaussians. Source: theory, "Fitting a network", (b); distilling guidance as such: Meng et
al., On Distillation of Guided Diffusion Models (CVPR 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from diffusion.guidance.guided import LIMIT, Guided
from diffusion.methods.base import FitContext, Method, Outcome, batches_of, fit_adapters
from diffusion.methods.correction import Correction, MovingTarget
from diffusion.methods.dual_loop import Rounds
from diffusion.pipelines import rows
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.training.lora import base_model
from diffusion.training.trainer import Objective


@dataclass(frozen=True)
class GuidanceDistillation(Method):
    """``limit``: the greatest strength; a network's ratio may say that 1 - lam r is zero, where exact ones do not.

    ``correction``: of the multipliers, on levels that are measured during the fit; None goes by the solved ones.
    """

    limit: float = LIMIT
    correction: Correction | None = field(default_factory=Correction)

    def objective(self, context: FitContext, rounds: Rounds | None = None) -> Objective:
        """The loss of one step; the adapters must be on the network."""
        denoiser, estimate, solution = context.denoiser, context.estimate, context.solution
        batches = batches_of(context)
        moving = MovingTarget(estimate, solution.problem, rounds or solution)
        guided = Guided(denoiser, estimate.prompts, estimate.classifier, moving.strength, self.limit)

        def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
            batch = batches(generator).part(part)
            n = batch.tilted
            with base_model(denoiser):
                with guided:
                    goal = denoiser.predict(batch.x[:n], batch.t[:n], rows(batch.anchored, slice(0, n)))
                if len(batch.x) > n:  # where samples of q are the contrast there may be no prompts to retain
                    kept = denoiser.predict(batch.x[n:], batch.t[n:], rows(batch.anchored, slice(n, None)))
                    goal = torch.cat([goal, kept])
            guided.trace.steps.clear()  # one entry a call: of use when sampling, a leak when training
            f = denoiser.predict(batch.x, batch.t, batch.asked)
            return (f - goal).square().mean()

        return objective

    def fit(self, context: FitContext) -> Outcome:
        rounds = self.correction.of_fit(context) if self.correction else None
        losses = fit_adapters(context, lambda _parameters: self.objective(context, rounds), rounds=rounds)
        return Outcome(losses, context.solution.multipliers[None]) if rounds is None else rounds.outcome(losses)

    def uncorrected(self) -> GuidanceDistillation:
        return replace(self, correction=None)
