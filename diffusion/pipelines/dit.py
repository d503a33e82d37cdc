"""Class-conditional diffusion transformers (DiT): prompts are class labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffusion.pipelines.adapter import TRANSFORMER_LAYERS, _Adapter
from diffusion.pipelines.base import Condition
from diffusion.pipelines.finite import check_finite
from diffusion.pipelines.law import Said, said_of
from diffusion.pipelines.schedules import Noising, variance_preserving

NULL = 1000  # the label that the pipeline's own call takes for no class
LEARNED = ("learned", "learned_range")


class DiT(_Adapter):
    """:class:`Denoiser` of a ``DiTPipeline``: a transformer on latents that is told a class.

    A prompt is a label as a number ("207") or one of ``pipeline.labels``; the empty prompt is the null class of
    classifier-free guidance. Where the network predicts a variance beside the noise, that half is left out, as the
    pipeline's own call does. That call takes no noise and leaves no latents: samples are made step by step instead,
    by its scheduler, with the same outcome.
    """

    component = "transformer"
    arguments = ("hidden_states", "timestep", "class_labels")
    parts = ("vae",)
    lora_targets = TRANSFORMER_LAYERS
    prompt_inputs = ("class_labels",)
    by_steps = True
    free_text = False
    size_unit = None

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self.classes = int(self.network.config.num_embeds_ada_norm)
        dropping = [each for each in self.network.modules() if hasattr(each, "token_drop")]
        if any(not each.dropout_prob for each in dropping):
            raise ValueError("transformer has no null class, which the empty prompt is: it was trained without")
        self._dropping = dropping

    @property
    def classifier_free(self) -> bool:  # type: ignore[override]
        """The pipeline's own call guides by label 1000, whatever the network's null class is."""
        return self.classes == NULL

    def noising_of(self, scheduler: Any) -> Noising:
        if scheduler.config.get("variance_type") in LEARNED:
            raise ValueError(
                f"{type(scheduler).__name__} wants a learned variance, and the pipeline's call gives it none: set "
                "its variance_type to fixed_small"
            )
        if abs(float(scheduler.init_noise_sigma) - 1) > 1e-6:
            raise ValueError(f"{type(scheduler).__name__} scales its states, and the pipeline does not")
        return variance_preserving(scheduler)

    def _sample_shape(self, config: Any) -> tuple[int, ...]:
        channels, said = int(config.in_channels), int(config.out_channels or config.in_channels)
        if said not in (channels, 2 * channels):
            raise ValueError(
                f"transformer must return as many channels as it takes, or twice as many (a variance): it takes "
                f"{channels} and returns {said}"
            )
        if said_of(self.pipeline) is not None:
            self._latent_sides(cast(Said, said_of(self.pipeline)))  # refuses: one size only
        return channels, int(config.sample_size), int(config.sample_size)

    @property
    def size(self) -> tuple[int, int]:
        factor = 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
        return self.sample_shape[1] * factor, self.sample_shape[2] * factor

    def label(self, prompt: str) -> int:
        """The class that a prompt asks for. ``ValueError`` where there is none of that name or number."""
        text = prompt.strip()
        if not text:
            return self.classes
        if text.isdecimal() and int(text) < self.classes:
            return int(text)
        known = {name.lower(): number for name, number in self.pipeline.labels.items()}
        if text.lower() in known:
            return int(known[text.lower()])
        some = f", or one of its {len(known)} names, such as {next(iter(known))!r}" if known else ""
        raise ValueError(f"prompt {prompt!r} must be a class, 0 to {self.classes - 1}{some}")

    def spoken(self, prompt: str) -> str:
        return f"class_labels=[{self.label(prompt)}]"

    def condition(self, prompts: Sequence[str]) -> Condition:
        labels = torch.tensor([[self.label(prompt)] for prompt in prompts], device=self.device)
        return {"class_labels": labels}

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        device = self.device
        for module in self._dropping:  # in training it would drop labels at random, by a generator of the process
            module.eval()
        labels = condition["class_labels"].to(device).reshape(-1)
        network, state = self.network, x.to(device, self.network.dtype)
        said = network(state, timestep=timestep.to(device), class_labels=labels, return_dict=False)[0].to(x)
        said = said[:, : self.sample_shape[0]]
        if not torch.is_grad_enabled():
            check_finite(said, self.component, f"at timesteps {timestep.min():g} to {timestep.max():g}")
        return cast(Tensor, said)

    def _condition_in(self, named: dict[str, Any]) -> Condition:
        return {"class_labels": named["class_labels"].reshape(-1, 1)}

    def reworded(self, args: tuple[Any, ...], kwargs: dict[str, Any], condition: Condition) -> dict[str, Any]:
        return super().reworded(args, kwargs, {name: value.reshape(-1) for name, value in condition.items()})

    @property
    def bottleneck(self) -> nn.Module:
        blocks = self.network.transformer_blocks
        return cast(nn.Module, blocks[len(blocks) // 2])

    def activations(self, output: Any) -> Tensor:
        """A block returns image tokens (n, h w, c), row by row."""
        tokens = cast(Tensor, output)
        side = self.sample_shape[1] // int(self.network.config.patch_size)
        return tokens.transpose(1, 2).unflatten(2, (side, side))
