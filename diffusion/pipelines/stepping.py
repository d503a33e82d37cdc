"""The pipeline's own scheduler, step by step, for those who begin or end within a run, or look in between.

Whole runs are the pipeline's own call (:mod:`diffusion.pipelines.sampling`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.pipelines.base import Condition, Denoiser, generators, repeat
from diffusion.pipelines.law import old_numpy


def scheduler_of(denoiser: Denoiser, steps: int) -> Any:
    """A fresh one of the pipeline's kind and settings, set to ``steps`` steps: its own keeps what it holds."""
    own = denoiser.pipeline.scheduler
    with old_numpy():
        scheduler = type(own).from_config(own.config)
        try:
            denoiser.set_timesteps(scheduler, steps)
        except (ValueError, IndexError) as error:
            raise ValueError(f"num_inference_steps: {type(own).__name__} cannot take {steps} ({error})") from error
    return scheduler


def place_of(scheduler: Any, steps: int, done: int) -> int:
    """Where among a scheduler's timesteps it stands after ``done`` of ``steps`` steps; some have two in a step."""
    told = scheduler.timesteps.tolist()
    if done >= steps:
        return len(told)
    order = int(getattr(scheduler, "order", 1))
    if order > 1:
        return done * order
    # A timestep that occurs twice (PNDM's first) ends a step and begins the next.
    return len(told) - 1 - told[::-1].index(list(dict.fromkeys(told))[done])


def level_after(denoiser: Denoiser, steps: int, done: int) -> int:
    """The level that the network is asked at when ``done`` of ``steps`` steps are behind."""
    scheduler = scheduler_of(denoiser, steps)
    return int(denoiser.level(scheduler.timesteps[place_of(scheduler, steps, done)].reshape(1))[0])


def stepped(
    denoiser: Denoiser,
    x: Tensor,
    condition: Condition,
    span: tuple[int, int, int],
    scale: float = 1.0,
    after_step: Callable[[Tensor, Tensor], Tensor] | None = None,
    seed: int | Sequence[torch.Generator] = 0,
) -> Tensor:
    """States x (n, ...) after steps ``first`` to ``last`` (not taken) of ``steps``, ``span`` = (first, last, steps).

    Without gradient, by the network as it stands, under ``f_0 + s (f_c - f_0)`` where s = ``scale`` is above 1 and
    there are prompts. From the first step on x is noise of unit variance. ``after_step(x, t)``: what becomes of states
    that enter level t (n,); not asked after the sampler's last step. ``seed``: of what a stochastic sampler adds, or a
    generator for each row.
    """
    first, last, steps = span
    scheduler, n = scheduler_of(denoiser, steps), len(x)
    takes = "generator" in inspect.signature(scheduler.step).parameters
    chances = generators(seed, n) if isinstance(seed, int) else list(seed)
    noise: dict[str, Any] = {"generator": chances} if takes else {}  # of stochastic samplers
    between = {place_of(scheduler, steps, done) for done in range(1, steps)}  # other states are none of the sampler's
    start, stop = (place_of(scheduler, steps, done) for done in (first, last))
    if first == 0:
        x = x * scheduler.init_noise_sigma
    elif hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)  # timesteps that occur twice do not say where it stands
    empty = repeat(denoiser.condition([""]), n) if scale > 1 and denoiser.classifier_free else None
    with torch.no_grad():
        for k in range(start, stop):
            timestep = scheduler.timesteps[k]
            at, scaled = timestep.expand(n).to(x.device), scheduler.scale_model_input(x, timestep)
            said = denoiser.call(scaled, at, condition)
            if empty is not None:
                free = denoiser.call(scaled, at, empty)
                said = free + scale * (said - free)
            x = scheduler.step(said, timestep, x, return_dict=False, **noise)[0]
            if after_step is not None and k + 1 in between:
                x = after_step(x, denoiser.level(scheduler.timesteps[k + 1].expand(n).to(x.device)))
    return x
