"""From a name to a pipeline, and from a pipeline to its denoiser."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from diffusion.pipelines.base import Denoiser
from diffusion.pipelines.dit import DiT
from diffusion.pipelines.flux import Flux
from diffusion.pipelines.single_file import single_file
from diffusion.pipelines.stable_diffusion import StableDiffusion
from diffusion.pipelines.stable_diffusion_3 import StableDiffusion3
from diffusion.pipelines.stable_diffusion_xl import StableDiffusionXL
from diffusion.pipelines.unconditional import Unconditional

DIGITS = "digits"
#: Pipelines that come with the package, by name.
EMBEDDED = {name: Path(__file__).parents[1] / name / "pipeline" for name in (DIGITS, "wardrobe")}

# By the pipeline's class, because that is what decides how the network is called. Their image-to-image, inpainting and
# control variants are classes of their own, and each can be turned into one of these with `from_pipe`.
FAMILIES: dict[str, type[Denoiser]] = {
    "DDPMPipeline": Unconditional,
    "DDIMPipeline": Unconditional,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "DiTPipeline": DiT,
    "FluxPipeline": Flux,
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


def load_pipeline(
    model: str, dtype: torch.dtype = torch.float32, *, variant: str | None = None, revision: str | None = None
) -> Any:
    """``digits`` or ``wardrobe`` (embedded), or a folder or hub name that diffusers can load, from safetensors only.

    A single ``.safetensors`` file is read by ``from_single_file`` of the pipeline class that its weights belong to.
    ``variant``: of the weight files, such as fp16; left out, a folder that has but one is read by it. ``revision``: of
    a hub model.

    Raises ``ValueError`` with the reason when there is no such pipeline.
    """
    from diffusers import DiffusionPipeline

    if not model.strip():
        raise ValueError("model must be 'digits', 'wardrobe', a folder or a hub name, got an empty string")
    place: str | Path = model
    if model in EMBEDDED:
        place = EMBEDDED[model]
    elif Path(model).is_file():
        with _bars_on_terminals_alone():
            return _prepared(single_file(Path(model), dtype))
    elif Path(model).exists() and not (Path(model) / "model_index.json").is_file():
        raise ValueError(f"model folder {model!r} holds no model_index.json, so it is no diffusers pipeline")
    elif not Path(model).exists() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
        raise ValueError(
            f"model {model!r} is neither an existing folder, nor {' or '.join(map(repr, EMBEDDED))}, "
            "nor a hub name 'owner/name'"
        )
    try:
        check_index(Path(place) / "model_index.json")
        # A component that was saved as none (SD3's third text encoder, a safety checker) has to be said to be none.
        index = DiffusionPipeline.load_config(str(place), **({} if revision is None else {"revision": revision}))
        none: dict[str, Any] = {name: None for name, value in index.items() if value in ([None, None], (None, None))}
        chosen = {"variant": variant or only_variant(Path(place)), "revision": revision}
        said = {name: value for name, value in chosen.items() if value is not None}
        with _bars_on_terminals_alone():
            pipeline = DiffusionPipeline.from_pretrained(str(place), dtype=dtype, use_safetensors=True, **said, **none)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # a folder can be wrong in any way, and each ends in another kind of error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"model {model!r} could not be loaded: {reason}") from error
    return _prepared(pipeline)


@contextlib.contextmanager
def _bars_on_terminals_alone() -> Iterator[None]:
    """Inside, diffusers and transformers draw no progress bars into what is no terminal, such as a log."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [one for one in (of_diffusers, of_transformers) if one.is_progress_bar_enabled()]
    if sys.stderr.isatty():
        shown = []
    for one in shown:
        one.disable_progress_bar()
    try:
        yield
    finally:
        for one in shown:
            one.enable_progress_bar()


def _prepared(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    for name in ("unet", "vae"):  # the faster layout for convolutions, clearly so on a CPU
        if getattr(pipeline, name, None) is not None:
            getattr(pipeline, name).to(memory_format=torch.channels_last)
    return pipeline


def only_variant(folder: Path) -> str | None:
    """The variant whose weight files a folder has, where it has no others: ``unet/NAME.fp16.safetensors`` alone."""
    found: set[str | None] = set()
    for path in folder.glob("*/*.safetensors"):
        words = path.name.removesuffix(".safetensors").split(".")
        name = words[-1].split("-")[0] if len(words) > 1 else None  # of shards NAME.fp16-00001-of-00002
        found.add(name)
    return found.pop() if len(found) == 1 else None


def check_index(path: Path) -> None:
    """Raise ``ValueError`` with the reason for a ``model_index.json`` of another shape than diffusers writes."""
    if not path.is_file():
        return  # a hub name
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model_index.json is no JSON ({error})") from error
    if not isinstance(index, dict):
        raise ValueError(f"model_index.json must hold an object, not {_kind(index)}")
    name = index.get("_class_name")
    if not (isinstance(name, str) or _is_pair(name)) or not name:
        raise ValueError(f"_class_name in model_index.json must name a pipeline, not {_kind(name)}")
    for key, value in index.items():
        if key == "id2label" and _is_labels(value):
            continue  # names of classes, of pipelines that have such
        if isinstance(value, dict) or (isinstance(value, list) and not _is_pair(value)):
            raise ValueError(f"{key} in model_index.json must be [library, class], not {_kind(value)}")


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(v is None or isinstance(v, str) for v in value)


def _is_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(k.isdecimal() and isinstance(v, str) for k, v in value.items())


def _kind(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
