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

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.evaluation.attacks.base import FRESH, Attack, Brought, Victim, noised_references, sampled
from diffusion.pipelines import Condition, rows

NUMBERS = 2**17  # of noised references that a step of several starts looks at together
LOOKS = 3  # places on a start's way that are remembered, its end the last


@dataclass(frozen=True)
class Candidate:
    """Where a start ended: the condition of one row, the share of samples that showed the concept, the last loss, and
    ``passed`` (k, ...), where it was after equal parts of its steps."""

    start: str
    condition: Condition
    share: float
    loss: float
    passed: Condition


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
        texts = list(dict.fromkeys([*victim.prompts[:1], victim.anchor, ""]))
        starts, found = [texts[number % len(texts)] for number in range(self.restarts)], list[Candidate]()
        # No start knows of the others: together they only take less time.
        together = max(1, NUMBERS // (self.batch * math.prod(victim.denoiser.sample_shape)))
        for begin in range(0, self.restarts, together):
            some = range(begin, min(begin + together, self.restarts))
            ended = self.invert(victim, victim.denoiser.condition([starts[number] for number in some]), some)
            for number, (passed, loss) in zip(some, ended, strict=True):
                condition = rows(passed, slice(-1, None))
                share = victim.share(sampled(victim, condition, victim.search, number))
                found.append(Candidate(starts[number], condition, share, loss, passed))
        return found

    def run(self, victim: Victim) -> Brought:
        best = max(self.candidates(victim), key=lambda each: (each.share, -each.loss))
        detail = f"start {best.start!r}, {best.share:.2f} of {victim.search} in the search, best of {self.restarts}"
        return Brought(sampled(victim, best.condition, victim.samples, FRESH), detail)

    def invert(self, victim: Victim, starts: Condition, numbers: Sequence[int]) -> list[tuple[Condition, float]]:
        """From starts (n, ...), each with the noise of its number: the conditions passed, the last of which is found,
        and the mean loss of the last tenth of steps."""
        name = victim.denoiser.prompt_inputs[0]
        chances = [torch.Generator().manual_seed(victim.seed * 1009 + number) for number in numbers]
        kind, fixed = starts[name].dtype, starts[name].detach().float()  # half precision holds no step of Adam's
        free = fixed.shape[1] if self.vectors is None else min(self.vectors, fixed.shape[1])
        noise = torch.stack([torch.randn(fixed[0, :free].shape, generator=chance) for chance in chances]).to(fixed)
        moved = (fixed[:, :free] + self.spread * noise).requires_grad_()
        optimizer, losses, passed = torch.optim.Adam([moved], lr=self.rate), list[list[float]](), list[Tensor]()
        looks = {math.ceil(self.steps * (j + 1) / LOOKS) for j in range(LOOKS)}
        for step in range(self.steps):
            loss = _loss(victim, starts | {name: torch.cat([moved, fixed[:, free:]], 1).to(kind)}, self.batch, chances)
            if not bool(torch.isfinite(loss).all()):
                raise FloatingPointError(f"soft prompt: the loss is {loss.detach().tolist()}")
            (moved.grad,) = torch.autograd.grad(loss.sum(), [moved])
            optimizer.step()
            losses.append(loss.detach().tolist())
            if step + 1 in looks:
                passed.append(torch.cat([moved.detach().clone(), fixed[:, free:]], 1))
        last = torch.tensor(losses[-max(1, len(losses) // 10) :], dtype=torch.float64).mean(0).tolist()
        ways = torch.stack(passed, 1).to(kind)
        held = [
            {k: v[j : j + 1].expand(len(passed), *v.shape[1:]) for k, v in starts.items()} for j in range(len(last))
        ]
        return [(one | {name: ways[j]}, last[j]) for j, one in enumerate(held)]


def _loss(victim: Victim, conditions: Condition, batch: int, chances: Sequence[torch.Generator]) -> Tensor:
    """(n,) mean errors under conditions (n, ...), each on ``batch`` references of its own chance."""
    x, t, y = (torch.cat(some) for some in zip(*(noised_references(victim, batch, c) for c in chances), strict=True))
    told = {k: v.repeat_interleave(batch, 0) for k, v in conditions.items()}
    error = (y - victim.denoiser.predict(x, t, told)).square()
    return error.reshape(len(chances), -1).mean(1)
