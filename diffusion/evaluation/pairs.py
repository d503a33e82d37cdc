"""Samples before and after from common noise under common prompts: to be looked at, and counted nowhere."""

from __future__ import annotations

from diffusion.evaluation.fresh import fresh_seed
from diffusion.evaluation.samples import SampleSet, take_samples
from diffusion.pipelines import Denoiser
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.progress import Bar
from diffusion.tasks.config import EvaluationConfig
from diffusion.training.lora import base_model, merged_adapters

PAIR_PROMPTS, PAIR_IMAGES = 3, 8  # of the concepts and of the retained prompts: at most so many, and images of each
PAIRED = "LoRA, from the same noise"  # under the anchor, from the noise of q's own samples
PAIRS = ("before, pairs", "LoRA, pairs")
LOOKED_AT = (PAIRED, *PAIRS)


def looked_at(denoiser: Denoiser, estimate: RatioEstimate, config: EvaluationConfig, bar: Bar) -> dict[str, SampleSet]:
    """All that is sampled where nothing is measured: a strip of images before and after for each of a few prompts."""
    pipeline, noise, steps = denoiser.pipeline, estimate.budget.anchor_seed, estimate.sampling.steps(denoiser)
    before = estimate.anchor[:PAIR_IMAGES]
    anchor = [estimate.prompts.anchor] * len(before)
    with bar("samples from the same noise", len(anchor)) as shown, merged_adapters(denoiser):
        after = sample_latents(pipeline, anchor, seed=noise, steps=steps, progress=shown.update)
    latents = {"before, anchor": before, PAIRED: after}
    found = {name: take_samples(name, pipeline, anchor, some, None, noise) for name, some in latents.items()}
    return found | pairs(denoiser, estimate, PAIR_IMAGES, fresh_seed(config, estimate, 30), bar)


def pairs(denoiser: Denoiser, estimate: RatioEstimate, count: int, seed: int, bar: Bar) -> dict[str, SampleSet]:
    """``count`` samples of both networks under each of a few prompts; none where there are no prompts."""
    asked = dict.fromkeys(text for concept in estimate.prompts.concepts for text in concept.prompts)
    kept = dict.fromkeys(estimate.retained[1])
    some = [text for texts in (asked, kept) for text in list(texts)[:PAIR_PROMPTS] for _ in range(count)]
    if not some:
        return {}
    pipeline, steps = denoiser.pipeline, estimate.sampling.steps(denoiser)
    found = {}
    with bar("samples side by side", 2 * len(some)) as shown:
        for name in PAIRS:
            with base_model(denoiser) if name == PAIRS[0] else merged_adapters(denoiser):
                latents = sample_latents(pipeline, some, seed=seed, steps=steps, progress=shown.update)
            found[name] = take_samples(name, pipeline, some, latents, None, seed)
    return found
