r"""Every method on one task: same ratios, same solution, same adapters, budget and seeds, the same questions after.

    level      of the fitted network, in the problem's own unit, by the ratios that the problem was solved with
               (:mod:`diffusion.methods.level_estimates`)
    showing    E_p[Pr(i|x)] by the same classifier; and by image classifiers
    cost       KL(p‖q), for ForwardKL KL(q‖p), of paths of the network's own stochastic chain (of q's), nats
               (:mod:`diffusion.methods.chain`); the predicted cost of the target stands beside it
    kept       energy distance of the samples that do not show the concept to those from before, with its noise floor,
               and how often other prompts are obeyed (both where there are image classifiers)
    seconds    wall time and processor time of the fit, and of the measurements that correct its multipliers

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
from typing import Any

import numpy as np
from torch import Tensor

import duality as du
from diffusion.evaluation.measure import wanted_prompts
from diffusion.evaluation.samples import ImageClassifier, agreement, mean_posterior, retained, take_samples
from diffusion.guidance.guided import Guided, Strength
from diffusion.guidance.sampling import guided_samples
from diffusion.methods import METHODS, FitContext, Method, corrected_guidance
from diffusion.methods.level_estimates import Meter
from diffusion.pipelines import Denoiser
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier_ratios import classifier_ratios, posterior
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.files import atomic_write, to_json
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.config import EvaluationConfig, FitConfig
from diffusion.training.lora import base_model, merged_adapters, remove_lora

GUIDED = "no training"  # the solution's guidance in the sampler, its multipliers corrected on measured levels
Value = tuple[float, float]  # mean, standard error


@dataclass(frozen=True)
class Bench:
    """What is compared: methods by name, training seeds, the fit of each, and the samples that are counted after it."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    fit: FitConfig
    evaluation: EvaluationConfig


@dataclass(frozen=True)
class Table:
    """Rows of :func:`run_bench`: by method, by quantity, mean and standard error; ``failed``: why a run did not end."""

    asked: dict[str, Any]
    rows: dict[str, dict[str, Value]]
    failed: dict[str, str]

    def lines(self) -> list[str]:
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        said = {
            method: [f"{row[name][0]:.4g} ± {row[name][1]:.2g}" if name in row else "" for name in names]
            for method, row in self.rows.items()
        }
        width = [2 + max(map(len, column)) for column in zip(names, *said.values(), strict=True)]
        out = [f"asked: {json.dumps(self.asked, ensure_ascii=False)}"]
        out.append(f"{'method':<16}" + "".join(name.rjust(w) for name, w in zip(names, width, strict=True)))
        for method, texts in said.items():
            out.append(f"{method:<16}" + "".join(text.rjust(w) for text, w in zip(texts, width, strict=True)))
        return out + [f"{name}: {why}" for name, why in self.failed.items()]

    def data(self) -> dict[str, Any]:
        return {"asked": self.asked, "rows": self.rows, "failed": self.failed}


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
    where a file of the folder belongs to another task.
    """
    solution = du.solve(problem, estimate.ratios)
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
    runs: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for name in plan.methods:
        for seed in plan.seeds:
            path = folder / f"{name.replace(' ', '-')}-{seed}.json"
            found = _read(path, digest)
            if found is None:
                found = {"task": digest, **_one(denoiser, estimate, solution, name, seed, plan, image_classifier, bar)}
                _write(path, to_json(found))
            if "failed" in found:
                failed[f"{name}, seed {seed}"] = found["failed"]
            else:
                runs.setdefault(name, []).append(found["values"])
    asked = {
        "problem": type(problem).__name__,
        "levels": solution.problem.levels.tolist(),
        "predicted cost": solution.primal,
        "rank": plan.fit.adapter_rank,
        "steps": plan.fit.max_train_steps,
        "seeds": list(plan.seeds),
        "samples": plan.evaluation.samples,
        "showing it in the target": (np.exp(solution.log_weights) @ estimate.posterior.numpy()).tolist(),
    }
    table = Table(asked, {name: _summary(some) for name, some in runs.items()}, failed)
    _write(folder / "bench.json", to_json({"task": task, **table.data()}))
    _write(folder / "bench.txt", "\n".join(table.lines()) + "\n")
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
) -> dict[str, Any]:
    """One run: ``values`` by quantity and the dual rounds, or ``failed`` with the reason."""
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
            return {"failed": str(error)}
    took = {"seconds": (time.monotonic() - wall, 0.0), "CPU seconds": (time.process_time() - processor, 0.0)}

    def made(some: list[str], offset: int) -> Tensor:
        # Noise of its own for every seed, not that of the samples before: the errors of seeds have to be independent.
        at = evaluation.seed + 100 * seed + offset
        if name == GUIDED:
            return guided_samples(denoiser, estimate, strength, some, seed=at, bar=bar)
        with bar("samples after the fit", len(some)) as shown, merged_adapters(denoiser):
            return sample_latents(
                pipeline, some, seed=at, steps=estimate.sampling.num_inference_steps, progress=shown.update
            )

    wanted = wanted_prompts(evaluation, estimate)
    latents = {what: made(some, k) for k, (what, some) in enumerate(wanted.items())}
    values: dict[str, Value] = {}
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
    found = meter.of(latents["anchor"], rho["anchor"])
    names = [""] if len(prompts.concepts) == 1 else [f", {concept.name}" for concept in prompts.concepts]
    for which, level, stderr in zip(names, found.levels, found.errors, strict=True):
        values[f"level{which}"] = float(level), float(stderr)
    spent = meter.cost()[0]
    values["cost"] = float(spent.mean()), float(spent.std() / len(spent) ** 0.5)
    remove_lora(denoiser)
    for what, title in (("anchor", "showing"), ("concept", "showing, asked")):
        if what in rho:
            shares = mean_posterior(posterior(rho[what], prompts.priors))
            values |= {f"{title}{which}": share for which, share in zip(names, shares, strict=True)}
    if image_classifier is not None:
        values |= _by_classifiers(denoiser, estimate, image_classifier, latents, wanted, evaluation)
    rounds = {"multipliers": outcome.multipliers, "levels": outcome.levels, "standard errors": outcome.errors}
    rounds = {what: np.asarray(value).tolist() for what, value in rounds.items()}
    return {"method": name, "seed": seed, "values": values | took, "dual rounds": rounds}


def _by_classifiers(
    denoiser: Denoiser,
    estimate: RatioEstimate,
    image_classifier: ImageClassifier,
    latents: dict[str, Tensor],
    asked: dict[str, list[str]],
    evaluation: EvaluationConfig,
) -> dict[str, Value]:
    """What classifiers say: how often the concepts are there, and what became of everything else."""
    pipeline = denoiser.pipeline
    classes = [label for c in estimate.prompts.concepts if (label := image_classifier.asked(c.name)) is not None]
    samples = {
        what: take_samples(what, pipeline, asked[what], some, image_classifier) for what, some in latents.items()
    }
    values: dict[str, Value] = {}
    for what, title in (("anchor", ""), ("concept", ", asked")):
        if what in samples:
            values |= {
                f"{classifier}{title}": (f.value, f.stderr) for classifier, f in samples[what].shows(classes).items()
            }
    old = take_samples(
        "before", pipeline, [estimate.prompts.anchor] * len(estimate.anchor), estimate.anchor, image_classifier
    )
    moved = retained(old, samples["anchor"], classes, image_classifier, evaluation.seed)
    values["energy of the rest"] = (moved.energy, moved.floor / 1.645)  # the floor is a 95 % quantile of noise
    values["largest class shift"] = (max(moved.class_shift.values()), float("nan"))
    if "retained" in samples:
        classifier, right = list(agreement(samples["retained"], image_classifier).items())[-1]
        values[f"others obeyed, {classifier}"] = (right.value, right.stderr)
    return values


def _summary(runs: list[dict[str, Any]]) -> dict[str, Value]:
    """Means over seeds, and the larger of the seeds' and the samples' standard error."""
    summary: dict[str, Value] = {}
    for name in runs[0]:
        value, error = np.array([[float(x) for x in run[name]] for run in runs]).T
        n = len(value)
        of_samples = float(np.sqrt((error**2).sum()) / n)
        of_seeds = float(value.std(ddof=1) / n**0.5) if n > 1 else float("nan")
        summary[name] = float(value.mean()), float(np.fmax(of_samples, of_seeds))
    return summary


def _read(path: Path, digest: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it") from error
    if found.get("task") != digest:
        raise ValueError(f"{path} belongs to another task, budget or model: choose another output folder")
    return found


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
