"""Which images are to be forgotten, as data. What is read and checked with a model is :mod:`diffusion.tasks.images`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_serializer, field_validator

from diffusion.tasks.kept import WITHHELD
from diffusion.tasks.settings import Settings

UNSEEN = "unseen"
SECRET = ("images", "prompts", "data", "data_prompts", "held_out", "held_out_prompts")


class ImageTask(Settings):
    """Images that must go from a model, and what they are to be forgotten among.

    Images, data and held-out images are lists of paths or Pillow images, or tensors (n, ...) as the network sees them.
    Prompts are one for all images or one for each. What is written of a task withholds the images: neither they nor
    their paths nor their prompts, which may name somebody, are in it. Raises ``ValueError`` naming the field that does
    not fit.
    """

    model: str | None = Field(default=None, description="'digits', a folder or a hub name that diffusers can load")
    images: Any = Field(description="images to forget")
    prompts: str | tuple[str, ...] = Field(default="", description="prompts under which they are forgotten")
    data: Any = Field(default=None, description="training data, the images among it; samples of the model if left out")
    data_prompts: str | tuple[str, ...] | None = Field(default=None, description="prompts of the data")
    held_out: Any = Field(default=None, description="images of the same kind that were never trained on")
    held_out_prompts: str | tuple[str, ...] | None = Field(default=None, description="prompts of the held-out images")
    levels: str | float | tuple[float, ...] = Field(
        default=UNSEEN, description="nats of negative ELBO above the present, 'unseen', or 'unseen 90%'"
    )
    shares: float | tuple[float, ...] | None = Field(
        default=None, description="copies of an image over the size of the data of its prompt; counted where left out"
    )

    def __init__(self, images: Any = None, /, **data: Any) -> None:
        super().__init__(**({"images": images} if images is not None else {}) | data)

    @field_validator(*SECRET, mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith(WITHHELD):
            raise ValueError("the images of a task and their prompts are not written down: give them again")
        return value

    @field_validator("levels", mode="before")
    @classmethod
    def _levels(cls, given: Any) -> Any:
        return levels_of(given)

    @field_serializer(*SECRET)
    def _withheld(self, value: Any) -> str | None:
        if value is None or (isinstance(value, str) and not value):
            return value
        return f"{WITHHELD}: {1 if isinstance(value, str) else len(value)}"


def levels_of(given: Any) -> Any:
    """Levels as people say them: nats (``"4 nats"``, 4), one or several, or ``"unseen"`` with or without a quantile.

    Raises ``ValueError`` for anything else.
    """
    some = [given] if isinstance(given, str | int | float) or not isinstance(given, Sequence) else list(given)
    words = [each for each in some if isinstance(each, str) and each.startswith(UNSEEN)]
    if words:
        if len(some) > 1:
            raise ValueError(f"level {UNSEEN!r} is for all images, and goes with no other, got {given}")
        return words[0]
    try:
        numbers = tuple(float(each.removesuffix("nats") if isinstance(each, str) else each) for each in some)
    except (TypeError, ValueError):
        raise ValueError(f"level must be nats, one for all images or one each, or {UNSEEN!r}, got {given}") from None
    return numbers if len(numbers) != 1 else numbers[0]
