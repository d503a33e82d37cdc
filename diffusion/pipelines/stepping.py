"""The pipeline's own scheduler, step by step, for those who begin or end within a run, or look in between.

Whole runs are the pipeline's own call (:mod:`diffusion.pipelines.sampling`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion.pipelines.base import Condition, Denoiser, repeat


def scheduler_of(denoiser: Denoiser, steps: int) -> Any:
    """A fresh one of the pipeline's kind and settings, set to ``steps`` steps: its own keeps what it holds."""
    own = denoiser.pipeline.scheduler
    scheduler = type(own).from_config(own.config)
    scheduler.set_timesteps(steps)
    return scheduler


def level_after(denoiser: Denoiser, steps: int, done: int) -> int:
    """The level that the network is asked at when ``done`` of ``steps`` steps are behind."""
    return int(denoiser.level(scheduler_of(denoiser, steps).timesteps[done].reshape(1))[0])


def stepped(
    denoiser: Denoiser,
    x: Tensor,
    condition: Condition,
    span: tuple[int, int, int],
    scale: float = 1.0,
    after_step: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """States x (n, ...) after steps ``first`` to ``last`` (not taken) of ``steps``, ``span`` = (first, last, steps).

    Without gradient, by the network as it stands, under ``f_0 + s (f_c - f_0)`` where s = ``scale`` is above 1 and
    there are prompts. From the first step on x is noise of unit variance. ``after_step(x, t)``: what becomes of states
    that enter level t (n,); not asked after the sampler's last step.
    """
    first, last, steps = span
    scheduler, n = scheduler_of(denoiser, steps), len(x)
    if first == 0:
        x = x * scheduler.init_noise_sigma
    empty = repeat(denoiser.condition([""]), n) if scale > 1 and denoiser.prompt_inputs else None
    with torch.no_grad():
        for k in range(first, last):
            timestep = scheduler.timesteps[k]
            at, scaled = timestep.expand(n).to(x.device), scheduler.scale_model_input(x, timestep)
            said = denoiser.call(scaled, at, condition)
            if empty is not None:
                free = denoiser.call(scaled, at, empty)
                said = free + scale * (said - free)
            x = scheduler.step(said, timestep, x, return_dict=False)[0]
            if after_step is not None and k + 1 < steps:
                x = after_step(x, denoiser.level(scheduler.timesteps[k + 1].expand(n).to(x.device)))
    return x
