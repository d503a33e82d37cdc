"""From samples of a law of prompts, by detectors, solver and fit, to what was measured and certified."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import duality as du
from diffusion.evaluation.counted_prompts import check_counts
from diffusion.evaluation.measure_detected import measure_detected
from diffusion.evaluation.measured import Measurement
from diffusion.evaluation.planning import Plan, plan_for
from diffusion.evaluation.samples import ImageClassifier
from diffusion.methods.base import DetectedFitContext
from diffusion.methods.detected import DetectedTilt
from diffusion.methods.guided_tilt import REVISION
from diffusion.pipelines import Denoiser
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.ratios.detected import DetectedSamples, estimate_detected
from diffusion.reports.detector_certificate import detector_certificate, question_of
from diffusion.reports.detector_results import DetectedUnlearned
from diffusion.reports.fitted import save_fit
from diffusion.runtime.cache import Cache
from diffusion.runtime.progress import Bar, numbered, progress_bar
from diffusion.tasks.concepts import normalised
from diffusion.tasks.config import Config, EvaluationConfig
from diffusion.tasks.detector_levels import Constraint, named_conflict, problem_of
from diffusion.tasks.detectors import CheckedDetector
from diffusion.tasks.prompts import Prompts
from diffusion.tasks.sampling import at_law
from diffusion.training.lora import check_as_given, left_as_given
from diffusion.workflows.concepts import fitted_data, tracked_by
from diffusion.workflows.validation import NothingToDo, check_split, room_for

ESTIMATION = ("samples of the prompts", "detectors", "features for the noised detector", "noised detector")
MEASUREMENT = ("evaluation samples",)


@left_as_given
def unlearn_detected(
    denoiser: Denoiser,
    prompts: Prompts,
    detectors: Mapping[str, CheckedDetector],
    constraints: tuple[Constraint, ...],
    config: Config,
    *,
    image_classifier: ImageClassifier | None = None,
    bar: Bar = progress_bar,
    folder: Path | None = None,
) -> DetectedUnlearned:
    """Solve for levels of ``detectors`` (one for each concept, by name) under ``prompts``, and fit the target.

    ``constraints``: of them, what must go first (:func:`diffusion.tasks.detector_levels.constraints_of`). The law that
    is meant is ``config.sampling``'s, guidance scale included. Raises ``ValueError`` before any work where
    something does not fit, :class:`diffusion.workflows.validation.NothingToDo` before any training where the model
    meets every level, ``du.InfeasibleError`` where a level cannot be had.
    """
    denoiser, sampling = at_law(denoiser, config.sampling)
    config = config.but(sampling=sampling)
    check_detected(denoiser, prompts, constraints, config)
    check_foreseen(detectors, config)
    fit, evaluation, runtime = config.fit, config.evaluation, config.runtime
    title = "fit of all weights" if fit.full_weights else "fit of the LoRA"
    bar = numbered(bar, [*ESTIMATION, title, *MEASUREMENT])
    started = time.monotonic()
    cache = Cache(runtime.cache_folder, fingerprint(denoiser.pipeline)) if runtime.cache_folder else None
    estimate = estimate_detected(denoiser, prompts, detectors, config.ratios, config.sampling, cache, bar)
    estimate = replace(estimate, constraints=constraints)
    ratios = estimate.ratios
    asked = problem_of(constraints, ratios)
    plan, solution = solved_for(asked, estimate, evaluation)
    if solution.inactive and not asks_for_another(prompts):
        now = asked.levels_of(ratios, ratios.log_weights)
        said = "; ".join(
            f"{each.concept!r}{each.where} is at {level:.4g}, at {'most' if each.side == 'upper' else 'least'} {b:.4g} "
            "was asked"
            for each, level, b in zip(constraints, now, asked.levels, strict=True)
        )
        raise NothingToDo(
            f"level: nothing is to be done, no training was begun: by {len(estimate.latents)} samples under the law of "
            f"prompts, {said}{room_for(evaluation.samples)}"
        )
    method = DetectedTilt(own_chain=fit.method == "guidance")
    if fit.fixed_multipliers:
        method = replace(method, at=())
    checkpoint = None
    if runtime.cache_folder is not None:
        slopes = fit.foresee and [each.log_odds is not None for each in detectors.values()]
        request = (
            f"{estimate.fingerprint}{prompts!r}{config.ratios!r}{config.sampling!r}{fit!r}{method}{slopes}{REVISION}"
        )
        digest = hashlib.sha256((request + solution.to_json()).encode()).hexdigest()[:12]
        checkpoint = runtime.cache_folder / f"fit-{digest}.safetensors"
    with bar(title, fit.max_train_steps) as shown, tracked_by(config):
        context = DetectedFitContext(
            denoiser, estimate, solution, fit, checkpoint, runtime.checkpointing_steps, shown.update
        )
        outcome = method.fit(context, list(detectors.values()))
    names = tuple(detector.name for detector in detectors.values())
    question = question_of(estimate, plan, names)
    settings = {"fit": fitted_data(config, method), "evaluation": evaluation.plain()}
    unmeasured = Measurement(levels=(), costs=())
    save_fit(denoiser, folder, detector_certificate(estimate, question, solution, unmeasured, outcome, settings))
    measured, pictures = measure_detected(denoiser, estimate, plan, detectors, evaluation, image_classifier, bar)
    seconds = time.monotonic() - started
    proof = detector_certificate(estimate, question, solution, measured, outcome, settings, seconds)
    return DetectedUnlearned(estimate, plan, solution, pictures, measured, proof, outcome)


def asks_for_another(prompts: Prompts) -> bool:
    """Whether a prompt of the law is to have the law of another one, which is work to do whatever the levels are."""
    return any(
        each.anchor is not None and normalised(each.anchor) != normalised(each.prompt) and share > 0
        for each, share in zip(prompts.prompts, prompts.probabilities, strict=True)
    )


def solved_for(asked: du.Problem, estimate: DetectedSamples, evaluation: EvaluationConfig) -> tuple[Plan, du.Solution]:
    """What is aimed at so that the evaluation can show what was asked, and its solution.

    Raises ``du.InfeasibleError`` naming the levels that cannot be had together.
    """
    ratios, seen = estimate.ratios, evaluation
    try:
        counts = seen.counts([each.group for each in estimate.constraints])
        plan = plan_for(asked, ratios, seen.samples, seen.confidence, seen.power, seen.sequential, counts, seen.aim)
        return plan, du.solve(plan.solved, ratios)
    except du.InfeasibleError as error:
        raise named_conflict(error, estimate.constraints) from None


def check_detected(denoiser: Denoiser, prompts: Prompts, constraints: tuple[Constraint, ...], config: Config) -> None:
    """Raise ``ValueError`` for what cannot work, before anything is sampled."""
    check_law(denoiser, prompts, config)
    for each in constraints:
        prompts.within(each.group)
    check_counts(constraints, config.evaluation)
    check_split(config.fit, False)


def check_foreseen(detectors: Mapping[str, CheckedDetector], config: Config) -> None:
    """``ValueError`` where slopes of detectors are asked for and there are none, or nobody would follow them."""
    if not config.fit.foresee:
        return
    if config.fit.method != "guidance":
        raise ValueError(f"foresee: the method is {config.fit.method!r}, and 'guidance' is the one that follows slopes")
    if all(each.log_odds is None for each in detectors.values()):
        names = ", ".join(each.name for each in detectors.values())
        raise ValueError(f"foresee: a detector with log_odds is needed, and none of {names} has them")


def check_law(denoiser: Denoiser, prompts: Prompts, config: Config) -> None:
    """The same for what is sampled and solved, and not fitted."""
    check_as_given(denoiser)
    if config.fit.robust_rounds:
        raise ValueError("robust_rounds: concepts with detectors are fitted without; give prompts and no detector")
    check_prompts(denoiser, prompts)
    prompts.counts(config.ratios.num_samples)


def check_prompts(denoiser: Denoiser, prompts: Prompts) -> None:
    """``ValueError`` for prompts of a model that takes none."""
    if not denoiser.prompt_inputs and {*prompts.texts, *prompts.sampled} != {""}:
        raise ValueError(f"prompts: {type(denoiser.pipeline).__name__} takes none, so the only one is the empty prompt")
