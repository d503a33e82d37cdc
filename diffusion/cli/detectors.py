"""`distill` where detectors define the concepts: what it costs, and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from diffusion.tasks.config import Config
    from diffusion.tasks.task import ConceptTask


def plan_detected(model: Any, task: ConceptTask, config: Config) -> None:
    """Print stages, network evaluations, time and memory of a run, and do nothing."""
    from diffusion.api import open_denoiser
    from diffusion.workflows.detected import check_detected
    from diffusion.workflows.dry_run import said, stages_detected

    denoiser = open_denoiser(model, config.runtime)
    check_detected(denoiser, task.law, task.asked, config)
    typer.echo("\n".join(said(denoiser, stages_detected(denoiser, task.law, config))))


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
