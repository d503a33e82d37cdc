r"""A LoRA under kohya's names, which ComfyUI and AUTOMATIC1111's web UI read: a copy of the file that diffusers loads.

::

    W + (alpha/r) B A:    lora_unet_LAYER.lora_down.weight = A,   .lora_up.weight = B,   .alpha = alpha

with LAYER the path of the layer in diffusers' UNet and dots as underscores; ``lora_te1_``, ``lora_te2_`` are the text
encoders'. The names are diffusers' own (``convert_state_dict_to_kohya``), which knows UNets and CLIP text encoders;
it takes alpha to be the rank, and here alpha is what the file says: one number for a component, and where a layer has
another its ``B`` is larger by their ratio.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diffusion.pipelines import FAMILIES, Denoiser
from diffusion.pipelines.fitted import OWN_FORM, PIPELINE_LORA, holds_fit
from diffusion.runtime.files import atomic_write

KOHYA = "kohya.safetensors"
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
METADATA = "lora_adapter_metadata"  # diffusers' name for what it keeps of peft's configuration
# What is more than two factors and a number has no name that all readers know.
BEYOND = ("use_dora", "lora_bias", "use_bdlora", "use_qalora")


def check_exportable(denoiser: Denoiser, rank: int | None) -> None:
    """``ValueError`` where kohya's format has no names for what a fit of this pipeline leaves, naming who has."""
    if rank is None:
        raise ValueError(f"export: all weights are trained here, and {KOHYA} holds a LoRA: give a rank")
    if "kohya" not in denoiser.exports:
        known = [name for name, kind in FAMILIES.items() if "kohya" in cast(Any, kind).exports]
        raise ValueError(
            f"export: kohya's names are known for {' and '.join(known)}, and the model is a "
            f"{type(denoiser.pipeline).__name__}"
        )


def export_kohya(folder: Path, path: Path) -> int:
    """The LoRA in ``folder`` into the file ``path``, whole or not at all; returns how many layers it has.

    Raises ``ValueError`` where the folder holds no LoRA, or one that kohya's format has no names for; ``OSError``
    naming ``path`` where it cannot be written.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    if not (folder / PIPELINE_LORA).is_file():
        held = "all weights of a network, or a LoRA for peft" if holds_fit(folder) else "no LoRA"
        raise ValueError(f"folder {str(folder)!r} holds {held}: kohya's format is for a {PIPELINE_LORA}")
    try:
        with safe_open(folder / PIPELINE_LORA, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:
        raise ValueError(f"{folder / PIPELINE_LORA} cannot be read ({error})") from error
    found = kohya_tensors(tensors, json.loads(metadata.get(METADATA) or "{}"))
    with atomic_write(path) as partial:
        # Without metadata: A1111 takes a file that has some, but none of its own, for one of Stable Diffusion 1.
        save_file(found, partial)
    return sum(name.endswith(".alpha") for name in found)


def kohya_tensors(tensors: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors under kohya's names, of those under diffusers' (``unet.LAYER.lora_A.weight``).

    ``settings``: peft's, by ``component.name``; where they say nothing of alpha it is the rank, as diffusers takes it.
    Raises ``ValueError`` for layers of other components, other tensors than the two factors, and DoRA.
    """
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

    foreign = [name for name in tensors if name.partition(".")[0] not in COMPONENTS or not name.endswith(OWN_FORM)]
    if foreign or not tensors:
        some = f"it has {foreign[0]!r}" if foreign else "it is empty"
        raise ValueError(f"kohya's names are known for the factors of layers of {', '.join(COMPONENTS)} alone: {some}")
    beyond = [name for name, value in settings.items() if value and name.rpartition(".")[2] in BEYOND]
    if beyond:
        raise ValueError(f"kohya's format holds plain LoRAs, and this one is trained with {beyond[0]}")
    made: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}  # by component
    for first, down in tensors.items():
        if not first.endswith(OWN_FORM[0]):
            continue
        layer, component = first.removesuffix(f".{OWN_FORM[0]}"), first.partition(".")[0]
        second = f"{layer}.{OWN_FORM[1]}"
        if second not in tensors:
            raise ValueError(f"the LoRA has {first!r} and no {second!r}")
        own, up = alpha_of(layer, len(down), settings), tensors[second]
        # diffusers' own reader of the format passes over alphas that differ from layer to layer: B takes the ratio.
        alpha = alphas.setdefault(component, own)
        if own != alpha:
            up = (up.double() * (own / alpha)).to(up.dtype)
        pair = {first: down.contiguous(), second: up.contiguous()}
        named = convert_state_dict_to_kohya({_with_text_model(name): value for name, value in pair.items()})
        said = {name: torch.tensor(alpha, dtype=torch.float32) for name in named if name.endswith(".alpha")}
        made |= named | said
    return made


def alpha_of(layer: str, rank: int, settings: dict[str, Any]) -> float:
    """The number a with ``W + (a/r) B A`` for a layer ``component.path`` of that rank, by peft's settings."""
    from peft.utils.other import get_pattern_key

    component, _, path = layer.partition(".")
    patterns = settings.get(f"{component}.alpha_pattern") or {}
    key = get_pattern_key(patterns.keys(), path) if patterns else path
    alpha = float(patterns.get(key, settings.get(f"{component}.lora_alpha", rank)))
    return alpha * math.sqrt(rank) if settings.get(f"{component}.use_rslora") else alpha


def _with_text_model(name: str) -> str:
    """CLIP's encoder lies under ``text_model`` in every reader of the format; in transformers 5 it may not."""
    component, _, path = name.partition(".")
    bare = component != "unet" and path.startswith("encoder.")
    return f"{component}.text_model.{path}" if bare else name
