r"""What one training step looks at: noised samples of the anchor's law, and noised samples of the prompts to be kept.

The anchor's samples are fitted under the anchor and under every paraphrase that asks for a concept (theory: such a
prompt cannot be tilted, so its target is the tilted anchor); samples of a retained prompt are held to the base model
under that prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.pipelines import Condition, Denoiser, add_noise, repeat, rows
from diffusion.runtime.distributed import Part
from diffusion.tasks.concepts import TaskPrompts
from diffusion.tasks.config import FitConfig


def join(one: Condition, two: Condition) -> Condition:
    """The rows of both, one after the other."""
    return {name: torch.cat([one[name], two[name]]) for name in one}


def spread_levels(denoiser: Denoiser, count: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
    """Noise levels (count,): one stratified pass over ``levels u^power``, in random order; power < 1 favours noise."""
    u = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
    t = (u[torch.randperm(count, generator=generator)] ** power * denoiser.levels).long()
    return t.clamp_max(denoiser.levels - 1)


def with_kept(loss: Tensor, f: Tensor, said: Tensor, tilted: int) -> Tensor:
    """``loss``, a mean over the first ``tilted`` rows, with the other rows of f held to ``said``: a mean over all."""
    kept = len(f) - tilted
    if kept == 0:
        return loss
    return (loss * tilted + (f[tilted:] - said[tilted:]).square().mean() * kept) / len(f)


@dataclass(frozen=True)
class Batch:
    """Noised states (n, ...): the first ``tilted`` come from the anchor's law, the rest from retained prompts."""

    x: Tensor  # (n, ...)
    t: Tensor  # (n,)
    y: Tensor  # (n, ...) denoising targets of the samples
    tilted: int
    chosen: Tensor  # (tilted,) which samples of the anchor's law
    asked: Condition  # (n,) for the student: the anchor and the concepts' paraphrases, then retained prompts
    anchored: Condition  # (n,) for the base model: the anchor, then retained prompts

    def part(self, part: Part) -> Batch:
        """The rows of a part, as many tilted and as many retained ones as every other part has."""
        if part.count == 1:
            return self
        row, tilted = torch.arange(len(self.x)), part.rows(self.tilted)
        mine = torch.cat([row[tilted], row[self.tilted :][part.rows(len(self.x) - self.tilted)]])
        return Batch(
            self.x[mine],
            self.t[mine],
            self.y[mine],
            self.tilted // part.count,
            self.chosen[tilted],
            rows(self.asked, mine),
            rows(self.anchored, mine),
        )


class Batches:
    """``batches(generator)``: the batch of one step, a function of the generator alone."""

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: TaskPrompts,
        latents: Tensor,
        retained_latents: Tensor,
        retained_prompts: Sequence[str],
        settings: FitConfig,
        *,
        power: float = 1.0,
    ) -> None:
        """``power``: see :func:`spread_levels`, for the anchor's samples only."""
        self.power = power
        self.denoiser, self.latents, self.retained_latents = denoiser, latents, retained_latents
        # A pipeline without prompts has nothing but its anchor to be asked for.
        paraphrases = [text for concept in prompts.concepts for text in concept.prompts if denoiser.prompt_inputs]
        self._asking = denoiser.condition([prompts.anchor, *paraphrases])
        self._askings = 1 + len(paraphrases)
        distinct = sorted(set(retained_prompts)) or [prompts.anchor]
        self._kept = denoiser.condition(distinct)
        self._kept_row = torch.tensor([distinct.index(prompt) for prompt in retained_prompts], dtype=torch.long)
        # Where the contrast is samples of q alone, no prompt is known that is to be retained.
        self.retained = round(settings.train_batch_size * settings.retain_share) if len(retained_latents) else 0
        self.tilted = settings.train_batch_size - self.retained
        self._device = next(denoiser.network.parameters()).device

    def __call__(self, generator: torch.Generator) -> Batch:
        denoiser, tilted = self.denoiser, self.tilted
        chosen = torch.randint(len(self.latents), (tilted,), generator=generator)
        other = torch.randint(max(1, len(self.retained_latents)), (self.retained,), generator=generator)
        x0 = torch.cat([self.latents[chosen], self.retained_latents[other]]).to(self._device)
        if self.power == 1:
            t = spread_levels(denoiser, len(x0), generator).to(self._device)
        else:
            parts = ((tilted, self.power), (self.retained, 1.0))
            t = torch.cat([spread_levels(denoiser, n, generator, power) for n, power in parts]).to(self._device)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        x, y = add_noise(denoiser, x0, eps, t), denoiser.target(x0, eps, t)
        # Half of the tilted rows under the anchor itself, half under the concept's paraphrases in turn.
        paraphrase = torch.randint(self._askings, (tilted,), generator=generator)
        paraphrase[: tilted // 2] = 0
        kept = rows(self._kept, self._kept_row[other])
        asked = join(rows(self._asking, paraphrase), kept)
        anchored = join(repeat(rows(self._asking, slice(0, 1)), tilted), kept)
        return Batch(x, t, y, tilted, chosen, asked, anchored)
