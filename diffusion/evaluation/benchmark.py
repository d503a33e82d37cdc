r"""Every method on one task: same ratios, same solution, same adapters, budget and seeds, the same questions after.

::

    level                of the fitted network, in the problem's own unit, by the ratios that the problem was solved
                         with (:mod:`diffusion.methods.level_estimates`)
    posterior, detected  E_p[Pr(i|x)] by the same classifier; how often image classifiers see a concept
    cost                 KL(p‖q), for ForwardKL KL(q‖p), of paths of the network's own stochastic chain (of q's), nats
                         (:mod:`diffusion.methods.chain`); the predicted cost of the target stands beside it
    energy_distance      of the samples that do not show the concept to those from before; energy_noise_floor: the 95 %
                         quantile of the same between samples split at random (both where there are image classifiers)
    prompt_accuracy      of retained prompts, by image classifiers
    seconds              wall time and processor time of the fit, and of the measurements that correct its multipliers

each a mean over seeds with a standard error: the larger of the spread over seeds and the noise of the samples. A run
that ended is one JSON file; a second call reads it and goes on with the next.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

import duality as du
from diffusion.evaluation.benchmark_table import Compared, Failure, MethodRun, Quantity, Table, summary
from diffusion.evaluation.bounds import Estimate, mean_estimate
from diffusion.evaluation.fresh import wanted_prompts
from diffusion.evaluation.measured import CLASSIFIER, Condition
from diffusion.evaluation.planning import check_measured
from diffusion.evaluation.samples import ImageClassifier, agreement, retained, take_samples
from diffusion.guidance.guided import Guided, Strength
from diffusion.guidance.sampling import guided_samples
from diffusion.methods import METHODS, FitContext, Method, corrected_guidance
from diffusion.methods.level_estimates import Meter
from diffusion.pipelines import Denoiser
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier_ratios import classifier_ratios, posterior
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.files import write_text
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.config import EvaluationConfig, FitConfig
from diffusion.tasks.levels import check_tilt
from diffusion.training.lora import base_model, merged_adapters, remove_lora

GUIDED = "no training"  # the solution's guidance in the sampler, its multipliers corrected on measured levels
CONDITIONS: tuple[Condition, ...] = ("anchor", "concept")


@dataclass(frozen=True)
class Bench:
    """What is compared: methods by name, training seeds, the fit of each, and the samples that are counted after it."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    fit: FitConfig
    evaluation: EvaluationConfig


def chosen_methods(names: Sequence[str] | None) -> tuple[str, ...]:
    """All methods and guidance alone, or those named. ``ValueError`` for a name that is not known."""
    every = (GUIDED, *METHODS)
    for name in names or ():
        if name not in every:
            raise ValueError(f"method must be one of {', '.join(every)}, got {name!r}")
    return tuple(names) if names else every


def run_bench(
    denoiser: Denoiser,
    estimate: RatioEstimate,
    problem: du.Problem,
    plan: Bench,
    image_classifier: ImageClassifier | None,
    folder: Path,
    bar: Bar = progress_bar,
) -> Table:
    """Run what is not in ``folder`` yet, one JSON a run, then ``bench.json`` and ``bench.txt`` of all of them.

    A method that diverges (``FloatingPointError``) is reported as such, and the others go on. Raises ``ValueError``
    where a file of the folder belongs to another task, or there are no evaluation samples.
    """
    check_measured(plan.evaluation.samples, "a comparison")
    solution = du.solve(problem, estimate.ratios)
    check_tilt(solution)
    folder.mkdir(parents=True, exist_ok=True)
    task = {
        "model": estimate.fingerprint,
        "prompts": estimate.prompts.described(),
        "budget": estimate.budget.plain(),
        "problem": json.loads(solution.to_json())["problem"],
        "fit": plan.fit.but(seed=0).plain(),
        "evaluation": plan.evaluation.plain(),
    }
    digest = hashlib.sha256(json.dumps(task, sort_keys=True, default=str).encode()).hexdigest()[:12]
    runs: dict[str, list[MethodRun]] = {}
    failed: list[Failure] = []
    for name in plan.methods:
        for seed in plan.seeds:
            path = folder / f"{name.replace(' ', '-')}-{seed}.json"
            found = _read(path, digest)
            if found is None:
                found = _one(denoiser, estimate, solution, name, seed, plan, image_classifier, bar)
                found = found.model_copy(update={"task": digest})
                write_text(path, found.to_json())
            if found.failed is not None:
                failed.append(Failure(method=name, seed=seed, reason=found.failed))
            else:
                runs.setdefault(name, []).append(found)
    asked = Compared(
        problem=type(problem).__name__,
        levels=tuple(solution.problem.levels.tolist()),
        predicted_cost=solution.primal,
        target_posterior=tuple((np.exp(solution.log_weights) @ estimate.posterior.numpy()).tolist()),
        rank=plan.fit.adapter_rank,
        steps=plan.fit.max_train_steps,
        seeds=plan.seeds,
        samples=plan.evaluation.samples,
    )
    rows = tuple(summary(name, some) for name, some in runs.items())
    table = Table(task=task, asked=asked, rows=rows, failed=tuple(failed))
    write_text(folder / "bench.json", table.to_json())
    write_text(folder / "bench.txt", "\n".join(table.lines()) + "\n")
    return table


def _one(
    denoiser: Denoiser,
    estimate: RatioEstimate,
    solution: du.Solution,
    name: str,
    seed: int,
    plan: Bench,
    image_classifier: ImageClassifier | None,
    bar: Bar,
) -> MethodRun:
    """One run, its ``task`` still to be filled in."""
    remove_lora(denoiser)
    evaluation, prompts, pipeline = plan.evaluation, estimate.prompts, denoiser.pipeline
    wall, processor = time.monotonic(), time.process_time()
    strength: Strength = solution.guidance
    if name == GUIDED:
        strength, outcome = corrected_guidance(denoiser, estimate, solution, seed=seed, bar=bar)
    else:
        method: Method = METHODS[name]()
        try:
            with bar(f"{name}, seed {seed}", plan.fit.max_train_steps) as shown:
                outcome = method.fit(
                    FitContext(denoiser, estimate, solution, plan.fit.but(seed=seed), progress=shown.update)
                )
        except FloatingPointError as error:
            remove_lora(denoiser)
            return MethodRun(task="", method=name, seed=seed, failed=str(error))
    took = [
        Quantity(name="seconds", estimate=_exact(time.monotonic() - wall)),
        Quantity(name="cpu_seconds", estimate=_exact(time.process_time() - processor)),
    ]

    def made(some: list[str], offset: int) -> Tensor:
        # Noise of its own for every seed, not that of the samples before: the errors of seeds have to be independent.
        at = evaluation.seed + 100 * seed + offset
        if name == GUIDED:
            return guided_samples(denoiser, estimate, strength, some, seed=at, bar=bar)
        with bar("samples after the fit", len(some)) as shown, merged_adapters(denoiser):
            return sample_latents(
                pipeline, some, seed=at, steps=estimate.sampling.steps(denoiser), progress=shown.update
            )

    wanted = wanted_prompts(evaluation, estimate)
    latents = {what: made(some, k) for k, (what, some) in enumerate(wanted.items())}
    found: list[Quantity] = []
    guided = Guided(denoiser, prompts, estimate.classifier, strength) if name == GUIDED else None
    problem = solution.problem.bind(estimate.ratios)
    meter = Meter(
        denoiser, estimate, problem, min(evaluation.integrated, evaluation.samples), seed=evaluation.seed, guided=guided
    )
    with base_model(denoiser):
        rho = {
            what: classifier_ratios(denoiser, estimate.classifier, some, seed=evaluation.seed)
            for what, some in latents.items()
        }
    level = meter.of(latents["anchor"], rho["anchor"])
    n, concepts = len(latents["anchor"]), [concept.name for concept in prompts.concepts]
    for concept, value, stderr in zip(concepts, level.levels.tolist(), level.errors.tolist(), strict=True):
        measured = Estimate(mean=value, stderr=stderr, n=n)
        found.append(Quantity(name="level", concept=concept, prompts="anchor", by=CLASSIFIER, estimate=measured))
    found.append(Quantity(name="cost", estimate=mean_estimate(meter.cost()[0].numpy())))
    remove_lora(denoiser)
    for what in CONDITIONS:
        if what in rho:
            for concept, column in zip(concepts, posterior(rho[what], prompts.priors).T, strict=True):
                measured = mean_estimate(column.numpy())
                found.append(
                    Quantity(name="posterior", concept=concept, prompts=what, by=CLASSIFIER, estimate=measured)
                )
    if image_classifier is not None:
        found += _by_classifiers(denoiser, estimate, image_classifier, latents, wanted, evaluation)
    return MethodRun(
        task="",
        method=name,
        seed=seed,
        quantities=(*found, *took),
        multipliers=np.asarray(outcome.multipliers).tolist(),
        levels=np.asarray(outcome.levels).tolist(),
        levels_stderr=np.asarray(outcome.errors).tolist(),
    )


def _by_classifiers(
    denoiser: Denoiser,
    estimate: RatioEstimate,
    image_classifier: ImageClassifier,
    latents: dict[str, Tensor],
    asked: dict[str, list[str]],
    evaluation: EvaluationConfig,
) -> list[Quantity]:
    """What classifiers say: how often the concepts are there, and what became of everything else."""
    pipeline = denoiser.pipeline
    classes = [label for c in estimate.prompts.concepts if (label := image_classifier.asked(c.name)) is not None]
    samples = {
        what: take_samples(what, pipeline, asked[what], some, image_classifier) for what, some in latents.items()
    }
    found = [
        Quantity(name="detected", prompts=what, by=by, estimate=share.estimate)
        for what in CONDITIONS
        if what in samples
        for by, share in samples[what].shows(classes).items()
    ]
    old = take_samples(
        "before", pipeline, [estimate.prompts.anchor] * len(estimate.anchor), estimate.anchor, image_classifier
    )
    moved = retained(old, samples["anchor"], classes, image_classifier, evaluation.seed)
    n = len(samples["anchor"])
    found.append(Quantity(name="energy_distance", prompts="anchor", estimate=_alone(moved.energy, n)))
    found.append(Quantity(name="energy_noise_floor", prompts="anchor", estimate=_alone(moved.floor, n)))
    for by, shift in moved.class_shift.items():
        found.append(Quantity(name="largest_class_shift", prompts="anchor", by=by, estimate=_alone(shift, n)))
    if "retained" in samples:
        for by, right in agreement(samples["retained"], image_classifier).items():
            found.append(Quantity(name="prompt_accuracy", prompts="retained", by=by, estimate=right.estimate))
    return found


def _exact(seconds: float) -> Estimate:
    return Estimate(mean=seconds, stderr=0.0, n=1)


def _alone(value: float, n: int) -> Estimate:
    """A statistic of n samples whose error is not known."""
    return Estimate(mean=value, stderr=float("nan"), n=n)


def _read(path: Path, digest: str) -> MethodRun | None:
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8")
    try:
        task = json.loads(text).get("task")
        if task == digest:
            return MethodRun.model_validate_json(text)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it") from error
    raise ValueError(f"{path} belongs to another task, budget or model: choose another output folder")
