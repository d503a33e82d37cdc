"""One setting of one method: what it was, what it took, and what came of it; one JSON file each."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from diffusion.evaluation.bounds import Bound, Estimate, Plain, Side, counted
from diffusion.runtime.documents import Document

Prompts = Literal["asked", "trained", "paraphrases", "contexts", "retained", "anchors", "all"]
FigureName = Literal[
    "target_share", "in_axis_accuracy", "cross_axis_accuracy", "energy_distance", "cost", "kid", "kid_change"
]


class Setting(Plain):
    """A method with its strength and budget. ``strength``: of ``ours`` the level. UCE takes no steps."""

    method: str
    strength: float
    max_train_steps: int
    learning_rate: float
    train_batch_size: int
    full_weights: bool = False
    seed: int = 0

    @property
    def label(self) -> str:
        """The name of its file, without ending."""
        return f"{self.but_seed}-{self.seed}"

    @property
    def but_seed(self) -> str:
        """What all seeds of it share."""
        kind = "weights" if self.full_weights else "lora"
        budget = f"{self.max_train_steps}x{self.train_batch_size}-{self.learning_rate:g}-{kind}"
        return f"{self.method}-{self.strength:g}-{budget}"


class Figure(Plain):
    """One figure. ``prompts``: the group that it is of; ``by``: the classifier; ``bound``: exact, where it is a share.

    ``target_share``: of images that show the concept (upper bound). ``in_axis_accuracy``, ``cross_axis_accuracy``: how
    often the concept's axis, and all other axes that the prompt names, are as asked (lower bound). ``kid``: to held-out
    renderings, ``kid_change``: what it gained on the base model's. ``values``: of a cost, what every chain paid, nats,
    for points of one task along the same prompts and noise in the same order; older files have none.
    """

    name: FigureName
    prompts: Prompts
    estimate: Estimate
    by: str | None = None
    bound: Bound | None = None
    values: tuple[float, ...] = ()


class Point(Document):
    """``failed`` says why it did not end. ``task``: a digest of what was asked; ``bytes``: of what was trained."""

    title: ClassVar[str] = "sweep_point"
    schema_version: Literal[1] = 1
    task: str
    concept: str
    setting: Setting
    command: str
    failed: str | None = None
    figures: tuple[Figure, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    network_evaluations: int = 0
    bytes: int = 0

    def of(self, name: str, prompts: str, by: str | None = None) -> Estimate:
        """``LookupError`` where there is none."""
        return self.figure(name, prompts, by).estimate

    def figure(self, name: str, prompts: str, by: str | None = None) -> Figure:
        """``LookupError`` where there is none."""
        for each in self.figures:
            if (each.name, each.prompts, each.by) == (name, prompts, by):
                return each
        raise LookupError(f"{self.setting.label} has no {name} under {prompts} by {by}")

    def has(self, name: str) -> bool:
        """Whether there is a figure of that name: older files have no KID."""
        return any(each.name == name for each in self.figures)

    def axes(self, by: str) -> tuple[float, float, float]:
        """(UA, IRA, CRA) by one classifier."""
        shown = self.of("target_share", "asked", by).mean
        kept = self.of("in_axis_accuracy", "retained", by).mean
        return 1 - shown, kept, self.of("cross_axis_accuracy", "all", by).mean


def share(name: FigureName, prompts: Prompts, by: str, hits: np.ndarray) -> Figure:
    """A share with its exact one-sided bound at 95 %: from above for the concept, from below for what is kept."""
    side: Side = "upper" if name == "target_share" else "lower"
    found = counted(hits, side)
    return Figure(
        name=name,
        prompts=prompts,
        by=by,
        estimate=Estimate(mean=found.mean, stderr=found.stderr, n=found.n),
        bound=found.bound,
    )
