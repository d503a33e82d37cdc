r"""LECO and ESD: concepts erased by distilled negative guidance on half-finished samples.

::

    LECO    E | f(x_t, c) - ( T(x_t, a) - eta (T(x_t, c) - T(x_t)) ) |^2     x_t half-finished samples of the student
    ESD     E | f(x_t, c) - ( T(x_t)    - eta (T(x_t, c) - T(x_t)) ) |^2     x_t half-finished samples of the base model

f the student's, T the frozen base model's raw output, T(x_t) under the empty prompt; c runs through all prompts that
ask for the concept, a is the anchor of c ("neutral" in LECO, empty there by default); x_t is what k steps of the
pipeline's sampler make of noise under c at the guidance scale of the context (3 in both originals), k uniform, one for
each batch. No term keeps anything. ``eta`` is the strength.

Sources: Gandikota et al., Erasing Concepts from Diffusion Models (ICCV 2023), eq. 7; LECO (p1atdev, 2023, after it),
whose prompt files have the same four prompts. ESD-x fits the layers of cross-attention, ESD-u all others. Differences
from the originals' code: the trainer's warm-up, cosine and average in place of a constant rate (1e-4 with rank 4, 1e-5
to 5e-5 with all weights), 14 sampler steps in place of 50; ESD's original trains weights, not adapters: so does this
with ``full_weights``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.methods.base import ErasureContext
from diffusion.methods.erasure.base import CROSS_ATTENTION, Erasure, half_finished, inner_layers, picked, prompts_table
from diffusion.pipelines import Denoiser, repeat, rows
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.training.lora import base_model
from diffusion.training.trainer import Objective


@dataclass(frozen=True)
class NegativeGuidance(Erasure):
    """``own``: half-finished samples are the student's; ``neutral``: the goal starts from the anchor."""

    own: bool = False
    neutral: bool = False

    def objective(self, context: ErasureContext, parameters: Sequence[nn.Parameter]) -> Objective:
        denoiser, config = context.denoiser, context.config
        table, row = prompts_table(denoiser, (*context.asking, *context.anchors, ""))

        def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
            chosen = torch.randint(len(context.asking), (config.train_batch_size,), generator=generator)
            done = int(torch.randint(context.num_inference_steps, (1,), generator=generator))
            asked = picked(table, row, context.asking, chosen)
            with nullcontext() if self.own else base_model(denoiser):
                x, t = half_finished(
                    denoiser, asked, context.guidance_scale, context.num_inference_steps, done, generator
                )
            mine = part.rows(len(x))
            x, t, asked, chosen = x[mine], t[mine], rows(asked, mine), chosen[mine]
            empty = repeat(rows(table, slice(row[""], row[""] + 1)), len(x))
            with base_model(denoiser):
                free = denoiser.predict(x, t, empty)
                start = denoiser.predict(x, t, picked(table, row, context.anchors, chosen)) if self.neutral else free
                goal = start - self.strength * (denoiser.predict(x, t, asked) - free)
            return (denoiser.predict(x, t, asked) - goal).square().mean()

        return objective


@dataclass(frozen=True)
class LECO(NegativeGuidance):
    """All layers that other methods fit, states of the student, a goal that starts from the anchor."""

    own: bool = True
    neutral: bool = True


@dataclass(frozen=True)
class ESDX(NegativeGuidance):
    """Layers of cross-attention."""

    def layers(self, denoiser: Denoiser, rank: int | None) -> Sequence[str] | None:
        return CROSS_ATTENTION


@dataclass(frozen=True)
class ESDU(NegativeGuidance):
    """All layers but cross-attention."""

    def layers(self, denoiser: Denoiser, rank: int | None) -> Sequence[str] | None:
        return inner_layers(denoiser, rank)
