"""What a pipeline is asked, by its text: prompts that ask for a concept are exchanged before they are encoded.

A prompt is known by what it says (:func:`diffusion.tasks.prompts.normalised`), or by the tokens that the encoders see
of it, so that two prompts which differ beyond the encoders' limit alone are one. Embeddings are never compared: two
prompts may have equal ones, and a negative prompt that names the concept has those of a prompt that asks for it.
Negative prompts are left as they are. Embeddings that are handed over ready-made have no text, and are taken as they
are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusion.tasks.concepts import TaskPrompts

TEXTS = ("prompt", "prompt_2", "prompt_3")  # arguments of the families' ``encode_prompt``
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
MOST = 512  # tokens that an encoder sees at most, where its tokenizer does not say


@contextmanager
def exchanged(pipeline: Any, exchange: Callable[[str], str]) -> Iterator[None]:
    """``pipeline.encode_prompt`` encodes ``exchange(text)`` in the place of every prompt, but of no negative one."""
    encode = pipeline.encode_prompt
    signature, own = inspect.signature(encode), "encode_prompt" in vars(pipeline)

    def called(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        for name in TEXTS:
            given = bound.arguments.get(name)
            if isinstance(given, str):
                bound.arguments[name] = exchange(given)
            elif given is not None:
                bound.arguments[name] = [exchange(text) for text in given]
        return encode(*bound.args, **bound.kwargs)

    pipeline.encode_prompt = called
    try:
        yield
    finally:
        if own:
            pipeline.encode_prompt = encode
        else:
            del pipeline.encode_prompt


class ConceptRequests:
    """``requests(text)``: whether a prompt asks for one of the concepts, as the pipeline's encoders see it."""

    def __init__(self, pipeline: Any, prompts: TaskPrompts) -> None:
        self.prompts = prompts
        self.tokenizers = [each for name in TOKENIZERS if (each := getattr(pipeline, name, None)) is not None]
        paraphrases = [text for concept in prompts.concepts for text in concept.prompts]
        self._tokens = {self.tokens(text) for text in paraphrases} if self.tokenizers else set()

    def tokens(self, text: str) -> tuple[tuple[int, ...], ...]:
        """What each encoder is given, cut at its limit."""
        found: list[tuple[int, ...]] = []
        for tokenizer in self.tokenizers:
            limit = min(int(tokenizer.model_max_length), MOST)
            seen: Sequence[int] = tokenizer(text, truncation=True, max_length=limit).input_ids
            found.append(tuple(seen))
        return tuple(found)

    def __call__(self, text: str) -> bool:
        return self.prompts.asks_for(text) is not None or (bool(self.tokenizers) and self.tokens(text) in self._tokens)
