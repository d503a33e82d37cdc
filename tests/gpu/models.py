"""Pipelines of the sizes that people use, with random weights, built from the configs beside this file.

No weight is read or fetched: an architecture costs what it costs whatever its weights are. CLIP's own vocabulary is
taken from a wheel of open-clip-torch where a folder of wheels holds one, which is read and not installed; else one of
the same size is made up, in which words are spelled letter by letter.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import CLIPTokenizer

CONFIGS = Path(__file__).parent / "configs"
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
TOKENS, LENGTH = 49408, 77
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def config_of(name: str) -> dict[str, Any]:
    """The config of that name: classes and arguments of components, and how many parameters each must have."""
    found: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text("utf-8"))
    return found


def build(name: str, device: torch.device, dtype: torch.dtype, wheels: Path | None = None, seed: int = 0) -> Any:
    """The pipeline of that name on a device; its weights are a function of the seed, the device and the type."""
    config = config_of(name)
    generator = torch.Generator(device).manual_seed(seed)
    parts: dict[str, Any] = dict.fromkeys(config["none"])
    for part, (kind, settings) in config["components"].items():
        made = empty(kind, settings)
        if isinstance(made, nn.Module):
            fill(made, device, dtype, generator)
        parts[part] = made
    for part in config["tokenizers"]:
        parts[part] = tokenizer(wheels)
    pipeline = getattr(diffusers, config["pipeline"])(**parts, **config["options"])
    pipeline.set_progress_bar_config(disable=True)
    for part in ("unet", "vae"):  # as the loader does
        if getattr(pipeline, part, None) is not None:
            getattr(pipeline, part).to(memory_format=torch.channels_last)
    return pipeline


def empty(kind: str, settings: dict[str, Any]) -> Any:
    """A component: a network without values (its parameters lie on the meta device), or a scheduler."""
    found = getattr(diffusers, kind, None)
    if found is not None:
        with init_empty_weights(include_buffers=False):
            return found.from_config(settings)
    found = getattr(transformers, kind)
    config = found.config_class(**settings)
    if kind.startswith("CLIP"):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = TOKENS - 2, TOKENS - 1, TOKENS - 1
    with init_empty_weights(include_buffers=False):
        return found(config)


def fill(network: nn.Module, device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Values for all parameters, in place: variance 1/fan-in, one for gains, zero for shifts."""
    made: dict[int, nn.Parameter] = {}  # parameters that are shared stay shared
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in made:
                value = torch.empty(parameter.shape, device=device, dtype=dtype)
                if parameter.ndim > 1:
                    value.normal_(0, float(parameter[0].numel()) ** -0.5, generator=generator)
                else:
                    value.fill_(1.0 if name == "weight" else 0.0)
                made[id(parameter)] = nn.Parameter(value, requires_grad=False)
            module._parameters[name] = made[id(parameter)]
    network.to(device).eval()


def tokenizer(wheels: Path | None = None) -> CLIPTokenizer:
    """CLIP's tokenizer, 49,408 tokens; with its own vocabulary where a wheel of open-clip-torch lies in ``wheels``."""
    merges = _merges(wheels)
    letters = _letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    tokens += [f"<|unused{index}|>" for index in range(TOKENS - len(SPECIAL) - len(tokens))]
    vocabulary = {token: index for index, token in enumerate([*tokens, *SPECIAL])}
    if len(vocabulary) != TOKENS:
        raise ValueError(f"the vocabulary must have {TOKENS} tokens, got {len(vocabulary)}")
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def _merges(wheels: Path | None) -> list[tuple[str, str]]:
    for wheel in sorted(wheels.glob("open_clip_torch-*.whl")) if wheels is not None else ():
        with zipfile.ZipFile(wheel) as archive:
            name = next((some for some in archive.namelist() if some.endswith(VOCABULARY)), None)
            if name is not None:
                lines = gzip.decompress(archive.read(name)).decode("utf-8").split("\n")
                kept = lines[1 : TOKENS - 512 - len(SPECIAL) + 1]  # after a line about the file's version
                return [(left, right) for left, right in (line.split() for line in kept)]
    return []


def _letters() -> list[str]:
    """A printable character for each byte, those that are printable themselves first: the order of CLIP's tokens."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return [chr(byte) for byte in own] + [chr(256 + index) for index in range(len(others))]
