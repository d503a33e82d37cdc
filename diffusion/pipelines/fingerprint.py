"""What a pipeline's samples depend on, as one short name: weights, configurations, tokenizers, adapters, sampler."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.pipelines.law import said_of

# Where and when something was saved, how it is held in memory, what it was trained for: samples do not depend on it.
NO_MATTER = {"training", "gradient_checkpointing", "dtype", "torch_dtype", "architectures", "name_or_path"}
# Of adapters (peft), which are switched by attributes that are not public.
SWITCHES = {"_disable_adapters", "_active_adapter"}
# Tables and settings of a scheduler that may be put in by hand, beside its configuration; the rest is a run's state.
TABLES = ("betas", "alphas_cumprod", "_shift")


def fingerprint(pipeline: Any) -> str:
    """SHA-256 of everything that samples depend on: 16 hexadecimal digits.

    Weights with their types; the configuration of every network; attributes of their layers that are numbers or words
    (FreeU's scales, strengths of adapters and whether they are on); tokenizers; the class of the pipeline and of its
    scheduler with all settings. Where a model lies, whether it was saved in between, and its device play no part.
    """
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        digest.update(json.dumps([name, value], sort_keys=True, default=str).encode())

    add("pipeline", [type(pipeline).__name__, _settings(dict(pipeline.config))])
    said = said_of(pipeline)
    if said is not None:
        add("law", vars(said))
    for part, component in sorted(pipeline.components.items()):
        if part in ("safety_checker", "feature_extractor") or component is None:
            continue  # they look at images that are shown to somebody, and change no sample
        if isinstance(component, nn.Module):
            for name, value in _of_network(component):
                if isinstance(value, Tensor):
                    add(f"{part}.{name}", [str(value.dtype), list(value.shape)])
                    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                else:
                    add(f"{part}.{name}", value)
        elif hasattr(component, "get_vocab"):
            add(part, _of_tokenizer(component))
        elif part == "scheduler":
            add(part, _of_scheduler(component))
    return digest.hexdigest()[:16]


def _of_network(network: nn.Module) -> Iterator[tuple[str, Any]]:
    config: Any = getattr(network, "config", {})
    yield "config", _settings(config.to_dict() if hasattr(config, "to_dict") else dict(config))
    for name, module in network.named_modules():
        held = {key: value for key, value in vars(module).items() if _counts(key) or key in SWITCHES}
        # An attention processor decides how a layer attends, by its class.
        kinds = {key: type(value).__name__ for key, value in held.items() if key == "processor"}
        yield f"{name}: {type(module).__name__}", _settings(held) | kinds
    yield from sorted(network.state_dict().items())


def _of_tokenizer(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Any = sorted(tokenizer.get_vocab().items())
    if backend is not None:
        # Every call leaves its own truncation and padding there; what counts is said by the pipeline, call by call.
        rules = {key: v for key, v in json.loads(backend.to_str()).items() if key not in ("truncation", "padding")}
    words = {key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())}
    return [rules, words, int(tokenizer.model_max_length), tokenizer.padding_side]


def _of_scheduler(scheduler: Any) -> Any:
    tables = {}
    for name in TABLES:
        value = getattr(scheduler, name, None)
        if value is not None:
            tables[name] = np.asarray(torch.as_tensor(value).double().cpu()).tolist()
    return [type(scheduler).__name__, _settings(dict(scheduler.config)), tables]


def _counts(name: str) -> bool:
    return not name.startswith("_") and name not in NO_MATTER and not name.endswith("_version")


def _settings(some: dict[str, Any]) -> dict[str, Any]:
    """The entries that are plain data, lists and dictionaries of it included."""
    return {str(k): v for k, v in some.items() if (_counts(str(k)) or k in SWITCHES) and _is_plain(v)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, str | int | float | bool)
