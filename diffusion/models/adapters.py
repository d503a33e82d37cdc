"""A :class:`diffusion.models.Denoiser` for each family of pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from .noising import Noising, rectified_flow, variance_preserving
from .protocol import Condition

# Attention, convolution and feed-forward layers: where a concept is one shape among many in a small model, attention
# alone has too little to say.
UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "ff.net.0.proj", "ff.net.2")
TRANSFORMER_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff_context.net.0.proj", "ff_context.net.2"),
)


class _Adapter:
    """What all families share: arithmetic of noise levels, and calls to the network by name."""

    component: str = "unet"
    #: Names of the network's arguments in their order: state, timestep, and those of the condition.
    arguments: ClassVar[tuple[str, ...]] = ("sample", "timestep", "encoder_hidden_states")
    parts: ClassVar[tuple[str, ...]] = ()
    lora_targets: tuple[str, ...] = UNET_LAYERS
    worded: tuple[str, ...] = ("encoder_hidden_states",)

    def __init__(self, pipeline: Any) -> None:
        for part in (*self.parts, self.component, "scheduler"):
            if getattr(pipeline, part, None) is None:
                raise ValueError(f"pipeline must have a {part}: {type(pipeline).__name__} has none")
        self.pipeline: Any = pipeline
        self.noising = self._noising(pipeline.scheduler)
        config = self.network.config
        size, channels = config.sample_size, int(config.in_channels)
        if size is None or int(config.out_channels or channels) != channels:
            raise ValueError(
                f"{self.component} must return as many channels as it takes, at a sample_size of its own: it takes "
                f"{channels}, returns {config.out_channels}, sample_size {size} (inpainting networks and learned "
                "variances are not supported)"
            )
        if config.get("time_cond_proj_dim") is not None:
            raise ValueError(f"{self.component} is distilled on guidance scales, which is not supported")
        sides = (size, size) if isinstance(size, int) else tuple(size)
        self.sample_shape: tuple[int, ...] = (channels, *map(int, sides))

    @property
    def network(self) -> Any:
        return getattr(self.pipeline, self.component)

    @property
    def levels(self) -> int:
        return self.noising.levels

    def _noising(self, scheduler: Any) -> Noising:
        return variance_preserving(scheduler)

    @property
    def device(self) -> torch.device:
        return cast(torch.device, next(self.network.parameters()).device)

    @property
    def bottleneck(self) -> nn.Module:
        network = self.network
        return cast(nn.Module, network.mid_block if network.mid_block is not None else network.down_blocks[-1])

    def activations(self, output: Any) -> Tensor:
        return output if isinstance(output, Tensor) else output[0]

    def _shaped(self, table: Tensor, t: Tensor) -> Tensor:
        return table.to(t.device)[t].view(-1, *(1,) * len(self.sample_shape)).float()

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._shaped(self.noising.signal, t), self._shaped(self.noising.noise, t)

    def level(self, timestep: Tensor) -> Tensor:
        return self.noising.level(timestep)

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.call(x, self.noising.timestep(t), condition)

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        device, dtype = self.device, self.network.dtype
        moved = {name: value.to(device, dtype) for name, value in condition.items()}
        named = self._named(x.to(device, dtype), timestep.to(device), moved)
        return cast(Tensor, self.network(**named, return_dict=False)[0].to(x))

    def _named(self, x: Tensor, timestep: Tensor, condition: Condition) -> dict[str, Any]:
        return {self.arguments[0]: x, "timestep": timestep, **condition}

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Condition]:
        named = dict(zip(self.arguments, args, strict=False)) | kwargs
        x = named[self.arguments[0]]
        timestep = torch.as_tensor(named["timestep"], device=x.device).reshape(-1).expand(len(x))
        return x, timestep, self._condition_in(named)

    def _condition_in(self, named: dict[str, Any]) -> Condition:
        return {name: named[name] for name in self.worded}

    def reworded(self, args: tuple[Any, ...], kwargs: dict[str, Any], condition: Condition) -> dict[str, Any]:
        return dict(zip(self.arguments, args, strict=False)) | kwargs | condition

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return self.noising.prediction.target(x0, eps, *self.schedule(t))

    def epsilon(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.noising.prediction.epsilon(output, x, *self.schedule(t))

    def slope(self, t: Tensor) -> Tensor:
        return self.noising.prediction.slope(*self.schedule(t))


class Unconditional(_Adapter):
    """:class:`Denoiser` of a ``DDPMPipeline`` or ``DDIMPipeline``: a ``UNet2DModel`` on pixels, without prompts.

    A condition has no content; it only counts its rows. Raises ``ValueError`` for prompts that are not empty.
    """

    arguments = ("sample", "timestep", "class_labels")
    worded = ()

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


class StableDiffusion(_Adapter):
    """:class:`Denoiser` of a ``StableDiffusionPipeline`` (1.x and 2.x: epsilon-, v- or sample-prediction)."""

    parts = ("vae", "text_encoder", "tokenizer")

    def condition(self, prompts: Sequence[str]) -> Condition:
        with torch.no_grad():
            embedded, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, False)
        return {"encoder_hidden_states": embedded}


class StableDiffusionXL(_Adapter):
    """:class:`Denoiser` of a ``StableDiffusionXLPipeline``: two text encoders, and sizes told to the network.

    ``time_ids`` are those of the pipeline's own default size, uncropped; a running call's own are kept (``worded``).
    """

    parts = ("vae", "text_encoder_2", "tokenizer_2")  # the refiner has the second encoder only
    worded = ("encoder_hidden_states", "text_embeds")
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


class StableDiffusion3(_Adapter):
    """:class:`Denoiser` of a ``StableDiffusion3Pipeline``: a transformer that predicts the velocity ``eps - x_0``.

    The third text encoder (T5) may be missing; its place is filled with zeros, as the pipeline does.
    """

    component = "transformer"
    arguments = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")
    parts = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    lora_targets = TRANSFORMER_LAYERS
    worded = ("encoder_hidden_states", "pooled_projections")

    def _noising(self, scheduler: Any) -> Noising:
        return rectified_flow(scheduler)

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
        """A joint block returns text tokens and picture tokens (n, h w, c); the latter row by row."""
        tokens = cast(Tensor, output[1])
        high, wide = self.sample_shape[1:]
        h = round((tokens.shape[1] * high / wide) ** 0.5)
        if h < 1 or tokens.shape[1] % h:
            raise ValueError(f"{tokens.shape[1]} tokens do not fill a picture of {high}:{wide}")
        return tokens.transpose(1, 2).unflatten(2, (h, tokens.shape[1] // h))
