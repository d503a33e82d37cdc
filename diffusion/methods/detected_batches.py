"""What a fit under a law of prompts looks at: which samples, how often, and how much each counts."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.methods.closed_form import CAUTION
from diffusion.methods.guided_tilt import PromptBatches
from diffusion.pipelines import Denoiser
from diffusion.ratios.detected import DetectedSamples, normalisers
from diffusion.tasks.concepts import normalised

# Share of a step's rows, at least, under prompts that take the law of their anchor.
ANCHORED = 1 / 3
# Nats by which weights of a prompt's samples differ, at most, where the prompt is to stay as it is.
STILL = 0.1


def batches_of(
    denoiser: Denoiser, estimate: DetectedSamples, log_weights: Tensor, caution: float = CAUTION
) -> PromptBatches:
    """What a fit looks at; samples whose weight is unusual as often as all others together.

    A row under a prompt that keeps its law, none of whose samples is weighed otherwise than its others, counts
    ``caution`` times: all that a fit does there is harm.
    """
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
        target=torch.where(still_of(estimate, log_weights)[estimate.rows], caution, 1.0) * share / share.sum(),
    )


def still_of(estimate: DetectedSamples, log_weights: Tensor) -> Tensor:
    """(C,) whether a prompt stays as it is: it keeps its law, and log weights (n,) of its samples are alike.

    A few samples do not show that, so prompts that share a normaliser are looked at together
    (:func:`diffusion.ratios.detected.normalisers`).
    """
    number = torch.from_numpy(normalisers(estimate.prompts, estimate.rows))
    of = number.clamp_min(0)  # prompts that are never asked have no samples and no rows
    end = torch.full((int(of.max()) + 1,), torch.inf, dtype=log_weights.dtype)
    some = of[estimate.rows]
    most = -end.scatter_reduce(0, some, -log_weights, "amin")
    spread = most - end.scatter_reduce(0, some, log_weights, "amin")
    return ~torch.from_numpy(estimate.prompts.moved) & (spread < STILL)[of]
