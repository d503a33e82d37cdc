"""Levels \"as if never seen\", and what a network has gained, for images that are to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion.methods.likelihood import loss, negative_elbo
from diffusion.pipelines import Denoiser
from diffusion.tasks.image_set import Images
from diffusion.training.lora import base_model


def as_unseen(
    denoiser: Denoiser,
    images: Images,
    held_out: Tensor,
    prompts: Sequence[str] = (),
    *,
    quantile: float | None = None,
    noise_levels: int = 40,
    seed: int = 0,
) -> np.ndarray:
    """Levels (m,) that ask for images to be "as unlikely as images never seen".

    ::

        level_i = [ mean over held-out x of L(x) - L(image i) ]_+        nats; L the negative ELBO, adapters off

    ``held_out`` (k, ...): images of the same kind, never trained on; ``prompts`` (k,), left out, empty. ``quantile``:
    of L over these in the place of the mean. An odd image would be more unlikely than the mean had it not been seen.
    """
    if quantile is not None and not 0 < quantile < 1:
        raise ValueError(f"quantile must lie strictly between 0 and 1, got {quantile}")
    prompts = tuple(prompts) or ("",) * len(held_out)
    if len(held_out) < 1 or len(prompts) != len(held_out):
        raise ValueError(f"held_out must hold images, with one prompt each, got {len(held_out)} and {len(prompts)}")
    together, asked = torch.cat([images.forget, held_out]), [*images.forget_prompts, *prompts]
    condition = denoiser.condition(asked)

    def measure() -> Tensor:
        return negative_elbo(denoiser, together, condition, levels=noise_levels, seed=seed)

    if getattr(denoiser.network, "peft_config", None):
        with base_model(denoiser):
            value = measure()
    else:
        value = measure()
    m = len(images.forget)
    unseen = value[m:].mean() if quantile is None else value[m:].quantile(quantile)
    return np.asarray((unseen - value[:m]).clamp_min(0.0).numpy())


def elbo_drop(
    denoiser: Denoiser, images: Images, noise_levels: int, repeats: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rise of the negative ELBO at each image from the base model to the student, nats (m,), and standard errors (m,).

    From ``repeats`` noises a level and image, the same ones for every network and every time (common noise).
    """
    samples = images.forget.repeat_interleave(repeats, 0)
    condition = denoiser.condition([prompt for prompt in images.forget_prompts for _ in range(repeats)])
    value = loss(denoiser, samples, condition, levels=noise_levels, seed=seed * 1_000 + 7).view(-1, repeats)
    return value.mean(1).numpy(), (value.std(1) / repeats**0.5).numpy()
