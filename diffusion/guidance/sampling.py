"""Samples of the guided law: the optimal target without training."""

from __future__ import annotations

from torch import Tensor

from diffusion.guidance.guided import Guided, Strength
from diffusion.pipelines import Denoiser
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.progress import Bar, progress_bar


def guided_samples(
    denoiser: Denoiser,
    estimate: RatioEstimate,
    strength: Strength,
    prompts: list[str],
    *,
    seed: int,
    bar: Bar = progress_bar,
    title: str = "guided samples",
) -> Tensor:
    """Latents of the guided law under the given prompts; no training."""
    with Guided(denoiser, estimate.prompts, estimate.classifier, strength), bar(title, len(prompts)) as shown:
        return sample_latents(
            denoiser.pipeline, prompts, seed=seed, steps=estimate.sampling.steps(denoiser), progress=shown.update
        )
