"""What is to be done, as data: concepts or images that must go, how far, and what is to stay.

``task.yaml`` beside every result holds one of these. How it is done is :mod:`diffusion.tasks.config`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from diffusion.tasks.settings import Settings

if TYPE_CHECKING:
    from diffusion.tasks.levels import Asked

SEPARATOR = "|"  # between the paraphrases of one concept where they are one string
WITHHELD = "withheld"  # in place of images that are in memory, or must not be named
TASK = "task.yaml"  # the file beside a result


def paraphrases(name: str, given: str) -> tuple[str, ...]:
    """The prompts in ``"one | another"``. ``ValueError`` where one is empty."""
    some = tuple(part.strip() for part in given.split(SEPARATOR))
    if not all(some):
        raise ValueError(f"{name} must be a prompt, got an empty string" + (f" in {given!r}" if given.strip() else ""))
    return some


class Concept(Settings):
    """One thing to unlearn: by the prompts that ask for it, or by at least ten images that show it.

    A string is a prompt, or several paraphrases with ``|`` between them.
    """

    prompts: tuple[str, ...] = Field(default=(), description="paraphrases that ask for it")
    images: Any = Field(default=None, description="a folder, paths, Pillow images, or a tensor (k, ...)")
    prior: float | None = Field(
        default=None, gt=0, lt=1, description="its share of the model's unconditional samples; estimated where left out"
    )

    def __init__(self, name: Any = None, /, **data: Any) -> None:
        if name is not None:
            data = _concept(name) | {key: value for key, value in data.items() if value}
        super().__init__(**data)

    @field_validator("prompts", mode="before")
    @classmethod
    def _prompts(cls, given: Any) -> Any:
        return paraphrases("concept", given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _either(self) -> Concept:
        if any(not prompt.strip() for prompt in self.prompts) or not (self.prompts or self.images is not None):
            raise ValueError(f"a concept must be given by prompts that are not empty, got {list(self.prompts)!r}")
        if self.prompts and self.images is not None:
            raise ValueError(f"a concept must be given by prompts or by images, got both for {self.prompts[0]!r}")
        if isinstance(self.images, str) and self.images.startswith(WITHHELD):
            raise ValueError(f"concept images were given in memory ({self.images}): give a folder or paths instead")
        return self

    @field_serializer("images")
    def _images(self, value: Any) -> Any:
        return _plain(value)


class ConceptTask(Settings):
    """Concepts that must go from a model, how far, and what stands for the rest.

    ``concepts``: prompts, lists of paraphrases, :class:`Concept`; ``problem`` with ``levels`` as people say them
    (:mod:`diffusion.tasks.levels`), or a ``duality`` problem. Raises ``ValueError`` naming the field that does not fit.
    """

    model: str | None = Field(default=None, description="'digits', a folder or a hub name that diffusers can load")
    concepts: tuple[Concept, ...] = Field(description="what must go")
    problem: Literal["likelihood", "reverse-kl", "forward-kl"] = Field(
        default="likelihood", description="likelihood, reverse-kl or forward-kl"
    )
    levels: tuple[str | float, ...] = Field(description="target levels: '1%', '4 nats', '0.1x'; one for all, or each")
    retained_prompts: tuple[tuple[str, ...], ...] = Field(
        default=(), description="retained prompts, each with its paraphrases"
    )
    vocabulary: Path | tuple[str, ...] = Field(
        default=(), description="prompts, or a text file of them, to find the concepts' neighbours in"
    )
    anchor: str = Field(default="", description="what prompts that ask for a concept fall back to")

    def __init__(self, **data: Any) -> None:  # wider than the fields, which hold what was made of it
        super().__init__(**data)

    @model_validator(mode="before")
    @classmethod
    def _problem(cls, data: Any) -> Any:
        import duality as du
        from diffusion.tasks.levels import KINDS

        if isinstance(data, dict) and isinstance(problem := data.get("problem"), du.Problem):
            if data.get("levels") is not None:
                raise ValueError("levels must be left out where problem has them")
            name = next((name for name, kind in KINDS.items() if type(problem) is kind), None)
            if name is None:
                raise ValueError(f"problem must be one of {', '.join(KINDS)}, got {type(problem).__name__}")
            if isinstance(problem, du.Likelihood) and problem.kind == "density":
                raise ValueError("kind 'density' needs densities, which no pipeline has: use 'posterior'")
            if isinstance(problem, du.Likelihood) and problem.kind != "posterior":
                raise ValueError(f"a likelihood's kind must be 'posterior' in a task, got {problem.kind!r}")
            data = data | {"problem": name, "levels": tuple(float(level) for level in problem.levels)}
        return data

    @field_validator("concepts", mode="before")
    @classmethod
    def _concepts(cls, given: Any) -> Any:
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ValueError(f"concepts must be a list of prompts, got {given!r}")
        if not given:
            raise ValueError("concepts must hold at least one concept, got none")
        return tuple(each if isinstance(each, Concept) else Concept(**_concept(each)) for each in given)

    @field_validator("levels", mode="before")
    @classmethod
    def _levels(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str | int | float) else given

    @field_validator("retained_prompts", mode="before")
    @classmethod
    def _retained(cls, given: Any) -> Any:
        if isinstance(given, str):
            raise ValueError(f"retained_prompts must be a list of prompts, got the string {given!r}")
        return tuple(paraphrases("retained prompt", one) if isinstance(one, str) else tuple(one) for one in given)

    @field_validator("vocabulary", mode="before")
    @classmethod
    def _vocabulary(cls, given: Any) -> Any:
        if isinstance(given, str | Path):
            if not Path(given).is_file():
                raise ValueError(f"vocabulary {str(given)!r} is no file")
            return Path(given)
        return given

    @model_validator(mode="after")
    def _fits(self) -> ConceptTask:
        if len(self.levels) not in (1, len(self.concepts)):
            raise ValueError(f"levels must be one for all or one for each of {len(self.concepts)}, got {self.levels}")
        _ = self.asked
        return self

    @property
    def asked(self) -> Asked:
        """The problem at its levels; multiples of the present ones become numbers with the log ratios."""
        from diffusion.tasks.levels import kind_of, levels

        return levels(kind_of(self.problem), list(self.levels))

    @property
    def words(self) -> tuple[str, ...]:
        """The prompts of the vocabulary."""
        if isinstance(self.vocabulary, tuple):
            return self.vocabulary
        lines = self.vocabulary.read_text(encoding="utf-8").splitlines()
        return tuple(line.strip() for line in lines if line.strip())


def _concept(given: Any) -> dict[str, Any]:
    """The fields of a concept from what people give for one."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str):
        return {"prompts": paraphrases("concept", given)}
    if isinstance(given, Path) or hasattr(given, "shape") or hasattr(given, "samples"):
        return {"images": given}
    some = tuple(given)
    return {"prompts": some} if not some or any(isinstance(each, str) for each in some) else {"images": some}


def _plain(value: Any) -> Any:
    """Paths as text; what is in memory by a digest alone."""
    if value is None:
        return None
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(each, str | Path) for each in value):
        return [str(each) for each in value]
    return f"{WITHHELD}: in memory, {hashlib.sha256(repr(value).encode()).hexdigest()[:12]}"
