"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffusion.pipelines.adapter import _Adapter
from diffusion.pipelines.base import Condition


class StableDiffusion(_Adapter):
    """:class:`Denoiser` of a ``StableDiffusionPipeline`` (1.x and 2.x: epsilon-, v- or sample-prediction)."""

    parts = ("vae", "text_encoder", "tokenizer")
    exports = ("kohya",)

    def condition(self, prompts: Sequence[str]) -> Condition:
        with torch.no_grad():
            embedded, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, False)
        return {"encoder_hidden_states": embedded}
