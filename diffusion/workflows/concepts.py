"""Ratios, calibration, dual solution, fit, measurement, certificate: one concept's way out of a pipeline."""

from __future__ import annotations

import hashlib
import time
from contextlib import nullcontext
from pathlib import Path

import duality as du
from diffusion.evaluation.measure import measure_lora
from diffusion.evaluation.planning import check_aim, check_samples, plan_for
from diffusion.evaluation.samples import ImageClassifier
from diffusion.methods import FitContext, Method, configured
from diffusion.methods.guided_tilt import REVISION
from diffusion.pipelines import Denoiser
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.ratios.estimate import estimate_ratios
from diffusion.reports.certificate import certificate, so_far
from diffusion.reports.fitted import save_fit
from diffusion.reports.results import Unlearned
from diffusion.runtime.cache import Cache
from diffusion.runtime.distributed import world
from diffusion.runtime.progress import Bar, numbered, progress_bar
from diffusion.runtime.trackers import Tracked
from diffusion.tasks.concepts import TaskPrompts
from diffusion.tasks.config import Config
from diffusion.tasks.levels import Asked, check_tilt, resolved
from diffusion.tasks.sampling import at_law, of_ratios
from diffusion.training.lora import left_as_given
from diffusion.workflows.robust import check_robust, harden, kept_of, threats_of
from diffusion.workflows.validation import check, check_looks, check_something_to_do, check_split

# Titles of stages, in their order, as whoever runs them says them.
ESTIMATION = (
    "samples of known prompts",
    "samples of q",
    "features for the classifier",
    "ratio classifier",
    "log ratios",
    "ELBO check",
)
MEASUREMENT = ("evaluation samples",)


@left_as_given
def unlearn(
    denoiser: Denoiser,
    prompts: TaskPrompts,
    problem: du.Problem | Asked,
    config: Config,
    *,
    method: Method | None = None,
    image_classifier: ImageClassifier | None = None,
    bar: Bar = progress_bar,
    folder: Path | None = None,
) -> Unlearned:
    """Solve ``problem`` on the pipeline's log ratios and fit its target into a LoRA, left active on the pipeline.

    ``method``: left out, the one that ``config.fit`` names; its multipliers are corrected on levels that are measured
    during the fit. ``folder``: of an output that is being written; the fit is kept there before it is measured.

    Raises ``ValueError`` before any work where problem, prompts and pipeline do not fit together or the evaluation's
    samples cannot show the level, :class:`diffusion.workflows.validation.NothingToDo` before any training where the
    model meets every level already, ``du.InfeasibleError`` where a level cannot be had, ``FloatingPointError`` when a
    loss is not finite. With ``config.runtime.cache_folder`` every stage is kept, and an interrupted run goes on where
    it stopped.
    """
    denoiser, sampling = at_law(denoiser, of_ratios(denoiser, config.sampling))
    method, config = method or configured(config.fit), config.but(sampling=sampling)
    check(denoiser, prompts, problem, method)
    fit, evaluation, runtime = config.fit, config.evaluation, config.runtime
    check_split(fit, bool(prompts.contrast))
    check_looks(evaluation)
    check_robust(denoiser, fit, [concept.prompts for concept in prompts.concepts])
    check_samples(problem, evaluation.fewest, evaluation.confidence)
    check_aim(problem, evaluation.aim)
    tracked = tracked_by(config)
    title = "fit of all weights" if fit.full_weights else "fit of the LoRA"
    bar = numbered(bar, [*ESTIMATION, title, *MEASUREMENT])
    started = time.monotonic()
    cache_folder = runtime.cache_folder
    cache = Cache(cache_folder, fingerprint(denoiser.pipeline)) if cache_folder else None
    estimate = estimate_ratios(denoiser, prompts, config.ratios, config.sampling, cache, bar)
    asked = resolved(problem, estimate.ratios)
    plan = plan_for(
        asked, estimate.ratios, evaluation.fewest, evaluation.confidence, evaluation.power, aim=evaluation.aim
    )
    solution = du.solve(plan.solved, estimate.ratios)
    check_something_to_do(estimate, plan, solution)
    check_tilt(solution)
    checkpoint = None
    if cache_folder is not None:
        request = (
            f"{estimate.fingerprint}{prompts}{config.ratios!r}{config.sampling!r}{fit.but(robust_rounds=0)!r}{method}"
            f"{REVISION}"
        )
        digest = hashlib.sha256((request + solution.to_json()).encode()).hexdigest()[:12]
        checkpoint = cache_folder / f"fit-{digest}.safetensors"
    with bar(title, fit.max_train_steps) as shown, tracked:
        context = FitContext(denoiser, estimate, solution, fit, checkpoint, runtime.checkpointing_steps, shown.update)
        outcome = method.fit(context)
        if fit.robust_rounds:
            harden(denoiser, threats_of(denoiser, estimate), kept_of(estimate), fit, config.sampling, cache=cache)
    trained = fitted_data(config, method)
    save_fit(denoiser, folder, so_far(estimate, plan, solution, outcome, trained))
    samples, measured = measure_lora(denoiser, estimate, plan, solution, evaluation, image_classifier, bar)
    proof = certificate(
        estimate,
        plan,
        solution,
        measured,
        outcome,
        settings={"fit": trained, "evaluation": evaluation.plain()},
        seconds=time.monotonic() - started,
    )
    return Unlearned(estimate, plan, solution, samples, measured, proof, outcome)


def fitted_data(config: Config, method: object) -> dict[str, object]:
    """How a network was fitted, as plain data."""
    return {**config.fit.plain(), "method": repr(method), "processes": world().num_processes}


def tracked_by(config: Config) -> Tracked | nullcontext[None]:
    """Who hears of the fit; nobody where no tracker is named."""
    runtime = config.runtime
    return Tracked(runtime.report_to, runtime.logging_dir, config.fit.plain()) if runtime.report_to else nullcontext()
