"""The main job on ``digits``: solve, guide, distil, and put what was asked beside what was found, on one page."""

from __future__ import annotations

import os
import platform
import time
from html import escape
from pathlib import Path
from typing import Any

from diffusion.digits.prompts import DigitsClassifiers, prompts_for
from diffusion.evaluation.measure import PAIRED
from diffusion.evaluation.ratio_comparison import compare
from diffusion.evaluation.ratio_table import Comparison
from diffusion.evaluation.samples import SampleSet, agreement, retained, take_samples
from diffusion.guidance.guided import constant
from diffusion.guidance.sampling import guided_samples
from diffusion.pipelines import DIGITS, StableDiffusion, load_pipeline
from diffusion.reports.figures import save_images
from diffusion.reports.html import bars, image, page, section, table
from diffusion.reports.job import write_job
from diffusion.reports.results import Unlearned
from diffusion.reports.save import save
from diffusion.tasks.config import Config, EvaluationConfig, FitConfig, RatiosConfig, RuntimeConfig
from diffusion.tasks.task import ConceptTask
from diffusion.workflows.concepts import unlearn

# ESD's rule for comparison: a constant strength, the least of these two halves that removes as much as the guided law.
CONSTANT = 0.5


def demo_config(samples: int, seed: int, cache_folder: Path | None) -> Config:
    """What the demo does differently from the defaults, so that it ends within minutes on two cores."""
    return Config(
        ratios=RatiosConfig(seed=seed, concept_samples=480, retained_samples=800, elbo_samples=120),
        # Levels are measured once, after the fit.
        fit=FitConfig(max_train_steps=180, fixed_multipliers=True, seed=seed),
        evaluation=EvaluationConfig(samples=samples, retained_samples=400, integrated=128),
        runtime=RuntimeConfig(seed=seed, cache_folder=cache_folder),
    )


def run_demo(folder: Path, opening: tuple[str, Path], task: ConceptTask, config: Config) -> str:
    """Write ``index.html`` with its images, the LoRA and the certificate into ``folder``; returns a short summary."""

    started, clock = time.monotonic(), {}
    judged, seed = config.evaluation.samples, config.runtime.seed
    concept = task.concepts[0].prompts[0]
    image_classifier, prompts = DigitsClassifiers(), prompts_for([concept])
    denoiser = StableDiffusion(load_pipeline(DIGITS))
    wanted = image_classifier.asked(concept)
    assert wanted is not None  # prompts_for has refused every other prompt
    result = unlearn(denoiser, prompts, task.asked, config, image_classifier=image_classifier, folder=folder)
    clock["ratios, solution, LoRA, evaluation"] = time.monotonic() - started
    save(result, denoiser, folder)
    write_job(folder, task, config)

    network: Any = denoiser.network
    network.disable_adapters()
    estimate = result.estimate
    since = time.monotonic()
    guided = _guided(denoiser, result, result.solution.guidance, judged // 2, "guided", image_classifier)
    fixed = _guided(
        denoiser, result, constant(CONSTANT), judged // 10, f"constant strength {CONSTANT}", image_classifier
    )
    clock["guided samples"] = time.monotonic() - since
    before = result.samples["before, anchor"]
    compared = compare(denoiser, estimate, image_classifier, thorough=False, seen=before)
    moved = {
        sample.name: retained(before, sample, [wanted], image_classifier, seed)
        for sample in (guided, result.samples["LoRA, anchor"], fixed)
    }
    all_samples = {**result.samples, "guided": guided, fixed.name: fixed}
    fitted = result.samples[PAIRED]
    save_images(
        folder / "guided.png",
        [(f"empty prompt: {s.name}", s.images[: len(fitted)]) for s in (before, guided, fitted, fixed)],
        columns=16,
    )
    clock["in all"] = time.monotonic() - started
    html = _page(result, opening, all_samples, moved, compared, wanted, image_classifier, clock)
    (folder / "index.html").write_text(html, encoding="utf-8")
    lines = [str(result.solution)]
    for name, sample in all_samples.items():
        said = ", ".join(f"{classifier} {value}" for classifier, value in sample.shows([wanted]).items())
        lines.append(f"{name:<24} {len(sample):>5} samples show the concept: {said}")
    for name, change in moved.items():
        lines.append(f"{name:<24} retained samples moved by {change.energy:.4f} (noise floor {change.floor:.4f})")
    lines += [*result.plan.lines(), *result.certificate.lines(), f"{clock['in all']:.0f} s in all"]
    return "\n".join(lines)


def _guided(
    denoiser: StableDiffusion,
    result: Unlearned,
    strength: Any,
    count: int,
    name: str,
    image_classifier: DigitsClassifiers,
) -> SampleSet:
    wanted = [result.estimate.prompts.anchor] * count
    noise = result.estimate.budget.anchor_seed
    latents = guided_samples(denoiser, result.estimate, strength, wanted, seed=noise, title=f"{name} samples")
    return take_samples(name, denoiser.pipeline, wanted, latents, image_classifier, noise)


def _page(
    result: Unlearned,
    opening: tuple[str, Path],
    samples: dict[str, SampleSet],
    moved: dict[str, Any],
    compared: Comparison,
    wanted: int,
    image_classifier: DigitsClassifiers,
    clock: dict[str, float],
) -> str:
    solution, estimate = result.solution, result.estimate
    folder = opening[1].parent
    level = float(result.plan.asked.levels[0])
    concept = estimate.prompts.concepts[0]
    classifiers = list(samples["guided"].said)
    shown = [
        [name, str(len(sample)), *(str(value) for value in sample.shows([wanted]).values())]
        for name, sample in samples.items()
        if name != PAIRED
    ]
    target = result.measured.target_shares
    shown.append(
        ["target: samples of q, weighted", str(len(estimate.anchor)), *(f"{100 * v:.2f} %" for v in target.values())]
    )
    obeyed = [
        [when, *(str(v) for v in agreement(samples[f"{when}, retained"], image_classifier).values())]
        for when in ("before", "LoRA")
    ]
    change = [
        [name, f"{m.energy:+.4f}", f"{m.floor:.4f}", *(f"{100 * m.class_shift[j]:.1f} points" for j in classifiers)]
        for name, m in moved.items()
    ]
    examined = [
        [c.estimator, c.by, str(c.samples), f"{c.auc:.4f}", f"{c.brier:.4f}", f"{c.ece:.4f}",
         f"{100 * c.mean_posterior:.2f} %", f"{100 * c.frequency:.2f} %"]
        for c in compared.calibration
    ]  # fmt: skip
    own, spent = result.measured.level()[0].estimate, result.measured.cost().estimate
    lam, error = float(solution.multipliers[0]), float(solution.multipliers_stderr[0])
    coverage = estimate.coverage()
    body = [
        section(
            "What was asked",
            "<p>A Stable Diffusion pipeline that makes handwritten digits must stop drawing what "
            f"<b>{escape(concept.name)}</b> asks for: at most {100 * level:.3g} % of its unconditional samples may "
            "show it, and nothing else may change. Prompts that ask for it, in all of their paraphrases, fall back to "
            "the empty prompt.</p>",
        ),
        section(
            "The same problem where everything is known",
            "<p>A mixture of three Gaussians, one mode to be unlearned; each of the three formulations solved to "
            "rounding. q: what was learned. q<sub>1</sub>: what must go. p*: the optimal target.</p>"
            + image(opening[1], "densities and dual functions of the three problems")
            + f"<pre>{escape(opening[0])}</pre>",
        ),
        section(
            "What is known of the pipeline",
            "<p>Log ratios from a ratio classifier on the network's own features; the ELBO difference needs no "
            "training and is an independent check. The classifiers took no part in either.</p>"
            + table(
                [
                    "estimator",
                    "classifier",
                    "samples",
                    "AUC",
                    "Brier",
                    "calibration error",
                    "mean posterior",
                    "classifier's frequency",
                ],
                examined,
            )
            + f"<p>Mean posterior over prior: {coverage[0]:.3f} ± {coverage[1]:.3f}.</p>",
        ),
        section(
            "The answer",
            f"<p>lam* = <b>{lam:.4f} ± {error:.4f}</b>, cost KL(p*‖q) = <b>{solution.primal:.4f} ± "
            f"{solution.primal_stderr:.4f} nats</b>, level of the target {float(solution.levels[0]):.4f}, relative "
            f"duality gap {solution.gap:.1e} on {len(estimate.anchor)} samples "
            f"(effective {solution.effective_sample_size:.0f}).</p>"
            + f"<pre>{escape(str(solution))}</pre>"
            + f"<p>{escape(' '.join(result.plan.lines()))}.</p>",
        ),
        section("Is it certified?", _verdicts(result)),
        section(
            f"What was found: samples that show {image_classifier.classes[wanted]}",
            table(["samples", "count", *(f"classifier {j}" for j in classifiers)], shown)
            + "<p>“guided” samples the target without training; “LoRA” is the fitted network. ± one binomial standard "
            f"error. By the ratios that the problem was solved with, the fitted network has {100 * own.mean:.2f} ± "
            f"{100 * own.stderr:.2f} %, and it costs {spent} nats: what exceeds the target's {solution.primal:.3f} is "
            "the error of the fit.</p>" + image(folder / "guided.png", "samples of the empty prompt before and after"),
        ),
        section(
            "What happened to the rest",
            table(
                ["after", "energy distance", "noise floor, 95 %", *(f"largest class shift, {j}" for j in classifiers)],
                change,
            )
            + "<p>Energy distance between samples that do not show the concept, before and after, in 8x8 pixels. "
            "Guided samples start from the noise of those before, and pairs from one noise are left out; the LoRA's "
            "are fresh.</p>"
            + table(["other digits: prompts obeyed", *classifiers], obeyed)
            + bars(
                {
                    name: samples[key].classes(10)[classifiers[-1]]
                    for name, key in (
                        ("before", "before, anchor"),
                        ("guided", "guided"),
                        ("LoRA", "LoRA, anchor"),
                    )
                },
                list(image_classifier.classes),
            )
            + image(folder / "before_after.png", "before and after, by kind of prompt"),
        ),
        section(
            "Time",
            table(["stage", "seconds"], [[name, f"{value:.0f}"] for name, value in clock.items()])
            + f"<p>{escape(platform.machine())}, {os.cpu_count()} cores, one seed ({estimate.budget.seed}).</p>",
        ),
    ]
    return page(f"Unlearning {concept.name}", body)


def _verdicts(result: Unlearned) -> str:
    """The three verdicts with their reasons, and every level with its bound."""
    proof = result.certificate
    said = "Certified" if proof.certified else "Not certified"
    html = f"<p><b>{said}</b>, at {100 * proof.question.confidence:g} % confidence.</p>"
    rows = []
    for name, verdict in proof.verdicts.items():
        rows.append([name, "passed" if verdict.passed else "not passed", "; ".join(verdict.reasons)])
    html += table(["verdict", "", "reasons"], rows)
    levels = [
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
        for level in proof.fitted_model.measured.levels
    ]
    html += table(["level of", "under", "by", "samples", "measured", "at most", "asked", "met"], levels)
    return html + (
        "<p>Levels are counted on fresh samples that nothing was solved with or fitted to; the bounds are one-sided. "
        'All evidence: <a href="certificate.json">certificate.json</a>; what was fitted: '
        '<a href="README.md">model card</a>.</p>'
    )
