"""DDPM and DDIM pipelines: pixels, no prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.pipelines.adapter import _Adapter
from diffusion.pipelines.base import Condition


class Unconditional(_Adapter):
    """:class:`Denoiser` of a ``DDPMPipeline`` or ``DDIMPipeline``: a ``UNet2DModel`` on pixels, without prompts.

    A condition has no content; it only counts its rows. Raises ``ValueError`` for prompts that are not empty.
    """

    arguments = ("sample", "timestep", "class_labels")
    prompt_inputs = ()
    classifier_free = False
    size_unit = None

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        if self.network.class_embedding is not None:
            raise ValueError(f"{type(pipeline).__name__} tells its network no classes, but the unet needs class labels")

    def condition(self, prompts: Sequence[str]) -> Condition:
        for prompt in prompts:
            if prompt.strip():
                raise ValueError(f"{type(self.pipeline).__name__} takes no prompts, got {prompt!r}")
        return {"nothing": torch.zeros(len(prompts), 0)}

    def _named(self, x: Tensor, timestep: Tensor, condition: Condition) -> dict[str, Any]:
        return {"sample": x, "timestep": timestep}

    def _condition_in(self, named: dict[str, Any]) -> Condition:
        return {"nothing": torch.zeros(len(named["sample"]), 0)}
