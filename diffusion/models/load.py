"""From a name to a pipeline, and from a pipeline to its denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .adapters import StableDiffusion, StableDiffusion3, StableDiffusionXL, Unconditional
from .protocol import Denoiser

DIGITS = "digits"
EMBEDDED = (DIGITS, "wardrobe")  # pipelines that ship with the package: folder diffusion/NAME/pipeline

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
    """``digits`` or ``wardrobe`` (embedded), or a folder or hub name that diffusers can load, from safetensors only.

    Raises ``ValueError`` with the reason when there is no such pipeline.
    """
    from diffusers import DiffusionPipeline

    if not model.strip():
        raise ValueError("model must be 'digits', 'wardrobe', a folder or a hub name, got an empty string")
    place: str | Path = model
    if model in EMBEDDED:
        place = Path(__file__).parents[1] / model / "pipeline"
    elif Path(model).exists() and not (Path(model) / "model_index.json").is_file():
        raise ValueError(f"model folder {model!r} holds no model_index.json, so it is no diffusers pipeline")
    elif not Path(model).exists() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
        raise ValueError(
            f"model {model!r} is neither an existing folder, nor {' or '.join(map(repr, EMBEDDED))}, "
            "nor a hub name 'owner/name'"
        )
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
