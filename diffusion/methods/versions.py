r"""Prompts beside words that no law names.

::

    "a sketch of a boot"  ->  "a garment"      with words w:      "a sketch of a boot w"  ->  "a garment w"

A law of prompts names some dozens or hundreds, and people ask in other words. A change that looks at the law alone does
anything under words that none of its prompts has: on the wardrobe, where "on dots" was in no prompt, prompts that were
to stay paid most there (docs/benchmarks.md). So prompts of the law are also looked at in *versions*: with a few words
of the tokenizer's vocabulary, in any order, before or behind them. What a version falls back to has the same words
beside it, so one of a prompt that is to keep its law keeps its own.

With other words in the concept's place a prompt asks for something else (:func:`others`), and keeps its law::

    "a sketch of a boot", "boot" being what "a sketch of a garment" has not  ->  "a sketch of a w",  kept

They serve the start in closed form (:mod:`diffusion.methods.closed_form_start`) and, those of prompts that stay, the
rows of a fit (:func:`in_versions`). No image is made under them: a fit looks at states of the prompt that they are
versions of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.methods.guided_tilt import PromptBatches
from diffusion.pipelines import Denoiser
from diffusion.tasks.concepts import normalised
from diffusion.tasks.prompts import Prompts

VERSIONS = 256  # at most, of prompts that move and of prompts that do not, each, and of the latter in a fit
# With other words in the concept's place, at most. In trials on `wardrobe` retained prompts paid in closed form .18
# nats with these and .26 without for a dress, 1.0 (and more versions) and .04 for a style: left-out prompts tell which.
OTHERS = 1024
MOST_WORDS = 3
SHARE = 0.5  # of a fit's rows, where a prompt has versions
# Of the weight that prompts have in the closed form, those that stay and those that move: what a law does name is to
# arrive first. In a trial on `digits` half of both left .49 nats between a law's own prompts and their anchors, this
# .21, as words alone did.
KEPT, MOVED = 0.5, 0.2
MOST_BYTES = 2**27  # of what the text encoders say of them, that a fit holds in memory
BEGINS = ("\u2581", "\u0120")  # marks of T5's and of byte-level vocabularies; CLIP's marks ends


@dataclass(frozen=True)
class Version:
    """``number``: of the prompt in its law; ``sampled``: what ``prompt`` falls back to, itself where it stays."""

    number: int
    prompt: str
    sampled: str


def versions(
    denoiser: Denoiser, prompts: Prompts, which: NDArray[np.bool_], count: int = VERSIONS, seed: int = 0
) -> list[Version]:
    """Of prompts of the law where ``which`` (C,) is true, drawn by their weight: at most ``count``, each text once.

    With one to :data:`MOST_WORDS` whole words of the vocabulary. Words that asking prompts have and their anchors have
    not are left out, and so is what is longer than the tokenizer takes; none where there is no tokenizer, or no weight.
    """
    rng, found = np.random.default_rng([0x7665, seed]), dict[str, Version]()
    tokenizer, words, numbers = _drawn(denoiser, prompts, which, count, rng)
    for number in numbers:
        context = " ".join(rng.choice(words, size=int(rng.integers(1, MOST_WORDS + 1))))
        form = f"{{}} {context}" if rng.random() < 0.5 else f"{context} {{}}"
        text, to = (form.format(some[number]).strip() for some in (prompts.texts, prompts.sampled))
        if all(len(tokenizer(some).input_ids) <= tokenizer.model_max_length for some in (text, to)):
            found.setdefault(text, Version(int(number), text, to))
    return [found[text] for text in found if text not in prompts.texts]


def others(denoiser: Denoiser, prompts: Prompts, count: int = OTHERS, seed: int = 0) -> list[Version]:
    """Of prompts that move: the words that their anchors have not replaced by others of the vocabulary, one for one.

    Half of them with further words before or behind, as :func:`versions`. None is a prompt of the law, nor what one of
    these falls back to.
    """
    rng, found = np.random.default_rng([0x6F74, seed]), dict[str, Version]()
    tokenizer, words, numbers = _drawn(denoiser, prompts, prompts.moved, count, rng)
    law = {normalised(text) for text in (*prompts.texts, *prompts.sampled)}
    for number in numbers:
        stay = set(normalised(prompts.sampled[number]).split())
        own = normalised(prompts.texts[number]).split()
        drawn = [word if word in stay else str(rng.choice(words)) for word in own]
        context = rng.choice(words, size=int(rng.integers(1, MOST_WORDS + 1))).tolist() if rng.random() < 0.5 else []
        text = " ".join(drawn + context if rng.random() < 0.5 else context + drawn)
        if not set(own) <= stay and text not in law and len(tokenizer(text).input_ids) <= tokenizer.model_max_length:
            found.setdefault(text, Version(int(number), text, text))
    return list(found.values())


def _drawn(
    denoiser: Denoiser, prompts: Prompts, which: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> tuple[Any, NDArray[np.str_], NDArray[np.int64]]:
    """Tokenizer, words (w,), and prompts of the law by number (count,), drawn by the weight of those where ``which``
    (C,) is true: none where there is no tokenizer, no weight or no word."""
    tokenizer, weights = getattr(denoiser.pipeline, "tokenizer", None), prompts.probabilities * which
    none = np.array([], dtype=np.str_), np.array([], dtype=np.int64)
    if tokenizer is None or not weights.any():
        return tokenizer, *none
    words = np.array(_words(tokenizer, prompts), dtype=np.str_)  # a list would be made an array at every draw
    if not len(words):
        return tokenizer, *none
    return tokenizer, words, rng.choice(len(weights), size=count, p=weights / weights.sum())


def _words(tokenizer: Any, prompts: Prompts) -> list[str]:
    """Whole words of a vocabulary, without those that make a concept."""

    def said(text: str) -> set[str]:
        return {_word(token) for token in tokenizer.tokenize(text)}

    gone = {word for each in prompts.prompts for word in said(each.prompt) - said(each.sampled)}
    whole = (token for token in tokenizer.get_vocab() if token.endswith("</w>") or token.startswith(BEGINS))
    return sorted(word for word in {_word(token) for token in whole} - gone if word.isascii() and word.isalnum())


def _word(token: str) -> str:
    """A token of a vocabulary without the marks of its beginning or end."""
    return token.removesuffix("</w>").lstrip("".join(BEGINS))


def in_versions(data: PromptBatches, prompts: Prompts, negative: str) -> PromptBatches:
    """What a fit looks at, :data:`SHARE` of the rows of prompts that keep their law under versions of these, which
    student and base are given.

    Prompts that move have none here: what the law names is to arrive. Nor have prompts that are the branch without
    prompt: guidance treats them, and not their versions, as that branch.
    """
    denoiser = data.denoiser
    size = sum(value[:1].nbytes for value in data.asked.values())
    count = min(VERSIONS, MOST_BYTES // max(size, 1))
    free = np.array([normalised(text) != normalised(negative) for text in prompts.texts])
    further = versions(denoiser, prompts, ~prompts.moved & free, count, seed=1)
    if not further:
        return data
    texts = [each.prompt for each in further]  # what they fall back to, too
    return replace(
        data,
        asked=denoiser.condition([*prompts.texts, *texts]),
        anchors=denoiser.condition([*prompts.sampled, *texts]),
        asking=_asking([each.number for each in further], len(prompts)),
    )


def _asking(numbers: Sequence[int], laws: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Of laws (n,) to rows of the conditions: the law's own, or one of its versions, which follow those of all laws."""
    of = torch.tensor(numbers)
    counts = torch.bincount(of, minlength=laws)
    order, first = of.argsort(stable=True), counts.cumsum(0) - counts

    def asking(chosen: Tensor, generator: torch.Generator) -> Tensor:
        version, which = torch.rand(2, len(chosen), generator=generator, dtype=torch.float64)
        many = counts[chosen]
        row = (first[chosen] + (which * many).long()).clamp(max=len(order) - 1)
        return torch.where((many > 0) & (version < SHARE), laws + order[row], chosen)

    return asking
