r"""The optimal target of a detector's level, exactly and without training: draw, look, and draw again.

::

    x ~ q_c,   keep it with probability e^{-lam·l(x) - s},   else draw again     ->     x ~ p_c = q_c e^{-lam·l}/Z_c

for detectors l in [0, 1] under any sampler, any prompt c, any guidance scale; s = sum of max(0, -lam_i), the most that
-lam·l can be where multipliers are negative, which those of what is kept are. Costs e^s/Z_c samples each in the mean.
As lam grows this is a safety checker that draws again, which is the optimum for that checker at level 0; so it is the
yardstick of every guided, particle or fitted sampler, and what a LoRA replaces where weights are given away.

Source: rejection sampling, von Neumann (1951); theory, the target of Likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.pipelines import Denoiser
from diffusion.ratios.detected import detect, sample_prompts
from diffusion.tasks.config import Sampling
from diffusion.tasks.detectors import CheckedDetector
from diffusion.tasks.prompts import Prompts

ROUNDS = 200  # of drawing again what was not kept


@dataclass(frozen=True)
class Rejection:
    """``latents`` (n, ...) of the target, and how many samples were ``drawn`` for them."""

    latents: Tensor
    drawn: int


def rejection_samples(
    denoiser: Denoiser,
    prompts: Prompts,
    chosen: NDArray[np.int64],
    sampling: Sampling,
    rule: tuple[Sequence[CheckedDetector], NDArray[np.float64]],
    *,
    seed: int,
    rounds: int = ROUNDS,
    progress: Callable[[int], object] | None = None,
) -> Rejection:
    """Samples of the target under prompts by number (n,); ``rule``: detectors and their multipliers (m,), of
    :func:`diffusion.tasks.detector_levels.strengths` where levels are several.

    The first draw is what :func:`diffusion.pipelines.sampling.sample_latents` makes from ``seed``: what is kept of it
    is the base model's own sample from that noise.

    Raises ``ValueError`` where some are still not kept after so many rounds: a prompt all of whose images show the
    concept has no target but that of an anchor.
    """
    detectors, multipliers = rule
    most = float(np.maximum(0.0, -np.asarray(multipliers)).sum())
    result: Tensor | None = None
    pending, drawn = np.arange(len(chosen)), 0
    for turn in range(rounds):
        words = np.random.SeedSequence([seed, turn]).generate_state(2, np.uint64)
        noise = int(words[0] >> np.uint64(2)) if turn else seed
        latents = sample_prompts(denoiser, prompts, chosen[pending], sampling, seed=noise)
        drawn += len(pending)
        weight = np.exp(-detect(denoiser.pipeline, latents, detectors).numpy() @ multipliers - most)
        keep = np.random.default_rng(int(words[1])).random(len(pending)) < weight
        if result is None:
            result = torch.empty(len(chosen), *latents.shape[1:])
        result[torch.from_numpy(pending[keep])] = latents[torch.from_numpy(np.flatnonzero(keep))]
        if progress is not None:
            progress(int(keep.sum()))
        pending = pending[~keep]
        if not len(pending):
            return Rejection(result, drawn)
    prompt = prompts.sampled[int(chosen[pending[0]])]
    raise ValueError(
        f"prompt {prompt!r}: {len(pending)} of {len(chosen)} samples were rejected {rounds} times, nearly all of its "
        "images show the concept; give it an anchor"
    )
