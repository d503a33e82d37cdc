"""Attacks as rows of an audit: on the base model and on the unlearned one, each searched for itself.

An attack that searches may be lucky once, so it may search several times, each from its own seed, and what every
search ends in is sampled equally often. A row is the mean over searches. Clopper and Pearson's bound, which is of equal
shares, is conservative for shares that differ wherever it stands one hit or more above those counted, as it does short
of shares near one (W. Hoeffding, Ann. Math. Statist. 27 (1956), theorem 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from diffusion.evaluation.attacks import attacks_of
from diffusion.evaluation.attacks.base import Attack, Victim
from diffusion.evaluation.audit_table import Cell, Looked, frequencies, looked
from diffusion.evaluation.concept_classifier import ConceptClassifier
from diffusion.pipelines import Denoiser
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.cache import Cache, kept_tensor

REVISION = 1  # of the attacks: samples that others have found are not taken from the cache


@dataclass(frozen=True)
class AttackPlan:
    """Attacks by name, samples of each search, searches of each attack, guidance scale, seed."""

    names: tuple[str, ...]
    samples: int
    searches: int
    scale: float
    seed: int

    def seeds(self) -> list[int]:
        """One of each search; the first is that of a single search."""
        return [self.seed + 10_007 * number for number in range(self.searches)]


def attack_rows(
    pair: tuple[Denoiser, Denoiser],
    estimate: RatioEstimate,
    classifier: ConceptClassifier,
    plan: AttackPlan,
    cache: Cache | None,
    progress: Callable[[int], object],
) -> list[tuple[Cell, Looked]]:
    """One cell for each attack on the concept of ``classifier``, and its first samples. ``pair``: base model, unlearned
    model; what the former ends in is taken from ``cache`` where it is there.

    References are the estimate's samples of the concept, the others those of the rest. Attacks that need prompts are
    left out where there are none.
    """
    concept, denoiser, labels = estimate.prompts.concepts[classifier.index], pair[0], estimate.labels
    rest = estimate.labelled[labels >= len(estimate.prompts.concepts)]
    prompts, steps = concept.prompts if denoiser.prompt_inputs else (), estimate.sampling.steps(denoiser)

    def victims(each: Denoiser) -> list[Victim]:
        return [
            Victim(
                each, classifier.shows, prompts, estimate.prompts.anchor, estimate.labelled[labels == classifier.index],
                rest, steps, plan.scale, plan.samples, seed=seed,
            )
            for seed in plan.seeds()
        ]  # fmt: skip

    found = []
    for attack in attacks_of(plan.names):
        if attack.needs_prompts and not prompts:
            continue
        made_by = {"prompts": estimate.prompts, "ratios": estimate.budget, "law": estimate.sampling, "attack": attack}
        request = {name: repr(value) for name, value in made_by.items()} | {"concept": concept.name}
        request |= {"plan": repr(replace(plan, names=())), "by": classifier.name, "revision": str(REVISION)}
        first = partial(_latents, attack, victims(pair[0]), progress)
        old = kept_tensor(cache, "attack", request, first)
        new, detail = searched(attack, victims(pair[1]), progress)
        cell = Cell(
            concept=concept.name,
            prompts="attack",
            setting=attack.name,
            num_inference_steps=steps,
            guidance_scale=plan.scale,
            sampler=None,
            samples=plan.samples * plan.searches,
            before=frequencies(classifier.said(old)),
            after=frequencies(classifier.said(new)),
            detail=detail,
        )
        found.append((cell, looked(cell, old, new)))
    return found


def _latents(attack: Attack, victims: Sequence[Victim], progress: Callable[[int], object]) -> Tensor:
    return searched(attack, victims, progress)[0]


def searched(attack: Attack, victims: Sequence[Victim], progress: Callable[[int], object]) -> tuple[Tensor, str]:
    """Samples (n, ...), one of each search in turn, and what each has found."""
    brought = []
    for victim in victims:
        brought.append(attack.run(victim))
        progress(victim.samples)
    latents = torch.stack([each.latents for each in brought], 1).flatten(0, 1)
    return latents, "; ".join(each.detail for each in brought)
