"""Samples of a pipeline, made by its own stock sampler; see :mod:`diffusion.pipelines.latents` for images of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from diffusion.pipelines import Denoiser, denoiser_of
from diffusion.pipelines.finite import check_finite, watched
from diffusion.runtime.distributed import map_distributed

STEPS = 14


BATCH = 128


def generator_of(seed: int) -> torch.Generator:
    """A generator of its own on the CPU, so that a seed gives the same samples on every device."""
    return torch.Generator().manual_seed(seed)


def sample_latents(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    seed: int,
    steps: int = STEPS,
    batch: int = BATCH,
    progress: Callable[[int], object] | None = None,
    **call: Any,
) -> Tensor:
    """Samples (n, ...), one per prompt, float32 on the CPU, from the pipeline's own ``__call__``; guidance scale 1.

    The initial noise of sample j depends on ``seed`` and j alone, so another batch size gives the same samples up to
    rounding, and two pipelines given the same seed start from common noise. A pipeline without prompts takes empty
    ones, and its samples are images clamped to [-1, 1], as it returns them. Several processes share the batches, and
    all of them get all samples (collective, see :mod:`diffusion.runtime.distributed`). Raises ``FloatingPointError``
    naming the component that returns NaN or inf, at the first batch in which it does.
    """
    if not prompts:
        raise ValueError("prompts must hold at least one prompt, got none")
    denoiser = denoiser_of(pipeline)
    if denoiser.prompt_inputs:
        some = _with_prompts(denoiser, prompts, seed, batch, {"num_inference_steps": steps, **call})
    else:
        denoiser.condition(prompts)  # refuses prompts that are not empty
        some = _without_prompts(denoiser, len(prompts), seed, batch, {"num_inference_steps": steps, **call})
    shown = 0

    def one(index: int) -> Tensor:
        nonlocal shown
        where = f"in batch {index + 1} of {-(-len(prompts) // batch)}"
        with watched(denoiser, prompts[index * batch : (index + 1) * batch], where):
            part = some(index * batch).float().cpu()
        check_finite(part, type(pipeline.scheduler).__name__, where)
        if progress is not None:
            progress(len(part))
        shown += len(part)
        return part

    result = torch.cat(map_distributed(-(-len(prompts) // batch), one))
    if progress is not None and shown < len(prompts):
        progress(len(prompts) - shown)  # what the other processes have drawn
    return result


Some = Callable[[int], Tensor]  # the samples of the batch that starts at an index


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
    """These pipelines take no initial noise, but one generator per sample, which serves all of its steps as well."""
    seeds = torch.randint(2**62, (count,), generator=generator_of(seed)).tolist()

    def make(start: int) -> Tensor:
        chance = [generator_of(some) for some in seeds[start : start + batch]]
        with torch.no_grad():
            shown = denoiser.pipeline(batch_size=len(chance), generator=chance, output_type="np", **call).images
        return 2 * torch.from_numpy(np.asarray(shown)).permute(0, 3, 1, 2) - 1

    return make
