"""Attacks on an unlearned pipeline, by name: small searches that end in fresh samples, to be counted exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffusion.evaluation.attacks.base import Attack, Brought, Victim
from diffusion.evaluation.attacks.classifier_guidance import ClassifierGuidance
from diffusion.evaluation.attacks.completion import Completion, NoiseInjection
from diffusion.evaluation.attacks.concept_vector import ConceptVector
from diffusion.evaluation.attacks.soft_prompt import SoftPrompt
from diffusion.evaluation.attacks.token_search import TokenSearch

#: Name to what makes the attack, without arguments.
ATTACKS: dict[str, Callable[[], Attack]] = {
    "soft-prompt": SoftPrompt,
    "token-search": TokenSearch,
    "concept-vector": ConceptVector,
    "completion": Completion,
    "noise-injection": NoiseInjection,
    "own-classifier": ClassifierGuidance,
}


def attacks_of(names: Sequence[str]) -> list[Attack]:
    """Those named; ``all`` for every one. ``ValueError`` for a name that is not known."""
    for name in names:
        if name != "all" and name not in ATTACKS:
            raise ValueError(f"attack must be one of all, {', '.join(ATTACKS)}, got {name!r}")
    chosen = ATTACKS if "all" in names else dict.fromkeys(names)
    return [ATTACKS[name]() for name in chosen]


__all__ = [
    "ATTACKS",
    "Attack",
    "Brought",
    "ClassifierGuidance",
    "Completion",
    "ConceptVector",
    "NoiseInjection",
    "SoftPrompt",
    "TokenSearch",
    "Victim",
    "attacks_of",
]
