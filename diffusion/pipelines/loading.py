"""From a name to a pipeline, and from a pipeline to its denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffusion.pipelines.base import Denoiser
from diffusion.pipelines.stable_diffusion import StableDiffusion
from diffusion.pipelines.stable_diffusion_3 import StableDiffusion3
from diffusion.pipelines.stable_diffusion_xl import StableDiffusionXL
from diffusion.pipelines.unconditional import Unconditional

DIGITS = "digits"
#: Pipelines that come with the package, by name.
EMBEDDED = {DIGITS: Path(__file__).parents[1] / "digits" / "pipeline"}

# By the pipeline's class, because that is what decides how the network is called. Their image-to-image, inpainting and
# control variants are classes of their own, and each can be turned into one of these with `from_pipe`.
FAMILIES: dict[str, type[Denoiser]] = {
    "DDPMPipeline": Unconditional,
    "DDIMPipeline": Unconditional,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
}


def denoiser_of(pipeline: Any) -> Denoiser:
    """The :class:`Denoiser` of a pipeline's family.

    Raises ``ValueError`` for a pipeline of another family, or one that lacks a component or has an unfit one.
    """
    for kind in type(pipeline).__mro__:
        if kind.__name__ in FAMILIES and kind.__module__.split(".")[0] == "diffusers":
            family: Any = FAMILIES[kind.__name__]
            denoiser: Denoiser = family(pipeline)
            return denoiser
    raise ValueError(
        f"pipeline must be one of {', '.join(FAMILIES)}, got {type(pipeline).__name__} (a variant of one of these can "
        "be turned into it by its from_pipe)"
    )


def load_pipeline(model: str, dtype: torch.dtype = torch.float32) -> Any:
    """``digits`` (the embedded pipeline), or a folder or hub name that diffusers can load, from safetensors only.

    Raises ``ValueError`` with the reason when there is no such pipeline.
    """
    from diffusers import DiffusionPipeline

    if not model.strip():
        raise ValueError("model must be 'digits', a folder or a hub name, got an empty string")
    place: str | Path = model
    if model in EMBEDDED:
        place = EMBEDDED[model]
    elif Path(model).exists() and not (Path(model) / "model_index.json").is_file():
        raise ValueError(f"model folder {model!r} holds no model_index.json, so it is no diffusers pipeline")
    elif not Path(model).exists() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
        raise ValueError(f"model {model!r} is neither an existing folder, nor 'digits', nor a hub name 'owner/name'")
    try:
        # A component that was saved as none (SD3's third text encoder, a safety checker) has to be said to be none.
        index = DiffusionPipeline.load_config(str(place))
        none: dict[str, Any] = {name: None for name, value in index.items() if value in ([None, None], (None, None))}
        pipeline = DiffusionPipeline.from_pretrained(str(place), dtype=dtype, use_safetensors=True, **none)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {model!r} could not be loaded: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    for name in ("unet", "vae"):  # the faster layout for convolutions, clearly so on a CPU
        if getattr(pipeline, name, None) is not None:
            getattr(pipeline, name).to(memory_format=torch.channels_last)
    return pipeline


PIPELINE_LORA, PEFT_LORA = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
COMPONENTS = ("unet", "transformer")


def holds_fit(folder: Path) -> bool:
    """Whether a folder looks like what `unlearn distill` leaves."""
    whole = (folder / component / "config.json" for component in COMPONENTS)
    return any(path.is_file() for path in (folder / PIPELINE_LORA, folder / PEFT_LORA, *whole))


def put_in(denoiser: Denoiser, folder: Path) -> None:
    """Add the LoRA in ``folder`` to the weights of the network, or take over the weights of the network in it.

    Raises ``ValueError`` where the folder holds neither, or not for this pipeline.
    """
    pipeline, network = denoiser.pipeline, denoiser.component
    try:
        if (folder / PIPELINE_LORA).is_file():
            pipeline.load_lora_weights(folder)
            pipeline.fuse_lora(components=[network])
            pipeline.unload_lora_weights()
        elif (folder / PEFT_LORA).is_file():
            from peft import PeftModel

            wrapped: Any = PeftModel.from_pretrained(getattr(pipeline, network), str(folder))
            setattr(pipeline, network, wrapped.merge_and_unload())
        elif (folder / network / "config.json").is_file():
            kind: Any = type(denoiser.network)
            fitted = kind.from_pretrained(folder, subfolder=network, use_safetensors=True)
            with torch.no_grad():
                denoiser.network.load_state_dict(fitted.state_dict())  # in place: dtype and device stay the model's
        else:
            raise ValueError(f"it has no {PIPELINE_LORA}, no {PEFT_LORA} and no folder {network!r}")
    except (ValueError, RuntimeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(f"folder {str(folder)!r} does not fit the model: {error}") from error
