"""What a comparison of methods found: quantities with their errors, one file a run, and a table of all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from diffusion.evaluation.bounds import Estimate, Plain
from diffusion.runtime.documents import Document

Name = Literal[
    "level",
    "posterior",
    "cost",
    "detected",
    "energy_distance",
    "energy_noise_floor",
    "largest_class_shift",
    "prompt_accuracy",
    "seconds",
    "cpu_seconds",
]


class Quantity(Plain):
    """One number of a method. ``concept``, ``prompts`` (under which samples were made) and ``by`` where they apply.

    Its error is NaN where it has none. Of a run, n is its samples; of the table, its training seeds.
    """

    name: Name
    estimate: Estimate
    concept: str | None = None
    prompts: Literal["anchor", "concept", "retained", "prompts"] | None = None
    by: str | None = None

    @property
    def label(self) -> str:
        """The head of its column."""
        said = {"concept": "asked", "retained": "others"}
        parts = [self.name.replace("_", " "), self.concept, said.get(self.prompts or ""), self.by]
        return ", ".join(part for part in parts if part)


class MethodRun(Document):
    """One run: ``failed`` says why it did not end, where it did not. ``task``: the digest of what was compared."""

    title: ClassVar[str] = "benchmark_run"
    schema_version: Literal[1] = 1
    task: str
    method: str
    seed: int
    failed: str | None = None
    quantities: tuple[Quantity, ...] = ()
    multipliers: tuple[tuple[float, ...], ...] = ()  # (k + 1, m) before each dual round, and after the last
    levels: tuple[tuple[float, ...], ...] = ()  # (k, m) in each round
    levels_stderr: tuple[tuple[float, ...], ...] = ()


class Compared(Plain):
    """What every method was asked for, and with what."""

    problem: str
    levels: tuple[float, ...]
    predicted_cost: float
    target_posterior: tuple[float, ...]  # of each concept, in the optimal target
    rank: int | None
    steps: int
    seeds: tuple[int, ...]
    samples: int


class MethodRow(Plain):
    """Means over seeds, with the larger of the seeds' and the samples' standard error."""

    method: str
    quantities: tuple[Quantity, ...]

    def of(self, name: str, **more: str | None) -> Estimate:
        """The quantity of that name and those attributes. ``LookupError`` where there is none."""
        for each in self.quantities:
            if each.name == name and all(getattr(each, key) == value for key, value in more.items()):
                return each.estimate
        raise LookupError(f"{self.method} has no {name}")


class Failure(Plain):
    """A run that did not end."""

    method: str
    seed: int
    reason: str


class Table(Document):
    """``bench.json``. ``task``: all that was the same for every method, as it was given."""

    title: ClassVar[str] = "benchmark"
    schema_version: Literal[1] = 1
    task: dict[str, Any]
    asked: Compared
    rows: tuple[MethodRow, ...]
    failed: tuple[Failure, ...]

    def lines(self) -> list[str]:
        """For people: a line a method."""
        found = [{each.label: str(each.estimate) for each in row.quantities} for row in self.rows]
        names = list(dict.fromkeys(name for row in found for name in row))
        width = [2 + max(len(name), *(len(row.get(name, "")) for row in found)) for name in names]
        out = [f"asked: {json.dumps(self.asked.model_dump(mode='json'), ensure_ascii=False)}"]
        out.append(f"{'method':<16}" + "".join(name.rjust(w) for name, w in zip(names, width, strict=True)))
        for row, texts in zip(self.rows, found, strict=True):
            cells = (texts.get(name, "").rjust(w) for name, w in zip(names, width, strict=True))
            out.append(f"{row.method:<16}" + "".join(cells))
        return out + [f"{each.method}, seed {each.seed}: {each.reason}" for each in self.failed]


def summary(method: str, runs: Sequence[MethodRun]) -> MethodRow:
    """Means over the seeds of one method, and the larger of the seeds' and the samples' standard error."""
    found = []
    for index, first in enumerate(runs[0].quantities):
        some = [run.quantities[index] for run in runs]
        if any(each.model_copy(update={"estimate": first.estimate}) != first for each in some):
            raise ValueError(f"runs of {method} hold different quantities: remove them, and run them again")
        value, error = np.array([(each.estimate.mean, each.estimate.stderr) for each in some]).T
        n = len(value)
        of_samples = float(np.sqrt((error**2).sum()) / n)
        of_seeds = float(value.std(ddof=1) / n**0.5) if n > 1 else float("nan")
        total = Estimate(mean=float(value.mean()), stderr=float(np.fmax(of_samples, of_seeds)), n=n)
        found.append(first.model_copy(update={"estimate": total}))
    return MethodRow(method=method, quantities=tuple(found))
