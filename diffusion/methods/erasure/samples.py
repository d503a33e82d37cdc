"""Samples of the frozen base model that erasing methods look at: made once, before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion.methods.base import ErasureContext
from diffusion.methods.forget_retain_sets import Sets
from diffusion.pipelines.sampling import sample_latents
from diffusion.training.lora import base_model


def take(context: ErasureContext, prompts: Sequence[str], count: int, salt: int) -> tuple[Tensor, Tensor]:
    """``count`` samples under prompts in turn, and the number (count,) of the prompt of each."""
    denoiser = context.denoiser
    of = torch.arange(count) % len(prompts)
    seed = int(np.random.SeedSequence([context.config.seed, 61, salt]).generate_state(1)[0])
    with base_model(denoiser):
        latents = sample_latents(
            denoiser.pipeline,
            [prompts[int(j)] for j in of],
            seed=seed,
            steps=context.num_inference_steps,
            guidance_scale=context.guidance_scale,
        )
    return latents, of


def forget_and_retain(context: ErasureContext, count: int) -> Sets:
    """Forget: ``count`` samples of the asking prompts. Retain: as many of the retained ones. Pairs: at random."""
    forget, asked = take(context, context.asking, count, 2)
    retain, kept = take(context, context.retained, count, 3)

    def pairs(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return (
            torch.randint(len(retain), (number,), generator=generator),
            torch.randint(len(forget), (number,), generator=generator),
        )

    return Sets(
        forget,
        tuple(context.asking[int(j)] for j in asked),
        retain,
        tuple(context.retained[int(j)] for j in kept),
        len(forget) / (len(forget) + len(retain)),
        pairs,
    )
