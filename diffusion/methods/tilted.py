"""Tilted denoising (:mod:`diffusion.methods.tilted_loss`) as a method."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

import duality as du
from diffusion.methods.base import Outcome
from diffusion.methods.correction import Correction, Moving, trained_in
from diffusion.methods.tilted_loss import BETA, Material, fit_lora
from diffusion.pipelines import Denoiser
from diffusion.ratios.ratio_estimate import Survey
from diffusion.training.trainer import Fit, Progress


@dataclass(frozen=True)
class Tilted:
    """``min E_q[ w(rho(x_0)) |y - f|^2 ]``: the optimum is the exact score of the noised target, for all problems.

    See :mod:`diffusion.methods.tilted_loss` for the control variates; theory: "Fitting a network", (a). ``beta``: the
    share of the correction that is taken from the solution's guidance instead of the draws. ``correction``: of the
    multipliers, on levels that are measured during the fit; None goes by the solved ones.
    """

    beta: float = BETA
    correction: Correction | None = field(default_factory=Correction)

    def fit(
        self,
        denoiser: Denoiser,
        known: Survey,
        solution: du.Solution,
        settings: Fit,
        *,
        checkpoint: Path | None = None,
        every: int = 100,
        progress: Progress | None = None,
    ) -> Outcome:
        rounds = self.correction.of_fit(denoiser, known, solution, settings) if self.correction else None
        moving = Moving(known, solution.problem, rounds or solution)

        def largest() -> float:
            # ReverseKL's weights have no bound of their own: the largest among the draws is their unit.
            return max(0.0, float(moving.log_weights.max()))

        def weights() -> Tensor:
            return (moving.log_weights - largest()).exp().float()

        latents, prompts = known.retained
        losses = fit_lora(
            denoiser,
            known.prompts,
            known.head,
            lambda rho: (moving.noised(rho) - largest()).clamp_max(0.0),
            Material(known.anchor, weights(), latents, prompts),
            settings,
            checkpoint=checkpoint,
            every=every,
            progress=progress,
            strength=moving.strength,
            beta=self.beta,
            weights=weights,
            **trained_in(rounds),
        )
        return Outcome(losses, solution.multipliers[None]) if rounds is None else rounds.outcome(losses)
