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

from diffusion.pipelines import Condition, Denoiser, add_noise
from diffusion.pipelines.base import device_of, generators, noise_of
from diffusion.pipelines.stepping import stepped
from diffusion.training.batches import spread_levels


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
    salt: int = FRESH,
) -> Tensor:
    """From states x (n, ...) at step ``start`` of the sampler to samples (n, ...), under conditions of n rows or one.

    ``after_step(x, t)``: what becomes of states that enter level t (n,); not asked after the last step.
    ``salt``: of what a stochastic sampler adds, as for :meth:`Victim.noise`.
    """
    parts, seed = [], int(np.random.SeedSequence([victim.seed, 72, salt]).generate_state(1)[0])
    for begin in range(0, len(x), batch):
        part = x[begin : begin + batch]
        told = {
            k: v[begin : begin + batch] if len(v) > 1 else v.expand(len(part), *v.shape[1:])
            for k, v in condition.items()
        }
        span = (start, victim.steps, victim.steps)
        parts.append(stepped(victim.denoiser, part, told, span, victim.scale, after_step, seed + begin))
    return torch.cat(parts).float().cpu()


def noised_references(
    victim: Victim, count: int, generator: torch.Generator, power: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """States x_t, levels t and denoising targets y of ``count`` references; ``power`` below 1 favours noise."""
    denoiser = victim.denoiser
    chosen = torch.randint(len(victim.references), (count,), generator=generator)
    x0 = victim.references[chosen].to(device_of(denoiser))
    t = spread_levels(denoiser, count, generator, power).to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    return add_noise(denoiser, x0, eps, t), t, denoiser.target(x0, eps, t)


def sampled(victim: Victim, condition: Condition, count: int, salt: int) -> Tensor:
    """Samples (n, ...) under one condition from noise of that salt."""
    return denoise(victim, victim.noise(count, salt)[0], condition, salt=salt)
