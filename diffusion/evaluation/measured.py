"""What was measured of a fitted network, as plain data: levels with their bounds, costs, retained concepts, shares."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from diffusion.evaluation.bounds import Bound, Estimate, Plain, Rule, Side, bound, mean_estimate, meets

Condition = Literal["anchor", "concept", "prompts"]  # the last: a law of prompts
WHERE = {"anchor": "under the anchor", "concept": "under its own prompts", "prompts": "under the law of prompts"}
CLASSIFIER = "ratio_classifier"  # what the problem was solved with; any other name is an independent detector's


class LevelFound(Plain):
    """One level of the fitted network: of a concept, under the anchor or the concept's own prompts, by a detector.

    ``group``: of prompts of a law, where the level is of one. ``bound.side``: a level to stay below, or to reach.
    """

    concept: str
    prompts: Condition
    group: str | None = None
    by: str
    asked: float
    estimate: Estimate
    hits: int | None = None
    bound: Bound
    met: bool

    def __str__(self) -> str:
        where = WHERE[self.prompts] if self.group is None else f"under the prompts of group {self.group!r}"
        least = "at most" if self.bound.side == "upper" else "at least"
        named = "" if self.bound.rule != "student_t" else ", a normal approximation"
        return (
            f"{self.concept!r} {where}, by {self.by}: {self.estimate} on {self.estimate.n} samples, {least} "
            f"{self.bound.value:.4g} at {100 * self.bound.confidence:g} % confidence{named}; asked {self.asked:.4g}"
        )


class CostFound(Plain):
    """What the fitted network costs under the anchor or the concepts' prompts, nats, along a stochastic chain."""

    prompts: Condition
    estimate: Estimate
    median: float
    steps: int
    exact: bool  # whether the chain is that of the pipeline's own sampler


class PromptAccuracy(Plain):
    """How often prompts that are to be retained still bring what they ask for, by a detector."""

    prompts: str
    by: str
    before: Estimate
    after: Estimate
    bound: Bound  # lower, on the share after


class Moved(Plain):
    """How far samples without the concept have moved under the anchor."""

    energy_distance: float
    noise_floor: float  # 95 % quantile
    largest_class_shift: dict[str, float]


class Share(Plain):
    """How often a sample shows a concept (any of them, where a detector counts)."""

    sample: str
    concept: str | None
    by: str
    estimate: Estimate


class AtScale(Plain):
    """A level under the law of prompts at another guidance scale than the task's: measured, and part of no verdict."""

    concept: str
    by: str
    group: str | None = None
    guidance_scale: float
    estimate: Estimate
    bound: Bound


class Measurement(Plain):
    """All of it. ``target_shares``: of the concept by detector, in the solver's target; ``class_shares`` by sample."""

    levels: tuple[LevelFound, ...]
    costs: tuple[CostFound, ...]
    retained: tuple[PromptAccuracy, ...] = ()
    moved: Moved | None = None
    shares: tuple[Share, ...] = ()
    at_scales: tuple[AtScale, ...] = ()
    target_shares: dict[str, float] = Field(default_factory=dict)
    class_shares: dict[str, dict[str, list[float]]] = Field(default_factory=dict)

    def level(self, prompts: Condition = "anchor", by: str = CLASSIFIER) -> list[LevelFound]:
        """The levels (m,) by one detector, in the order of concepts."""
        return [each for each in self.levels if each.prompts == prompts and each.by == by]

    def cost(self, prompts: Condition = "anchor") -> CostFound:
        """``LookupError`` where it was not measured."""
        for each in self.costs:
            if each.prompts == prompts:
                return each
        raise LookupError(f"no cost was measured under the {prompts}")


def level_found(
    values: np.ndarray, asked: float, side: Side, rule: Rule, confidence: float, *, concept: str, prompts: Condition,
    by: str,
) -> LevelFound:  # fmt: skip
    """A level from the numbers (n,) that it is the mean of."""
    shown = bound(values, side, rule, confidence)
    return LevelFound(
        concept=concept,
        prompts=prompts,
        by=by,
        asked=asked,
        estimate=mean_estimate(values),
        hits=int(np.sum(values)) if rule == "clopper_pearson" else None,
        bound=shown,
        met=meets(shown, asked),
    )
