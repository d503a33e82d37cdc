"""Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.pipelines.adapter import _Adapter
from diffusion.pipelines.base import Condition


class StableDiffusionXL(_Adapter):
    """:class:`Denoiser` of a ``StableDiffusionXLPipeline``: two text encoders, and sizes told to the network.

    ``time_ids`` are those of the pipeline's own default size, uncropped; a running call's own are kept
    (``prompt_inputs``).
    """

    parts = ("vae", "text_encoder_2", "tokenizer_2")  # the refiner has the second encoder only
    prompt_inputs = ("encoder_hidden_states", "text_embeds")
    exports = ("kohya",)
    added = ("text_embeds", "time_ids")

    def condition(self, prompts: Sequence[str]) -> Condition:
        pipeline = self.pipeline
        with torch.no_grad():
            embedded, _, pooled, _ = pipeline.encode_prompt(
                prompt=list(prompts), device=self.device, do_classifier_free_guidance=False
            )
        side = tuple(size * pipeline.vae_scale_factor for size in self.sample_shape[1:])
        ids = pipeline._get_add_time_ids(
            side, (0, 0), side, embedded.dtype, text_encoder_projection_dim=int(pooled.shape[-1])
        )
        ids = ids.to(self.device).repeat(len(prompts), 1)
        return {"encoder_hidden_states": embedded, "text_embeds": pooled, "time_ids": ids}

    def _named(self, x: Tensor, timestep: Tensor, condition: Condition) -> dict[str, Any]:
        return self.reworded((), {"sample": x, "timestep": timestep}, condition)

    def _condition_in(self, named: dict[str, Any]) -> Condition:
        added = named["added_cond_kwargs"]
        return {"encoder_hidden_states": named["encoder_hidden_states"], **{name: added[name] for name in self.added}}

    def reworded(self, args: tuple[Any, ...], kwargs: dict[str, Any], condition: Condition) -> dict[str, Any]:
        named = super().reworded(args, kwargs, {k: v for k, v in condition.items() if k not in self.added})
        added = {k: v for k, v in condition.items() if k in self.added}
        return named | {"added_cond_kwargs": {**named.get("added_cond_kwargs", {}), **added}}
