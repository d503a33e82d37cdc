r"""Adversarial embeddings as further prompts of a fitted network: each is to mean what the concept's anchor means.

::

    loss = ( n_a E | f(x_t, e) - f_0(x_t, a) |^2 + n_k E | f(x_t, c) - f_0(x_t, c) |^2 ) / (n_a + n_k)

f the network that goes on being trained, f_0 the same as it was fitted, e embeddings that an attack has found, a the
anchor of the concept that they bring; x_t noised samples of the base model with and without the concept, as many of
either. c are prompts as they are asked: what the fit has promised of them is kept by the second term. Under a guidance
scale both branches of f then say what those of f_0 say, the one with e what f_0 says under the anchor.

Source: theory, "Attacks as further laws"; adversarial training of erased models as in Zhang et al., Defensive
Unlearning with Adversarial Training (AdvUnlearn, NeurIPS 2024), whose goal is ESD's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.pipelines import Condition, Denoiser, add_noise, rows
from diffusion.pipelines.base import device_of
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.training.batches import join, spread_levels
from diffusion.training.trainer import Objective

ATTACKED = 0.5  # share of a step's rows under embeddings


@dataclass(frozen=True)
class Adversary:
    """Embeddings (k, ...), the anchor that they are to mean, and samples (n, ...) with and without the concept."""

    found: Condition
    anchor: str
    references: Tensor
    others: Tensor


@dataclass(frozen=True)
class KeptLaw:
    """Samples (n, ...) and the prompt (n,) that each is asked under: where the network stays as it was fitted."""

    latents: Tensor
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.prompts) or not self.prompts:
            raise ValueError(f"latents and prompts must be one each, got {len(self.latents)}, {len(self.prompts)}")


@contextmanager
def at_values(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Parameters at other values inside; nothing is copied."""
    held = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
        yield
    finally:
        for parameter, value in zip(parameters, held, strict=True):
            parameter.data = value


def robust_objective(
    denoiser: Denoiser,
    adversaries: Sequence[Adversary],
    kept: KeptLaw,
    parameters: Sequence[nn.Parameter],
    fitted: Sequence[Tensor],
    batch: int,
) -> Objective:
    """The loss of one step; ``fitted``: values of ``parameters`` in f_0. ``ValueError`` for a batch below 2."""
    if batch < 2:
        raise ValueError(f"batch must be at least 2, got {batch}")
    distinct = list(dict.fromkeys(kept.prompts))
    told = denoiser.condition(distinct)
    row = torch.tensor([distinct.index(prompt) for prompt in kept.prompts])
    anchors = denoiser.condition([each.anchor for each in adversaries])
    sizes = torch.tensor([len(next(iter(each.found.values()))) for each in adversaries])
    found = {name: torch.cat([each.found[name] for each in adversaries]) for name in anchors}
    of = torch.repeat_interleave(torch.arange(len(adversaries)), sizes)
    attacked, device = max(1, round(ATTACKED * batch)), device_of(denoiser)

    def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
        chosen = torch.randint(len(of), (attacked,), generator=generator)
        seen = [
            _pick((adversaries[int(of[j])].references, adversaries[int(of[j])].others)[k % 2], generator)
            for k, j in enumerate(chosen)
        ]
        other = torch.randint(len(row), (batch - attacked,), generator=generator)
        x0 = torch.cat([torch.stack(seen), kept.latents[other]]).to(device)
        t = torch.cat([spread_levels(denoiser, n, generator) for n in (attacked, len(other))]).to(device)
        x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator).to(x0), t)
        asked = join(rows(found, chosen), rows(told, row[other]))
        goal = join(rows(anchors, of[chosen]), rows(told, row[other]))
        first, second = (torch.arange(n)[part.rows(n)] for n in (attacked, len(other)))
        mine = torch.cat([first, attacked + second])
        with torch.no_grad(), at_values(parameters, fitted):
            said = denoiser.predict(x[mine], t[mine], rows(goal, mine))
        return (denoiser.predict(x[mine], t[mine], rows(asked, mine)) - said).square().mean()

    return objective


def _pick(some: Tensor, generator: torch.Generator) -> Tensor:
    return some[int(torch.randint(len(some), (1,), generator=generator))]
