"""What an audit found: how often a concept is there, and how quickly it comes back; as lines and as a document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from diffusion.evaluation.bounds import Bound, Estimate, Plain, bound, mean_estimate
from diffusion.evaluation.relearning import Curve
from diffusion.runtime.documents import Document

Asked = Literal["anchor", "concept", "near", "attack"]
SHOWN = {"anchor": "nothing", "concept": "its paraphrases", "near": "near it", "attack": "attack"}
CONFIDENCE = 0.95


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
    prompts: Asked
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


class AuditReport(Document):
    """``audit.json``."""

    title: ClassVar[str] = "audit"
    schema_version: Literal[1] = 1
    cells: tuple[Cell, ...]
    relearned: tuple[Relearned, ...]


def frequencies(said: dict[str, np.ndarray]) -> tuple[Frequency, ...]:
    """By detector, from numbers in [0, 1] (n,) each: counts are bounded exactly, probabilities by betting."""
    found = []
    for by, values in said.items():
        hits = np.isin(values, (0.0, 1.0)).all()
        rule: Literal["clopper_pearson", "betting"] = "clopper_pearson" if hits else "betting"
        found.append(Frequency(by=by, estimate=mean_estimate(values), bound=bound(values, "upper", rule, CONFIDENCE)))
    return tuple(found)


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` found; ``curves``: by concept, the arms of :mod:`diffusion.evaluation.relearning`."""

    cells: tuple[Cell, ...]
    curves: dict[str, tuple[Curve, ...]]
    recalls: dict[str, tuple[float, float]]

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
            out.append(f"{'':<44}" + "".join(f"{step:>16}" for step in curves[0].steps))
            for curve in curves:
                pairs = zip(100 * curve.mean, 100 * curve.stderr, strict=True)
                shown = (f"{mean:6.1f} ± {error:4.1f}".rjust(16) for mean, error in pairs)
                out.append(f"{curve.arm:<44}" + "".join(shown))
            value, error = self.recalls[concept]
            out.append(
                "recall: the controls do not differ, so nothing can be said"
                if np.isnan(value)
                else f"recall {value:.2f} ± {error:.2f}   (0: comes back like something new; 1: like something known "
                "by another name)"
            )
        return out

    def data(self) -> AuditReport:
        return AuditReport(
            cells=self.cells,
            relearned=tuple(_relearned(concept, *self.recalls[concept], arms) for concept, arms in self.curves.items()),
        )


def _relearned(concept: str, recall: float, error: float, curves: tuple[Curve, ...]) -> Relearned:
    roles: tuple[Literal["unlearned", "known", "new"], ...] = ("unlearned", "known", "new")
    arms = [
        Arm(
            role=role,
            description=curve.arm,
            steps=curve.steps,
            frequency=curve.frequency.tolist(),
            mean=tuple(curve.mean.tolist()),
            stderr=tuple(curve.stderr.tolist()),
        )
        for role, curve in zip(roles, curves, strict=True)
    ]
    known = not np.isnan(recall)
    return Relearned(
        concept=concept, recall=recall if known else None, recall_stderr=error if known else None, arms=tuple(arms)
    )
