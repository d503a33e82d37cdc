r"""ESD, for comparison: erased concepts by distilled negative guidance of constant strength.

::

    min over f of  E_{x_0 ~ q(.|c), eps, t} | f(x_t, c) - ( T(x_t) - eta (T(x_t, c) - T(x_t)) ) |^2

for every paraphrase c of every concept; f the student's, T the frozen base model's raw output, T(x_t) under the empty
prompt. ``cross-attention`` fits the cross-attention layers alone (ESD-x), ``full`` all layers. There is no term for
what is to be kept. Source: Gandikota et al., Erasing Concepts from Diffusion Models (ICCV 2023), eq. 7. Two
differences, so that
all methods share budget and seeds: adapters instead of full weights, and states that are noised samples of the
concept's prompts instead of half-finished samples of the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import duality as du
from diffusion.methods.base import FitContext, Method, Outcome, fit_adapters
from diffusion.pipelines import Denoiser, add_noise, repeat, rows
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.tasks.config import FitConfig
from diffusion.training.batches import spread_levels
from diffusion.training.lora import base_model
from diffusion.training.trainer import Objective

CROSS_ATTENTION = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")


@dataclass(frozen=True)
class ESD(Method):
    """``strength``: eta. ``layers``: ends of layers' names; None takes all that the other methods fit."""

    strength: float = 1.0
    layers: Sequence[str] | None = None

    def needs_prompts(self, kind: type[du.Problem]) -> bool:
        return True

    def objective(self, denoiser: Denoiser, estimate: RatioEstimate, settings: FitConfig) -> Objective:
        """The loss of one step; the adapters must be on the network."""
        asks = (estimate.labels < len(estimate.prompts.concepts)).nonzero()[:, 0]
        samples, names = estimate.labelled[asks], [estimate.labelled_prompts[int(j)] for j in asks]
        distinct = sorted(set(names))
        asking, row = denoiser.condition(distinct), torch.tensor([distinct.index(name) for name in names])
        empty = denoiser.condition([""])
        device = next(denoiser.network.parameters()).device

        def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
            chosen = torch.randint(len(samples), (settings.train_batch_size,), generator=generator)
            x0 = samples[chosen].to(device)
            t = spread_levels(denoiser, len(x0), generator).to(device)
            x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator).to(x0), t)
            mine = part.rows(len(x))
            x, t, condition = x[mine], t[mine], rows(asking, row[chosen[mine]])
            with base_model(denoiser):
                free = denoiser.predict(x, t, repeat(empty, len(x)))
                goal = free - self.strength * (denoiser.predict(x, t, condition) - free)
            return (denoiser.predict(x, t, condition) - goal).square().mean()

        return objective

    def fit(self, context: FitContext) -> Outcome:
        """The solution plays no part: a strength is what ESD has in its place."""
        objective = partial(self.objective, context.denoiser, context.estimate, context.config)
        losses = fit_adapters(context, lambda _parameters: objective(), targets=self.layers)
        return Outcome(losses, context.solution.multipliers[None] * float("nan"))
