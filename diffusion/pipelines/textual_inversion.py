"""Tokens of textual inversion: words that a file gives vectors to, of which prompts may be made.

A file holds a tensor (k, width) or (width,) for the text encoder (diffusers' ``{token: tensor}``, or A1111's), or for
SDXL one for each of its two (``clip_l``, ``clip_g``). A token with k vectors stands for k tokens in every prompt; the
pipeline's own call and :meth:`~diffusion.pipelines.base.Denoiser.condition` read prompts so by ``encode_prompt``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

# By pipeline: names of the tensors in a file (None: any single one), the text encoder and tokenizer that they are of.
ENCODERS: dict[str, dict[str | None, tuple[str, str]]] = {
    "StableDiffusionPipeline": {None: ("text_encoder", "tokenizer")},
    "StableDiffusionXLPipeline": {
        "clip_l": ("text_encoder", "tokenizer"),
        "clip_g": ("text_encoder_2", "tokenizer_2"),
    },
}
UNNAMED = ("emb_params", "clip_l", "clip_g")  # of tensors that name no token
_TOKENS = "_unlearning_tokens"  # attribute of a pipeline


@dataclass(frozen=True)
class Token:
    """A token that was read from a file, and the pairs of tensor, text encoder and tokenizer that it was put into."""

    token: str
    file: str
    parts: tuple[tuple[str | None, str, str], ...]

    def snippet(self) -> list[str]:
        """Python that loads it into ``pipeline`` by diffusers alone; ``load_file`` must be there for more than one."""
        if len(self.parts) == 1:
            return [f"pipeline.load_textual_inversion({self.file!r}, token={self.token!r})"]
        lines = [f"vectors = load_file({self.file!r})"]
        for name, encoder, tokenizer in self.parts:
            more = f"text_encoder=pipeline.{encoder}, tokenizer=pipeline.{tokenizer}"
            lines.append(f"pipeline.load_textual_inversion(vectors[{name!r}], token={self.token!r}, {more})")
        return lines

    def imports(self) -> list[str]:
        """What :meth:`snippet` needs beside diffusers."""
        return ["from safetensors.torch import load_file"] if len(self.parts) > 1 else []


def tokens_of(pipeline: Any) -> tuple[Token, ...]:
    """The tokens that :func:`load_tokens` has put into a pipeline, a view of it included."""
    return tuple(getattr(pipeline, _TOKENS, ()))


def load_tokens(pipeline: Any, given: Sequence[str]) -> None:
    """Read files, each ``FILE`` or ``TOKEN=FILE``, into a pipeline's tokenizers and text encoders.

    Without ``TOKEN`` it is the one in the file, or where that has none the file's name, as A1111 takes it. Raises
    ``ValueError`` for a pipeline that takes none, a file of another form or width, and a token that is a word already;
    the pipeline is then left as it was.
    """
    kind = type(pipeline).__name__
    if given and kind not in ENCODERS:
        raise ValueError(f"textual_inversion: {kind} takes no such tokens here; {' and '.join(ENCODERS)} do")
    read = [_read(pipeline, each) for each in given]
    names = [token.token for token, _ in read]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"textual_inversion: the token {name!r} is given twice")
    for token, vectors in read:
        for value, (_, encoder, tokenizer) in zip(vectors, token.parts, strict=True):
            pipeline.load_textual_inversion(
                {token.token: value},
                token=token.token,
                text_encoder=getattr(pipeline, encoder),
                tokenizer=getattr(pipeline, tokenizer),
            )
    if read:
        setattr(pipeline, _TOKENS, (*tokens_of(pipeline), *(token for token, _ in read)))


def _read(pipeline: Any, given: str) -> tuple[Token, list[Tensor]]:
    from safetensors.torch import load_file

    name, _, place = given.partition("=")
    if not place or Path(given).is_file():
        name, place = "", given
    path = Path(place)
    if not path.is_file():
        raise ValueError(f"textual_inversion: {place!r} is no file (give FILE or TOKEN=FILE)")
    if path.suffix != ".safetensors":
        raise ValueError(f"textual_inversion: {place!r} must end in .safetensors: other formats may run code when read")
    try:
        tensors = load_file(path)
    except Exception as error:  # a file can be wrong in any way
        raise ValueError(f"textual_inversion: {place!r} cannot be read ({error})") from error
    wanted = ENCODERS[type(pipeline).__name__]
    if None in wanted:
        if len(tensors) != 1 or set(tensors) <= {"clip_l", "clip_g"}:
            raise ValueError(
                f"textual_inversion: {place!r} must hold one tensor, for the one text encoder of "
                f"{type(pipeline).__name__}, and holds {', '.join(sorted(tensors)) or 'none'}"
            )
        (said,) = tensors
        name = name or (path.stem if said in UNNAMED else said)
        found: list[tuple[str | None, Tensor]] = [(None, tensors[said])]
    else:
        if set(tensors) != set(wanted):
            raise ValueError(
                f"textual_inversion: {place!r} must hold a tensor for each text encoder, "
                f"{' and '.join(map(str, wanted))}, and holds {', '.join(sorted(tensors)) or 'none'}"
            )
        name = name or path.stem
        found = [(each, tensors[str(each)]) for each in wanted]
    for each, value in found:
        encoder, tokenizer = wanted[each]
        _check(name, value, place, getattr(pipeline, encoder), getattr(pipeline, tokenizer))
    if len({len(value) if value.ndim > 1 else 1 for _, value in found}) > 1:
        raise ValueError(f"textual_inversion: {place!r} must hold as many vectors for each text encoder")
    return Token(name, place, tuple((each, *wanted[each]) for each, _ in found)), [value for _, value in found]


def _check(token: str, value: Tensor, place: str, encoder: Any, tokenizer: Any) -> None:
    width = int(encoder.config.hidden_size)
    if value.ndim not in (1, 2) or value.shape[-1] != width or not value.numel():
        raise ValueError(
            f"textual_inversion: {place!r} must hold vectors of {width} numbers, the text encoder's, and holds a "
            f"tensor of shape {tuple(value.shape)}"
        )
    if not bool(value.float().isfinite().all()):
        raise ValueError(f"textual_inversion: {place!r} holds numbers that are not finite")
    if not token.strip() or token.split() != [token]:
        raise ValueError(f"textual_inversion: a token must be one word, got {token!r}")
    count = len(value) if value.ndim > 1 else 1
    known = tokenizer.get_vocab()
    asked = [token, *(f"{token}_{i}" for i in range(1, count + 1))]
    taken = [word for word in asked if word in known or f"{word.lower()}</w>" in known]
    if taken:  # a word, too, would no longer mean what it does, in prompts that never asked for the file
        raise ValueError(f"textual_inversion: {taken[0]!r} is a token already: give another as TOKEN=FILE")
