"""What an audit found: how often a concept is there, and how quickly it comes back; as lines and as a document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from diffusion.evaluation.bounds import Bound, Estimate, Plain, bound, mean_estimate
from diffusion.evaluation.relearning import Curve
from diffusion.runtime.documents import Document

AuditPrompts = Literal["anchor", "concept", "near", "attack"]
SHOWN = {"anchor": "nothing", "concept": "its paraphrases", "near": "near it", "attack": "attack"}
CONFIDENCE = 0.95
IMAGES = 8  # of a row, to be looked at


class Frequency(Plain):
    """How often the concept is there, by one detector, and a one-sided bound from above."""

    by: str
    estimate: Estimate
    bound: Bound


class Cell(Plain):
    """One row: what was asked, how it was sampled, of which concept, and how often it was there, before and after.

    ``prompts``: the anchor, the concept's own in all paraphrases, near them, or what an attack has found: then
    ``setting`` names it, and ``detail`` says what was found. ``sampler``: None for the pipeline's.
    """

    concept: str
    prompts: AuditPrompts
    setting: str
    num_inference_steps: int
    guidance_scale: float
    sampler: str | None
    samples: int
    before: tuple[Frequency, ...]
    after: tuple[Frequency, ...]
    detail: str | None = None


class Arm(Plain):
    """A curve of :mod:`diffusion.evaluation.relearning`: ``frequency`` (seeds, steps), its mean and standard error."""

    role: Literal["unlearned", "known", "new"]
    description: str
    steps: tuple[int, ...]
    frequency: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    stderr: tuple[float, ...]


class Relearned(Plain):
    """One concept taught again; ``recall`` is None where the controls do not differ, and nothing can be said."""

    concept: str
    recall: float | None
    recall_stderr: float | None
    arms: tuple[Arm, ...]


class Resurged(Plain):
    """How often a concept is there after harmless training (:mod:`diffusion.evaluation.resurgence`).

    ``frequency`` (seeds, steps), mean and standard error as of an :class:`Arm`; ``bound``: one-sided, after the last
    step, all seeds' samples together: it holds for these adapters.
    """

    concept: str
    role: Literal["fine_tuned", "stacked"]
    description: str
    steps: tuple[int, ...]
    frequency: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    stderr: tuple[float, ...]
    bound: Bound


class AuditReport(Document):
    """``audit.json``."""

    title: ClassVar[str] = "audit"
    schema_version: Literal[1] = 1
    cells: tuple[Cell, ...]
    relearned: tuple[Relearned, ...]
    resurged: tuple[Resurged, ...] = ()


def frequencies(said: dict[str, np.ndarray]) -> tuple[Frequency, ...]:
    """By detector, from numbers in [0, 1] (n,) each: counts are bounded exactly, probabilities by betting."""
    return tuple(Frequency(by=by, estimate=mean_estimate(values), bound=at_most(values)) for by, values in said.items())


def at_most(values: np.ndarray) -> Bound:
    """One-sided, of the mean of values (n,) in [0, 1]."""
    hits = np.isin(values, (0.0, 1.0)).all()
    return bound(values, "upper", "clopper_pearson" if hits else "betting", CONFIDENCE)


@dataclass(frozen=True)
class Looked:
    """The first samples (k, ...) of a row, of the base model and of the unlearned one, with labels: to be looked at."""

    title: str
    before: Tensor
    after: Tensor
    labels: tuple[str, str]


def looked(cell: Cell, before: Tensor, after: Tensor) -> Looked:
    """At most :data:`IMAGES` of each, beside the shares by the first detector."""
    asked = cell.setting if cell.prompts == "attack" else f"{SHOWN[cell.prompts]}, {cell.setting}"
    old, new = cell.before[0].estimate.mean, cell.after[0].estimate.mean
    labels = (f"before\n{100 * old:.0f} %", f"after\n{100 * new:.0f} %")
    return Looked(f"{cell.concept}: {asked}", before[:IMAGES], after[:IMAGES], labels)


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` found; ``curves``: by concept, the arms of :mod:`diffusion.evaluation.relearning`;
    ``resurged``: those of :mod:`diffusion.evaluation.resurgence`; ``looked``: samples of each of ``cells``."""

    cells: tuple[Cell, ...]
    curves: dict[str, tuple[Curve, ...]]
    recalls: dict[str, tuple[float, float]]
    resurged: dict[str, tuple[Curve, ...]] = field(default_factory=dict)
    looked: tuple[Looked, ...] = ()

    def lines(self) -> list[str]:
        detectors = [each.by for each in self.cells[0].after]
        out = [
            f"how often the concept is there, unlearned ≤ one-sided bound at {100 * CONFIDENCE:g} % (base model), %",
            f"{'concept':<24}{'asked':<17}{'sampled':<16}{'samples':>8}" + "".join(f"{by:>34}" for by in detectors),
        ]
        for cell in self.cells:
            before = {each.by: each.estimate for each in cell.before}
            said = []
            for each in cell.after:
                now, most, was = each.estimate, each.bound.value, before[each.by].mean
                text = f"{100 * now.mean:6.2f} ± {100 * now.stderr:4.2f} ≤ {100 * most:6.2f} ({100 * was:6.2f})"
                said.append(text.rjust(34))
            head = f"{cell.concept[:23]:<24}{SHOWN[cell.prompts]:<17}{cell.setting:<16}{cell.samples:>8}"
            out.append(head + "".join(said))
        for concept, curves in self.curves.items():
            out += ["", f"{concept!r} taught again from a few images: how often it is there after so many steps, %"]
            out += _curve_lines(curves)
            value, error = self.recalls[concept]
            out.append(
                "recall: the controls do not differ, so nothing can be said"
                if np.isnan(value)
                else f"recall {value:.2f} ± {error:.2f}   (0: comes back like something new; 1: like something known "
                "by another name)"
            )
        for concept, curves in self.resurged.items():
            out += ["", f"{concept!r} after training that has nothing to do with it: how often it is there, %"]
            out += _curve_lines(curves)
            bounds = ", ".join(f"{100 * at_most(curve.last).value:.2f} % {curve.arm.split(':')[0]}" for curve in curves)
            out.append(f"after the last step at most {bounds} (one-sided, {100 * CONFIDENCE:g} %)")
        return out

    def data(self) -> AuditReport:
        return AuditReport(
            cells=self.cells,
            relearned=tuple(_relearned(concept, *self.recalls[concept], arms) for concept, arms in self.curves.items()),
            resurged=tuple(each for concept, arms in self.resurged.items() for each in _resurged(concept, arms)),
        )


def _curve_lines(curves: tuple[Curve, ...]) -> list[str]:
    out = [f"{'':<44}" + "".join(f"{step:>16}" for step in curves[0].steps)]
    for curve in curves:
        pairs = zip(100 * curve.mean, 100 * curve.stderr, strict=True)
        shown = (f"{mean:6.1f} ± {error:4.1f}".rjust(16) for mean, error in pairs)
        out.append(f"{curve.arm:<44}" + "".join(shown))
    return out


def _numbers(curve: Curve) -> dict[str, Any]:
    return {
        "description": curve.arm,
        "steps": curve.steps,
        "frequency": curve.frequency.tolist(),
        "mean": tuple(curve.mean.tolist()),
        "stderr": tuple(curve.stderr.tolist()),
    }


def _resurged(concept: str, curves: tuple[Curve, ...]) -> list[Resurged]:
    roles: tuple[Literal["fine_tuned", "stacked"], ...] = ("fine_tuned", "stacked")
    return [
        Resurged(concept=concept, role=role, bound=at_most(curve.last), **_numbers(curve))
        for role, curve in zip(roles, curves, strict=True)
    ]


def _relearned(concept: str, recall: float, error: float, curves: tuple[Curve, ...]) -> Relearned:
    roles: tuple[Literal["unlearned", "known", "new"], ...] = ("unlearned", "known", "new")
    arms = [Arm(role=role, **_numbers(curve)) for role, curve in zip(roles, curves, strict=True)]
    known = not np.isnan(recall)
    return Relearned(
        concept=concept, recall=recall if known else None, recall_stderr=error if known else None, arms=tuple(arms)
    )
