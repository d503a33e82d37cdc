"""A network fitted to the optimal target under a law of prompts: guided tilts, multipliers moved by measured levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.methods.base import DetectedFitContext, Outcome, fit_adapters
from diffusion.methods.correction import FixedMultipliers
from diffusion.methods.dual_loop import Rounds, Stopping
from diffusion.methods.guided_tilt import PromptBatches, guided_objective
from diffusion.methods.level_shift import Asking
from diffusion.pipelines import Denoiser
from diffusion.ratios.detected import DetectedSamples, detect, sample_prompts
from diffusion.tasks.concepts import normalised
from diffusion.tasks.detectors import CheckedDetector
from diffusion.training.lora import merged_adapters

# Share of a step's rows, at least, under prompts that take the law of their anchor.
ANCHORED = 0.5


@dataclass(frozen=True)
class DetectedTilt:
    """Tilted denoising of every prompt of a law (:mod:`diffusion.methods.guided_tilt`).

    ``at``: shares of the steps of a fit at which levels are
    measured on ``samples`` fresh samples (left out, half as many as the constraint was estimated on), and the
    multipliers moved; ``extra``: rounds at most after the last step, of an eighth of the steps each. Without ``at`` the
    solved multipliers are kept.
    """

    at: tuple[float, ...] = (0.3, 0.5, 0.7)
    extra: int = 3
    samples: int | None = None

    def fit(self, context: DetectedFitContext, detectors: Sequence[CheckedDetector]) -> Outcome:
        """Into adapters, left active. ``FloatingPointError`` when a loss is not finite."""
        estimate, solution = context.estimate, context.solution
        rounds = self._rounds(context, detectors) if self.at else None
        holder = FixedMultipliers(np.array(solution.multipliers)) if rounds is None else rounds

        def log_weights() -> Tensor:
            lam = torch.from_numpy(np.array(holder.multipliers, dtype=np.float64))
            return -(estimate.detected @ lam)

        def noised(eta: Tensor) -> Tensor:
            lam = torch.as_tensor(np.array(holder.multipliers), dtype=eta.dtype, device=eta.device)
            return torch.log1p(torch.expm1(-lam) * eta).sum(1)

        data = batches_of(context.denoiser, estimate, log_weights())
        objective = guided_objective(data, estimate.noised_detector, log_weights, noised, context.config)
        losses = fit_adapters(context, lambda _parameters: objective, rounds=rounds)
        return Outcome(losses, solution.multipliers[None]) if rounds is None else rounds.outcome(losses)

    def _rounds(self, context: DetectedFitContext, detectors: Sequence[CheckedDetector]) -> Rounds:
        estimate, solution, steps = context.estimate, context.solution, context.config.max_train_steps
        count = len(estimate.latents) // 2 if self.samples is None else self.samples

        def measure(round_: int) -> tuple[np.ndarray, np.ndarray]:
            seed = int(np.random.SeedSequence([context.config.seed, 7, round_]).generate_state(1)[0])
            chosen = estimate.prompts.drawn(count, seed)
            with merged_adapters(context.denoiser):
                latents = sample_prompts(
                    context.denoiser, estimate.prompts, chosen, estimate.sampling, seed=seed, own=True
                )
            said = detect(context.denoiser.pipeline, latents, detectors).numpy()
            return said.mean(0), said.std(0, ddof=1) / len(said) ** 0.5

        problem = solution.problem.bind(estimate.ratios)
        ends = sorted({*(max(1, round(share * steps)) for share in self.at), steps})
        further = [steps + max(1, steps // 8) * (k + 1) for k in range(self.extra)]
        stop = Stopping(enough=len(ends))
        start, rule = np.array(solution.multipliers), Asking(problem, estimate.ratios)
        return Rounds(problem, rule, start, lambda lam: lam, measure, [*ends, *further], stop, anew=True)


def batches_of(denoiser: Denoiser, estimate: DetectedSamples, log_weights: Tensor) -> PromptBatches:
    """What a fit looks at; samples whose weight is unusual as often as all others together."""
    prompts, sampling = estimate.prompts, estimate.sampling
    scale, negative = sampling.mixed_scale(denoiser), sampling.negative_prompt
    same = [normalised(text) == normalised(negative) for text in prompts.texts]
    scales = torch.tensor([1.0 if scale <= 1 or equal else scale for equal in same])
    weights = log_weights.exp()
    unusual = (weights - weights.mean()).abs() + 1e-12
    # Samples were allotted to prompts by counts; how often a prompt counts is said by its probability.
    share = torch.from_numpy(prompts.probabilities)[estimate.rows]
    share = share / torch.bincount(estimate.rows, minlength=len(prompts))[estimate.rows]
    # What is right under one prompt does not depend on the others; prompts that must take another's law move most.
    anchored = torch.tensor([each.anchor is not None for each in prompts.prompts])[estimate.rows]
    mass = float(share[anchored].sum() / share.sum())
    if 0 < mass < ANCHORED:
        share = torch.where(anchored, share * ANCHORED / mass, share * (1 - ANCHORED) / (1 - mass))
    shares = 0.5 * share / share.sum() + 0.5 * share * unusual / (share * unusual).sum()
    return PromptBatches(
        denoiser,
        estimate.latents,
        estimate.rows,
        denoiser.condition(prompts.texts),
        denoiser.condition(prompts.sampled),
        denoiser.condition([negative]),
        scales,
        any(equal and weight > 0 for equal, weight in zip(same, prompts.probabilities, strict=True)),
        shares,
        target=share / share.sum(),
    )
