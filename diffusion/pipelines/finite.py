"""NaN and inf are found where they arise, with the name of the component that returned them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffusion.pipelines.base import Denoiser

ADVICE = "nothing of it is kept. Half precision overflows in some models: load this one in float32"


def check_finite(value: Tensor, component: str, where: str) -> None:
    """``FloatingPointError`` naming the component, unless all of ``value`` is finite."""
    if not bool(torch.isfinite(value).all()):
        raise FloatingPointError(f"{component} returned NaN or inf {where}; {ADVICE}")


@contextmanager
def watched(denoiser: Denoiser, prompts: Sequence[str], where: str) -> Iterator[None]:
    """Every output of the network inside the block, a whole run of a sampler, must be finite; likewise what it is told.

    Some samplers cut what they get, so that their results do not show it. Raises ``FloatingPointError`` at the end of
    the block, naming the network or a text encoder.
    """
    seen: list[Tensor] = []

    def config(_module: Any, _arguments: Any, output: Any) -> None:
        value = output if isinstance(output, Tensor) else output[0]
        fine = torch.isfinite(value).all()
        seen[:] = [seen[0] & fine] if seen else [fine]  # on its device: no step waits for it

    handle = denoiser.network.register_forward_hook(config)
    try:
        yield
    finally:
        handle.remove()
    if seen and not bool(seen[0]):
        for name, value in denoiser.condition(sorted(set(prompts))).items() if denoiser.prompt_inputs else ():
            check_finite(value, f"a text encoder ({name})", f"for the prompts {where}")
        raise FloatingPointError(f"{denoiser.component} returned NaN or inf {where}; {ADVICE}")
