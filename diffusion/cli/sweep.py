"""`bench --sweep` and `--quick`: the frontier of every method on one concept of ``wardrobe``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from diffusion.cli.derived import Job


def sweep_of(
    job: Job, output: Path, methods: Sequence[str] | None, seeds: int, size: tuple[bool, int, int | None]
) -> None:
    """Run what is missing in ``output`` and print the table. ``ValueError`` where the model is not ``wardrobe``, or
    more than one concept is given. ``--quick`` ends with status 1 where a method fails."""
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    (quick, images, points), chains = size, job.flags.get("cost_chains")
    if images < 2:
        raise ValueError(f"images must be at least 2, got {images}")
    if chains is not None and chains < 2:
        raise ValueError(f"cost-chains must be at least 2, got {chains}: one has no standard error")
    if points is not None and points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    task = job.concept_task(model="wardrobe", levels=["1%"])
    from diffusion.api import embedded, open_denoiser
    from diffusion.evaluation.sweep.canvas import CanvasTask
    from diffusion.evaluation.sweep.frontier import table
    from diffusion.evaluation.sweep.measure import Measured
    from diffusion.evaluation.sweep.plan import MEASURED_BY, QUICK, Sweep
    from diffusion.runtime.files import check_folder
    from diffusion.tasks.sampling import at_law
    from diffusion.workflows.sweep import run_sweep

    if embedded(task.model) != "wardrobe":
        raise ValueError(f"model must be wardrobe for a sweep, which has classifiers of all axes; got {task.model!r}")
    if len(task.concepts) != 1:
        raise ValueError(f"concept must be one for a sweep, got {len(task.concepts)}")
    config, start = job.config, job.config.runtime.seed
    law = (QUICK if quick else Sweep()).sampling
    scale = config.sampling.guidance_scale or law.guidance_scale
    steps = config.sampling.num_inference_steps or law.num_inference_steps
    wanted = replace(
        QUICK if quick else Sweep(measured=Measured(samples=images, chains=chains or max(2, images // 4))),
        methods=tuple(methods) if methods else Sweep().methods,
        seeds=tuple(range(start, start + (1 if quick else seeds))),
        sampling=config.sampling.but(guidance_scale=scale, num_inference_steps=steps),
        rank=config.fit.rank,
        points=points,
    )
    asked = CanvasTask.of(task.concepts[0].prompts[0])
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {str(output)!r} is a file; a folder is needed")
    check_folder(output, "output")
    denoiser, sampling = at_law(open_denoiser("wardrobe", config.runtime), wanted.sampling)
    found = run_sweep(denoiser, asked, replace(wanted, sampling=sampling), output)
    typer.echo("\n".join(table(found, MEASURED_BY)))
    typer.echo(f"written to {output}")
    failed = [point.setting.method for point in found if point.failed is not None]
    if quick and failed:  # that all of it runs is what was asked
        typer.echo(f"failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
