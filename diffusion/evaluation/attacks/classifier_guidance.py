r"""Guidance towards the concept by a classifier of the attacker's own, trained on noised images.

::

    x <- x + s noise(t)^2 grad log h(x, t)        after every step, h(x, t) = Pr(concept | x_t)

h a small network on the state, pooled to at most 8x8, and its log SNR, trained on images with and without the concept;
the victim's network is not asked for it. s is the one of a few whose samples show the concept most often, sampled
afresh. A strong pull can paint what a detector sees onto anything: read the base model's row beside it.

Source: Dhariwal, Nichol, Diffusion Models Beat GANs (NeurIPS 2021); as a probe of erasure arXiv:2505.17013.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits

from diffusion.evaluation.attacks.base import FRESH, Attack, Brought, Victim, denoise
from diffusion.pipelines import Denoiser, add_noise
from diffusion.pipelines.base import device_of
from diffusion.ratios.classifier import log_snr
from diffusion.runtime.seeds import seeded_weights
from diffusion.training.batches import spread_levels

SIDE = 8


class NoisedClassifier(nn.Module):
    """Log odds (n,) that states (n, ...) at log SNR (n,) come from the concept."""

    def __init__(self, shape: tuple[int, ...], width: int = 128) -> None:
        super().__init__()
        size = shape[0] * min(SIDE, shape[1]) * min(SIDE, shape[2]) if len(shape) == 3 else shape[0] * shape[1]
        self.layers = nn.Sequential(
            nn.Linear(size + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor, snr: Tensor) -> Tensor:
        if x.ndim == 4:
            x = adaptive_avg_pool2d(x, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3])))
        return cast(Tensor, self.layers(torch.cat([x.flatten(1), snr[:, None] / 5], 1))[:, 0])


def train_classifier(denoiser: Denoiser, positive: Tensor, negative: Tensor, steps: int, seed: int) -> NoisedClassifier:
    """By cross-entropy at all noise levels, half of every batch of each kind."""
    with seeded_weights(seed):
        classifier = NoisedClassifier(denoiser.sample_shape)
    classifier = classifier.to(device_of(denoiser))
    optimizer, generator = torch.optim.Adam(classifier.parameters(), lr=2e-3), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        some = [torch.randint(len(each), (32,), generator=generator) for each in (positive, negative)]
        x0 = torch.cat([positive[some[0]], negative[some[1]]]).to(device_of(denoiser))
        t = spread_levels(denoiser, len(x0), generator).to(x0.device)
        x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator).to(x0), t)
        label = torch.cat([torch.ones(32), torch.zeros(32)]).to(x0)
        loss = binary_cross_entropy_with_logits(classifier(x, log_snr(denoiser, t).to(x)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval().requires_grad_(False)


@dataclass(frozen=True)
class ClassifierGuidance(Attack):
    """``strengths``: s; ``steps``: of the classifier's training."""

    strengths: tuple[float, ...] = (0.3, 1.0, 3.0)
    steps: int = 300
    needs_prompts = False
    name = "own classifier"

    def run(self, victim: Victim) -> Brought:
        classifier = train_classifier(victim.denoiser, victim.references, victim.others, self.steps, victim.seed)
        tried = []
        for number, strength in enumerate(self.strengths):
            share = victim.share(self.sampled(victim, classifier, strength, victim.search, 400 + number))
            tried.append((share, -number, strength))
        best = max(tried)
        detail = f"strength {best[2]:g}, {best[0]:.2f} of {victim.search} in the search"
        return Brought(self.sampled(victim, classifier, best[2], victim.samples, FRESH), detail)

    def sampled(self, victim: Victim, classifier: NoisedClassifier, strength: float, count: int, salt: int) -> Tensor:
        """Under the anchor, pulled."""
        denoiser = victim.denoiser

        def pulled(x: Tensor, t: Tensor) -> Tensor:
            with torch.enable_grad():
                at = x.detach().requires_grad_()
                logits = classifier(at, log_snr(denoiser, t).to(at))
                (slope,) = torch.autograd.grad(nn.functional.logsigmoid(logits).sum(), at)
            return x + strength * denoiser.schedule(t)[1].square() * slope

        start, condition = victim.noise(count, salt)[0], denoiser.condition([victim.anchor])
        return denoise(victim, start, condition, after_step=pulled, salt=salt)
