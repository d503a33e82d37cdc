r"""SalUn: the most salient half of the weights, taught other labels.

::

    mask = [ |grad_theta E_f |y - f|^2| >= median over all weights ]         once, at the base model
    loss = ( s E_f | f(x_t, c) - T(x_t, c') |^2 + E_r |y - f|^2 ) / (1 + s)   steps on masked weights only

x_t noised samples of the forget set, c their prompt, c' another one that stands in for it, drawn anew each time; E_r
over the retain set. ``strength`` s is 1/alpha of the original.

Source: Fan et al., SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency (ICLR 2024), eqs. 3 to 6.
There the word under c' is the student's own with the gradient stopped; here the frozen base model's. It masks weights,
so adapters do not do: all weights are free, and ``rank`` plays no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.methods.base import ErasureContext, fit_adapters
from diffusion.methods.erasure.base import Erasure, prompts_table
from diffusion.methods.erasure.samples import forget_and_retain
from diffusion.methods.forget_retain_sets import SetBatches, Sets
from diffusion.pipelines import Denoiser, add_noise, rows
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.training.batches import spread_levels
from diffusion.training.lora import base_model
from diffusion.training.trainer import Objective


def saliency(
    denoiser: Denoiser, batches: SetBatches, parameters: Sequence[nn.Parameter], count: int, seed: int
) -> list[Tensor]:
    """Masks, one a parameter: where the gradient of the forget set's loss, summed over ``count`` batches, is at least
    its median in size."""
    generator = torch.Generator().manual_seed(seed)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for _ in range(count):
        some, _ = batches(generator)
        loss = (denoiser.predict(some.x, some.t, some.condition) - some.y).square().mean()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        for sum_, gradient in zip(total, found, strict=True):
            if gradient is not None:
                sum_ += gradient
    sizes = torch.cat([some.abs().flatten() for some in total])
    middle = sizes.median()
    return [(some.abs() >= middle).to(some.dtype) for some in total]


@dataclass(frozen=True)
class SalUn(Erasure):
    """``samples``: in each set; ``batches``: that saliency is summed over."""

    samples: int = 64
    batches: int = 8

    def objective(self, context: ErasureContext, parameters: Sequence[nn.Parameter]) -> Objective:
        return self.on(context, parameters, forget_and_retain(context, self.samples))

    def on(self, context: ErasureContext, parameters: Sequence[nn.Parameter], sets: Sets) -> Objective:
        """The loss on given sets; from here on the gradients of ``parameters`` are masked."""
        denoiser, count = context.denoiser, max(1, context.config.train_batch_size // 2)
        batches = SetBatches(denoiser, sets, context.config)
        for parameter, mask in zip(
            parameters, saliency(denoiser, batches, parameters, self.batches, context.config.seed), strict=True
        ):
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
        others = dict(zip(context.asking, context.relabelled or (context.retained,) * len(context.asking), strict=True))
        table, row = prompts_table(denoiser, (*context.asking, *(text for some in others.values() for text in some)))

        def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
            _, retain = (some.part(part) for some in batches(generator))
            chosen = torch.randint(len(sets.forget), (count,), generator=generator)
            x0 = sets.forget[chosen].to(retain.x)
            t = spread_levels(denoiser, count, generator).to(x0.device)
            x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator).to(x0), t)
            asked = [sets.forget_prompts[int(j)] for j in chosen]
            drawn = torch.rand(count, generator=generator)
            stand_in = [others[text][int(u * len(others[text]))] for text, u in zip(asked, drawn.tolist(), strict=True)]
            mine = part.rows(count)
            conditions = [rows(table, torch.tensor([row[text] for text in some])[mine]) for some in (asked, stand_in)]
            with base_model(denoiser):
                goal = denoiser.predict(x[mine], t[mine], conditions[1])
            erased = (denoiser.predict(x[mine], t[mine], conditions[0]) - goal).square().mean()
            kept = (denoiser.predict(retain.x, retain.t, retain.condition) - retain.y).square().mean()
            return (self.strength * erased + kept) / (1 + self.strength)

        return objective

    def fit(self, context: ErasureContext) -> list[float]:
        config = context.config.but(full_weights=True)
        free = ErasureContext(**{**vars(context), "config": config})
        return fit_adapters(free, lambda parameters: self.objective(free, parameters))
