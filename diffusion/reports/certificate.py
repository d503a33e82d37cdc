"""The certificate of an unlearning run: the question, three verdicts with their reasons and evidence, and provenance.

``Certificate.model_validate_json`` reads one back; its JSON schema is among :mod:`diffusion.reports.schemas`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Literal

from pydantic import Field

import duality as du
from diffusion.evaluation.bounds import Estimate, Plain
from diffusion.evaluation.measured import Measurement
from diffusion.evaluation.planning import Plan
from diffusion.methods import Outcome
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.reports.standards import Standards
from diffusion.reports.verdicts import UNMEASURED as UNMEASURED
from diffusion.reports.verdicts import (
    CertificateBase,
    Verdict,
    least_cost,
    of_fitted_model,
    of_ratios,
    of_solution,
)


class ConceptAsked(Plain):
    name: str
    prompts: tuple[str, ...]
    examples: int
    prior: float | None
    prior_stderr: float | None


class Question(Plain):
    """What was asked. ``solved_levels`` lie beyond ``levels`` so that ``samples`` can show these."""

    problem: str
    kind: str | None
    levels: tuple[float, ...]
    solved_levels: tuple[float, ...]
    most_hits: tuple[int, ...]
    samples: int
    confidence: float
    concepts: tuple[ConceptAsked, ...]
    anchor: str
    contrast: tuple[tuple[str, ...], ...]
    samples_of_q_stand_for_the_rest: bool
    sampling: dict[str, Any] = Field(default_factory=dict)  # the law of every sample, in full


class SolutionVerdict(Verdict):
    """Exact on the given ratios: no density on these samples meets the solved levels at less cost."""

    status: str
    multipliers: tuple[Estimate, ...]
    cost: Estimate
    dual: float
    relative_gap: float
    kkt_residual: float
    levels: tuple[float, ...]
    critical_levels: tuple[float, ...] | None
    effective_sample_size: float


class ConceptRatios(Plain):
    name: str
    auc: float
    ece: float
    brier: float
    mean_posterior_over_prior: Estimate
    elbo_agreement_auc: float | None


class RatiosVerdict(Verdict):
    """Statistical: whether the classifier that the log ratios come from tells the truth."""

    concepts: tuple[ConceptRatios, ...]


class DualRound(Plain):
    """Multipliers of one round of a fit, the gain where one moves, and the levels that the network had under them."""

    multipliers: tuple[float, ...]
    levels: tuple[float, ...]
    levels_stderr: tuple[float, ...]
    gain: float | None = None


class FittedModelVerdict(Verdict):
    """Measurement on fresh samples of the fitted network, which nothing was solved with and no multiplier moved by."""

    measured: Measurement
    cost_ratio: float | None  # of the fitted network under the anchor, to the target's
    least_cost: float | None  # by weak duality, at the measured level less its errors
    multipliers_capped: tuple[str, ...]
    dual_rounds: tuple[DualRound, ...]
    next_multipliers: tuple[float, ...] | None
    fit: dict[str, Any]


class Provenance(Plain):
    model_fingerprint: str
    budget: dict[str, Any]
    evaluation: dict[str, Any]
    standards: dict[str, float]
    versions: dict[str, str]
    seconds: float


class Certificate(CertificateBase):
    """``certified`` is all three verdicts, at ``question.confidence``."""

    title: ClassVar[str] = "certificate"
    schema_version: Literal[1] = 1
    question: Question
    solution: SolutionVerdict
    ratios: RatiosVerdict
    fitted_model: FittedModelVerdict
    provenance: Provenance

    @property
    def confidence(self) -> float:
        return self.question.confidence

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        return {"solution": self.solution, "ratios": self.ratios, "fitted model": self.fitted_model}


def certificate(
    estimate: RatioEstimate,
    plan: Plan,
    solution: du.Solution,
    measured: Measurement,
    outcome: Outcome,
    settings: Mapping[str, dict[str, Any]],
    seconds: float = 0.0,
    standards: Standards | None = None,
) -> Certificate:
    """The certificate of a run. ``settings``: of ``fit`` and ``evaluation``, as plain data."""
    standards = standards or Standards()
    names = [concept.name for concept in estimate.prompts.concepts]
    capped = [name for name, held in zip(names, outcome.capped, strict=False) if held]
    least = least_cost(measured.level(), plan.asked, estimate.ratios)
    reasons = (
        of_solution(solution, standards),
        of_ratios(estimate, standards),
        of_fitted_model(measured, solution, least, capped, standards, plan.samples),
    )
    ratio = measured.cost().estimate.mean / solution.primal if measured.costs and solution.primal > 0 else None
    return Certificate(
        certified=not any(reasons),
        question=_question(estimate, plan),
        solution=solved(solution, reasons[0], len(estimate.anchor)),
        ratios=RatiosVerdict(passed=not reasons[1], reasons=tuple(reasons[1]), concepts=_validated(estimate)),
        fitted_model=FittedModelVerdict(
            passed=not reasons[2],
            reasons=tuple(reasons[2]),
            measured=measured,
            cost_ratio=ratio,
            least_cost=least,
            multipliers_capped=tuple(capped),
            dual_rounds=rounds_of(outcome),
            next_multipliers=tuple(outcome.multipliers[-1].tolist()) if len(outcome.levels) else None,
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


def so_far(
    estimate: RatioEstimate, plan: Plan, solution: du.Solution, outcome: Outcome, fit: dict[str, Any]
) -> Certificate:
    """The certificate of a network that is fitted and not measured yet, which certifies nothing."""
    return certificate(estimate, plan, solution, Measurement(levels=(), costs=()), outcome, {"fit": fit})


def _question(estimate: RatioEstimate, plan: Plan) -> Question:
    prompts = estimate.prompts
    errors = estimate.priors_stderr or (None,) * len(prompts.concepts)
    return Question(
        problem=type(plan.asked).__name__,
        kind=getattr(plan.asked, "kind", None),
        levels=tuple(plan.asked.levels.tolist()),
        solved_levels=tuple(plan.solved.levels.tolist()),
        most_hits=plan.hits,
        samples=plan.samples,
        confidence=plan.confidence,
        concepts=tuple(
            ConceptAsked(
                name=c.name, prompts=c.prompts, examples=len(c.examples or ()), prior=c.prior, prior_stderr=error
            )
            for c, error in zip(prompts.concepts, errors, strict=True)
        ),
        anchor=prompts.anchor,
        contrast=prompts.contrast,
        samples_of_q_stand_for_the_rest=prompts.unlabelled,
        sampling=estimate.sampling.plain(),
    )


def solved(solution: du.Solution, reasons: list[str], samples: int) -> SolutionVerdict:
    """What the solver says, and whether it passes."""
    critical = solution.critical_levels
    pairs = zip(solution.multipliers.tolist(), solution.multipliers_stderr.tolist(), strict=True)
    return SolutionVerdict(
        passed=not reasons,
        reasons=tuple(reasons),
        status=solution.status.name,
        multipliers=tuple(Estimate(mean=value, stderr=error, n=samples) for value, error in pairs),
        cost=Estimate(mean=solution.primal, stderr=solution.primal_stderr, n=samples),
        dual=solution.dual,
        relative_gap=solution.gap,
        kkt_residual=solution.kkt_residual,
        levels=tuple(solution.levels.tolist()),
        critical_levels=None if critical is None else tuple(critical.tolist()),
        effective_sample_size=solution.effective_sample_size,
    )


def _validated(estimate: RatioEstimate) -> tuple[ConceptRatios, ...]:
    found = []
    for i, (concept, seen) in enumerate(zip(estimate.prompts.concepts, estimate.validation, strict=False)):
        ratio, error = estimate.coverage(i)
        agrees = estimate.agreement(i)
        found.append(
            ConceptRatios(
                name=concept.name,
                auc=seen.auc,
                ece=seen.ece,
                brier=seen.brier,
                mean_posterior_over_prior=Estimate(mean=ratio, stderr=error, n=len(estimate.anchor)),
                elbo_agreement_auc=None if math.isnan(agrees) else agrees,
            )
        )
    return tuple(found)


def rounds_of(outcome: Outcome) -> tuple[DualRound, ...]:
    """The dual rounds of a fit; none for methods without."""
    gains = outcome.gains.tolist() or [None] * len(outcome.levels)
    return tuple(
        DualRound(
            multipliers=tuple(multipliers.tolist()),
            levels=tuple(level.tolist()),
            levels_stderr=tuple(error.tolist()),
            gain=gain,
        )
        for multipliers, level, error, gain in zip(
            outcome.multipliers, outcome.levels, outcome.errors, gains, strict=False
        )
    )


def versions() -> dict[str, str]:
    """Of the packages that an answer depends on."""
    return {name: _version(name) for name in ("unlearning-duality", "torch", "diffusers", "peft")}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
