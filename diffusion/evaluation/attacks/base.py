"""What an attack is given, and what it brings: fresh samples, in which the concept is then counted.

An attack may search as it likes, with the detector itself. What is counted is a new set of samples from noise that the
search has not seen, so that the exact bound on their share holds for what was found, whatever was tried on the way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.pipelines import Condition, Denoiser, repeat
from diffusion.pipelines.base import device_of, generators, noise_of


@dataclass(frozen=True)
class Victim:
    """A pipeline under attack, and what an attacker has: images of the concept, other ones, prompts, a detector.

    ``shows``: samples (n, ...) to numbers (n,) in [0, 1]. ``references``, ``others``: samples with and without the
    concept. ``samples``: that are counted; ``search``: that a candidate is tried on.
    """

    denoiser: Denoiser
    shows: Callable[[Tensor], NDArray[np.float64]]
    prompts: tuple[str, ...]
    anchor: str
    references: Tensor
    others: Tensor
    steps: int
    scale: float = 1.0
    samples: int = 100
    search: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.references) or not len(self.others):
            raise ValueError("references and others must hold at least one sample each")
        if self.samples < 1 or self.search < 1 or self.steps < 2:
            raise ValueError(
                f"samples, search must be at least 1 and steps 2, got {self.samples}, {self.search}, {self.steps}"
            )

    def noise(self, count: int, salt: int) -> tuple[Tensor, list[torch.Generator]]:
        """Starting noise (n, ...) of a set of samples that no other ``salt`` shares, and a generator for each."""
        seed = int(np.random.SeedSequence([self.seed, 71, salt]).generate_state(1)[0])
        chances = generators(seed, count)
        return noise_of(chances, self.denoiser.sample_shape).to(device_of(self.denoiser)), chances

    def share(self, latents: Tensor) -> float:
        """How often the concept is there."""
        return float(np.mean(self.shows(latents)))


@dataclass(frozen=True)
class Brought:
    """Samples (n, ...) on the CPU, and what was found, in words."""

    latents: Tensor
    detail: str


class Attack(ABC):
    """``needs_prompts``: whether it is one on pipelines with prompts only."""

    name: str
    needs_prompts = True

    @abstractmethod
    def run(self, victim: Victim) -> Brought:
        """Search, then sample afresh. ``FloatingPointError`` where the network says what is not finite."""


FRESH = 10_000  # the salt of what is counted


def denoise(
    victim: Victim,
    x: Tensor,
    condition: Condition,
    *,
    start: int = 0,
    after_step: Callable[[Tensor, Tensor], Tensor] | None = None,
    batch: int = 64,
) -> Tensor:
    """From states x (n, ...) at step ``start`` of the sampler to samples (n, ...), under conditions of n rows or one.

    ``after_step(x, t)``: what becomes of states that enter level t (n,); not asked after the last step.
    """
    parts = []
    for begin in range(0, len(x), batch):
        some = {k: v[begin : begin + batch] if len(v) > 1 else v for k, v in condition.items()}
        parts.append(_denoise(victim, x[begin : begin + batch], some, start, after_step))
    return torch.cat(parts).float().cpu()


def _denoise(
    victim: Victim,
    x: Tensor,
    condition: Condition,
    start: int,
    after_step: Callable[[Tensor, Tensor], Tensor] | None,
) -> Tensor:
    denoiser, n = victim.denoiser, len(x)
    own = denoiser.pipeline.scheduler
    scheduler = type(own).from_config(own.config)
    scheduler.set_timesteps(victim.steps)
    if start == 0:
        x = x * scheduler.init_noise_sigma
    told = {k: v if len(v) == n else v.expand(n, *v.shape[1:]) for k, v in condition.items()}
    guided = victim.scale > 1 and bool(denoiser.prompt_inputs)
    empty = repeat(denoiser.condition([""]), n) if guided else None
    with torch.no_grad():
        for k in range(start, victim.steps):
            timestep = scheduler.timesteps[k]
            at = timestep.expand(n).to(x.device)
            scaled = scheduler.scale_model_input(x, timestep)
            said = denoiser.call(scaled, at, told)
            if empty is not None:
                free = denoiser.call(scaled, at, empty)
                said = free + victim.scale * (said - free)
            x = scheduler.step(said, timestep, x, return_dict=False)[0]
            if after_step is not None and k + 1 < victim.steps:
                x = after_step(x, denoiser.level(scheduler.timesteps[k + 1].expand(n).to(x.device)))
    return x


def level_at(victim: Victim, start: int) -> int:
    """The level that the sampler asks the network at in step ``start``."""
    own = victim.denoiser.pipeline.scheduler
    scheduler = type(own).from_config(own.config)
    scheduler.set_timesteps(victim.steps)
    return int(victim.denoiser.level(scheduler.timesteps[start].reshape(1))[0])


def sampled(victim: Victim, condition: Condition, count: int, salt: int) -> Tensor:
    """Samples (n, ...) under one condition from noise of that salt."""
    return denoise(victim, victim.noise(count, salt)[0], condition)
