"""A fit in a folder, LoRA or network, put into the weights of a pipeline."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from diffusion.pipelines.adapters import carried
from diffusion.pipelines.base import Denoiser
from diffusion.runtime.precision import is_half

PIPELINE_LORA, PEFT_LORA = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
COMPONENTS = ("unet", "transformer")
OWN_FORM = ("lora_A.weight", "lora_B.weight")  # ends of diffusers' names of tensors


def holds_fit(folder: Path) -> bool:
    """Whether a folder looks like what `unlearn distill` leaves."""
    whole = (folder / component / "config.json" for component in COMPONENTS)
    return any(path.is_file() for path in (folder / PIPELINE_LORA, folder / PEFT_LORA, *whole))


def put_in(denoiser: Denoiser, folder: Path) -> None:
    """Add the LoRA in ``folder`` to the weights of the pipeline, or take over the weights of the network in it.

    On a network in half precision the LoRA stays beside the weights, in the precision that it was saved in.

    Raises ``ValueError`` where the folder holds neither, or not for this pipeline: a LoRA some of whose layers the
    network does not have would leave the model as it is, or half of it.
    """
    pipeline, network = denoiser.pipeline, denoiser.component
    try:
        if (folder / PIPELINE_LORA).is_file():
            _put_in_lora(denoiser, folder)
        elif (folder / PEFT_LORA).is_file():
            setattr(pipeline, network, _with_peft_lora(denoiser, folder))
        elif (folder / network / "config.json").is_file():
            kind: Any = type(denoiser.network)
            fitted = kind.from_pretrained(folder, subfolder=network, use_safetensors=True)
            with torch.no_grad():
                denoiser.network.load_state_dict(fitted.state_dict())  # in place: dtype and device stay the model's
        else:
            raise ValueError(f"it has no {PIPELINE_LORA}, no {PEFT_LORA} and no folder {network!r}")
    except (ValueError, RuntimeError, KeyError, AttributeError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"folder {str(folder)!r} does not fit the model: {reason}") from error


def _put_in_lora(denoiser: Denoiser, folder: Path) -> None:
    from peft import get_peft_model_state_dict

    pipeline, network = denoiser.pipeline, denoiser.component
    before = carried(pipeline)
    if before:
        raise ValueError(f"the model carries adapters already: {before}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*PEFT")  # what does not match is said below, as an error
        pipeline.load_lora_weights(folder)
    there = set()
    for name in getattr(denoiser.network, "peft_config", {}):
        there |= {f"{network}.{key}" for key in get_peft_model_state_dict(denoiser.network, adapter_name=name)}
    # Kohya's and other forms name layers their own way; of diffusers' own form we know what there must be.
    asked = {name for name in _names(folder / PIPELINE_LORA) if name.endswith(OWN_FORM)}
    ours = {name for name in asked if name.startswith(f"{network}.")}
    empty = any(parameter.is_meta for parameter in denoiser.network.parameters())
    if not there or (asked and there != ours) or empty:
        pipeline.unload_lora_weights()
        raise ValueError(
            f"{len(ours & there)} of the LoRA's {len(asked)} tensors are of layers of the model's {network}"
        )
    if is_half(denoiser.network):
        return  # a sum in half precision would be another network than was measured
    pipeline.fuse_lora(components=list(carried(pipeline)))
    pipeline.unload_lora_weights()


def _with_peft_lora(denoiser: Denoiser, folder: Path) -> Any:
    from peft import PeftModel, get_peft_model_state_dict

    asked = set(_names(folder / PEFT_LORA))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # said below, as an error
        wrapped: Any = PeftModel.from_pretrained(getattr(denoiser.pipeline, denoiser.component), str(folder))
    there = set(get_peft_model_state_dict(wrapped))
    if asked != there:
        wrapped.unload()
        raise ValueError(_mismatch(asked & there, asked, denoiser.component))
    return wrapped.merge_and_unload()


def _mismatch(found: set[str], asked: set[str], network: str) -> str:
    return f"{len(found)} of the LoRA's {len(asked)} tensors are of layers of the model's {network}"


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except Exception as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from error
