"""The command ``forget``: given images out of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion.cli import options as shared
from diffusion.cli.derived import OF_GUIDANCE, TITLES, Job, with_job
from diffusion.cli.task_options import IMAGE_OPTIONS, shown_default
from diffusion.tasks.config import Config

# Settings of concepts alone.
NOT_OF_IMAGES = (
    *OF_GUIDANCE,
    "fixed_multipliers",
    "robust_rounds",
    "evaluation_concept_samples",
    "evaluation_retained_samples",
    "evaluation_confidence",
    "evaluation_sequential",
    "evaluation_aim",
)


@with_job(
    "sampling",
    "fit",
    "evaluation",
    "runtime",
    task=IMAGE_OPTIONS,
    defaults=Config.for_images(),
    without=NOT_OF_IMAGES,
)
def forget(
    output: Annotated[Path, typer.Option(help="folder for the LoRA, the certificate, the card and a sheet of samples")],
    job: Job,
    method: Annotated[
        str | None,
        typer.Option(
            help="tilted, primal-dual; baselines: neggrad, siss, erasediff" + shown_default("tilted"),
            rich_help_panel=TITLES["fit"],
            show_default=False,
        ),
    ] = None,
    comparison: Annotated[
        Path | None, typer.Option(help="PNG of the images beside the samples nearest to them; shows the images")
    ] = None,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """Forget given images: one constraint and one multiplier each, into a LoRA or all weights, with a certificate."""
    task, forgotten = job.image_task()
    model = shared.model_of(task)
    from diffusion import api
    from diffusion.reports.images import findings
    from diffusion.reports.save_images import save_comparison
    from diffusion.runtime.distributed import is_main
    from diffusion.runtime.files import check_file

    if comparison is not None:
        check_file(comparison, "comparison")
    config = shared.with_cache(job.config)
    if method is not None:
        config = config.but(fit=config.fit.but(method=method))
    result = api.forget(model, task, config, output=output, overwrite=overwrite, method=None, bar=None)
    if not is_main():
        return
    if comparison is not None:
        save_comparison(result, comparison)
    for number, path in enumerate(forgotten, 1):
        typer.echo(f"image {number}: {path}")
    typer.echo("\n".join([*findings(result), *result.certificate.lines()]))
    typer.echo(f"written to {output}")
