"""How many rows a pipeline's network and VAE take at once, see :mod:`diffusion.runtime.memory`."""

from __future__ import annotations

import math
from typing import Any

import torch

from diffusion.pipelines.base import Denoiser, device_of
from diffusion.runtime.memory import Limit, limit_of


def evaluation_limit(denoiser: Denoiser, most: int) -> Limit:
    """Rows of the network without gradient, at most ``most``."""

    def probe(rows: int) -> None:
        device = device_of(denoiser)
        x = torch.zeros(rows, *denoiser.sample_shape, device=device)
        with torch.no_grad():
            denoiser.predict(
                x, torch.full((rows,), denoiser.levels // 2, device=device), denoiser.condition([""] * rows)
            )

    return limit_of(denoiser.network, "evaluation", math.prod(denoiser.sample_shape), most, probe)


def decoding_limit(vae: Any, sample_shape: tuple[int, ...], image_shape: tuple[int, ...], most: int) -> Limit:
    """Images that a VAE decodes or encodes at once, at most ``most``."""

    def probe(rows: int) -> None:
        some = next(vae.parameters())
        with torch.no_grad():
            vae.decode(torch.zeros(rows, *sample_shape, device=some.device, dtype=some.dtype), return_dict=False)

    return limit_of(vae, "decoding", math.prod(image_shape), most, probe)
