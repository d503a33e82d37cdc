"""Samples of a pipeline, made by its own stock sampler, and the way between samples and images.

A sample is what the network works on: a latent where the pipeline has a VAE, else the image itself. With a VAE ::

    image = decode(sample / scale + shift)      (or decode(sample std / scale + mean), where the VAE has these),

with scale, shift, mean and std from the VAE's own config.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.pipelines import denoiser_of
from diffusion.pipelines.batch_size import decoding_limit
from diffusion.pipelines.finite import check_finite
from diffusion.pipelines.sampling import sample_latents
from diffusion.runtime.memory import in_batches


def decode(pipeline: Any, latents: Tensor, batch: int = 256) -> NDArray[np.float32]:
    """Images (n, c, height, width) in [-1, 1] of samples (n, ...)."""
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        return cast(NDArray[np.float32], latents.float().clamp(-1, 1).cpu().numpy())
    latents = _unpacked(pipeline, latents)
    dtype, upcast = vae.dtype, _upcast(vae)

    def some(start: int, stop: int) -> Tensor:
        decoded = _decoded(vae, latents[start:stop])
        check_finite(decoded, "vae", "in decoding")
        return decoded.clamp(-1, 1).cpu()

    try:
        with torch.no_grad():
            limit = decoding_limit(vae, tuple(latents.shape[1:]), image_shape(pipeline), batch)
            parts = in_batches(some, len(latents), limit)
    finally:
        if upcast:
            vae.to(dtype)
    return cast(NDArray[np.float32], torch.cat(parts).numpy())


def differentiable_images(pipeline: Any, latents: Tensor) -> Tensor:
    """Images (n, c, height, width), float32 on the device, of samples (n, ...), as a function with a gradient.

    About [-1, 1]: what lies outside is not cut off, which would cut its gradient. A VAE that overflows in float16 stays
    in float32, since gradients are taken later.
    """
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        return latents.float()
    _upcast(vae)
    return _decoded(vae, _unpacked(pipeline, latents))


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    """What the VAE makes of latents (n, c, h, w), float32 on its device."""
    scale, shift = _affine(vae, latents)
    inner = (latents / scale + shift).to(next(vae.parameters()).device, vae.dtype)
    return cast(Tensor, vae.decode(inner, return_dict=False)[0].float())


def try_out(pipeline: Any, prompt: str, **call: Any) -> None:
    """One sample, decoded: what does not work at all is found before the first of many is made.

    ``call``: as for :func:`diffusion.pipelines.sampling.sample_latents`. Raises ``FloatingPointError`` naming the
    component that returns NaN or inf.
    """
    decode(pipeline, sample_latents(pipeline, [prompt], seed=0, **call))


def encode(pipeline: Any, images: Tensor, batch: int = 256) -> Tensor:
    """Samples (n, ...), float32 on the CPU, of images (n, c, height, width) in [-1, 1]: the VAE's most likely latents.

    Raises ``ValueError`` for images of another size or number of channels than the pipeline makes, or out of range.
    """
    wanted = image_shape(pipeline)
    if tuple(images.shape[1:]) != wanted or not len(images):
        raise ValueError(f"images must have shape (n, {', '.join(map(str, wanted))}), got {tuple(images.shape)}")
    if not bool((images.abs() <= 1).all()):
        raise ValueError("images must have values in [-1, 1]")
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        return images.float().cpu()
    scale, shift = _affine(vae, images)
    device = next(vae.parameters()).device
    dtype, upcast = vae.dtype, _upcast(vae)

    def some(start: int, stop: int) -> Tensor:
        found = vae.encode(images[start:stop].to(device, vae.dtype))
        inner = (found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents).float().cpu()
        check_finite(inner, "vae", "in encoding")
        return (inner - shift.cpu()) * scale.cpu()

    try:
        with torch.no_grad():
            factor = 2 ** (len(vae.config.block_out_channels) - 1)
            inner_shape = (int(vae.config.latent_channels), *(side // factor for side in wanted[1:]))
            limit = decoding_limit(vae, inner_shape, wanted, batch)
            return _packed(pipeline, torch.cat(in_batches(some, len(images), limit)))
    finally:
        if upcast:
            vae.to(dtype)


def _upcast(vae: Any) -> bool:
    """Whether the VAE had to be taken to float32: some overflow in float16 and say so; as diffusers' pipelines do."""
    wanted = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if wanted:
        vae.to(torch.float32)
    return wanted


def image_shape(pipeline: Any) -> tuple[int, int, int]:
    """``(channels, height, width)`` of what the pipeline makes."""
    denoiser = denoiser_of(pipeline)
    vae = getattr(pipeline, "vae", None)
    channels = denoiser.sample_shape[0] if vae is None else int(vae.config.out_channels)
    return (channels, *denoiser.size)


def _unpacked(pipeline: Any, latents: Tensor) -> Tensor:
    """Latents (n, c, h, w) of tokens (n, h/2 w/2, 4 c), where a pipeline samples these."""
    if latents.ndim != 3:
        return latents
    _, high, wide = image_shape(pipeline)
    return cast(Tensor, pipeline._unpack_latents(latents, high, wide, pipeline.vae_scale_factor))


def _packed(pipeline: Any, latents: Tensor) -> Tensor:
    """The inverse of :func:`_unpacked`."""
    if len(denoiser_of(pipeline).sample_shape) != 2:
        return latents
    return cast(Tensor, pipeline._pack_latents(latents, *latents.shape))


def _affine(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """``(scale, shift)`` with ``inner = sample / scale + shift``, shaped to a batch."""
    config = vae.config

    def table(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=like.device).view(1, -1, 1, 1)

    scale, mean, std = table(config.scaling_factor), config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return scale / table(std), table(mean)
    return scale, table(config.get("shift_factor") or 0.0)
