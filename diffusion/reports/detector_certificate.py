"""The certificate of levels of detectors under a law of prompts: question, three verdicts, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import duality as du
from diffusion.evaluation.bounds import Estimate, Plain
from diffusion.evaluation.measured import Measurement
from diffusion.evaluation.planning import Plan
from diffusion.methods import Outcome
from diffusion.ratios.detected import DetectedSamples
from diffusion.reports.certificate import DualRound, Provenance, SolutionVerdict, rounds_of, solved, versions
from diffusion.reports.standards import Standards
from diffusion.reports.verdicts import CertificateBase, Verdict, least_cost, of_fitted_model, of_solution


class PromptAsked(Plain):
    prompt: str
    probability: float
    group: str | None
    anchor: str | None


class DetectorQuestion(Plain):
    """What was asked: levels of detectors in the mean over ``prompts``, as ``sampling`` makes images of them."""

    problem: Literal["Likelihood"] = "Likelihood"
    kind: Literal["detector"] = "detector"
    concepts: tuple[str, ...]
    detectors: tuple[str, ...]
    levels: tuple[float, ...]
    solved_levels: tuple[float, ...]
    most_hits: tuple[int, ...]
    samples: int
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

    ``levels_before``: of the base model under the law of prompts; ``fewest_in_a_prompt``: samples; the bias that few
    samples of a prompt bring is in ``solution``'s standard errors by jackknife. ``noised_detector``: of what
    predicts detectors at noised states, which steers the fit and decides no level.
    """

    samples: int
    fewest_in_a_prompt: int
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
    schema_version: Literal[1] = 1
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


def of_detectors(estimate: DetectedSamples) -> list[str]:
    """Why what was sampled does not support the solution."""
    found = []
    detected = estimate.detected
    for name, column in zip(estimate.names, detected.T, strict=True):
        shown = float(column.sum())
        if shown < 10:
            found.append(f"{name!r}: {shown:.3g} of {len(column)} samples show it, which says little of what must go")
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
    capped = [name for name, held in zip(estimate.names, outcome.capped, strict=False) if held]
    problem = solution.problem.bind(estimate.ratios)
    # The detectors' own levels come first, then those of independent classifiers.
    least = least_cost(measured.levels[: len(estimate.names)], problem, estimate.ratios)
    reasons = (
        of_solution(solution, standards),
        of_detectors(estimate),
        of_fitted_model(measured, solution, least, capped, standards),
    )
    before = problem.levels_of(estimate.ratios, estimate.ratios.log_weights)
    spread = estimate.detected.std(0).tolist()
    n = len(estimate.latents)
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
            levels_before=tuple(
                Estimate(mean=float(level), stderr=s / n**0.5, n=n) for level, s in zip(before, spread, strict=True)
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
        concepts=estimate.names,
        detectors=detectors,
        levels=tuple(plan.asked.levels.tolist()),
        solved_levels=tuple(plan.solved.levels.tolist()),
        most_hits=plan.hits,
        samples=plan.samples,
        confidence=plan.confidence,
        sampling=law.plain(),
        guidance_scale=law.guidance_scale or 1.0,
        scheduler=str(law.scheduler),
        prompts=tuple(
            PromptAsked(prompt=each.prompt, probability=float(p), group=each.group, anchor=each.anchor)
            for each, p in zip(estimate.prompts.prompts, estimate.prompts.probabilities, strict=True)
        ),
    )
