r"""What is to be retained, and how much of it: E_p[k] >= c for a detector k.

::

    "digits:nine=95% in nines"     of a hundred images that the prompts of group "nines" give, at least 95 show one
    "digits:nine=0.9x"             under the whole law of prompts at least nine tenths of its present share

Levels are those of :mod:`diffusion.tasks.levels`: a probability, or a multiple of what the model has; with ``in`` and
the name of a group, of the prompts of that group alone; several with ``;`` between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_serializer, model_validator

from diffusion.tasks.settings import Settings

NAMING = ("digits", "wardrobe", "clip")  # detectors whose text says what they look for
WITHHELD = "withheld"  # in place of images or detectors that are in memory, or must not be named


class Kept(Settings):
    """A retained concept with its level; a string is ``DETECTOR=LEVEL``.

    ``concept`` is its name; left out, what the detector is said to look for. Raises ``ValueError`` for a string without
    a level.
    """

    detector: Any = Field(description="what decides whether an image shows it: 'clip:..', 'module:name'")
    level: str = Field(description="at least so much of it: '95% in GROUP', '0.9x'")
    concept: str = Field(default="", description="its name")

    def __init__(self, given: Any = None, /, **data: Any) -> None:
        if given is not None:
            data = _fields(given) | data
        super().__init__(**data)

    @model_validator(mode="after")
    def _named(self) -> Kept:
        if isinstance(self.detector, str) and self.detector.startswith(WITHHELD):
            raise ValueError(f"the detector of what is to be kept was given in memory ({self.detector}): give it again")
        if self.detector is None or not self.level.strip():
            raise ValueError(f"keep: a detector and a level are needed, got {self.detector!r} and {self.level!r}")
        return self

    @property
    def name(self) -> str:
        """What it is called in every output."""
        if self.concept:
            return self.concept
        given = self.detector
        if not isinstance(given, str):
            return str(getattr(given, "__qualname__", type(given).__name__))
        kind, _, rest = given.partition(":")
        return rest.split("|")[0].strip() if kind in NAMING and rest else given

    @field_serializer("detector")
    def _detector(self, value: Any) -> Any:
        return withheld(value)


def withheld(detector: Any) -> Any:
    """A detector as text; one that is in memory by its name alone."""
    if detector is None or isinstance(detector, str):
        return detector
    return f"{WITHHELD}: {getattr(detector, '__qualname__', '')}"


def _fields(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    detector, equals, level = str(given).rpartition("=")
    if not (isinstance(given, str) and equals and detector.strip() and level.strip()):
        raise ValueError(f"keep must be DETECTOR=LEVEL, such as 'digits:nine=95% in nines', got {given!r}")
    return {"detector": detector.strip(), "level": level.strip()}
