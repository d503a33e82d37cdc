r"""The prompts that people ask: a law P(c) over prompts, with groups, and anchors in context.

::

    one prompt a line (.txt);   prompt[, weight][, group][, anchor] (.csv with a heading);   the same fields (.jsonl)

``weight``: how often a prompt is asked, relative to the others (1 where left out). ``group``: a name; levels may be
asked of the prompts of one group alone. ``anchor``: for a prompt that asks for a concept by name, the prompt whose law
it is to have: what is sampled is the anchor's, what is fitted is the prompt ("a photo of a cat in a field" -> "a photo
of an animal in a field").
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from diffusion.tasks.settings import Settings

FIELDS = ("prompt", "weight", "group", "anchor")


def normalised(prompt: str) -> str:
    """Lower case, single spaces: prompts that differ in nothing else ask for the same thing."""
    return " ".join(prompt.lower().split())


class Prompt(Settings):
    """One prompt of the law."""

    prompt: str = Field(description="what is asked")
    weight: float = Field(default=1.0, ge=0, description="how often, relative to the others")
    group: str | None = Field(default=None, description="the name of a group of prompts")
    anchor: str | None = Field(default=None, description="the prompt whose law it is to have")

    @field_validator("weight")
    @classmethod
    def _finite(cls, given: float) -> float:
        if not math.isfinite(given):
            raise ValueError(f"weight must be a finite number, got {given}")
        return given

    @property
    def sampled(self) -> str:
        """The prompt whose law is sampled, which is the anchor, where there is one."""
        return self.prompt if self.anchor is None else self.anchor


class Prompts(Settings):
    """A law over prompts. ``ValueError`` where there are none, one is given twice, or their weights add up to 0."""

    prompts: tuple[Prompt, ...] = Field(description="prompts, each with weight, group and anchor")

    def __init__(self, given: Any = None, /, **data: Any) -> None:
        if given is not None:
            data = {"prompts": tuple(_prompt(each) for each in _list(given))}
        super().__init__(**data)

    @model_validator(mode="after")
    def _law(self) -> Prompts:
        if not self.prompts:
            raise ValueError("prompts must hold at least one prompt, got none")
        seen: dict[str, int] = {}
        for index, each in enumerate(self.prompts):
            first = seen.setdefault(" ".join(each.prompt.split()), index)
            if first != index:
                raise ValueError(f"prompt {each.prompt!r} is given twice, as number {first + 1} and {index + 1}")
        if sum(each.weight for each in self.prompts) <= 0:
            raise ValueError("prompts: the weights must not all be zero")
        return self

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """From a file. ``ValueError`` naming file and line for what cannot be read or does not fit."""
        path = Path(path)
        readers = {".txt": _lines, ".csv": _table, ".jsonl": _objects}
        if path.suffix.lower() not in readers:
            raise ValueError(f"{path}: prompts are read from .txt, .csv or .jsonl, got {path.suffix or 'no ending'!r}")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        found = []
        for number, fields in readers[path.suffix.lower()](text, path):
            try:
                found.append(Prompt(**fields))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
        try:
            return cls(prompts=tuple(found))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def templates(cls, templates: Iterable[str], **words: Iterable[str]) -> Self:
        """Every template with every combination of words: ``templates(["a {x} in {place}"], x=[..], place=[..])``.

        The group of a prompt is its template. ``ValueError`` for a template whose fields are not those given.
        """
        from itertools import product

        found: dict[str, Prompt] = {}
        for template in templates:
            for chosen in product(*(list(each) for each in words.values())):
                try:
                    text = template.format(**dict(zip(words, chosen, strict=True)))
                except (KeyError, IndexError) as error:
                    raise ValueError(f"template {template!r} asks for {error}, which no words are given for") from None
                found.setdefault(text, Prompt(prompt=text, group=template))
        return cls(prompts=tuple(found.values()))

    def __len__(self) -> int:
        return len(self.prompts)

    def to_csv(self) -> str:
        """The table that :meth:`read` takes, weights to six digits.

        ``ValueError`` for an anchor that is the empty prompt, which a table cannot tell from none; JSON lines can.
        """
        for each in self.prompts:
            if each.anchor == "":
                raise ValueError(
                    f"anchor of prompt {each.prompt!r} is the empty prompt: write it as .jsonl, not as .csv"
                )
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(FIELDS)
        rows.writerows((each.prompt, f"{each.weight:.6g}", each.group, each.anchor) for each in self.prompts)
        return out.getvalue()

    @property
    def texts(self) -> tuple[str, ...]:
        """What is asked (C,)."""
        return tuple(each.prompt for each in self.prompts)

    @property
    def sampled(self) -> tuple[str, ...]:
        """The prompts (C,) whose laws are sampled."""
        return tuple(each.sampled for each in self.prompts)

    @property
    def moved(self) -> NDArray[np.bool_]:
        """Whether a prompt takes another one's law (C,)."""
        return np.array([normalised(each.prompt) != normalised(each.sampled) for each in self.prompts])

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """P (C,), adding up to one."""
        weights = np.array([each.weight for each in self.prompts])
        return weights / weights.sum()

    def counts(self, n: int) -> NDArray[np.int64]:
        """How many of n samples each prompt gets (C,): as near to n P as whole numbers come (largest remainders).

        ``ValueError`` where a prompt that is asked would get none.
        """
        exact = n * self.probabilities
        counts = np.floor(exact).astype(np.int64)
        order = np.argsort(-(exact - counts), kind="stable")
        counts[order[: n - int(counts.sum())]] += 1
        missing = (counts == 0) & (self.probabilities > 0)
        if missing.any():
            # One each first, the rest by weight: what a prompt weighs is said by P, not by how often it was sampled.
            if int((self.probabilities > 0).sum()) > n:
                raise ValueError(f"num_samples: {n} for {len(self)} prompts; at least one for each is needed")
            counts[missing] = 1
            while counts.sum() > n:
                counts[np.argmax(counts)] -= 1
        return counts

    def within(self, group: str | None) -> NDArray[np.float64]:
        """P(c | group) (C,); P for None. ``ValueError`` for a group that no prompt is of, or whose weights are zero."""
        if group is None:
            return self.probabilities
        weights = np.array([each.weight if each.group == group else 0.0 for each in self.prompts])
        if weights.sum() <= 0:
            names = dict.fromkeys(each.group for each in self.prompts if each.group is not None and each.weight > 0)
            known = ", ".join(map(repr, names)) or "none: the prompts name no groups"
            raise ValueError(f"level: no prompt that is asked is of the group {group!r}; groups are {known}")
        return np.asarray(weights / weights.sum())

    def drawn(self, n: int, seed: int, group: str | None = None) -> NDArray[np.int64]:
        """n independent prompts (numbers 0 ... C - 1) of the law P, or of P(c | group)."""
        return np.random.default_rng(seed).choice(len(self), n, p=self.within(group))


def _list(given: Any) -> list[Any]:
    if isinstance(given, str | Path | Mapping):
        raise ValueError(f"prompts must be a list of prompts, got {given!r}; Prompts.read reads a file")
    return list(given)


def _prompt(given: Any) -> Prompt:
    if isinstance(given, Prompt):
        return given
    return Prompt(**given) if isinstance(given, Mapping) else Prompt(prompt=given)


def _lines(text: str, _path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _table(text: str, path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    names = [(name or "").strip() for name in rows.fieldnames or ()]
    if "prompt" not in names or not set(names) <= set(FIELDS):
        raise ValueError(f"{path}: the first line must name columns among {', '.join(FIELDS)}, prompt among them")
    for row in rows:
        if None in row:
            raise ValueError(f"{path}, line {rows.line_num}: more entries than columns; quote prompts with commas")
        filled = {name.strip(): value.strip() for name, value in row.items() if value is not None}
        kept = {name: value for name, value in filled.items() if value or name == "prompt"}
        yield rows.line_num, kept


def _objects(text: str, path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: no JSON: {error.msg}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{path}, line {number}: an object is needed, got {type(found).__name__}")
        yield number, found
