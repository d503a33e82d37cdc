"""Draws of a pipeline, made by its own stock sampler, and the way between draws and pictures.

A draw is what the network works on: a latent where the pipeline has a VAE, else the picture itself. With a VAE

    picture = decode(draw / scale + shift)      (or decode(draw std / scale + mean), where the VAE has these),

with scale, shift, mean and std from the VAE's own config.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .models import Denoiser, denoiser_of
from .parallel import dealt

STEPS = 14
BATCH = 128


def generator_of(seed: int) -> torch.Generator:
    """A generator of its own on the CPU, so that a seed gives the same draws on every device."""
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
    """Draws (n, ...), one per prompt, float32 on the CPU, from the pipeline's own ``__call__``; guidance scale 1.

    The initial noise of draw j depends on ``seed`` and j alone, so another batch size gives the same draws up to
    rounding, and two pipelines given the same seed start from common noise. A pipeline without prompts takes empty
    ones, and its draws are pictures clamped to [-1, 1], as it returns them. Several processes share the batches, and
    all of them get all draws (collective, see :mod:`diffusion.parallel`).
    """
    if not prompts:
        raise ValueError("prompts must hold at least one prompt, got none")
    denoiser = denoiser_of(pipeline)
    if denoiser.worded:
        some = _with_prompts(denoiser, prompts, seed, batch, {"num_inference_steps": steps, **call})
    else:
        denoiser.condition(prompts)  # refuses prompts that are not empty
        some = _without_prompts(denoiser, len(prompts), seed, batch, {"num_inference_steps": steps, **call})
    shown = 0

    def one(index: int) -> Tensor:
        nonlocal shown
        part = some(index * batch).float().cpu()
        if progress is not None:
            progress(len(part))
        shown += len(part)
        return part

    result = torch.cat(dealt(-(-len(prompts) // batch), one))
    if progress is not None and shown < len(prompts):
        progress(len(prompts) - shown)  # what the other processes have drawn
    return result


Some = Callable[[int], Tensor]  # the draws of the batch that starts at an index


def _with_prompts(denoiser: Denoiser, prompts: Sequence[str], seed: int, batch: int, call: dict[str, Any]) -> Some:
    """Batches of one table of noise, handed over as ``latents``."""
    noise = torch.randn((len(prompts), *denoiser.sample_shape), generator=generator_of(seed))
    network: Any = denoiser.network
    settings = {"guidance_scale": 1.0, "output_type": "latent", **call}

    def make(start: int) -> Tensor:
        some = list(prompts[start : start + batch])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*guidance_scale.*")
            chance = generator_of(seed + 1 + start)  # used by stochastic samplers only
            latents = noise[start : start + len(some)].to(network.device, network.dtype)
            return cast(Tensor, denoiser.pipeline(some, latents=latents, generator=chance, **settings).images)

    return make


def _without_prompts(denoiser: Denoiser, count: int, seed: int, batch: int, call: dict[str, Any]) -> Some:
    """These pipelines take no initial noise, but one generator per draw, which serves all of its steps as well."""
    seeds = torch.randint(2**62, (count,), generator=generator_of(seed)).tolist()

    def make(start: int) -> Tensor:
        chance = [generator_of(some) for some in seeds[start : start + batch]]
        with torch.no_grad():
            shown = denoiser.pipeline(batch_size=len(chance), generator=chance, output_type="np", **call).images
        return 2 * torch.from_numpy(np.asarray(shown)).permute(0, 3, 1, 2) - 1

    return make


def decode(pipeline: Any, latents: Tensor, batch: int = 256) -> NDArray[np.float32]:
    """Pictures (n, c, height, width) in [-1, 1] of draws (n, ...)."""
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        return cast(NDArray[np.float32], latents.float().clamp(-1, 1).cpu().numpy())
    scale, shift = _affine(vae, latents)
    device, dtype = next(vae.parameters()).device, vae.dtype
    # Some VAEs overflow in half precision and say so; diffusers' pipelines decode with them in single precision, too.
    upcast = dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if upcast:
        vae.to(torch.float32)
    parts = []
    try:
        with torch.no_grad():
            for some in latents.split(batch):
                inner = (some / scale + shift).to(device, vae.dtype)
                parts.append(vae.decode(inner, return_dict=False)[0].float().clamp(-1, 1).cpu())
    finally:
        if upcast:
            vae.to(dtype)
    return cast(NDArray[np.float32], torch.cat(parts).numpy())


def encode(pipeline: Any, pictures: Tensor, batch: int = 256) -> Tensor:
    """Draws (n, ...), float32 on the CPU, of pictures (n, c, height, width) in [-1, 1]: the VAE's most likely latents.

    Raises ``ValueError`` for pictures of another size or number of channels than the pipeline draws, or out of range.
    """
    wanted = picture_shape(pipeline)
    if tuple(pictures.shape[1:]) != wanted or not len(pictures):
        raise ValueError(f"pictures must have shape (n, {', '.join(map(str, wanted))}), got {tuple(pictures.shape)}")
    if not bool((pictures.abs() <= 1).all()):
        raise ValueError("pictures must have values in [-1, 1]")
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        return pictures.float().cpu()
    scale, shift = _affine(vae, pictures)
    device = next(vae.parameters()).device
    parts = []
    with torch.no_grad():
        for some in pictures.split(batch):
            inner = vae.encode(some.to(device, vae.dtype)).latent_dist.mode().float().cpu()
            parts.append((inner - shift.cpu()) * scale.cpu())
    return torch.cat(parts)


def picture_shape(pipeline: Any) -> tuple[int, int, int]:
    """``(channels, height, width)`` of what the pipeline draws at its own default size."""
    channels, *sides = denoiser_of(pipeline).sample_shape
    vae = getattr(pipeline, "vae", None)
    if vae is not None:
        channels, sides = int(vae.config.out_channels), [side * int(pipeline.vae_scale_factor) for side in sides]
    return channels, sides[0], sides[1]


def _affine(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """``(scale, shift)`` with ``inner = draw / scale + shift``, shaped to a batch."""
    config = vae.config

    def table(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=like.device).view(1, -1, 1, 1)

    scale, mean, std = table(config.scaling_factor), config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return scale / table(std), table(mean)
    return scale, table(config.get("shift_factor") or 0.0)
