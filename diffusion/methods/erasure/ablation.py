r"""Concept ablation: under the concept's prompt, what the model says under its anchor.

::

    E_{x ~ q(.|a), eps, t} | f(x_t, c) - ( T(x_t, c) + s (T(x_t, a) - T(x_t, c)) ) |^2

c a prompt that asks for the concept, a its anchor, x samples of the base model under a at the context's guidance scale.
``strength`` s = 1 is the published loss (model-based); below it the concept stays in part, above it is pushed past the
anchor.

Source: Kumari et al., Ablating Concepts in Text-to-Image Diffusion Models (ICCV 2023), eq. 4. There the goal is the
student's own word with the gradient stopped, here the frozen base model's, which it equals at the start; and a further
term on anchor images, which that goal needs to stay in place, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.methods.base import ErasureContext
from diffusion.methods.erasure.base import Erasure, picked, prompts_table, state_type
from diffusion.methods.erasure.samples import take
from diffusion.pipelines import add_noise
from diffusion.pipelines.base import device_of
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.training.batches import spread_levels
from diffusion.training.lora import base_model
from diffusion.training.trainer import Objective


@dataclass(frozen=True)
class ConceptAblation(Erasure):
    """``samples``: of the anchors, made once."""

    samples: int = 64

    def objective(self, context: ErasureContext, parameters: Sequence[nn.Parameter]) -> Objective:
        denoiser, config = context.denoiser, context.config
        table, row = prompts_table(denoiser, (*context.asking, *context.anchors))
        latents, of = take(context, context.anchors, self.samples, 1)

        def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
            chosen = torch.randint(len(latents), (config.train_batch_size,), generator=generator)
            x0 = latents[chosen].to(device_of(denoiser), state_type(denoiser))
            t = spread_levels(denoiser, len(x0), generator).to(x0.device)
            x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator).to(x0), t)
            mine = part.rows(len(x))
            x, t, prompt = x[mine], t[mine], of[chosen[mine]]
            asked = picked(table, row, context.asking, prompt)
            with base_model(denoiser):
                goal = denoiser.predict(x, t, picked(table, row, context.anchors, prompt))
                if self.strength != 1:
                    said = denoiser.predict(x, t, asked)
                    goal = said + self.strength * (goal - said)
            return (denoiser.predict(x, t, asked) - goal).square().mean()

        return objective
