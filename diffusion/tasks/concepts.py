"""What is to be unlearned: the concepts with their paraphrases or images, the contrast, and the anchor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffusion.tasks.prompts import normalised as normalised


class Examples:
    """Samples (k, ...) that show a concept, where no prompt asks for it: the law q_i is known by these alone.

    Two are equal where their values are, and ``repr`` tells unequal ones apart, so that they can stand in a request to
    a cache. :func:`diffusion.pipelines.images.read_images` and :func:`diffusion.pipelines.latents.encode` make samples
    of images. Raises ``ValueError`` for fewer than ten samples (a fifth of them validates the classifier), or values
    that are not finite.
    """

    LEAST = 10

    def __init__(self, samples: Tensor, name: str = "the given images") -> None:
        if samples.ndim < 2 or len(samples) < self.LEAST:
            raise ValueError(
                f"examples must hold at least {self.LEAST} samples (k, ...), got shape {tuple(samples.shape)}"
            )
        if not bool(torch.isfinite(samples).all()):
            raise ValueError("examples must be finite")
        self.samples, self.name = samples.detach().float().cpu().contiguous(), name
        self.digest = hashlib.sha256(self.samples.numpy().tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"Examples({self.name!r}, {tuple(self.samples.shape)}, {self.digest})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Examples) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __deepcopy__(self, _memo: dict[int, Any]) -> Examples:
        return self  # nobody changes it, and `asdict` would copy every sample


@dataclass(frozen=True)
class ConceptLaw:
    """One thing to unlearn: every paraphrase that asks for it, and its share ``prior`` of unconditional samples.

    ``examples`` show it where no paraphrase asks for it (then ``paraphrases`` is empty). ``prior`` None: to be
    estimated from samples of the model (:mod:`diffusion.ratios.priors`).
    """

    prompts: tuple[str, ...]
    prior: float | None
    examples: Examples | None = None

    def __post_init__(self) -> None:
        if any(not paraphrase.strip() for paraphrase in self.prompts) or not (self.prompts or self.examples):
            raise ValueError(f"a concept must be given by prompts that are not empty, got {list(self.prompts)!r}")
        if self.prompts and self.examples:
            raise ValueError(f"a concept must be given by prompts or by examples, got both for {self.prompts[0]!r}")
        if self.prior is not None and not 0 < self.prior < 1:
            raise ValueError(f"prior must lie strictly between 0 and 1, got {self.prior}")

    @property
    def name(self) -> str:
        return self.examples.name if self.examples else self.prompts[0]


@dataclass(frozen=True)
class TaskPrompts:
    """The prompts of an unlearning task.

    ``contrast``: the other prompts of the model's law, group by group (a group's prompts are paraphrases of one
    thing); ``anchor``: what a prompt that asks for a concept falls back to (theory: such a prompt cannot be tilted, all
    of its samples show the concept, so its target is the tilted anchor); ``unlabelled``: samples of q stand for the
    rest as well, or alone, without anybody saying what they show.
    """

    concepts: tuple[ConceptLaw, ...]
    contrast: tuple[tuple[str, ...], ...]
    anchor: str = ""
    unlabelled: bool = False
    _asking: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.concepts:
            raise ValueError("concepts must hold at least one concept, got none")
        if not (self.contrast or self.unlabelled) or any(not group for group in self.contrast):
            raise ValueError("contrast must hold at least one group of retained prompts, got none")
        given = [concept.prior for concept in self.concepts if concept.prior is not None]
        if 0 < len(given) < len(self.concepts):
            raise ValueError("priors must be given for all concepts or for none of them")
        if sum(given) >= 1:
            raise ValueError("the priors of all concepts together must stay below 1")
        for index, concept in enumerate(self.concepts):
            for paraphrase in concept.prompts:
                if self._asking.setdefault(normalised(paraphrase), index) != index:
                    raise ValueError(f"prompt {paraphrase!r} asks for two concepts: each needs paraphrases of its own")
        for prompt in (*self.retained, self.anchor):
            if normalised(prompt) in self._asking:
                raise ValueError(f"prompt {prompt!r} asks for a concept, so it can be neither contrast nor anchor")

    def asks_for(self, prompt: str) -> int | None:
        """The index of the concept whose paraphrase a prompt is, or None."""
        return self._asking.get(normalised(prompt))

    def replace(self, prompts: Sequence[str]) -> list[str]:
        """The prompts with every paraphrase of a concept replaced by the anchor."""
        return [self.anchor if self.asks_for(prompt) is not None else prompt for prompt in prompts]

    @property
    def has_priors(self) -> bool:
        """Whether every prior is known."""
        return all(concept.prior is not None for concept in self.concepts)

    @property
    def priors(self) -> tuple[float, ...]:
        """(m,); ``ValueError`` where they are still to be estimated."""
        found = tuple(concept.prior for concept in self.concepts if concept.prior is not None)
        if len(found) < len(self.concepts):
            raise ValueError("priors are not known yet: estimate the ratios first")
        return found

    def with_priors(self, priors: Sequence[float]) -> TaskPrompts:
        """The same prompts with these priors (m,). ``ValueError`` for another number of them, or none in (0, 1)."""
        if len(priors) != len(self.concepts):
            raise ValueError(f"priors must be one for each of {len(self.concepts)} concepts, got {len(priors)}")
        made = [replace(concept, prior=float(p)) for concept, p in zip(self.concepts, priors, strict=True)]
        return TaskPrompts(tuple(made), self.contrast, self.anchor, self.unlabelled)

    def described(self) -> dict[str, Any]:
        """Plain data that tells two tasks apart; what was not used is left out."""
        data = asdict(self)
        if not self.unlabelled:
            del data["unlabelled"]
        for concept in data["concepts"]:
            if concept["examples"] is None:
                del concept["examples"]
        return data

    @property
    def retained(self) -> tuple[str, ...]:
        return tuple(prompt for group in self.contrast for prompt in group)

    def labelled(self, concept_samples: int, retained_samples: int) -> tuple[list[str], list[int]]:
        """Prompts for the samples that a classifier learns from, and their labels: concept i, m for contrast, m + 1 for
        q.

        Paraphrases take turns within each concept and each group, and groups take turns within it. Where samples
        of q are contrast beside contrast prompts, each makes one half. Examples come under the anchor, all of
        them up to ``concept_samples``.
        """
        prompts: list[str] = []
        labels: list[int] = []
        for index, concept in enumerate(self.concepts):
            count = min(concept_samples, len(concept.examples)) if concept.examples else concept_samples
            asking = concept.prompts or (self.anchor,)
            prompts += [asking[j % len(asking)] for j in range(count)]
            labels += [index] * count
        unlabelled = (retained_samples // 2 if self.contrast else retained_samples) if self.unlabelled else 0
        for j in range(retained_samples - unlabelled):
            group = self.contrast[j % len(self.contrast)]
            prompts.append(group[(j // len(self.contrast)) % len(group)])
            labels.append(len(self.concepts))
        return prompts + [self.anchor] * unlabelled, labels + [len(self.concepts) + 1] * unlabelled
