"""Probes of what the network still knows: half-denoised images to complete, and noise that throws it off its path.

Completion: images of the concept, noised to the level that the sampler has reached after a share of its steps, finished
under the anchor. The later that is, the more of the image is simply there: a network that knows nothing passes it on.
So the share is small, and the base model's row stands beside. Noise injection: after every step fresh noise, a multiple
of that of the level entered, is added; the multiple is the one of a few whose samples show the concept most often,
sampled afresh.

Source: the probes of arXiv:2505.17013 (Lu et al., When Are Concepts Erased From Diffusion Models?).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.evaluation.attacks.base import FRESH, Attack, Brought, Victim, denoise
from diffusion.pipelines import add_noise
from diffusion.pipelines.base import noise_of
from diffusion.pipelines.stepping import level_after


@dataclass(frozen=True)
class Completion(Attack):
    """``done``: share of the sampler's steps that the image is given for."""

    done: float = 0.15
    needs_prompts = False
    name = "completion"

    def run(self, victim: Victim) -> Brought:
        start = min(victim.steps - 1, max(1, round(self.done * victim.steps)))
        noise, _ = victim.noise(victim.samples, FRESH)
        generator = torch.Generator().manual_seed(victim.seed * 1019 + 2)
        chosen = torch.randint(len(victim.references), (victim.samples,), generator=generator)
        x0 = victim.references[chosen].to(noise)
        t = torch.full((len(x0),), level_after(victim.denoiser, victim.steps, start), device=x0.device)
        x = add_noise(victim.denoiser, x0, noise, t)
        condition = victim.denoiser.condition([victim.anchor])
        return Brought(denoise(victim, x, condition, start=start), f"from step {start} of {victim.steps}")


@dataclass(frozen=True)
class NoiseInjection(Attack):
    """``multiples``: of the level's noise."""

    multiples: tuple[float, ...] = (0.05, 0.1, 0.2)
    needs_prompts = False
    name = "noise injection"

    def run(self, victim: Victim) -> Brought:
        tried = []
        for number, multiple in enumerate(self.multiples):
            share = victim.share(self.sampled(victim, multiple, victim.search, 300 + number))
            tried.append((share, -number, multiple))
        best = max(tried)
        detail = f"multiple {best[2]:g}, {best[0]:.2f} of {victim.search} in the search"
        return Brought(self.sampled(victim, best[2], victim.samples, FRESH), detail)

    def sampled(self, victim: Victim, multiple: float, count: int, salt: int) -> Tensor:
        """Under the concept's own prompts in turn, where there are prompts."""
        start, chances = victim.noise(count, salt)
        texts = [victim.prompts[j % len(victim.prompts)] if victim.prompts else victim.anchor for j in range(count)]
        denoiser = victim.denoiser

        def shaken(x: Tensor, t: Tensor) -> Tensor:
            fresh = noise_of(chances, x.shape[1:]).to(x)
            return x + multiple * denoiser.schedule(t)[1] * fresh

        return denoise(victim, start, denoiser.condition(texts), after_step=shaken, batch=count, salt=salt)
