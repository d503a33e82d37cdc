"""Samples of a pipeline, made by its own stock sampler; see :mod:`diffusion.pipelines.latents` for images of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from diffusion.pipelines import Denoiser, denoiser_of
from diffusion.pipelines.batch_size import evaluation_limit
from diffusion.pipelines.finite import check_finite, watched
from diffusion.pipelines.law import call_defaults, old_numpy, said_of
from diffusion.pipelines.stepping import stepped
from diffusion.runtime.distributed import broadcast_object, map_distributed
from diffusion.runtime.memory import in_halves

BATCH = 128


def generator_of(seed: int) -> torch.Generator:
    """A generator of its own on the CPU, so that a seed gives the same samples on every device."""
    return torch.Generator().manual_seed(seed)


def sample_latents(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    seed: int,
    steps: int | None = None,
    batch: int = BATCH,
    progress: Callable[[int], object] | None = None,
    **call: Any,
) -> Tensor:
    """Samples (n, ...), one per prompt, float32 on the CPU, from the pipeline's own ``__call__``; guidance scale 1.

    ``steps``: left out, the pipeline's own default. Scheduler and size are the pipeline's, or those of a view of it
    (:mod:`diffusion.pipelines.law`).
    The noise of sample j, that of a stochastic sampler's steps included, depends on ``seed`` and j alone. So another
    batch size (``batch`` at most, fewer where memory is short, see :mod:`diffusion.runtime.memory`) gives the same
    samples up to rounding, and two pipelines given the same seed start from common noise. A pipeline without prompts
    takes empty ones, and its samples are images clamped to [-1, 1], as it returns them. Several processes share the
    batches, and all of them get all samples (collective, see :mod:`diffusion.runtime.distributed`). Raises
    ``FloatingPointError`` naming the component that returns NaN or inf, at the first batch in which it does.
    """
    if not prompts:
        raise ValueError("prompts must hold at least one prompt, got none")
    denoiser = denoiser_of(pipeline)
    call["num_inference_steps"] = int(call_defaults(pipeline)["num_inference_steps"]) if steps is None else steps
    if denoiser.prompt_inputs:
        some = _with_prompts(denoiser, prompts, seed, call)
    else:
        denoiser.condition(prompts)  # refuses prompts that are not empty
        some = _without_prompts(denoiser, len(prompts), seed, call)
    shown = 0
    limit = evaluation_limit(denoiser, batch)
    # Two rows for each sample under classifier-free guidance; all processes deal out the same batches.
    size = broadcast_object(max(1, limit.rows // 2) if _twice(denoiser, call) else limit.rows)

    def one(index: int) -> Tensor:
        nonlocal shown
        where = f"in batch {index + 1} of {-(-len(prompts) // size)}"
        start, stop = index * size, min(len(prompts), (index + 1) * size)
        with watched(denoiser, prompts[start:stop], where):
            part = torch.cat([each.float().cpu() for each in in_halves(some, start, stop, limit)])
        check_finite(part, type(pipeline.scheduler).__name__, where)
        if progress is not None:
            progress(len(part))
        shown += len(part)
        return part

    result = torch.cat(map_distributed(-(-len(prompts) // size), one))
    if progress is not None and shown < len(prompts):
        progress(len(prompts) - shown)  # what the other processes have drawn
    return result


def _twice(denoiser: Denoiser, call: dict[str, Any]) -> bool:
    return denoiser.classifier_free and call.get("guidance_scale", 1) > 1


Some = Callable[[int, int], Tensor]  # the samples from one index to another


def _with_prompts(denoiser: Denoiser, prompts: Sequence[str], seed: int, call: dict[str, Any]) -> Some:
    """Batches of one table of noise, handed over as ``latents``."""
    noise = torch.randn((len(prompts), *denoiser.sample_shape), generator=generator_of(seed))
    network: Any = denoiser.network
    scale = denoiser.told_guidance or 1.0  # 1: none
    settings = {"guidance_scale": scale, "output_type": "latent", **call}
    if said_of(denoiser.pipeline) is not None:
        settings |= dict(zip(("height", "width"), denoiser.size, strict=True))

    # Used by stochastic samplers only: one for each sample, made anew whenever its batch is.
    seeds = torch.randint(2**62, (len(prompts),), generator=generator_of(seed + 1)).tolist()

    def by_steps(start: int, stop: int) -> Tensor:
        steps, chance = int(call["num_inference_steps"]), [generator_of(each) for each in seeds[start:stop]]
        latents = noise[start:stop].to(network.device, network.dtype)
        told = denoiser.condition(prompts[start:stop])
        scale = float(call.get("guidance_scale", 1.0))
        return stepped(denoiser, latents, told, (0, steps, steps), scale, seed=chance)

    if denoiser.by_steps:
        return by_steps

    def make(start: int, stop: int) -> Tensor:
        some = list(prompts[start:stop])
        with torch.no_grad(), warnings.catch_warnings(), old_numpy():
            warnings.filterwarnings("ignore", message=".*guidance_scale.*")
            chance = [generator_of(each) for each in seeds[start:stop]]
            latents = noise[start : start + len(some)].to(network.device, network.dtype)
            return cast(Tensor, denoiser.pipeline(some, latents=latents, generator=chance, **settings).images)

    return make


def _without_prompts(denoiser: Denoiser, count: int, seed: int, call: dict[str, Any]) -> Some:
    """These pipelines take no initial noise, but one generator per sample, which serves all of its steps as well."""
    seeds = torch.randint(2**62, (count,), generator=generator_of(seed)).tolist()

    def make(start: int, stop: int) -> Tensor:
        chance = [generator_of(some) for some in seeds[start:stop]]
        with torch.no_grad(), old_numpy():
            shown = denoiser.pipeline(batch_size=len(chance), generator=chance, output_type="np", **call).images
        return 2 * torch.from_numpy(np.asarray(shown)).permute(0, 3, 1, 2) - 1

    return make
