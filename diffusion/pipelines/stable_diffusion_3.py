"""Stable Diffusion 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffusion.pipelines.adapter import TRANSFORMER_LAYERS, _Adapter
from diffusion.pipelines.base import Condition
from diffusion.pipelines.law import Said
from diffusion.pipelines.schedules import Noising, dynamic_shift, rectified_flow


class StableDiffusion3(_Adapter):
    """:class:`Denoiser` of a ``StableDiffusion3Pipeline``: a transformer that predicts the velocity ``eps - x_0``.

    The third text encoder (T5) may be missing; its place is filled with zeros, as the pipeline does.
    """

    component = "transformer"
    arguments = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")
    parts = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    lora_targets = TRANSFORMER_LAYERS
    prompt_inputs = ("encoder_hidden_states", "pooled_projections")

    @property
    def size_unit(self) -> int:
        return int(self.pipeline.vae_scale_factor * self.network.config.patch_size)

    def _latent_sides(self, said: Said) -> tuple[int, int]:
        sides, config = super()._latent_sides(said), self.network.config
        most = config.pos_embed_max_size
        if most is not None and max(sides) // config.patch_size > most:
            raise ValueError(
                f"height, width: the transformer has places for sides of {most * self.size_unit} at most, got "
                f"{said.height} x {said.width}"
            )
        return sides

    def noising_of(self, scheduler: Any) -> Noising:
        return rectified_flow(scheduler)

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        high, wide = (side // int(self.network.config.patch_size) for side in self.sample_shape[1:])
        shift = {"mu": dynamic_shift(scheduler, high * wide)} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(steps, **shift)

    def condition(self, prompts: Sequence[str]) -> Condition:
        some = list(prompts)
        with torch.no_grad():
            embedded, _, pooled, _ = self.pipeline.encode_prompt(
                prompt=some, prompt_2=None, prompt_3=None, device=self.device, do_classifier_free_guidance=False
            )
        return {"encoder_hidden_states": embedded, "pooled_projections": pooled}

    @property
    def bottleneck(self) -> nn.Module:
        blocks = self.network.transformer_blocks
        return cast(nn.Module, blocks[len(blocks) // 2])

    def activations(self, output: Any) -> Tensor:
        """A joint block returns text tokens and image tokens (n, h w, c); the latter row by row."""
        tokens = cast(Tensor, output[1])
        high, wide = self.sample_shape[1:]
        h = round((tokens.shape[1] * high / wide) ** 0.5)
        if h < 1 or tokens.shape[1] % h:
            raise ValueError(f"{tokens.shape[1]} tokens do not fill an image of {high}:{wide}")
        return tokens.transpose(1, 2).unflatten(2, (h, tokens.shape[1] // h))
