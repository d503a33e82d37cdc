"""The page of the demo: what was asked beside what was found."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from diffusion.evaluation.measured import Moved
from diffusion.evaluation.pairs import LOOKED_AT
from diffusion.evaluation.ratio_table import Comparison
from diffusion.evaluation.samples import ImageClassifier, SampleSet, agreement
from diffusion.reports.figures import bars
from diffusion.reports.html import Table, render
from diffusion.reports.results import Unlearned


@dataclass(frozen=True)
class Demo:
    """All that the page shows. ``opening``: text and image of the toy problems; ``label``: the class that must go.

    ``samples``: by name, those of the run among them; ``moved``: how far each has moved what does not show the concept;
    ``clock``: seconds by stage.
    """

    result: Unlearned
    opening: tuple[str, Path]
    samples: dict[str, SampleSet]
    moved: dict[str, Moved]
    compared: Comparison
    image_classifier: ImageClassifier
    label: int
    clock: dict[str, float]


def demo_page(demo: Demo, folder: Path) -> str:
    """The page; ``folder`` holds ``guided.png`` and ``before_after.png``."""
    result, estimate, solution = demo.result, demo.result.estimate, demo.result.solution
    concept = estimate.prompts.concepts[0]
    return render(
        "demo",
        title=f"Unlearning {concept.name}",
        concept=concept.name,
        level=f"{100 * float(result.plan.asked.levels[0]):.3g} %",
        opening_text=demo.opening[0],
        opening_image=demo.opening[1].read_bytes(),
        calibration=_calibration(demo),
        coverage=estimate.coverage(),
        multiplier=(float(solution.multipliers[0]), float(solution.multipliers_stderr[0])),
        solution=solution,
        samples_of_q=len(estimate.anchor),
        plan=result.plan.lines(),
        proof=result.certificate,
        verdicts=_verdicts(result),
        levels=_levels(result),
        shown_class=demo.image_classifier.classes[demo.label],
        detected=_detected(demo),
        own=result.measured.level()[0].estimate,
        spent=str(result.measured.cost().estimate),
        guided_image=(folder / "guided.png").read_bytes(),
        moved=moved_table(demo.moved),
        accuracy=_accuracy(demo),
        bars=_bars(demo),
        pairs_image=(folder / "before_after.png").read_bytes(),
        clock=Table(["stage", "seconds"], [[name, f"{value:.0f}"] for name, value in demo.clock.items()]),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        seed=estimate.budget.seed,
    )


def moved_table(moved: dict[str, Moved]) -> Table:
    """Energy distances with their noise floors, and the largest shift of a class, a row for each set of samples."""
    by = list(dict.fromkeys(name for each in moved.values() for name in each.largest_class_shift))
    return Table(
        ["after", "energy distance", "noise floor, 95 %", *(f"largest class shift, {name}" for name in by)],
        [
            [
                name,
                f"{each.energy_distance:+.4f}",
                f"{each.noise_floor:.4f}",
                *(f"{100 * each.largest_class_shift[classifier]:.1f} points" for classifier in by),
            ]
            for name, each in moved.items()
        ],
    )


def _calibration(demo: Demo) -> Table:
    columns = ["estimator", "by", "samples", "AUC", "Brier", "calibration error", "mean posterior", "frequency"]
    rows = [
        [c.estimator, c.by, str(c.samples), f"{c.auc:.4f}", f"{c.brier:.4f}", f"{c.ece:.4f}",
         f"{100 * c.mean_posterior:.2f} %", f"{100 * c.frequency:.2f} %"]
        for c in demo.compared.calibration
    ]  # fmt: skip
    return Table(columns, rows)


def _verdicts(result: Unlearned) -> Table:
    """A row for each reason."""
    rows = []
    for name, verdict in result.certificate.verdicts.items():
        first = [name, "passed" if verdict.passed else "not passed"]
        rows += [[*(("", "") if j else first), reason] for j, reason in enumerate(verdict.reasons or ("",))]
    return Table(["verdict", "", "reasons"], rows)


def _levels(result: Unlearned) -> Table:
    rows = [
        [
            level.concept,
            "the empty prompt" if level.prompts == "anchor" else "its own prompts",
            level.by.replace("_", " "),
            str(level.estimate.n),
            f"{100 * level.estimate.mean:.2f} %",
            f"{100 * level.bound.value:.2f} %",
            f"{100 * level.asked:.3g} %",
            "yes" if level.met else "no",
        ]
        for level in result.measured.levels
    ]
    return Table(["level of", "under", "by", "samples", "measured", "at most", "asked", "met"], rows)


def _detected(demo: Demo) -> Table:
    counted = {name: sample for name, sample in demo.samples.items() if name not in LOOKED_AT}
    rows = [
        [name, str(len(sample)), *(str(value) for value in sample.shows([demo.label]).values())]
        for name, sample in counted.items()
    ]
    target = demo.result.measured.target_shares
    n = str(len(demo.result.estimate.anchor))
    rows.append(["target: samples of q, weighted", n, *(f"{100 * value:.2f} %" for value in target.values())])
    return Table(["samples", "count", *(f"by {name}" for name in target)], rows)


def _accuracy(demo: Demo) -> Table:
    found = {when: agreement(demo.samples[f"{when}, retained"], demo.image_classifier) for when in ("before", "LoRA")}
    return Table(
        ["prompt accuracy, retained", *found["before"]],
        [[when, *(str(value) for value in shares.values())] for when, shares in found.items()],
    )


def _bars(demo: Demo) -> bytes:
    classes, names = demo.image_classifier.classes, (("before", "before, anchor"), ("guided", "guided"))
    by = list(demo.samples["guided"].said)[-1]
    shares = {name: demo.samples[key].classes(len(classes))[by] for name, key in (*names, ("LoRA", "LoRA, anchor"))}
    return bars(shares, list(classes))
