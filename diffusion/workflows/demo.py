"""The main job on ``digits``: solve, guide, distil, and put what was asked beside what was found, on one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from diffusion.digits.prompts import DigitsClassifiers, prompts_for
from diffusion.evaluation.measured import Moved
from diffusion.evaluation.pairs import LOOKED_AT, PAIRED
from diffusion.evaluation.ratio_comparison import compare
from diffusion.evaluation.samples import SampleSet, retained, take_samples
from diffusion.guidance.guided import constant
from diffusion.guidance.sampling import guided_samples
from diffusion.pipelines import DIGITS, StableDiffusion, load_pipeline
from diffusion.reports.demo_page import Demo, demo_page
from diffusion.reports.figures import save_images
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
        fit=FitConfig(max_train_steps=240, fixed_multipliers=True, gain=4.5, seed=seed),
        evaluation=EvaluationConfig(samples=samples, retained_samples=400, integrated=128),
        runtime=RuntimeConfig(seed=seed, cache_folder=cache_folder),
    )


def run_demo(folder: Path, opening: tuple[str, Path], task: ConceptTask, config: Config) -> str:
    """Write ``index.html`` with its images, the LoRA and the certificate into ``folder``; returns a short summary."""

    started, clock = time.monotonic(), {}
    count = config.evaluation.samples
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
    guided = _guided(denoiser, result, result.solution.guidance, count // 2, "guided", image_classifier)
    fixed = _guided(
        denoiser, result, constant(CONSTANT), count // 10, f"constant strength {CONSTANT}", image_classifier
    )
    clock["guided samples"] = time.monotonic() - since
    before = result.samples["before, anchor"]
    compared = compare(denoiser, estimate, image_classifier, thorough=False, seen=before)
    # What is said of the LoRA is said once: the certificate's numbers are the page's.
    moved = {
        "guided": _moved(before, guided, wanted, image_classifier, config.evaluation.seed),
        "LoRA, anchor": result.measured.moved,
        fixed.name: _moved(before, fixed, wanted, image_classifier, config.evaluation.seed),
    }
    known = {name: change for name, change in moved.items() if change is not None}
    all_samples = {**result.samples, "guided": guided, fixed.name: fixed}
    fitted = result.samples[PAIRED]
    save_images(
        folder / "guided.png",
        [(f"empty prompt: {s.name}", s.images[: len(fitted)]) for s in (before, guided, fitted, fixed)],
        columns=16,
    )
    clock["in all"] = time.monotonic() - started
    demo = Demo(result, opening, all_samples, known, compared, image_classifier, wanted, clock)
    (folder / "index.html").write_text(demo_page(demo, folder), encoding="utf-8")
    lines = [str(result.solution)]
    for name, sample in all_samples.items():
        if name in LOOKED_AT:
            continue
        said = ", ".join(f"{classifier} {value}" for classifier, value in sample.shows([wanted]).items())
        lines.append(f"{name:<24} {len(sample):>5} samples show the concept: {said}")
    for name, change in known.items():
        moved_by = f"{change.energy_distance:.4f} (noise floor {change.noise_floor:.4f})"
        lines.append(f"{name:<24} retained samples moved by {moved_by}")
    lines += [*result.plan.lines(), *result.certificate.lines(), f"{clock['in all']:.0f} s in all"]
    return "\n".join(lines)


def _moved(
    before: SampleSet, after: SampleSet, wanted: int, image_classifier: DigitsClassifiers, seed: int
) -> Moved | None:
    """None where fewer than two samples on a side do not show the concept, of which there is no distance."""
    last = list(after.said)[-1]
    if min(int((sample.said[last] != wanted).sum()) for sample in (before, after)) < 2:
        return None
    found = retained(before, after, [wanted], image_classifier, seed)
    return Moved(energy_distance=found.energy, noise_floor=found.floor, largest_class_shift=found.class_shift)


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
