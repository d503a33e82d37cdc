"""Attack and fit in turn: embeddings that bring a concept back become prompts that mean its anchor.

Each round searches the network as it stands by soft prompts (:mod:`diffusion.evaluation.attacks.soft_prompt`), from
several starts, keeps all that is found, and goes on with the fit under everything found so far
(:mod:`diffusion.methods.robustness`). What is found in a round says how the search of that round fared, and bounds
nothing: measure by an audit, whose searches start elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.evaluation.attacks.base import Victim
from diffusion.evaluation.attacks.soft_prompt import SoftPrompt
from diffusion.evaluation.audit import ConceptClassifier
from diffusion.methods.robustness import Adversary, KeptLaw, robust_objective
from diffusion.pipelines import Condition, Denoiser
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.files import say
from diffusion.tasks.config import FitConfig, Sampling
from diffusion.training.trainer import Trainer

SAMPLES = 64  # with the concept, and without, that searches and steps look at
SHARE = 0.25  # of a fit's steps, in each round
SEARCHED = 8  # samples that each embedding found is tried on


@dataclass(frozen=True)
class Threat:
    """A concept as an attacker meets it. ``shows``: samples (n, ...) to numbers (n,) in [0, 1]; ``references``,
    ``others``: samples (n, ...) of the base model with and without it."""

    name: str
    shows: Callable[[Tensor], NDArray[np.float64]]
    prompts: tuple[str, ...]
    anchor: str
    references: Tensor
    others: Tensor


@dataclass(frozen=True)
class RobustRound:
    """What a round found of one concept: the greatest share of a few samples that showed it, before its steps."""

    concept: str
    number: int
    share: float
    seconds: float


def check_robust(denoiser: Denoiser, fit: FitConfig, prompts: Sequence[Sequence[str]]) -> None:
    """Raise ``ValueError`` where there are no prompts to attack; ``prompts``: those of each concept."""
    if fit.robust_rounds and not (denoiser.prompt_inputs and all(prompts)):
        raise ValueError("robust_rounds: soft prompts need a pipeline with prompts, and every concept given by some")


def steps_of_round(fit: FitConfig) -> int:
    """Optimizer steps after each search."""
    return max(1, round(SHARE * fit.max_train_steps))


def threats_of(denoiser: Denoiser, estimate: RatioEstimate) -> list[Threat]:
    """By the ratio classifier; images of the concept are those that it was trained on."""
    prompts, rest = estimate.prompts, estimate.retained[0]
    return [
        Threat(
            concept.name,
            ConceptClassifier(denoiser, estimate, None, index).shows,
            concept.prompts,
            prompts.anchor,
            estimate.labelled[estimate.labels == index][:SAMPLES],
            (rest if len(rest) else estimate.anchor)[:SAMPLES],
        )
        for index, concept in enumerate(prompts.concepts)
    ]


def kept_of(estimate: RatioEstimate) -> KeptLaw:
    """The anchor's samples under the anchor, the empty prompt and the concepts' prompts in turn; retained prompts."""
    prompts, (latents, texts) = estimate.prompts, estimate.retained
    own = list(dict.fromkeys([prompts.anchor, "", *(text for each in prompts.concepts for text in each.prompts)]))
    asked = tuple(own[j % len(own)] for j in range(len(estimate.anchor)))
    return KeptLaw(torch.cat([estimate.anchor, latents]), asked + texts)


def harden(
    denoiser: Denoiser, threats: Sequence[Threat], kept: KeptLaw, fit: FitConfig, sampling: Sampling,
    attack: SoftPrompt | None = None,
) -> list[RobustRound]:  # fmt: skip
    """``fit.robust_rounds`` rounds on the student that is on the network, which stays active.

    Every round takes a quarter of the fit's steps, on its batch size, at half of its peak rate. ``FloatingPointError``
    where a loss is not finite.
    """
    attack, found = attack or SoftPrompt(), list[RobustRound]()
    parameters = [parameter for parameter in denoiser.network.parameters() if parameter.requires_grad]
    fitted = [parameter.detach().clone() for parameter in parameters]
    pools: list[list[Condition]] = [[] for _ in threats]
    settings = fit.but(max_train_steps=steps_of_round(fit), learning_rate=fit.peak_rate / 2, robust_rounds=0)
    for number in range(fit.robust_rounds):
        for index, threat in enumerate(threats):
            since = time.monotonic()
            seed = int(np.random.SeedSequence([fit.seed, 74, number, index]).generate_state(1)[0])
            victim = Victim(
                denoiser, threat.shows, threat.prompts, threat.anchor, threat.references, threat.others,
                sampling.steps(denoiser), sampling.scale(denoiser), search=SEARCHED, seed=seed,
            )  # fmt: skip
            tried = attack.candidates(victim)
            pools[index] += [each.condition for each in tried]
            share = max(each.share for each in tried)
            found.append(RobustRound(threat.name, number, share, time.monotonic() - since))
            say(f"round {number + 1} of attacks: {threat.name!r} in {share:.2f} of {victim.search} samples at best")
        adversaries = [
            Adversary(_together(pool), threat.anchor, threat.references, threat.others)
            for pool, threat in zip(pools, threats, strict=True)
        ]
        objective = robust_objective(denoiser, adversaries, kept, parameters, fitted, fit.train_batch_size)
        trainer = Trainer(denoiser.network, parameters, objective, settings.but(seed=fit.seed + 1 + number))
        trainer.run()
        trainer.finish()
    return found


def _together(pool: Sequence[Condition]) -> Condition:
    return {name: torch.cat([each[name] for each in pool]) for name in pool[0]}
