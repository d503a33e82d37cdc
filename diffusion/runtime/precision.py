"""In which precision: what devices can do, a network that is trained under autocast, activations that are not kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

PRECISIONS = ("no", "bf16")
# Kinds of devices that compute in double precision. Apple's does not.
DOUBLES = ("cpu", "cuda", "xpu")


def device_named(name: str) -> torch.device:
    """The device of that name. ``ValueError`` for one that torch does not know or this machine does not have."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    if device.type == "meta":
        raise ValueError("device 'meta' cannot be used: nothing on it has a value")
    return device


def has_doubles(device: torch.device) -> bool:
    """Whether a device computes in double precision."""
    return device.type in DOUBLES


def doubled(value: Tensor) -> Tensor:
    """A tensor in double precision: where it lies, or on the CPU where its device has none."""
    return value.double() if has_doubles(value.device) else value.cpu().double()


def is_half(network: nn.Module) -> bool:
    """Whether a network's own weights are in half precision; its adapters are in single precision in any case."""
    return getattr(network, "dtype", None) in (torch.bfloat16, torch.float16)


def squares(value: Tensor) -> Tensor:
    """``sum v^2`` (n,) over all axes but the first, summed in double precision; on the CPU."""
    return doubled(value).square().flatten(1).sum(1).cpu()


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
