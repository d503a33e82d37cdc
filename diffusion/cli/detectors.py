"""`distill` where detectors define the concepts: what it costs, and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from diffusion.tasks.config import Config
    from diffusion.tasks.task import ConceptTask


def plan_detected(model: Any, task: ConceptTask, config: Config, output: Path) -> None:
    """Print stages, network evaluations, time and memory of a run, and do nothing."""
    from diffusion.api import open_at_law
    from diffusion.reports.export import check_export
    from diffusion.workflows.detected import check_detected
    from diffusion.workflows.dry_run import said, stages_detected

    denoiser, config = open_at_law(model, config)
    check_export(denoiser, config, output)
    check_detected(denoiser, task.law, task.constraints, config)
    stages = stages_detected(denoiser, task.law, task.constraints, config)
    typer.echo("\n".join(said(denoiser, stages, config)))


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
        f"{each.concept!r}{'' if each.group is None else f' in {each.group!r}'} at guidance scale "
        f"{each.guidance_scale:g}, by {each.by}: {each.estimate}, at "
        f"{'most' if each.bound.side == 'upper' else 'least'} {each.bound.value:.4g}"
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
    from diffusion.tasks.detector_levels import columns, named_conflict, problem_of, shares, strengths
    from diffusion.tasks.detectors import detector_of
    from diffusion.tasks.prompts import Prompts, normalised
    from diffusion.workflows.detected import check_law

    law, constraints, seed = task.law, task.constraints, config.runtime.seed
    detectors = {name: detector_of(given) for name, given in task.detectors.items()}
    if by == "particles":
        check_stochastic(denoiser)
    check_law(denoiser, law, config)
    store = options.store_of(denoiser, config)
    noised_detector = None
    if by == "particles":
        estimate = estimate_detected(denoiser, law, detectors, config.ratios, config.sampling, store)
        row, detected, noised_detector = estimate.rows, estimate.detected, estimate.noised_detector
    else:
        row, _, detected = sample_law(denoiser, law, list(detectors.values()), config.ratios, config.sampling, store)
    ratios = grouped(law, row, columns(law, constraints, row, detected))
    try:
        solution = du.solve(problem_of(constraints, ratios), ratios)
    except du.InfeasibleError as error:
        raise named_conflict(error, constraints) from None
    typer.echo(str(solution))
    # A prompt of the law is of its group; another one is of none, and only levels of all prompts are for it.
    place = [c for c, text in enumerate(law.texts) if normalised(text) == normalised(prompt)][:1]
    alpha = shares(law, constraints)[place] if place else np.array([[each.group is None for each in constraints]])
    alone = task.but(prompts=Prompts([prompt]), levels=["1x"], keep=()).law  # anchored, where it asks for a concept
    asked = Prompts([law.prompts[place[0]].but(weight=1.0)]) if place else alone
    rule = list(detectors.values()), strengths(alpha, constraints, solution.multipliers)[0].numpy()
    if by == "particles":
        told = asked.sampled[0]
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
            rule,
            seed=seed + 77,
            progress=shown.update,
        )
    typer.echo(f"{kept.drawn} samples were made for {count}")
    return kept.latents
