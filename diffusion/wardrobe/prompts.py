"""What an unlearning run on ``wardrobe`` asks for, and the classifiers that look at what it makes.

A concept is an object ("a boot", "boot picture"), a style ("sketch", "a sketch of a garment"), or an object in one
style ("a sketch of a boot"), on any background.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from diffusion.tasks.concepts import ConceptLaw, TaskPrompts, normalised
from diffusion.tasks.detectors import others_than
from diffusion.wardrobe.captions import ANY_OBJECT, ANY_STYLE, Cell, captions, cell_of
from diffusion.wardrobe.classifiers import Classifier, classifiers
from diffusion.wardrobe.photographs import OBJECTS
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES

#: Prompts that ask for nothing in particular: natural anchors.
ANCHORS = captions(Cell(None, None))
CELLS = tuple(f"{style} of a {name}" for name in OBJECTS for style in STYLES)


def _whole(word: str) -> str:
    """A pattern of the word, and not of a part of another."""
    return rf"(?<![\w-]){re.escape(word)}(?![\w-])"


def _names(words: Sequence[str], text: str) -> list[int]:
    return [k for k, word in enumerate(words) if re.search(_whole(word), text)]


def concept_of(prompt: str) -> Cell | None:
    """The object, the style, or both that a prompt names, on any background; None where it names neither, or two."""
    known = cell_of(prompt)
    if known is None:
        text = normalised(prompt)
        objects, styles = _names(OBJECTS, text), _names(STYLES, text)
        if len(objects) > 1 or len(styles) > 1:
            return None
        known = Cell(objects[0] if objects else None, styles[0] if styles else None)
    return None if known.object is None and known.style is None else Cell(known.object, known.style)


def asking(concept: Cell) -> tuple[str, ...]:
    """Every caption that asks for a concept: what it leaves open runs through all values, and none in particular."""
    objects = (None, *range(len(OBJECTS))) if concept.object is None else (concept.object,)
    styles = (None, *range(len(STYLES))) if concept.style is None else (concept.style,)
    cells = itertools.product(objects, styles, range(len(BACKGROUNDS)))
    return tuple(text for numbers in cells for text in captions(Cell(*numbers)))


def fallen_back(prompt: str, concept: Cell) -> str:
    """A prompt of a concept with its object (or, where the concept is a style, its style) made any: its anchor.

    ``ValueError`` for a prompt that does not ask for the concept in words that are known.
    """
    text = normalised(prompt)
    word, any_ = (OBJECTS[concept.object], ANY_OBJECT) if concept.object is not None else ("", "")
    if concept.object is None and concept.style is not None:
        word, any_ = STYLES[concept.style], ANY_STYLE
    if not word or not _names((word,), text):
        raise ValueError(f"prompt {prompt!r} does not name {word!r}")
    return re.sub(_whole(word), any_, text)


def prompts_for(concepts: Sequence[str], anchor: str = "") -> TaskPrompts:
    """The prompts of unlearning objects or styles, each named by any prompt with its word.

    Every caption that asks for one belongs to it, and the captions of all other values of its axis are the contrast.
    Raises ``ValueError`` for a prompt that names none, for one concept given twice, and for concepts of several axes.
    """
    cells: list[Cell] = []
    for prompt in concepts:
        cell = concept_of(prompt)
        if cell is None:
            raise ValueError(
                f"concept {prompt!r} names no object or style of wardrobe, or several: {', '.join((*OBJECTS, *STYLES))}"
            )
        if cell in cells:
            raise ValueError(f"concept {prompt!r} asks for what another concept already names")
        cells.append(cell)
    if len({axis_of(cell) for cell in cells}) > 1:
        raise ValueError("concepts must all be objects, all styles, or all objects in one style")
    every = {
        "object": [Cell(k, None) for k in range(len(OBJECTS))],
        "style": [Cell(None, k) for k in range(len(STYLES))],
        "cell": [Cell(*pair) for pair in itertools.product(range(len(OBJECTS)), range(len(STYLES)))],
    }[axis_of(cells[0])]
    rest = tuple(asking(cell) for cell in every if cell not in cells)
    if not rest:
        raise ValueError(f"at least one {axis_of(cells[0])} must be retained, got all as concepts")
    named = [ConceptLaw(_first(prompt, asking(cell)), None) for prompt, cell in zip(concepts, cells, strict=True)]
    return TaskPrompts(tuple(named), rest, anchor)


def _first(prompt: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    """The prompt that was given comes first: it names the concept in every output."""
    given = " ".join(prompt.split())
    return (given, *(text for text in texts if text != normalised(given)))


def axis_of(concept: Cell) -> str:
    """``object``, ``style``, or ``cell``: an object in one style."""
    if concept.object is None:
        return "style"
    return "object" if concept.style is None else "cell"


class WardrobeClassifiers:
    """Says what each image shows on one axis, by two classifiers that took no part in training, ratios or guidance.

    ``axis``: ``object``, ``style``, or ``cell``, which is both at once; ``without``: names of classifiers that did
    (``"CNN"`` where it is the task's detector), which are not asked.
    """

    def __init__(self, axis: str = "object", without: Sequence[str] = ()) -> None:
        known = {"object": OBJECTS, "style": STYLES, "cell": CELLS}
        if axis not in known:
            raise ValueError(f"axis must be one of {', '.join(known)}, got {axis!r}")
        self.axis, self._classes = axis, known[axis]
        both: tuple[Classifier, ...] = classifiers()
        self._asked = others_than(without, both)

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.int64]]:
        return {classifier.name: self._labels(classifier(images)) for classifier in self._asked}

    def _labels(self, said: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.axis == "cell":
            return cast(NDArray[np.int64], said[:, 0] * len(STYLES) + said[:, 1])
        return said[:, 0] if self.axis == "object" else said[:, 1]

    def view(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """What distances between images are taken on: means of 4x4 pixels (n, 3, 8, 8)."""
        n, channels, high, wide = images.shape
        blocks = images.reshape(n, channels, high // 4, 4, wide // 4, 4)
        return cast(NDArray[np.float32], blocks.mean(axis=(3, 5)))

    def asked(self, prompt: str) -> int | None:
        """The class that a prompt asks for; None for the empty prompt, for anchors, and for less than this axis."""
        cell = concept_of(prompt)
        if cell is None:
            return None
        if self.axis == "cell":
            return None if cell.object is None or cell.style is None else cell.object * len(STYLES) + cell.style
        return cell.object if self.axis == "object" else cell.style

    anchors = ANCHORS
