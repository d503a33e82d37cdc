"""Ratios, calibration, dual solution, fit, measurement, certificate: one concept's way out of a pipeline."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import duality as du
from diffusion.evaluation.measure import Evaluation, measure_lora
from diffusion.evaluation.planning import check_samples, plan_for
from diffusion.evaluation.samples import ImageClassifier
from diffusion.methods import METHODS, FitContext, Method
from diffusion.pipelines import Denoiser
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.ratios.estimate import estimate_ratios
from diffusion.ratios.ratio_estimate import Budget
from diffusion.reports.certificate import certificate, so_far
from diffusion.reports.fitted import save_fit
from diffusion.reports.results import Unlearned
from diffusion.runtime.cache import Cache
from diffusion.runtime.distributed import world
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.runtime.trackers import Tracked
from diffusion.tasks.concepts import TaskPrompts
from diffusion.tasks.levels import Asked, resolved
from diffusion.training.lora import left_as_given
from diffusion.training.trainer import Fit
from diffusion.workflows.validation import check, check_something_to_do, check_split


@left_as_given
def unlearn(
    denoiser: Denoiser,
    prompts: TaskPrompts,
    problem: du.Problem | Asked,
    *,
    method: Method | None = None,
    budget: Budget | None = None,
    fit: Fit | None = None,
    evaluation: Evaluation | None = None,
    image_classifier: ImageClassifier | None = None,
    cache_folder: Path | None = None,
    bar: Bar = progress_bar,
    tracked: Tracked | None = None,
    folder: Path | None = None,
    checkpointing_steps: int = 100,
) -> Unlearned:
    """Solve ``problem`` on the pipeline's log ratios and fit its target into a LoRA, left active on the pipeline.

    ``method``: tilted denoising unless another is given (:mod:`diffusion.methods`); its multipliers are corrected on
    levels that are measured during the fit. ``tracked``: who hears of the fit. ``folder``: of an output that is being
    written; the fit is kept there before it is measured. ``checkpointing_steps``: from one checkpoint to the next.

    Raises ``ValueError`` before any work where problem, prompts and pipeline do not fit together or the evaluation's
    samples cannot show the level, :class:`diffusion.workflows.validation.NothingToDo` before any training where the
    model meets every level already, ``du.InfeasibleError`` where a level cannot be had, ``FloatingPointError`` when a
    loss is not finite. With ``cache_folder`` every stage is kept, and an interrupted run goes on where it stopped.
    """
    method = method or METHODS["tilted"]()
    check(denoiser, prompts, problem, method)
    budget, fit, evaluation = budget or Budget(), fit or Fit(), evaluation or Evaluation()
    check_split(fit, bool(prompts.contrast))
    check_samples(problem, evaluation.fewest, evaluation.confidence)
    started = time.monotonic()
    cache = Cache(cache_folder, fingerprint(denoiser.pipeline)) if cache_folder else None
    estimate = estimate_ratios(denoiser, prompts, budget, cache, bar)
    asked = resolved(problem, estimate.ratios)
    plan = plan_for(asked, estimate.ratios, evaluation.fewest, evaluation.confidence, evaluation.success)
    solution = du.solve(plan.solved, estimate.ratios)
    check_something_to_do(estimate, plan, solution)
    checkpoint = None
    if cache_folder is not None:
        import hashlib

        request = f"{estimate.fingerprint}{prompts}{budget}{fit}{method}{solution.to_json()}"
        checkpoint = cache_folder / f"fit-{hashlib.sha256(request.encode()).hexdigest()[:12]}.safetensors"
    title = "fit of the LoRA" if fit.rank is not None else "fit of all weights"
    with bar(title, fit.steps) as shown, tracked or nullcontext():
        context = FitContext(denoiser, estimate, solution, fit, checkpoint, checkpointing_steps, shown.update)
        outcome = method.fit(context)
    trained = {"method": repr(method), **asdict(fit), "processes": world().num_processes}
    save_fit(denoiser, folder, so_far(estimate, plan, solution, outcome, trained))
    samples, measured = measure_lora(denoiser, estimate, plan, solution, evaluation, image_classifier, bar)
    proof = certificate(
        estimate,
        plan,
        solution,
        measured,
        outcome,
        fit=trained,
        evaluation=asdict(evaluation),
        seconds=time.monotonic() - started,
    )
    return Unlearned(estimate, plan, solution, samples, measured, proof, outcome)
