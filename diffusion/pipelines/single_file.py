"""Checkpoints in one file, as they are passed around: whose weights they are, and the pipeline that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

# What diffusers calls the weights in such a file, by what it finds there, and the pipeline that they belong to.
KINDS = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "playground-v2-5": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
}
# Beginnings and parts of names of tensors; whatever fits no rule is called v1 by diffusers.
NETWORKS = ("model.diffusion_model.", "double_blocks.")


def single_file(path: Path, dtype: torch.dtype) -> Any:
    """The pipeline of a checkpoint in one file, by ``from_single_file`` of its class.

    Raises ``ValueError`` with the reason for a file that is no safetensors, holds no network, or one of no family here.
    diffusers takes the configuration of the pipeline from the hub (or its cache): offline it may be missing.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    if path.suffix != ".safetensors":
        raise ValueError(f"model file {str(path)!r} must end in .safetensors: other formats may run code when read")
    try:
        if not any(name.startswith(NETWORKS) for name in _names(path)):
            raise ValueError("it holds no tensors of a whole checkpoint's network (a LoRA or a VAE by itself?)")
        kind = infer_diffusers_model_type(load_single_file_checkpoint(str(path)))
        if kind not in KINDS:
            raise ValueError(f"its weights are those of {kind!r}, which is not supported")
        return getattr(diffusers, KINDS[kind]).from_single_file(str(path), torch_dtype=dtype)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # a file can be wrong in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"model file {str(path)!r} could not be loaded: {reason}") from error


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())
