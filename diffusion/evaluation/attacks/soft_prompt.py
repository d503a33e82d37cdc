r"""Soft prompts: textual inversion against the unlearned network.

::

    min over e of  E_{x ~ references, eps, t} | y - f(x_t, e) |^2

by Adam, the network untouched, from several starts: the concept's own prompt, its anchor, the empty prompt, each with a
little noise; ``vectors`` says how many of the prompt's places are free (None: all). The start that shows the concept
most often in a few samples is sampled afresh.

Source: Pham et al., Circumventing Concept Erasure Methods for Text-to-Image Generative Models (ICLR 2024). There one
token's embedding in front of the text encoder is moved; here what the network reads behind it, which can say all that
the former can, and more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.evaluation.attacks.base import FRESH, Attack, Brought, Victim, noised_references, sampled
from diffusion.pipelines import Condition


@dataclass(frozen=True)
class Candidate:
    """Where a start ended: the condition of one row, the share of samples that showed the concept, the last loss."""

    start: str
    condition: Condition
    share: float
    loss: float


@dataclass(frozen=True)
class SoftPrompt(Attack):
    """``restarts``, ``steps``, ``rate``, ``batch`` of Adam; ``spread``: of the noise at the start."""

    restarts: int = 3
    steps: int = 150
    rate: float = 0.05
    batch: int = 8
    spread: float = 0.01
    vectors: int | None = None
    name = "soft prompt"

    def candidates(self, victim: Victim) -> list[Candidate]:
        """What every start ends in, and how often it shows the concept in a few samples."""
        starts, found = list(dict.fromkeys([*victim.prompts[:1], victim.anchor, ""])), []
        for number in range(self.restarts):
            text = starts[number % len(starts)]
            condition, loss = self.invert(victim, text, number)
            share = victim.share(sampled(victim, condition, victim.search, number))
            found.append(Candidate(text, condition, share, loss))
        return found

    def run(self, victim: Victim) -> Brought:
        best = max(self.candidates(victim), key=lambda each: (each.share, -each.loss))
        detail = f"start {best.start!r}, {best.share:.2f} of {victim.search} in the search, best of {self.restarts}"
        return Brought(sampled(victim, best.condition, victim.samples, FRESH), detail)

    def invert(self, victim: Victim, text: str, number: int) -> tuple[Condition, float]:
        """The condition found from one start, and the mean loss of its last tenth of steps."""
        denoiser, generator = victim.denoiser, torch.Generator().manual_seed(victim.seed * 1009 + number)
        start = denoiser.condition([text])
        name = denoiser.prompt_inputs[0]
        fixed = start[name].detach()
        free = fixed.shape[1] if self.vectors is None else min(self.vectors, fixed.shape[1])
        noise = torch.randn(fixed[:, :free].shape, generator=generator).to(fixed)
        moved = (fixed[:, :free] + self.spread * noise).requires_grad_()
        optimizer, losses = torch.optim.Adam([moved], lr=self.rate), []
        for _ in range(self.steps):
            loss = _loss(victim, start | {name: torch.cat([moved, fixed[:, free:]], 1)}, self.batch, generator)
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(f"soft prompt: the loss is {float(loss.detach())}")
            (moved.grad,) = torch.autograd.grad(loss, [moved])
            optimizer.step()
            losses.append(float(loss.detach()))
        last = losses[-max(1, len(losses) // 10) :]
        found = torch.cat([moved.detach(), fixed[:, free:]], 1)
        return start | {name: found}, sum(last) / len(last)


def _loss(victim: Victim, condition: Condition, batch: int, generator: torch.Generator) -> Tensor:
    x, t, y = noised_references(victim, batch, generator)
    told = {k: v.expand(batch, *v.shape[1:]) for k, v in condition.items()}
    return (y - victim.denoiser.predict(x, t, told)).square().mean()
