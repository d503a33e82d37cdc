"""What a pipeline's samples depend on, as one short name: weights and the settings of the sampler."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch


def fingerprint(pipeline: Any) -> str:
    """SHA-256 of every weight that draws depend on, and of the sampler's settings: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"):
        module = getattr(pipeline, part, None)
        if module is not None:
            for name, value in sorted(module.state_dict().items()):
                digest.update(f"{part}.{name}{tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(dict(pipeline.scheduler.config), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
