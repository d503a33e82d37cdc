"""Images of a law of prompts before and after, from the same noise under the same prompts: to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion.pipelines import Denoiser
from diffusion.pipelines.latents import decode
from diffusion.ratios.detected import DetectedSamples, sample_prompts
from diffusion.tasks.config import EvaluationConfig
from diffusion.tasks.prompts import Prompts
from diffusion.training.lora import base_model, merged_adapters

SHOWN = 48  # images before, and as many after
FEW_SHOWN = 16  # of a run that measures nothing


@dataclass(frozen=True)
class Shown:
    """Images (k, c, height, width) before and after from common noise, and their prompts (k,)."""

    prompts: tuple[str, ...]
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def shown_count(prompts: Prompts, evaluation: EvaluationConfig) -> int:
    """How many images there are before, and as many after."""
    return min(SHOWN if evaluation.samples else FEW_SHOWN, max(8, len(prompts)))


def looked_at(estimate: DetectedSamples, count: int) -> NDArray[np.int64]:
    """Prompts (count,) by number: all of them in turn, where there are no more.

    Of a longer law half, as far as there are so many, are those that ask for what is to be rarer: that have an anchor,
    or showed it before at least half as often as the prompt that showed it most. The rest are others; both are spread
    evenly over the law.
    """
    prompts = estimate.prompts
    asked = np.flatnonzero(prompts.probabilities > 0)
    if len(asked) <= count:
        return np.resize(asked, count)
    rarer = sorted({each.column for each in estimate.constraints if each.side == "upper"})
    showed = estimate.detected[:, rarer].sum(1)
    size = torch.bincount(estimate.rows, minlength=len(prompts)).clamp_min(1)
    share = (torch.bincount(estimate.rows, showed, minlength=len(prompts)) / size).numpy()
    share = np.where([each.anchor is not None for each in prompts.prompts], max(1.0, share.max()), share)[asked]
    asking = (share > 0) & (share >= share.max() / 2)
    few = min(int(asking.sum()), max(count // 2, count - int((~asking).sum())))
    return np.sort(np.concatenate([_spread(asked[asking], few), _spread(asked[~asking], count - few)]))


def _spread(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """So many of them, at most all, evenly over their order."""
    return values[np.arange(count) * len(values) // max(1, count)]


def before_and_after(denoiser: Denoiser, estimate: DetectedSamples, seed: int, evaluation: EvaluationConfig) -> Shown:
    """Prompts as they are asked, of the base model and of the fitted one."""
    prompts = estimate.prompts
    chosen = looked_at(estimate, shown_count(prompts, evaluation))
    images = []
    for context in (base_model(denoiser), merged_adapters(denoiser)):
        with context:
            some = sample_prompts(denoiser, prompts, chosen, estimate.sampling, seed=seed, own=True)
        images.append(decode(denoiser.pipeline, some).astype(np.float32))
    return Shown(tuple(prompts.texts[int(j)] for j in chosen), *images)
