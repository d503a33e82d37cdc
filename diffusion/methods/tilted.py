"""Tilted denoising (:mod:`diffusion.methods.guided_tilt`) of the anchor's law, for concepts that ratios define."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusion.methods.base import FitContext, Method, Outcome, fit_adapters
from diffusion.methods.closed_form_start import begin
from diffusion.methods.correction import Correction, MovingTarget
from diffusion.methods.gain import gain_of
from diffusion.methods.guided_tilt import PromptBatches, guided_objective
from diffusion.pipelines import Denoiser
from diffusion.tasks.concepts import TaskPrompts
from diffusion.tasks.config import FitConfig
from diffusion.tasks.prompts import Prompts


@dataclass(frozen=True)
class Tilted(Method):
    """``min E_q[ w(rho(x_0)) |y - f|^2 ]``: the optimum is the exact score of the noised target, for all problems.

    Theory: "Fitting a network", (a). Begun where prompts that ask for a concept already have the anchor's law
    (:mod:`diffusion.methods.closed_form_start`). ``correction``: of the multipliers, on levels that are measured during
    the fit; None goes by the solved ones.
    """

    correction: Correction | None = field(default_factory=Correction)

    def fit(self, context: FitContext) -> Outcome:
        estimate, solution, denoiser = context.estimate, context.solution, context.denoiser
        rounds = self.correction.of_fit(context, context.config.gain) if self.correction else None
        moving = MovingTarget(estimate, solution.problem, rounds or solution)
        kept = torch.zeros(len(estimate.retained[1]), dtype=torch.float64)

        def largest() -> float:
            # ReverseKL's weights have no bound of their own: the largest among the samples is their unit.
            return max(0.0, float(moving.log_weights.max()))

        def log_weights() -> Tensor:
            return torch.cat([moving.log_weights - largest(), kept])

        def noised(rho: Tensor, laws: Tensor) -> Tensor:
            tilted = (moving.noised(rho) - largest()).clamp_max(0.0)
            return torch.where(laws.to(tilted.device) == 0, tilted, torch.zeros_like(tilted))

        samples = estimate.anchor, *estimate.retained
        data = laws_of(denoiser, estimate.prompts, samples, log_weights().exp()[: len(estimate.anchor)], context.config)
        gain = gain_of(rounds)
        objective = guided_objective(data, estimate.classifier, log_weights, noised, context.config, gain)
        start = partial(begin, denoiser, law_of(estimate.prompts), context.config.other_layers)
        losses = fit_adapters(context, lambda _parameters: objective, rounds=rounds, start=start)
        return Outcome(losses, solution.multipliers[None]) if rounds is None else rounds.outcome(losses)

    def uncorrected(self) -> Tilted:
        return replace(self, correction=None)


def laws_of(
    denoiser: Denoiser,
    prompts: TaskPrompts,
    samples: tuple[Tensor, Tensor, Sequence[str]],
    weights: Tensor,
    settings: FitConfig,
) -> PromptBatches:
    """What a fit looks at: law 0 is the anchor's, asked for by the anchor and by every paraphrase of a concept, half of
    the time each; the others are those of retained prompts, ``retain_share`` of the rows.

    ``samples``: of q (n, ...), with ``weights`` (n,), and of retained prompts with the prompt of each. Those of q whose
    weight is unusual are looked at as often as all others together, at weights that leave the mean of a loss as it is.
    """
    anchor, latents, texts = samples
    retain_share = settings.retain_share
    if not retain_share:
        latents, texts = latents[:0], ()
    distinct = sorted(set(texts))
    # A pipeline without prompts has nothing but its anchor to be asked for.
    paraphrases = _paraphrases(prompts) if denoiser.prompt_inputs else []
    n, kept = len(anchor), len(latents)
    unusual = (weights - weights.mean()).abs().double() + 1e-12
    among = torch.full((kept,), retain_share / max(1, kept), dtype=torch.float64)
    here = 1 - retain_share if kept else 1.0
    target = torch.cat([torch.full((n,), here / n, dtype=torch.float64), among])
    shares = torch.cat([here * (0.5 / n + 0.5 * unusual / unusual.sum()), among])
    # Rows of `asked`: the anchor, the retained prompts, the paraphrases.
    first = 1 + len(distinct)

    def asking(laws: Tensor, generator: torch.Generator) -> Tensor:
        other = torch.randint(len(paraphrases) + 1, laws.shape, generator=generator)
        other = torch.where((other == 0) | (torch.rand(laws.shape, generator=generator) < 0.5), 0, first + other - 1)
        return torch.where(laws == 0, other, laws)

    return PromptBatches(
        denoiser,
        torch.cat([anchor, latents]),
        torch.tensor([0] * n + [1 + distinct.index(text) for text in texts]),
        denoiser.condition([prompts.anchor, *distinct, *paraphrases]),
        denoiser.condition([prompts.anchor, *distinct, *[prompts.anchor] * len(paraphrases)]),
        denoiser.condition([prompts.anchor]),
        torch.ones(first),
        False,
        shares,
        target,
        asking=asking,
    )


def law_of(prompts: TaskPrompts) -> Prompts:
    """The anchor, paraphrases that are to have its law, and retained prompts, a third of the weight each."""
    parts: list[list[dict[str, Any]]] = [[], [], []]
    for where, texts in enumerate(((prompts.anchor,), _paraphrases(prompts), prompts.retained)):
        for text in dict.fromkeys(" ".join(each.split()) for each in texts):
            if all(text != each["prompt"] for part in parts for each in part):
                parts[where].append({"prompt": text} | ({"anchor": prompts.anchor} if where == 1 else {}))
    return Prompts([each | {"weight": 1 / len(part)} for part in parts for each in part])


def _paraphrases(prompts: TaskPrompts) -> list[str]:
    """Of all concepts."""
    return [text for concept in prompts.concepts for text in concept.prompts]
