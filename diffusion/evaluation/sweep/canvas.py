"""One concept of the canvas as a task: prompts that methods may see, and prompts that nobody fits on.

::

    seen by methods    templates 0 and 1, plain background: asking, their anchors, retained
    paraphrases        templates 2 and 3, plain background
    contexts           all templates on stripes and dots

A concept is an object, a style, or an object in one style. The anchor of "a sketch of a boot" is "a sketch of a
garment", where a style must go it is "a picture of a boot".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion.tasks.detectors import CheckedDetector, DifferentiableDetector
from diffusion.tasks.prompts import Prompt, Prompts
from diffusion.wardrobe.captions import TEMPLATES, Cell, caption
from diffusion.wardrobe.classifiers import CNNClassifier
from diffusion.wardrobe.detectors import log_odds_of
from diffusion.wardrobe.photographs import OBJECTS
from diffusion.wardrobe.prompts import axis_of, concept_of, fallen_back
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES

SEEN, UNSEEN = (0, 1), tuple(range(2, len(TEMPLATES)))
RETAINED = 28  # prompts at most that methods see of what is to be retained


@dataclass(frozen=True)
class CellPrompt:
    """A prompt, and the object, style and background that it names (None: any)."""

    prompt: str
    cell: Cell


@dataclass(frozen=True)
class CanvasTask:
    """What must go: ``concept``, of any background."""

    concept: Cell

    @classmethod
    def of(cls, prompt: str) -> CanvasTask:
        """``ValueError`` for a prompt that names no object and no style."""
        cell = concept_of(prompt)
        if cell is None:
            raise ValueError(f"concept {prompt!r} names no object or style of wardrobe: {', '.join(OBJECTS + STYLES)}")
        return cls(cell)

    @property
    def name(self) -> str:
        parts = (STYLES[self.concept.style] if self.concept.style is not None else "", self._object)
        return " ".join(part for part in parts if part)

    @property
    def _object(self) -> str:
        return OBJECTS[self.concept.object] if self.concept.object is not None else ""

    @property
    def axis(self) -> str:
        """``object``, ``style`` or ``cell``."""
        return axis_of(self.concept)

    def holds(self, cell: Cell) -> bool:
        """Whether a prompt of that cell asks for the concept."""
        pairs = ((self.concept.object, cell.object), (self.concept.style, cell.style))
        return all(wanted is None or wanted == said for wanted, said in pairs)

    def shown(self, said: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether images (n,) show the concept, by numbers of object, style and background (n, 3)."""
        pairs = ((self.concept.object, said[:, 0]), (self.concept.style, said[:, 1]))
        hits = [column == wanted for wanted, column in pairs if wanted is not None]
        return np.asarray(np.logical_and.reduce(hits))

    def _cells(self, backgrounds: Iterable[int], asking: bool) -> list[Cell]:
        """Cells whose object and style are known, or, on the side that the concept leaves open, any."""
        objects = (*range(len(OBJECTS)), *((None,) if self.axis == "style" else ()))
        styles = (*range(len(STYLES)), *((None,) if self.axis == "object" else ()))
        every = (Cell(*numbers) for numbers in itertools.product(objects, styles, backgrounds))
        return [cell for cell in every if self.holds(cell) is asking]

    def prompts(self, asking: bool, templates: Iterable[int], backgrounds: Iterable[int]) -> list[CellPrompt]:
        """All of them that ask for the concept, or (``asking`` false) for another value of its axis."""
        cells, some = self._cells(backgrounds, asking), list(templates)
        return [CellPrompt(caption(cell, template), cell) for cell in cells for template in some]

    @property
    def asking(self) -> tuple[str, ...]:
        """What methods see of the concept."""
        return tuple(each.prompt for each in self.prompts(True, SEEN, (0,)))

    @property
    def anchors(self) -> tuple[str, ...]:
        """Of each, in its own words."""
        return tuple(fallen_back(prompt, self.concept) for prompt in self.asking)

    @property
    def retained(self) -> tuple[str, ...]:
        """At most :data:`RETAINED` prompts of the rest that methods see, every value of the axis among them."""
        every = [each.prompt for each in self.prompts(False, SEEN, (0,))]
        return tuple(every[j] for j in _spread(len(every), RETAINED))

    @property
    def relabelled(self) -> tuple[tuple[str, ...], ...]:
        """For each asking prompt, the same words with another value in the concept's place."""
        kept = self.prompts(False, SEEN, (0,))
        found = []
        for each in self.prompts(True, SEEN, (0,)):
            template = next(t for t in SEEN if caption(each.cell, t) == each.prompt)
            found.append(
                tuple(
                    other.prompt
                    for other in kept
                    if other.prompt == caption(other.cell, template)
                    and (other.cell.style if self.axis != "style" else other.cell.object)
                    == (each.cell.style if self.axis != "style" else each.cell.object)
                )
            )
        return tuple(found)

    def groups(self, count: int, seed: int) -> dict[str, list[CellPrompt]]:
        """``count`` prompts of each kind, in random order as often as they are needed, and the concept's anchors.

        ``trained``, ``paraphrases``, ``contexts`` ask for the concept; ``retained`` in all templates and backgrounds,
        four times as many, do not; ``anchors`` are the empty prompt and all anchors.
        """
        grounds = tuple(range(1, len(BACKGROUNDS)))
        every = {
            "trained": self.prompts(True, SEEN, (0,)),
            "paraphrases": self.prompts(True, UNSEEN, (0,)),
            "contexts": self.prompts(True, range(len(TEMPLATES)), grounds),
            "retained": self.prompts(False, range(len(TEMPLATES)), range(len(BACKGROUNDS))),
            "anchors": [CellPrompt("", Cell(None, None))] * 2
            + [CellPrompt(text, Cell(None, None)) for text in dict.fromkeys(self.anchors)],
        }
        rng = np.random.default_rng(seed)
        found = {}
        for name, some in every.items():
            wanted = count * (4 if name == "retained" else 1)
            order = [rng.permutation(len(some)) for _ in range(-(-wanted // len(some)))]
            found[name] = [some[int(j)] for j in np.concatenate(order)[:wanted]]
        return found

    def detector(self) -> CheckedDetector:
        """Whether images show the concept, by the CNN: what a method may see. The kernel machine is left to measure."""
        classifier, numbers = CNNClassifier(), (self.concept.object, self.concept.style)
        log_odds = log_odds_of({axis: number for axis, number in enumerate(numbers) if number is not None})
        shown = DifferentiableDetector(lambda images: self.shown(classifier(images)), log_odds)
        return CheckedDetector(f"wardrobe CNN, {self.name}", shown)


def law_of(task: CanvasTask) -> Prompts:
    """The law of prompts that a level of ours refers to: what methods see."""
    return weighed(task, task.asking, task.retained)


def weighed(task: CanvasTask, asking: Sequence[str], retained: Sequence[str]) -> Prompts:
    """A law of three groups: ``asking``, each at its anchor, with two fifths of all weight, ``anchors``, theirs and the
    empty prompt, with three tenths, ``retained`` with three tenths."""
    anchors = [fallen_back(text, task.concept) for text in asking]
    groups = {"asking": (0.4, asking), "anchors": (0.3, ("", *dict.fromkeys(anchors))), "retained": (0.3, retained)}
    anchor = dict(zip(asking, anchors, strict=True))
    return Prompts(
        [
            Prompt(prompt=text, anchor=anchor.get(text), weight=weight / len(texts), group=name)
            for name, (weight, texts) in groups.items()
            for text in texts
        ]
    )


def _spread(total: int, count: int) -> list[int]:
    """At most ``count`` of ``total`` indices, spread so that templates alternate."""
    if total <= count:
        return list(range(total))
    return sorted({int((j + 0.5 * (j % 2)) * total / count) for j in range(count)})
