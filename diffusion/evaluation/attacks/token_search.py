"""Tokens searched one by one, as text that anybody can type.

From each of the concept's prompts and the anchor, words of the tokenizer are put in front, at every place the one of
some random candidates whose mean denoising error on images of the concept, at fixed noise, is least; the prompt that
shows the concept most often in a few samples is sampled afresh.

Sources: Zhang et al., To Generate or Not? (ECCV 2024; UnlearnDiffAtk), Chin et al., Prompting4Debugging (ICML 2024);
both go by gradients of a relaxation, here every candidate is tried, which asks nothing of the text encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.evaluation.attacks.base import FRESH, Attack, Brought, Victim, noised_references, sampled
from diffusion.pipelines import repeat


def words_of(tokenizer: Any) -> list[str]:
    """Whole words of a tokenizer, in its order, special tokens apart. ``ValueError`` where it has none."""
    special = set(tokenizer.all_special_ids)
    found: dict[str, None] = {}
    for index in range(len(tokenizer)):
        word = "" if index in special else tokenizer.decode([index]).strip()
        if word and any(letter.isalnum() for letter in word):
            found.setdefault(word)
    if not found:
        raise ValueError("tokenizer has no words")
    return list(found)


@dataclass(frozen=True)
class TokenSearch(Attack):
    """``places``: words in front; ``candidates``: tried at each; ``starts``: prompts at most."""

    places: int = 3
    candidates: int = 24
    starts: int = 3
    batch: int = 8
    name = "token search"

    def run(self, victim: Victim) -> Brought:
        generator = torch.Generator().manual_seed(victim.seed * 1013 + 1)
        words = words_of(victim.denoiser.pipeline.tokenizer)
        states = noised_references(victim, self.batch, generator, 0.5)
        tried = []
        for number, text in enumerate(list(dict.fromkeys([*victim.prompts, victim.anchor]))[: self.starts]):
            found = self.extended(victim, text, words, states, generator)
            share = victim.share(sampled(victim, victim.denoiser.condition([found]), victim.search, 100 + number))
            tried.append((share, number, found))
        best = max(tried)
        detail = f"{best[2]!r}, {best[0]:.2f} of {victim.search} in the search"
        return Brought(sampled(victim, victim.denoiser.condition([best[2]]), victim.samples, FRESH), detail)

    def extended(
        self, victim: Victim, text: str, words: list[str], states: tuple[Tensor, ...], generator: torch.Generator
    ) -> str:
        """The prompt with words in front, each of which made the error smaller."""
        least = error(victim, text, states)
        for _ in range(self.places):
            chosen = torch.randperm(len(words), generator=generator)[: self.candidates]
            scored = [(error(victim, some, states), some) for some in (f"{words[int(j)]} {text}" for j in chosen)]
            value, candidate = min(scored)
            if value >= least:
                break
            least, text = value, candidate
        return text


def error(victim: Victim, text: str, states: tuple[Tensor, ...]) -> float:
    """``mean |y - f(x_t, text)|^2`` at fixed states."""
    x, t, y = states
    with torch.no_grad():
        said = victim.denoiser.predict(x, t, repeat(victim.denoiser.condition([text]), len(x)))
    return float((y - said).square().mean())
