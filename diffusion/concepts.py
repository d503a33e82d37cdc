"""What is to be unlearned, in prompts: the concepts with their wordings, what stands for the rest, and the anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


def normalised(prompt: str) -> str:
    """Lower case, single spaces: prompts that differ in nothing else ask for the same thing."""
    return " ".join(prompt.lower().split())


@dataclass(frozen=True)
class Concept:
    """One thing to unlearn: every wording that asks for it, and its share ``prior`` of what the model makes unasked."""

    wordings: tuple[str, ...]
    prior: float

    def __post_init__(self) -> None:
        if not self.wordings or any(not wording.strip() for wording in self.wordings):
            raise ValueError(f"a concept must be given by prompts that are not empty, got {list(self.wordings)!r}")
        if not 0 < self.prior < 1:
            raise ValueError(f"prior must lie strictly between 0 and 1, got {self.prior}")

    @property
    def name(self) -> str:
        return self.wordings[0]


@dataclass(frozen=True)
class Prompts:
    """The prompts of an unlearning task.

    ``contrast``: what stands for the rest of the model's law, group by group (a group's prompts are wordings of one
    thing); ``anchor``: what a prompt that asks for a concept falls back to (theory: such a prompt cannot be tilted, all
    of its draws show the concept, so its target is the tilted anchor).
    """

    concepts: tuple[Concept, ...]
    contrast: tuple[tuple[str, ...], ...]
    anchor: str = ""
    _asking: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.concepts:
            raise ValueError("concepts must hold at least one concept, got none")
        if not self.contrast or any(not group for group in self.contrast):
            raise ValueError("contrast must hold at least one group of prompts that stand for the rest, got none")
        if sum(concept.prior for concept in self.concepts) >= 1:
            raise ValueError("the priors of all concepts together must stay below 1")
        for index, concept in enumerate(self.concepts):
            for wording in concept.wordings:
                if self._asking.setdefault(normalised(wording), index) != index:
                    raise ValueError(f"prompt {wording!r} asks for two concepts: each needs wordings of its own")
        for prompt in (*self.retained, self.anchor):
            if normalised(prompt) in self._asking:
                raise ValueError(f"prompt {prompt!r} asks for a concept, so it can be neither contrast nor anchor")

    def asks_for(self, prompt: str) -> int | None:
        """The index of the concept whose wording a prompt is, or None."""
        return self._asking.get(normalised(prompt))

    def replace(self, prompts: Sequence[str]) -> list[str]:
        """The prompts with every wording of a concept replaced by the anchor."""
        return [self.anchor if self.asks_for(prompt) is not None else prompt for prompt in prompts]

    @property
    def priors(self) -> tuple[float, ...]:
        return tuple(concept.prior for concept in self.concepts)

    @property
    def retained(self) -> tuple[str, ...]:
        return tuple(prompt for group in self.contrast for prompt in group)

    def labelled(self, concept_draws: int, contrast_draws: int) -> tuple[list[str], list[int]]:
        """Prompts for draws whose label is known by construction, and the labels: concept i, or m for the rest.

        Wordings take turns within each concept and each group, and groups take turns within the rest.
        """
        prompts: list[str] = []
        labels: list[int] = []
        for index, concept in enumerate(self.concepts):
            prompts += [concept.wordings[j % len(concept.wordings)] for j in range(concept_draws)]
            labels += [index] * concept_draws
        for j in range(contrast_draws):
            group = self.contrast[j % len(self.contrast)]
            prompts.append(group[(j // len(self.contrast)) % len(group)])
            labels.append(len(self.concepts))
        return prompts, labels
