"""Draws of a pipeline, made by its own stock sampler, and pictures of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 20
BATCH = 128


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    seed: int,
    steps: int = STEPS,
    batch: int = BATCH,
    progress: Callable[[int], object] | None = None,
    **call: Any,
) -> Tensor:
    """Latents (n, c, h, w), one per prompt, at guidance 1, from the pipeline's own ``__call__``.

    The initial noise of draw j depends on ``seed`` and j alone, so another batch size gives the same draws up to
    rounding, and two pipelines given the same seed start from common noise.
    """
    if not prompts:
        raise ValueError("prompts must hold at least one prompt, got none")
    shape = (pipeline.unet.config.in_channels, *(pipeline.unet.config.sample_size,) * 2)
    noise = torch.randn((len(prompts), *shape), generator=generator_of(seed))
    device, dtype = pipeline.unet.device, pipeline.unet.dtype
    settings = {"guidance_scale": 1.0, "num_inference_steps": steps, "output_type": "latent", **call}
    parts = []
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*guidance_scale.*")
            chance = generator_of(seed + 1 + start)  # used by stochastic samplers only
            out = pipeline(
                some, latents=noise[start : start + len(some)].to(device, dtype), generator=chance, **settings
            )
        parts.append(out.images)
        if progress is not None:
            progress(len(some))
    return torch.cat(parts)


def decode(pipeline: Any, latents: Tensor, batch: int = 256) -> NDArray[np.float32]:
    """Pictures (n, 3, height, width) in [-1, 1]."""
    vae = pipeline.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    parts = []
    with torch.no_grad():
        for some in latents.split(batch):
            picture = vae.decode(some.to(vae.dtype) / vae.config.scaling_factor + shift, return_dict=False)[0]
            parts.append(picture.float().clamp(-1, 1).cpu())
    return cast(NDArray[np.float32], torch.cat(parts).numpy())
