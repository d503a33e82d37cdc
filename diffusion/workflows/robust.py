"""Attack and fit in turn: embeddings that bring a concept back become prompts that mean its anchor.

Each round searches the network as it stands by soft prompts (:mod:`diffusion.evaluation.attacks.soft_prompt`), from
several starts, keeps all that they have found and where they passed, and goes on with the fit under everything found so
far, and around it (:mod:`diffusion.methods.robustness`). The search itself knows of no guidance scale; what it has
found is looked at under the scale of an audit. That says how the search of a round fared, and bounds nothing: measure
by an audit, whose searches start elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.evaluation.attacks.base import Victim
from diffusion.evaluation.attacks.soft_prompt import SoftPrompt
from diffusion.evaluation.concept_classifier import ConceptClassifier
from diffusion.methods.robustness import Adversary, KeptLaw, robust_objective
from diffusion.pipelines import Condition, Denoiser
from diffusion.pipelines.base import device_of
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.cache import Cache
from diffusion.runtime.files import say
from diffusion.runtime.tensor_files import digest_of
from diffusion.tasks.config import FitConfig, Sampling
from diffusion.training.trainer import Trainer

REVISION = 2  # of a round: what another formula has made is not taken from the cache
SAMPLES = 64  # with the concept, and without, that searches and steps look at
SHARE = 1 / 3  # of a fit's steps, in each round
SEARCHED = 8  # samples that each embedding found is tried on
SCALE = 3.0  # guidance scale of these, as an audit's attacks have, where there is guidance and the law's is no greater


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

    @property
    def asked(self) -> tuple[str, tuple[str, ...], str]:
        """In words."""
        return self.name, self.prompts, self.anchor


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
    attack: SoftPrompt | None = None, cache: Cache | None = None,
) -> list[RobustRound]:  # fmt: skip
    """``fit.robust_rounds`` rounds on the student that is on the network, which stays active.

    Every round takes a third of the fit's steps, on its batch size, at half of its peak rate, and is kept in ``cache``
    once it is done. ``FloatingPointError`` where a loss is not finite.
    """
    rounds = _Rounds(denoiser, threats, kept, fit, sampling, attack or SoftPrompt(), cache)
    for number in range(fit.robust_rounds):
        rounds.round(number)
    return rounds.found


class _Rounds:
    """What is found, by concept, and the student, from round to round."""

    def __init__(
        self, denoiser: Denoiser, threats: Sequence[Threat], kept: KeptLaw, fit: FitConfig, sampling: Sampling,
        attack: SoftPrompt, cache: Cache | None,
    ) -> None:  # fmt: skip
        self.denoiser, self.threats, self.kept, self.fit, self.attack = denoiser, threats, kept, fit, attack
        self.steps, own = sampling.steps(denoiser), sampling.scale(denoiser)
        self.scale = max(SCALE, own) if denoiser.classifier_free else own
        self.parameters = [parameter for parameter in denoiser.network.parameters() if parameter.requires_grad]
        self.fitted = [parameter.detach().clone() for parameter in self.parameters]
        self.found = list[RobustRound]()
        self.pools: list[list[Condition]] = [[] for _ in threats]
        self.cache, asked = cache, [each.asked for each in threats]
        made_by = (fit.but(robust_rounds=0), sampling, self.scale, attack, asked, kept.prompts)
        data = {f"value.{j}": value for j, value in enumerate(self.fitted)} | {"kept": kept.latents}
        for k, each in enumerate(threats):
            data |= {f"with.{k}": each.references, f"without.{k}": each.others}
        # All that a round depends on but its number and what those before it have done, which this decides, too.
        self.request = {"made by": repr(made_by), "digest": digest_of(data, {}), "revision": REVISION}

    def round(self, number: int) -> None:
        """Search and fit, or what they gave when they were done before."""
        if self.cache is None:
            made = self.made(number)
        else:
            made = self.cache.get("round", self.request | {"round": number}, partial(self.made, number))
        with torch.no_grad():
            for j, parameter in enumerate(self.parameters):
                parameter.copy_(made[f"parameter.{j}"])
        for k, threat in enumerate(self.threats):
            start, device = f"found.{k}.", device_of(self.denoiser)  # what is kept lies on the CPU
            passed = {name.removeprefix(start): v for name, v in made.items() if name.startswith(start)}
            self.pools[k].append({name: value.to(device) for name, value in passed.items()})
            share, seconds = made[f"told.{k}"].tolist()
            self.found.append(RobustRound(threat.name, number, share, seconds))
            say(f"round {number + 1} of attacks: {threat.name!r} in {share:.2f} of {SEARCHED} samples at best")

    def made(self, number: int) -> dict[str, Tensor]:
        """The parameters after a round, what its search has found and where it has passed, best share and seconds."""
        out, pools = dict[str, Tensor](), list[list[Condition]]()
        for k in range(len(self.threats)):
            since, tried = time.monotonic(), self.attack.candidates(self.victim(number, k))
            passed = _together([each.passed for each in tried])
            out |= {f"found.{k}.{name}": value for name, value in passed.items()}
            told = [max(each.share for each in tried), time.monotonic() - since]
            out[f"told.{k}"] = torch.tensor(told, dtype=torch.float64)
            pools.append([*self.pools[k], passed])
        fit, adversaries = self.fit, [
            Adversary(_together(pool), threat.anchor, threat.references, threat.others)
            for pool, threat in zip(pools, self.threats, strict=True)
        ]  # fmt: skip
        settings = fit.but(
            max_train_steps=steps_of_round(fit), learning_rate=fit.peak_rate / 2, robust_rounds=0,
            seed=fit.seed + 1 + number,
        )  # fmt: skip
        objective = robust_objective(
            self.denoiser, adversaries, self.kept, self.parameters, self.fitted, fit.train_batch_size
        )
        for parameter in self.parameters:
            parameter.data = parameter.data.float()  # as in the fit; the trainer puts a half network's back
        trainer = Trainer(self.denoiser.network, self.parameters, objective, settings)
        trainer.run()
        trainer.finish()
        return out | {f"parameter.{j}": parameter.detach().clone() for j, parameter in enumerate(self.parameters)}

    def victim(self, number: int, index: int) -> Victim:
        """The student as it stands, for a search that no other has the seed of."""
        threat = self.threats[index]
        return Victim(
            self.denoiser, threat.shows, threat.prompts, threat.anchor, threat.references, threat.others,
            self.steps, self.scale, search=SEARCHED,
            seed=int(np.random.SeedSequence([self.fit.seed, 74, number, index]).generate_state(1)[0]),
        )  # fmt: skip


def _together(pool: Sequence[Condition]) -> Condition:
    return {name: torch.cat([each[name] for each in pool]) for name in pool[0]}
