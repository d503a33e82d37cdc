"""What the adapters of all families share."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from diffusion.pipelines.base import Condition
from diffusion.pipelines.finite import check_finite
from diffusion.pipelines.law import Said, check_size, said_of
from diffusion.pipelines.schedules import Noising, variance_preserving

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
    #: Names of the network's arguments in their order, which is state, timestep, and those of the condition.
    arguments: ClassVar[tuple[str, ...]] = ("sample", "timestep", "encoder_hidden_states")
    parts: ClassVar[tuple[str, ...]] = ()
    lora_targets: tuple[str, ...] = UNET_LAYERS
    prompt_inputs: tuple[str, ...] = ("encoder_hidden_states",)
    classifier_free: bool = True
    exports: tuple[str, ...] = ()
    by_steps: bool = False
    free_text: bool = True

    def __init__(self, pipeline: Any) -> None:
        for part in (*self.parts, self.component, "scheduler"):
            if getattr(pipeline, part, None) is None:
                raise ValueError(f"pipeline must have a {part}: {type(pipeline).__name__} has none")
        self.pipeline: Any = pipeline
        if hasattr(self.network, "_orig_mod") or getattr(self.network, "_compiled_call_impl", None) is not None:
            # Hooks, and so guidance, may be left out of what was compiled; its LoRA's keys fit no other pipeline.
            raise ValueError(f"{self.component} is compiled: give the plain pipeline, and compile it afterwards")
        for part, module in pipeline.components.items():
            # Weights that come and go by hooks would be taken for those that are there, or trained where they are not.
            if isinstance(module, nn.Module) and any(hasattr(each, "_hf_hook") for each in module.modules()):
                raise ValueError(
                    f"{part} is offloaded or dispatched by hooks (enable_model_cpu_offload, device_map): call "
                    "pipeline.remove_all_hooks() and move it as a whole; half precision, gradient checkpointing and "
                    "accumulation save memory instead"
                )
        self.noising = self.noising_of(pipeline.scheduler)
        self.sample_shape: tuple[int, ...] = self._sample_shape(self.network.config)

    def _sample_shape(self, config: Any) -> tuple[int, ...]:
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
        said = said_of(self.pipeline)
        if said is not None:
            sides = self._latent_sides(said)
        return (channels, *map(int, sides))

    def _latent_sides(self, said: Said) -> tuple[int, int]:
        """Of a view's images. ``ValueError`` where the family cannot have them."""
        if self.size_unit is None:
            raise ValueError(
                f"height, width: {type(self.pipeline).__name__} makes images of its own size only, got "
                f"{said.height} x {said.width}"
            )
        check_size(said.height, said.width, self.size_unit)
        factor = int(self.pipeline.vae_scale_factor)
        return said.height // factor, said.width // factor

    def spoken(self, prompt: str) -> str:
        return repr(prompt)

    @property
    def told_guidance(self) -> float | None:
        return None

    @property
    def size_unit(self) -> int | None:
        """The pipelines of Stable Diffusion ask for multiples of 8 whatever their VAE."""
        return math.lcm(8, int(self.pipeline.vae_scale_factor))

    @property
    def size(self) -> tuple[int, int]:
        factor = int(getattr(self.pipeline, "vae_scale_factor", 1)) if getattr(self.pipeline, "vae", None) else 1
        return self.sample_shape[1] * factor, self.sample_shape[2] * factor

    @property
    def network(self) -> Any:
        return getattr(self.pipeline, self.component)

    @property
    def levels(self) -> int:
        return self.noising.levels

    def noising_of(self, scheduler: Any) -> Noising:
        return variance_preserving(scheduler)

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        scheduler.set_timesteps(steps)

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
        return table.float().to(t.device)[t].view(-1, *(1,) * len(self.sample_shape))

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
        said = cast(Tensor, self.network(**named, return_dict=False)[0].to(x))
        if not torch.is_grad_enabled():  # a step of training says itself what its loss is, and what was kept
            check_finite(said, self.component, f"at timesteps {timestep.min():g} to {timestep.max():g}")
        return said

    def _named(self, x: Tensor, timestep: Tensor, condition: Condition) -> dict[str, Any]:
        return {self.arguments[0]: x, "timestep": timestep, **condition}

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Condition]:
        named = dict(zip(self.arguments, args, strict=False)) | kwargs
        x = named[self.arguments[0]]
        timestep = torch.as_tensor(named["timestep"], device=x.device).reshape(-1).expand(len(x))
        return x, timestep, self._condition_in(named)

    def _condition_in(self, named: dict[str, Any]) -> Condition:
        return {name: named[name] for name in self.prompt_inputs}

    def reworded(self, args: tuple[Any, ...], kwargs: dict[str, Any], condition: Condition) -> dict[str, Any]:
        return dict(zip(self.arguments, args, strict=False)) | kwargs | condition

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return self.noising.prediction.target(x0, eps, *self.schedule(t))

    def epsilon(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.noising.prediction.epsilon(output, x, *self.schedule(t))

    def slope(self, t: Tensor) -> Tensor:
        return self.noising.prediction.slope(*self.schedule(t))
