"""What a fit has left in a folder, put into a pipeline for good: a LoRA in any of its forms, or a whole network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .models import Denoiser

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
