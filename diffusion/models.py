r"""One view of a diffusers pipeline: its noise levels, its prompts, its network's word on a noised state.

With ``x_t = signal(t) x_0 + noise(t) eps`` every prediction type is an affine function of ``eps`` at fixed ``x_t``:

    epsilon:  eps
    v:        signal eps - noise x_0
    sample:   x_0

so *differences* between two conditions, and with them every guidance rule of the form ``q + k (q - q_i)``, can be taken
on the network's raw output, whatever it predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

Condition = dict[str, Tensor]


def rows(condition: Condition, index: Tensor | slice) -> Condition:
    """The rows ``index`` of every tensor of a condition."""
    return {name: value[index] for name, value in condition.items()}


def repeat(condition: Condition, count: int) -> Condition:
    """A condition of one row, ``count`` times (a view, no copy)."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in condition.items()}


@runtime_checkable
class Denoiser(Protocol):
    """What ratios, guidance and fitting need of a pipeline; the rest stays diffusers' own."""

    @property
    def pipeline(self) -> Any: ...

    @property
    def network(self) -> nn.Module: ...

    @property
    def levels(self) -> int:
        """Noise levels t = 0 .. levels - 1."""
        ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one latent (or of one image, without a VAE)."""
        ...

    def condition(self, prompts: Sequence[str]) -> Condition: ...

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(signal, noise)`` at ``t`` (n,), each shaped to multiply a batch of states."""
        ...

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's raw output at states ``x`` (n, ...), levels ``t`` (n,)."""
        ...

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What ``predict`` is trained to return in the mean."""
        ...

    def epsilon(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise prediction that a raw output amounts to; the score is ``-epsilon / noise``."""
        ...

    @property
    def bottleneck(self) -> nn.Module:
        """The inner module whose activations (n, c, ...) say most about the whole picture."""
        ...


class StableDiffusion:
    """:class:`Denoiser` of a ``StableDiffusionPipeline`` (1.x and 2.x: epsilon-, v- or sample-prediction)."""

    def __init__(self, pipeline: Any) -> None:
        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
            if getattr(pipeline, part, None) is None:
                raise ValueError(f"pipeline must have a {part}: {type(pipeline).__name__} has none")
        self.pipeline: Any = pipeline
        self.network = cast(nn.Module, pipeline.unet)
        self.alpha_bar = cast(Tensor, pipeline.scheduler.alphas_cumprod).double()
        self.levels = len(self.alpha_bar)
        self.prediction_type: str = pipeline.scheduler.config.prediction_type
        size = pipeline.unet.config.sample_size
        self.sample_shape: tuple[int, ...] = (int(pipeline.unet.config.in_channels), int(size), int(size))

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def bottleneck(self) -> nn.Module:
        return cast(nn.Module, self.pipeline.unet.mid_block)

    def condition(self, prompts: Sequence[str]) -> Condition:
        with torch.no_grad():
            embedded, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, False)
        return {"encoder_hidden_states": embedded}

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alpha_bar.to(t.device)[t].view(-1, *(1,) * len(self.sample_shape))
        return a.sqrt().float(), (1 - a).sqrt().float()

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return cast(Tensor, self.network(x, t, **condition, return_dict=False)[0])

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.schedule(t)
        if self.prediction_type == "epsilon":
            return eps
        if self.prediction_type == "v_prediction":
            return signal * eps - noise * x0
        return x0

    def epsilon(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.schedule(t)
        if self.prediction_type == "epsilon":
            return output
        if self.prediction_type == "v_prediction":
            return signal * output + noise * x
        return (x - signal * output) / noise


def add_noise(denoiser: Denoiser, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """``signal(t) x_0 + noise(t) eps``."""
    signal, noise = denoiser.schedule(t)
    return signal * x0 + noise * eps


DIGITS = "digits"


def load_pipeline(model: str, dtype: torch.dtype = torch.float32) -> Any:
    """``digits`` (the embedded pipeline), or a folder or hub name that diffusers can load, from safetensors only.

    Raises ``ValueError`` with the reason when there is no such pipeline.
    """
    from diffusers import DiffusionPipeline

    if not model.strip():
        raise ValueError("model must be 'digits', a folder or a hub name, got an empty string")
    place: str | Path = model
    if model == DIGITS:
        from .digits import PIPELINE_FOLDER

        place = PIPELINE_FOLDER
    elif Path(model).exists() and not (Path(model) / "model_index.json").is_file():
        raise ValueError(f"model folder {model!r} holds no model_index.json, so it is no diffusers pipeline")
    elif not Path(model).exists() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
        raise ValueError(f"model {model!r} is neither an existing folder, nor 'digits', nor a hub name 'owner/name'")
    try:
        pipeline = DiffusionPipeline.from_pretrained(str(place), dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {model!r} could not be loaded: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
