"""`distill` where detectors define the concepts: what it costs, and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from diffusion.tasks.config import Config
    from diffusion.tasks.task import ConceptTask


def plan_detected(model: Any, task: ConceptTask, config: Config) -> None:
    """Print stages, network evaluations, time and memory of a run, and do nothing."""
    from diffusion.api import open_at_law
    from diffusion.workflows.detected import check_detected
    from diffusion.workflows.dry_run import said, stages_detected

    denoiser, config = open_at_law(model, config)
    check_detected(denoiser, task.law, task.asked, config)
    typer.echo("\n".join(said(denoiser, stages_detected(denoiser, task.law, config), config)))


def distill_detected(model: Any, task: ConceptTask, config: Config, **more: Any) -> None:
    """Run, and say what came of it; ``more``: as for :func:`diffusion.unlearn`."""
    from diffusion.api import unlearn_by_detectors
    from diffusion.runtime.distributed import is_main

    result = unlearn_by_detectors(model, task, config, bar=None, **more)
    if not is_main():
        return
    lines = [*result.plan.lines(), str(result.solution)]
    lines += [str(level) for level in result.measured.levels]
    lines += [
        f"{each.concept!r} at guidance scale {each.guidance_scale:g}, by {each.by}: {each.estimate}, at most "
        f"{each.bound.value:.4g}"
        for each in result.measured.at_scales
    ]
    lines += [f"cost {each.estimate} nats, the target's {result.solution.primal:.4g}" for each in result.measured.costs]
    typer.echo("\n".join([*lines, *result.certificate.lines()]))
    typer.echo(f"written to {more['output']}")


def sample_target(denoiser: Any, task: ConceptTask, config: Config, prompt: str, count: int, by: str) -> Any:
    """Samples of the target under one prompt, ``by`` rejection (exact) or particles (exact in the limit)."""
    import numpy as np

    import duality as du
    from diffusion.cli import options
    from diffusion.guidance.particles import SamplerProcess, check_stochastic, particle_samples
    from diffusion.guidance.rejection import rejection_samples
    from diffusion.ratios.detected import estimate_detected, grouped, sample_law
    from diffusion.runtime.progress import progress_bar
    from diffusion.tasks.detectors import detector_of
    from diffusion.tasks.levels import of_detectors
    from diffusion.tasks.prompts import Prompts
    from diffusion.workflows.detected import check_law

    law, seed = task.law, config.runtime.seed
    detectors = [detector_of(concept.detector) for concept in task.concepts]
    if by == "particles":
        check_stochastic(denoiser)
    check_law(denoiser, law, task.asked, config)
    store = options.store_of(denoiser, config)
    noised_detector = None
    if by == "particles":
        names = {concept.prompts[0]: one for concept, one in zip(task.concepts, detectors, strict=True)}
        estimate = estimate_detected(denoiser, law, names, config.ratios, config.sampling, store)
        ratios, noised_detector = estimate.ratios, estimate.noised_detector
    else:
        row, _, detected = sample_law(denoiser, law, detectors, config.ratios, config.sampling, store)
        ratios = grouped(law, row, detected)
    solution = du.solve(of_detectors(task.asked, ratios), ratios)
    typer.echo(str(solution))
    asked = task.but(prompts=Prompts([prompt])).law  # with the anchor, where it asks for the concept
    if by == "particles":
        rule, told = (detectors, solution.multipliers), asked.sampled[0]
        process = SamplerProcess(denoiser, told, config.sampling, rule, noised_detector, n=count, seed=seed + 77)
        latents, found = particle_samples(process, seed + 77)
        typer.echo(f"{found}; {process.evaluations} network evaluations")
        return latents
    with progress_bar("rejection samples", count) as shown:
        kept = rejection_samples(
            denoiser,
            asked,
            np.zeros(count, dtype=np.int64),
            config.sampling,
            (detectors, solution.multipliers),
            seed=seed + 77,
            progress=shown.update,
        )
    typer.echo(f"{kept.drawn} samples were made for {count}")
    return kept.latents
