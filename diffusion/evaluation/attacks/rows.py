"""Attacks as rows of an audit: on the base model and on the unlearned one, each searched for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion.evaluation.attacks import attacks_of
from diffusion.evaluation.attacks.base import Victim
from diffusion.evaluation.audit_table import Cell, Looked, frequencies, looked
from diffusion.pipelines import Denoiser
from diffusion.ratios.ratio_estimate import RatioEstimate

Said = Callable[[Tensor], dict[str, NDArray[np.float64]]]


def attack_rows(
    pair: tuple[Denoiser, Denoiser],
    estimate: RatioEstimate,
    index: int,
    detector: tuple[Said, Callable[[Tensor], NDArray[np.float64]]],
    names: Sequence[str],
    settings: tuple[int, float, int],
    progress: Callable[[int], object],
) -> list[tuple[Cell, Looked]]:
    """One cell for each attack on concept ``index``, and its first samples. ``pair``: base model, unlearned model.
    ``detector``: what each classifier says of samples, and the one number in [0, 1] that searches go by. ``settings``:
    samples, guidance scale, seed.

    References are the estimate's samples of the concept, the others those of the rest. Attacks that need prompts are
    left out where there are none.
    """
    samples, scale, seed = settings
    concept, denoiser = estimate.prompts.concepts[index], pair[0]
    rest = estimate.labelled[estimate.labels >= len(estimate.prompts.concepts)]
    prompts = concept.prompts if denoiser.prompt_inputs else ()
    found = []
    for attack in attacks_of(names):
        if attack.needs_prompts and not prompts:
            continue
        brought = [
            attack.run(
                Victim(
                    each, detector[1], prompts, estimate.prompts.anchor, estimate.labelled[estimate.labels == index],
                    rest, estimate.sampling.steps(denoiser), scale, samples, seed=seed,
                )
            )
            for each in pair
        ]  # fmt: skip
        progress(2 * samples)
        old, new = (frequencies(detector[0](each.latents)) for each in brought)
        cell = Cell(
            concept=concept.name,
            prompts="attack",
            setting=attack.name,
            num_inference_steps=estimate.sampling.steps(denoiser),
            guidance_scale=scale,
            sampler=None,
            samples=samples,
            before=old,
            after=new,
            detail=brought[1].detail,
        )
        found.append((cell, looked(cell, brought[0].latents, brought[1].latents)))
    return found
