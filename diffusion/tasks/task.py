"""What is to be done, as data: concepts or images that must go, how far, and what is to stay.

``task.yaml`` beside every result holds one of these. How it is done is :mod:`diffusion.tasks.config`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from diffusion.tasks.kept import WITHHELD, Kept, withheld
from diffusion.tasks.prompts import Prompt, Prompts, normalised
from diffusion.tasks.settings import Settings

if TYPE_CHECKING:
    from diffusion.tasks.detector_levels import Constraint
    from diffusion.tasks.levels import Asked

SEPARATOR = "|"  # between the paraphrases of one concept where they are one string
TASK = "task.yaml"  # the file beside a result


def paraphrases(name: str, given: str) -> tuple[str, ...]:
    """The prompts in ``"one | another"``. ``ValueError`` where one is empty."""
    some = tuple(part.strip() for part in given.split(SEPARATOR))
    if not all(some):
        raise ValueError(f"{name} must be a prompt, got an empty string" + (f" in {given!r}" if given.strip() else ""))
    return some


class Concept(Settings):
    """One thing to unlearn: by the prompts that ask for it, by at least ten images that show it, or by a detector.

    A string is a prompt, or several paraphrases with ``|`` between them. ``detector``: see
    :mod:`diffusion.tasks.detectors`; it decides what shows the concept, and the first prompt is the concept's name.
    """

    prompts: tuple[str, ...] = Field(default=(), description="paraphrases that ask for it")
    images: Any = Field(default=None, description="a folder, paths, Pillow images, or a tensor (k, ...)")
    prior: float | None = Field(
        default=None, gt=0, lt=1, description="fraction of unconditional samples that show it; estimated where left out"
    )
    detector: Any = Field(default=None, description="what decides whether an image shows it: 'clip:..', 'module:name'")

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
        if self.detector is not None and not self.prompts:
            raise ValueError("a concept with a detector must be given by a prompt, its name; images say nothing more")
        if self.detector is not None and self.prior is not None:
            raise ValueError(f"a concept with a detector has no prior: its share is counted, got {self.prior}")
        if isinstance(self.detector, str) and self.detector.startswith(WITHHELD):
            raise ValueError(f"the concept's detector was given in memory ({self.detector}): give it again")
        return self

    @field_serializer("detector")
    def _detector(self, value: Any) -> Any:
        return withheld(value)

    @field_serializer("images")
    def _images(self, value: Any) -> Any:
        return _plain(value)


class ConceptTask(Settings):
    """Concepts that must go from a model, how far, and what is retained.

    ``concepts``: prompts, lists of paraphrases, :class:`Concept`; ``problem`` with ``levels`` as people say them
    (:mod:`diffusion.tasks.levels`), or a ``duality`` problem. Raises ``ValueError`` naming the field that does not fit.
    """

    model: str | None = Field(default=None, description="'digits', a folder or a hub name that diffusers can load")
    concepts: tuple[Concept, ...] = Field(description="what must go")
    problem: Literal["likelihood", "reverse-kl", "forward-kl"] = Field(
        default="likelihood", description="likelihood, reverse-kl or forward-kl"
    )
    levels: tuple[str | float, ...] = Field(
        description="target levels: '1%', '4 nats', '0.1x', of detectors '1%; 5% in GROUP'; one for all, or each"
    )
    keep: tuple[Kept, ...] = Field(default=(), description="retained concepts and levels: 'DETECTOR=95% in GROUP'")
    retained_prompts: tuple[tuple[str, ...], ...] = Field(
        default=(), description="retained prompts, each with its paraphrases"
    )
    vocabulary: Path | tuple[str, ...] = Field(
        default=(), description="prompts, or a text file of them, to find the concepts' neighbours in"
    )
    anchor: str = Field(default="", description="what prompts that ask for a concept fall back to")
    prompts: Prompts | None = Field(
        default=None, description="the law of prompts that levels of detectors refer to: .txt, .csv or .jsonl"
    )

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

    @field_validator("keep", mode="before")
    @classmethod
    def _keep(cls, given: Any) -> Any:
        if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
            raise ValueError(f"keep must be a list of retained concepts with their levels, got {given!r}")
        return tuple(each if isinstance(each, Kept) else Kept(each) for each in given)

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

    @field_validator("prompts", mode="before")
    @classmethod
    def _prompts(cls, given: Any) -> Any:
        if given is None or isinstance(given, Prompts):
            return given
        if isinstance(given, str | Path):
            return Prompts.read(given)
        return Prompts(**given) if isinstance(given, Mapping) else Prompts(given)

    @model_validator(mode="after")
    def _detectors(self) -> ConceptTask:
        count = sum(concept.detector is not None for concept in self.concepts)
        if 0 < count < len(self.concepts):
            raise ValueError(f"detectors must be given for all {len(self.concepts)} concepts or for none, got {count}")
        if self.prompts is not None and not count:
            raise ValueError("prompts: a law of prompts needs a detector for every concept; ratios are of one prompt")
        if self.keep and not count:
            raise ValueError("keep: levels of what is retained are of detectors, and so must those of concepts be")
        if count and self.problem != "likelihood":
            raise ValueError(f"problem must be likelihood where concepts have detectors, got {self.problem}")
        if count and self.words:
            raise ValueError("vocabulary: neighbours are the contrast of a ratio, and detectors need none")
        return self

    @model_validator(mode="after")
    def _fits(self) -> ConceptTask:
        if len(self.levels) not in (1, len(self.concepts)):
            raise ValueError(f"levels must be one for all or one for each of {len(self.concepts)}, got {self.levels}")
        _ = self.constraints if self.by_detectors else self.asked
        return self

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What is asked of detectors, of those of the concepts and then of those of what is kept."""
        from diffusion.tasks.detector_levels import constraints_of

        names, kept = [each.prompts[0] for each in self.concepts], [(each.name, each.level) for each in self.keep]
        return constraints_of(names, self.levels, kept, self.law)

    @property
    def detectors(self) -> dict[str, Any]:
        """What decides of each concept, and of each that is kept, by name and in that order."""
        return {each.prompts[0]: each.detector for each in self.concepts} | {e.name: e.detector for e in self.keep}

    @property
    def asked(self) -> Asked:
        """The problem on ratios at its levels; multiples of the present ones become numbers with the log ratios."""
        from diffusion.tasks.levels import kind_of, levels

        return levels(kind_of(self.problem), list(self.levels))

    @property
    def by_detectors(self) -> bool:
        """Whether detectors define the concepts."""
        return self.concepts[0].detector is not None

    def of_ratios(self, priors: Sequence[float]) -> ConceptTask:
        """The same concepts by their prompts alone, at no level, for what looks at ratios where detectors decide."""
        some = zip(self.concepts, priors, strict=True)
        concepts = tuple(each.but(detector=None, prior=prior) for each, prior in some)
        return self.but(concepts=concepts, keep=(), prompts=None, levels=("1x",))

    @property
    def law(self) -> Prompts:
        """The law of prompts that is meant, with the anchor put in for prompts that ask for a concept.

        Where none is given: the empty prompt with a half of all weight, the concepts' prompts with a quarter, retained
        prompts with a quarter; what is missing leaves its part to the others.
        """
        asking = {normalised(text) for concept in self.concepts for text in concept.prompts}
        given = self.prompts
        if given is None:
            parts = ((0.5, [""]), (0.25, [t for c in self.concepts for t in c.prompts]))
            kept = [text for group in self.retained_prompts for text in group]
            some = [*parts, (0.25, [text for text in kept if text])]
            names = ("empty", "concept", "retained")
            given = Prompts(
                [
                    Prompt(prompt=text, weight=weight / len(texts), group=name)
                    for name, (weight, texts) in zip(names, some, strict=True)
                    for text in texts
                ]
            )
        return Prompts(
            [
                each.but(anchor=self.anchor) if each.anchor is None and normalised(each.prompt) in asking else each
                for each in given.prompts
            ]
        )

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
