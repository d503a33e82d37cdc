"""The certificate of levels of detectors under a law of prompts: question, three verdicts, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

import duality as du
from diffusion.evaluation.bounds import Estimate, Plain, Side
from diffusion.evaluation.measured import Measurement
from diffusion.evaluation.planning import Plan
from diffusion.methods import Outcome
from diffusion.ratios.detected import DetectedSamples, normalisers
from diffusion.reports.certificate import DualRound, Provenance, SolutionVerdict, rounds_of, solved, versions
from diffusion.reports.standards import Standards
from diffusion.reports.verdicts import CertificateBase, Verdict, least_cost, of_fitted_model, of_solution
from diffusion.tasks.detector_levels import estimates


class PromptAsked(Plain):
    prompt: str
    probability: float
    group: str | None
    anchor: str | None


class LevelAsked(Plain):
    """``side`` "upper": at most ``level`` of the images of ``prompts`` (None: of all, else a group's) show it; "lower":
    at least. ``most_hits``: of so many samples at most so many may show it, or lack what is kept; 0 where there are 0
    samples."""

    concept: str
    detector: str
    side: Side
    group: str | None
    level: float
    solved_level: float
    most_hits: int


class DetectorQuestion(Plain):
    """What was asked: levels of detectors in the mean over ``prompts``, as ``sampling`` makes images of them.

    ``problem``: Joint where something is kept. ``sequential``: samples were counted as they came, ``samples`` at most.
    """

    problem: Literal["Likelihood", "Joint"]
    concepts: tuple[str, ...]
    kept: tuple[str, ...]
    levels: tuple[LevelAsked, ...]
    samples: int
    sequential: bool
    confidence: float
    sampling: dict[str, Any]
    guidance_scale: float
    scheduler: str
    prompts: tuple[PromptAsked, ...]


class NoisedDetectorFound(Plain):
    concept: str
    auc: float | None
    ece: float | None


class DetectorVerdict(Verdict):
    """Statistical. Detectors define their concepts, so no ratio can be off: it is whether the samples are enough.

    ``levels_before``: of the base model, in the order of ``question.levels``; ``normalisers``: prompts, or groups of
    them that share one; ``fewest_of_a_normaliser``: samples; the bias that few samples bring is in ``solution``'s
    standard errors by jackknife. ``noised_detector``: of what
    predicts detectors at noised states, which steers the fit and decides no level.
    """

    samples: int
    fewest_in_a_prompt: int
    normalisers: int
    fewest_of_a_normaliser: int
    levels_before: tuple[Estimate, ...]
    noised_detector: tuple[NoisedDetectorFound, ...]


class FittedPromptsVerdict(Verdict):
    """Measurement on fresh samples of fresh prompts of the law, which nothing was solved with."""

    measured: Measurement
    cost_ratio: float | None
    least_cost: float | None  # by weak duality, at the measured level less its errors
    multipliers_capped: tuple[str, ...]
    dual_rounds: tuple[DualRound, ...]
    fit: dict[str, Any]


class DetectorCertificate(CertificateBase):
    """``certified`` is all three verdicts, at ``question.confidence``."""

    title: ClassVar[str] = "detector_certificate"
    schema_version: Literal[2] = 2
    question: DetectorQuestion
    solution: SolutionVerdict
    detectors: DetectorVerdict
    fitted_model: FittedPromptsVerdict
    provenance: Provenance

    @property
    def confidence(self) -> float:
        return self.question.confidence

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        return {"solution": self.solution, "detectors": self.detectors, "fitted model": self.fitted_model}


FEW = 10  # samples that show a concept, fewer of which say little


def of_detectors(estimate: DetectedSamples) -> list[str]:
    """Why what was sampled does not support the solution."""
    found, rows = [], estimate.rows.numpy()
    for each in estimate.constraints:
        column = estimate.detected[:, each.column].numpy()[estimate.prompts.within(each.group)[rows] > 0]
        shown = float(column.sum())
        if shown < FEW:
            why = "of what must go" if each.side == "upper" else "of what is kept"
            found.append(
                f"{each.concept!r}{each.where}: {shown:.3g} of {len(column)} samples show it, which says little {why}"
            )
    return found


def detector_certificate(
    estimate: DetectedSamples,
    question: DetectorQuestion,
    solution: du.Solution,
    measured: Measurement,
    outcome: Outcome,
    settings: Mapping[str, dict[str, Any]],
    seconds: float = 0.0,
    standards: Standards | None = None,
) -> DetectorCertificate:
    """The certificate of a run. ``settings``: of ``fit`` and ``evaluation``, as plain data."""
    standards = standards or Standards()
    asked, ratios = estimate.constraints, estimate.ratios
    capped = [f"{each.concept}{each.where}" for each, held in zip(asked, outcome.capped, strict=False) if held]
    problem = solution.problem.bind(ratios)
    # The detectors' own levels come first, then those of independent classifiers.
    least = least_cost(measured.levels[: len(asked)], problem, ratios)
    reasons = (
        of_solution(solution, standards),
        of_detectors(estimate),
        of_fitted_model(measured, solution, least, capped, standards, question.samples),
    )
    before = problem.levels_of(ratios, ratios.log_weights)
    n, rows = len(estimate.latents), estimate.rows.numpy()
    _, errors = estimates(estimate.prompts, asked, rows, estimate.detected.numpy(), n)
    number = normalisers(estimate.prompts, estimate.rows)[rows]
    paid = bool(measured.costs) and solution.primal > 0
    return DetectorCertificate(
        certified=not any(reasons),
        question=question,
        solution=solved(solution, reasons[0], n),
        detectors=DetectorVerdict(
            passed=not reasons[1],
            reasons=tuple(reasons[1]),
            samples=n,
            fewest_in_a_prompt=int(estimate.prompts.counts(n)[estimate.prompts.probabilities > 0].min()),
            normalisers=int(number.max()) + 1,
            fewest_of_a_normaliser=int(np.bincount(number).min()),
            levels_before=tuple(
                Estimate(
                    mean=float(level), stderr=float(error), n=int((estimate.prompts.within(c.group)[rows] > 0).sum())
                )
                for level, error, c in zip(before, errors, asked, strict=True)
            ),
            noised_detector=tuple(
                NoisedDetectorFound(concept=name, auc=seen.auc if seen else None, ece=seen.ece if seen else None)
                for name, seen in zip(estimate.names, estimate.validation, strict=True)
            ),
        ),
        fitted_model=FittedPromptsVerdict(
            passed=not reasons[2],
            reasons=tuple(reasons[2]),
            measured=measured,
            cost_ratio=measured.cost("prompts").estimate.mean / solution.primal if paid else None,
            least_cost=least,
            multipliers_capped=tuple(capped),
            dual_rounds=rounds_of(outcome),
            fit=settings["fit"],
        ),
        provenance=Provenance(
            model_fingerprint=estimate.fingerprint,
            budget=estimate.budget.plain(),
            evaluation=dict(settings.get("evaluation", {})),
            standards=standards.data(),
            versions=versions(),
            seconds=round(seconds, 1),
        ),
    )


def question_of(estimate: DetectedSamples, plan: Plan, detectors: tuple[str, ...]) -> DetectorQuestion:
    """The law that everything refers to, in full, and what was asked of it."""
    law = estimate.sampling
    return DetectorQuestion(
        problem="Joint" if any(plan.kept) else "Likelihood",
        concepts=tuple(dict.fromkeys(c.concept for c in estimate.constraints if c.side == "upper")),
        kept=tuple(dict.fromkeys(c.concept for c in estimate.constraints if c.side == "lower")),
        levels=tuple(
            LevelAsked(
                concept=c.concept,
                detector=detectors[c.column],
                side=c.side,
                group=c.group,
                level=level,
                solved_level=solved,
                most_hits=hits,
            )
            for c, level, solved, hits in zip(
                estimate.constraints, plan.asked.levels.tolist(), plan.solved.levels.tolist(), plan.hits, strict=True
            )
        ),
        samples=plan.samples,
        sequential=plan.sequential,
        confidence=plan.confidence,
        sampling=law.plain(),
        guidance_scale=law.guidance_scale or 1.0,
        scheduler=str(law.scheduler),
        prompts=tuple(
            PromptAsked(prompt=each.prompt, probability=float(p), group=each.group, anchor=each.anchor)
            for each, p in zip(estimate.prompts.prompts, estimate.prompts.probabilities, strict=True)
        ),
    )
