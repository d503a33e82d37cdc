r"""Does it come back by itself? How often a concept is there after training that has nothing to do with it.

A fresh adapter is fitted by plain denoising to samples of the base model that show none of the concepts, under the
anchor, and the concept is counted under its own prompts after s steps::

    fine-tuned   the unlearned model is fine-tuned so
    stacked      the base model is, and its adapter is then put onto the unlearned model, as people stack LoRAs

Nothing teaches the concept here, so what returns was only covered. Needs no control: the curve at step 0 is one.

Source: Suriyakumar et al., arXiv:2410.08074.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor

from diffusion.evaluation.relearning import Arm, Curve, RelearnConfig, teach
from diffusion.pipelines import Denoiser
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.progress import Bar


class ShowsConcept(Protocol):
    """Says whether samples show concept ``index``."""

    index: int

    def shows(self, latents: Tensor) -> np.ndarray: ...


def harmless(estimate: RatioEstimate, relearn_config: RelearnConfig, seed: int) -> list[Tensor]:
    """One set (images, ...) a seed, of that half of the anchor's samples that shows the concepts least.

    Raises ``ValueError`` where the half holds fewer samples than images are asked for.
    """
    shown = estimate.posterior.max(1).values.numpy()
    pool = estimate.anchor[np.argsort(shown, kind="stable")[: len(shown) // 2].copy()]
    if len(pool) < relearn_config.images:
        raise ValueError(
            f"images: {relearn_config.images} asked for, but half of the estimate's samples are {len(pool)}"
        )
    rng = np.random.default_rng([seed, 1])
    return [pool[rng.choice(len(pool), relearn_config.images, replace=False)] for _ in range(relearn_config.seeds)]


def resurgence(
    before: Denoiser,
    after: Denoiser,
    estimate: RatioEstimate,
    classifier: ShowsConcept,
    relearn_config: RelearnConfig,
    seed: int,
    bar: Bar,
) -> tuple[Curve, Curve]:
    """The two arms above for one concept: of ``after``, the unlearned model, and of ``before`` stacked onto it."""
    prompts = estimate.prompts
    asked = prompts.concepts[classifier.index].prompts or (prompts.anchor,)
    sets = harmless(estimate, relearn_config, seed)
    steps, count = estimate.sampling.steps(after), 2 * relearn_config.seeds * len(relearn_config.steps)
    found = []
    with bar("harmless training", count * relearn_config.samples) as shown:
        for name, taught, onto in (("fine-tuned", after, None), ("stacked", before, after)):
            arm = Arm(f"{name}: other images, then its paraphrases", sets, prompts.anchor, classifier.shows, asked)
            found.append(teach(taught, arm, relearn_config, steps, seed=seed + 500, onto=onto, progress=shown.update))
    return found[0], found[1]
