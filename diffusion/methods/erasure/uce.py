r"""UCE: cross-attention's keys and values edited in closed form.

::

    min over W of  s sum_i |W c_i - V a_i|^2 + sum_j |W k_j - V k_j|^2 + ridge |W - V|_F^2,
    W = ( V (s sum a_i c_i' + sum k_j k_j' + ridge I) ) ( s sum c_i c_i' + sum k_j k_j' + ridge I )^{-1}

for every matrix V of keys and values of cross-attention: c_i the vectors that the text encoder makes of the prompts
that ask for the concept, a_i those of their anchors at the same places, k_j those of retained prompts. ``strength`` is
s; sums are means over prompts, so that s = 1 weighs concept and rest alike. No steps, no rate.

Source: Gandikota et al., Unified Concept Editing in Diffusion Models (WACV 2024), eq. 7. The original's code takes
vectors from the last word of a prompt on (all places here), sums over prompts, and ridge 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.methods.base import ErasureContext
from diffusion.methods.closed_form import minimiser, sums_of
from diffusion.methods.closed_form_start import LAYERS
from diffusion.methods.erasure.base import Erasure
from diffusion.training.lora import add_student
from diffusion.training.trainer import Objective


def change(asking: Tensor, anchors: Tensor, kept: Tensor, strength: float, ridge: float) -> Tensor:
    """M (d, d) of the minimiser V (I + M), for vectors asking, anchors (n, d), kept (k, d); double, on the CPU.

    ``ValueError`` for a strength or ridge that is not positive.
    """
    if strength <= 0 or ridge <= 0:
        raise ValueError(f"strength and ridge must be above 0, got {strength}, {ridge}")
    moved = torch.arange(len(asking) + len(kept)) < len(asking)
    weights = moved.double() * strength / len(asking) + (~moved).double() / len(kept)
    e, to = (torch.cat([some, kept])[:, None] for some in (asking, anchors))
    return minimiser(sums_of(e, to, weights, moved), 1.0, ridge)[0]


@dataclass(frozen=True)
class UCE(Erasure):
    """``ridge``: what holds all other directions."""

    ridge: float = 1e-3

    def objective(self, context: ErasureContext, parameters: Sequence[nn.Parameter]) -> Objective:
        raise ValueError("UCE has a closed form and takes no steps")

    def fit(self, context: ErasureContext) -> list[float]:
        denoiser = context.denoiser
        if denoiser.prompt_inputs != ("encoder_hidden_states",):
            raise ValueError("UCE edits cross-attention to one text encoder: Stable Diffusion 1 and 2 have such")

        def vectors(prompts: Sequence[str]) -> Tensor:
            told = denoiser.condition(list(prompts))["encoder_hidden_states"]
            return told.reshape(-1, told.shape[-1])

        asking, anchors, kept = (vectors(some) for some in (context.asking, context.anchors, context.retained))
        parameters = add_student(denoiser, None, context.config.seed, LAYERS)
        with torch.no_grad():
            m = change(asking, anchors, kept, self.strength, self.ridge)
            for parameter in parameters:
                parameter.add_((parameter.cpu().double() @ m).to(parameter))
        denoiser.network.eval()
        return []
