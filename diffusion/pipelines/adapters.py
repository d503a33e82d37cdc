"""Adapters that a pipeline's components carry, whoever put them there."""

from __future__ import annotations

from typing import Any

from torch import nn


def carried(pipeline: Any) -> dict[str, list[str]]:
    """Names of the adapters by component, for components that carry any; text encoders and VAEs included."""
    found: dict[str, list[str]] = {}
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            adapters = _adapters(part)
            if adapters:
                found[name] = adapters
    return found


def _adapters(module: nn.Module) -> list[str]:
    names: set[str] = set(getattr(module, "peft_config", None) or ())
    return sorted(names.union(*(_names(layer) for layer in layers_of(module))))


def layers_of(module: nn.Module) -> list[Any]:
    """The layers of a network that carry adapters; one whose adapters were all deleted may still be wrapped."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer) and _names(layer)]


def _names(layer: Any) -> set[str]:
    return {each for kind in layer.adapter_layer_names for each in getattr(layer, kind, {})}
