"""What is said of an image: its object, its style and its background, in several templates.

::

    "a sketch of a sneaker on stripes",   "sneaker sketch on stripes",   "a sneaker in sketch style on stripes"

A plain background goes without saying. Captions that name no object in particular ("a sketch of a garment") or no style
("a picture of a sneaker"), or neither, are known, too: natural anchors for what is unlearned.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

from diffusion.wardrobe.photographs import OBJECTS
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES

TEMPLATES = (
    "a {style} of a {object}{ground}",
    "{object} {style}{ground}",
    "a {object} in {style} style{ground}",
    "a {object} as a {style}{ground}",
)
ANY_OBJECT, ANY_STYLE = "garment", "picture"
_GROUNDS = ("", " on stripes", " on dots")


@dataclass(frozen=True)
class Cell:
    """One law of images: numbers of object and style, None where any will do, and of the background."""

    object: int | None
    style: int | None
    background: int = 0


def caption(cell: Cell, template: int = 0) -> str:
    """What ``TEMPLATES[template]`` says of a cell. Raises ``ValueError`` for a template or number that is unknown."""
    if not 0 <= template < len(TEMPLATES):
        raise ValueError(f"template must be from 0 to {len(TEMPLATES) - 1}, got {template}")
    for name, number, known in (("object", cell.object, OBJECTS), ("style", cell.style, STYLES)):
        if number is not None and not 0 <= number < len(known):
            raise ValueError(f"{name} must be from 0 to {len(known) - 1} or None, got {number}")
    if not 0 <= cell.background < len(BACKGROUNDS):
        raise ValueError(f"background must be from 0 to {len(BACKGROUNDS) - 1}, got {cell.background}")
    return TEMPLATES[template].format(
        object=ANY_OBJECT if cell.object is None else OBJECTS[cell.object],
        style=ANY_STYLE if cell.style is None else STYLES[cell.style],
        ground=_GROUNDS[cell.background],
    )


def captions(cell: Cell) -> tuple[str, ...]:
    """All captions of a cell, one per template."""
    return tuple(caption(cell, template) for template in range(len(TEMPLATES)))


@cache
def _cells() -> dict[str, Cell]:
    objects, styles = (*range(len(OBJECTS)), None), (*range(len(STYLES)), None)
    cells = [Cell(*numbers) for numbers in itertools.product(objects, styles, range(len(BACKGROUNDS)))]
    return {text: cell for cell in cells for text in captions(cell)}


def every_caption() -> tuple[str, ...]:
    """Every caption that the pipeline was taught, the empty one apart."""
    return tuple(_cells())


def cell_of(prompt: str) -> Cell | None:
    """What a known caption asks for; None for any other prompt, the empty one included."""
    return _cells().get(" ".join(prompt.lower().split()))
