r"""Contrast prompts proposed: the concept's neighbours among prompts that a user has at hand.

::

    closeness(c, u) = < e(c) - mean, e(u) - mean > / norms,      e(c) = mean over tokens of the text encoder's output

for every prompt c of a vocabulary and paraphrase u of a concept, ``mean`` over the vocabulary: what all prompts share
says nothing. Pooled embeddings are used where the network is told any (SDXL, SD3). The neighbours are what a classifier
finds hardest to tell from the concept, so they are what it must be shown; what else the model makes is covered by
samples of q itself (:mod:`diffusion.ratios.positive_unlabelled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.pipelines import Denoiser
from diffusion.tasks.concepts import ConceptLaw, normalised

COUNT = 8
POOLED = ("text_embeds", "pooled_projections")


@dataclass(frozen=True)
class Neighbour:
    """A prompt of the vocabulary, the concept that it is near to, and its closeness in [-1, 1]."""

    prompt: str
    concept: str
    closeness: float

    def __str__(self) -> str:
        return f"{self.closeness:6.3f}  {self.prompt!r}, near {self.concept!r}"


def embed(denoiser: Denoiser, prompts: Sequence[str], batch: int = 64) -> Tensor:
    """e(c) (n, D) of prompts, float32 on the CPU."""
    parts = []
    for start in range(0, len(prompts), batch):
        condition = denoiser.condition(list(prompts[start : start + batch]))
        pooled = [condition[name] for name in POOLED if name in condition]
        words = pooled[0] if pooled else condition["encoder_hidden_states"].float().mean(1)
        parts.append(words.float().cpu())
    return torch.cat(parts)


def propose(
    denoiser: Denoiser, concepts: Sequence[ConceptLaw], vocabulary: Sequence[str], count: int = COUNT
) -> tuple[Neighbour, ...]:
    """The ``count`` prompts of the vocabulary that are closest to any paraphrase of any concept, closest first.

    Prompts that ask for a concept, empty ones and repetitions are passed over. Raises ``ValueError`` for a pipeline
    without prompts, concepts without any, or a vocabulary that leaves nothing.
    """
    if not denoiser.free_text:
        kind = type(denoiser.pipeline).__name__
        raise ValueError(f"vocabulary has no use where prompts are classes, as those of {kind}")
    if not denoiser.prompt_inputs or not all(concept.prompts for concept in concepts):
        raise ValueError("vocabulary has no use where the pipeline takes no prompts or a concept has none")
    asking = {normalised(paraphrase) for concept in concepts for paraphrase in concept.prompts}
    some = list(
        {normalised(prompt): prompt for prompt in vocabulary if normalised(prompt) not in {*asking, ""}}.values()
    )
    if not some:
        raise ValueError("vocabulary must hold prompts that do not ask for a concept, got none")
    embedded = embed(denoiser, some)
    mean = embedded.mean(0) if len(some) > 2 else torch.zeros_like(embedded[0])
    embedded = torch.nn.functional.normalize(embedded - mean, dim=1)
    best, which = torch.full((len(some),), -2.0), torch.zeros(len(some), dtype=torch.long)
    for index, concept in enumerate(concepts):
        own = torch.nn.functional.normalize(embed(denoiser, concept.prompts) - mean, dim=1)
        near = (embedded @ own.T).amax(1)
        which[near > best] = index
        best = torch.maximum(best, near)
    order = best.argsort(descending=True)[:count].tolist()
    return tuple(Neighbour(some[j], concepts[int(which[j])].name, float(best[j])) for j in order)
