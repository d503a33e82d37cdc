"""How a network runs while it is trained: in bfloat16, and with or without its activations kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

PRECISIONS = ("no", "bf16")


@contextmanager
def in_precision(network: nn.Module, precision: str) -> Iterator[None]:
    """Inside, with ``bf16``, the network computes under bfloat16 autocast and returns float32.

    Only the network: classifiers, losses and multipliers stay in their own precision, base model and student are
    treated alike.
    """
    if precision == "no":
        yield
        return
    from accelerate.utils import convert_outputs_to_fp32

    forward, own = network.forward, "forward" in vars(network)
    device = next(network.parameters()).device.type

    def cast_forward(*arguments: Any, **named: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            return forward(*arguments, **named)

    network.forward = convert_outputs_to_fp32(cast_forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own:
            network.forward = forward  # type: ignore[method-assign]
        else:
            del network.forward


@contextmanager
def checkpointed(network: nn.Module, on: bool) -> Iterator[None]:
    """Inside, activations are thrown away and computed again in the backward pass, where ``on``.

    Raises ``ValueError`` (diffusers' own) for a network that cannot.
    """
    some = cast(Any, network)
    if not on or some.is_gradient_checkpointing:
        yield
        return
    some.enable_gradient_checkpointing()
    try:
        yield
    finally:
        some.disable_gradient_checkpointing()
