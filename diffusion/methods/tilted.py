"""Tilted denoising (:mod:`diffusion.distill`) as a method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import duality as du

from ..distill import BETA, Material, fit_lora
from ..models import Denoiser
from ..survey import Survey
from ..training import Fit, Progress
from .base import Outcome


@dataclass(frozen=True)
class Tilted:
    """``min E_q[ w(rho(x_0)) |y - f|^2 ]``: the optimum is the exact score of the noised target, for all problems.

    See :mod:`diffusion.distill` for the control variates; theory: "Fitting a network", (a). ``beta``: the share of the
    correction that is taken from the solution's guidance instead of the draws.
    """

    beta: float = BETA

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
        log_weights = solution.log_weight(known.values.double())
        # ReverseKL's weights have no bound of their own: the largest among the draws is their unit.
        largest = max(0.0, float(log_weights.max()))

        def log_weight(rho: Tensor) -> Tensor:
            natural = torch.tensor(solution.natural, dtype=rho.dtype, device=rho.device)
            return (solution.problem.noised_tilt(rho, natural) - largest).clamp_max(0.0)

        latents, prompts = known.retained
        weights = (log_weights - largest).exp().float()
        losses = fit_lora(
            denoiser,
            known.prompts,
            known.head,
            log_weight,
            Material(known.anchor, weights, latents, prompts),
            settings,
            checkpoint=checkpoint,
            every=every,
            progress=progress,
            strength=solution.guidance,
            beta=self.beta,
        )
        return Outcome(losses, solution.multipliers[None])
