"""The classifiers as image classifiers of an unlearning run on ``digits``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffusion.digits.classifiers import classifiers
from diffusion.digits.data import ANCHORS, WORDS, concept_of, paraphrases, shrink
from diffusion.tasks.concepts import ConceptLaw, TaskPrompts, normalised
from diffusion.tasks.detectors import others_than

PRIOR = 0.1  # the classes of the training digits are balanced to within half a per cent


def prompts_for(concepts: Sequence[str], anchor: str = "") -> TaskPrompts:
    """The prompts of unlearning some of the ten digits, each named by any of its paraphrases.

    All other digits, in all of their paraphrases, are the contrast. Raises ``ValueError`` for a prompt that asks for
    none.
    """
    digits: list[int] = []
    for prompt in concepts:
        digit = concept_of(prompt)
        if digit is None:
            if not prompt.strip():
                raise ValueError("concept must be a prompt that asks for a digit, got an empty string")
            examples = ", ".join(repr(paraphrase) for paraphrase in paraphrases(7))
            raise ValueError(f"concept {prompt!r} asks for none of the ten digits; for seven, for example: {examples}")
        if digit in digits:
            raise ValueError(f"concept {prompt!r} asks for {WORDS[digit]}, which another concept already names")
        digits.append(digit)
    if len(digits) > 9:
        raise ValueError("at least one digit must be retained, got all ten as concepts")
    given = {digit: " ".join(prompt.split()) for digit, prompt in zip(digits, concepts, strict=True)}
    # The paraphrase that was given comes first: it names the concept in every output.
    named = [
        ConceptLaw(tuple(sorted(paraphrases(digit), key=lambda text, d=digit: text != normalised(given[d]))), PRIOR)  # type: ignore[misc]
        for digit in digits
    ]
    rest = tuple(paraphrases(digit) for digit in range(10) if digit not in digits)
    return TaskPrompts(tuple(named), rest, anchor)


class DigitsClassifiers:
    """Says which digit each image shows, by two classifiers that took no part in training, ratios or guidance.

    ``without``: names of those that did (``"CNN"`` where it is the task's detector), which are not asked.
    """

    classes = WORDS

    def __init__(self, without: Sequence[str] = ()) -> None:
        self._asked = others_than(without, classifiers())

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.int64]]:
        small = shrink(images)
        return {classifier.name: classifier(small) for classifier in self._asked}

    def view(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """What distances between images are taken on: 8x8 pixels."""
        return shrink(images)

    def asked(self, prompt: str) -> int | None:
        """The class that a prompt asks for; None for the empty prompt and for anchors."""
        return concept_of(prompt)

    anchors = ANCHORS
