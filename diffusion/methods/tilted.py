"""Tilted denoising (:mod:`diffusion.methods.tilted_loss`) as a method."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from diffusion.methods.base import FitContext, Method, Outcome, fit_adapters
from diffusion.methods.correction import Correction, MovingTarget
from diffusion.methods.tilted_loss import BETA, Material, Tilt, tilted_objective


@dataclass(frozen=True)
class Tilted(Method):
    """``min E_q[ w(rho(x_0)) |y - f|^2 ]``: the optimum is the exact score of the noised target, for all problems.

    See :mod:`diffusion.methods.tilted_loss` for the control variates; theory: "Fitting a network", (a). ``beta``: the
    share of the correction that is taken from the solution's guidance instead of the samples. ``correction``: of the
    multipliers, on levels that are measured during the fit; None goes by the solved ones.
    """

    beta: float = BETA
    correction: Correction | None = field(default_factory=Correction)

    def fit(self, context: FitContext) -> Outcome:
        estimate, solution = context.estimate, context.solution
        rounds = self.correction.of_fit(context) if self.correction else None
        moving = MovingTarget(estimate, solution.problem, rounds or solution)

        def largest() -> float:
            # ReverseKL's weights have no bound of their own: the largest among the samples is their unit.
            return max(0.0, float(moving.log_weights.max()))

        def weights() -> Tensor:
            return (moving.log_weights - largest()).exp().float()

        latents, prompts = estimate.retained
        objective = tilted_objective(
            context.denoiser,
            estimate.prompts,
            estimate.classifier,
            Tilt(lambda rho: (moving.noised(rho) - largest()).clamp_max(0.0), moving.strength, self.beta, weights),
            Material(estimate.anchor, weights(), latents, prompts),
            context.config,
        )
        losses = fit_adapters(context, lambda _parameters: objective, rounds=rounds)
        return Outcome(losses, solution.multipliers[None]) if rounds is None else rounds.outcome(losses)

    def uncorrected(self) -> Tilted:
        return replace(self, correction=None)
