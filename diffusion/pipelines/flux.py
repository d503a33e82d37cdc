"""FLUX.1: dev, whose guidance is distilled into the network, and schnell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.pipelines.adapter import TRANSFORMER_LAYERS, _Adapter
from diffusion.pipelines.base import Condition
from diffusion.pipelines.law import said_of
from diffusion.pipelines.schedules import Noising, dynamic_shift, rectified_flow

GUIDANCE = 3.5  # the pipeline's own default
TRAINED = 1000  # the network is told sigma, the sampler counts in thousandths


class Flux(_Adapter):
    """:class:`Denoiser` of a ``FluxPipeline``: a transformer on packed latents that predicts ``eps - x_0``.

    A sample is what the pipeline samples: tokens (h/2 w/2, 4 c), two by two latents each. There is no classifier-free
    guidance; where the network has a guidance embedding (dev) it is told the law's scale, by default the pipeline's
    own, and a running call's own is kept.
    """

    component = "transformer"
    arguments = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "img_ids", "txt_ids")
    parts = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    lora_targets = (*TRANSFORMER_LAYERS, "proj_mlp")
    prompt_inputs = ("encoder_hidden_states", "pooled_projections")
    classifier_free = False

    @property
    def told_guidance(self) -> float | None:
        """None for schnell, whose network is told none."""
        if not self.network.config.guidance_embeds:
            return None
        said = said_of(self.pipeline)
        return GUIDANCE if said is None or said.guidance_scale is None else said.guidance_scale

    @property
    def size_unit(self) -> int:
        return 2 * int(self.pipeline.vae_scale_factor)

    @property
    def size(self) -> tuple[int, int]:
        return self.high * self.size_unit, self.wide * self.size_unit

    def noising_of(self, scheduler: Any) -> Noising:
        return rectified_flow(scheduler)

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        sigmas = None if scheduler.config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        shift = dynamic_shift(scheduler, self.sample_shape[0])
        scheduler.set_timesteps(steps, sigmas=sigmas, mu=shift)

    def _sample_shape(self, config: Any) -> tuple[int, ...]:
        if config.out_channels not in (None, config.in_channels):  # Fill, Canny and Depth take more than they return
            raise ValueError(
                f"transformer must return as many channels as it takes, it takes {config.in_channels} and returns "
                f"{config.out_channels} (inpainting and control networks are not supported)"
            )
        said = said_of(self.pipeline)
        sides = [int(self.pipeline.default_sample_size)] * 2 if said is None else self._latent_sides(said)
        self.high, self.wide = (side // 2 for side in sides)
        return self.high * self.wide, int(config.in_channels)

    def condition(self, prompts: Sequence[str]) -> Condition:
        with torch.no_grad():
            embedded, pooled, _ = self.pipeline.encode_prompt(prompt=list(prompts), prompt_2=None, device=self.device)
        made = {"encoder_hidden_states": embedded, "pooled_projections": pooled}
        if self.told_guidance is not None:
            made["guidance"] = torch.full((len(prompts),), self.told_guidance, device=self.device)
        return made

    def _named(self, x: Tensor, timestep: Tensor, condition: Condition) -> dict[str, Any]:
        like: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        places = self.pipeline._prepare_latent_image_ids(len(x), self.high, self.wide, **like)
        words = torch.zeros(condition["encoder_hidden_states"].shape[1], 3, **like)
        told = (timestep / TRAINED).to(x.dtype)
        return {"hidden_states": x, "timestep": told, "img_ids": places, "txt_ids": words, **condition}

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Condition]:
        x, timestep, condition = super().read(args, kwargs)
        return x, timestep * TRAINED, condition

    def _condition_in(self, named: dict[str, Any]) -> Condition:
        found = super()._condition_in(named)
        return found if named.get("guidance") is None else found | {"guidance": named["guidance"]}

    @property
    def bottleneck(self) -> nn.Module:
        blocks = self.network.transformer_blocks
        return cast(nn.Module, blocks[len(blocks) // 2])

    def activations(self, output: Any) -> Tensor:
        """A joint block returns text tokens and image tokens (n, h w, c); the latter row by row."""
        return cast(Tensor, output[1]).transpose(1, 2).unflatten(2, (self.high, self.wide))
