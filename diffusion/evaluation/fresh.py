"""What an evaluation asks a network for, and seeds that nothing before it has used."""

from __future__ import annotations

import numpy as np

from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.tasks.config import EvaluationConfig


def wanted_prompts(config: EvaluationConfig, estimate: RatioEstimate) -> dict[str, list[str]]:
    """What is asked for: the anchor, each concept in its paraphrases in turn, retained prompts; no empty lists."""
    count = config.concept_samples or config.samples
    asking = [c.prompts[j % len(c.prompts)] for c in estimate.prompts.concepts if c.prompts for j in range(count)]
    every = estimate.retained[1]
    kept = [every[j % len(every)] for j in range(config.retained_samples)] if every else []
    wanted = {"anchor": [estimate.prompts.anchor] * config.samples, "concept": asking, "retained": kept}
    return {name: some for name, some in wanted.items() if some}


def fresh_seed(config: EvaluationConfig, estimate: RatioEstimate, index: int) -> int:
    """Of samples that share no noise with the estimate, the fit, or each other."""
    words = np.random.SeedSequence([config.seed, estimate.budget.seed, index]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(2))
