"""The command ``recount``: whether a result is as its certificate says, on samples of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion.cli import options as shared
from diffusion.cli.derived import OF_RUNS, Job, with_job


@with_job("evaluation", "runtime", without=(*OF_RUNS, "evaluation_retained_samples", "evaluation_aim", "cache_folder"))
def recount(
    job: Job,
    output: Annotated[Path | None, typer.Option(help="file for what was counted, such as recount.json")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="law of prompts to count under, .txt, .csv or .jsonl (default: the task's)")
    ] = None,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """The levels of a result by its detectors, counted again on fresh samples. Decide how many before you look.

    With prompts of your own: whether they hold under words and contexts that no fit has seen.
    """
    if job.folder is None:
        raise ValueError(f"model must be the folder of a result, got {job.model!r}")
    if output is not None and output.exists() and not overwrite:
        raise ValueError(f"output {str(output)!r} is there already: choose another or give --overwrite")
    task = job.concept_task()
    if not task.by_detectors:
        raise ValueError("recount counts levels of detectors, and the concepts of this result have none: see audit")
    from diffusion.api import open_at_law
    from diffusion.evaluation.recount import Recount, asked_of, certified_model, check_recount, of_another
    from diffusion.evaluation.recount import recount as count
    from diffusion.pipelines.fingerprint import fingerprint
    from diffusion.pipelines.fitted import put_in
    from diffusion.runtime.distributed import is_main
    from diffusion.runtime.files import check_file, write_text
    from diffusion.tasks.detectors import detector_of
    from diffusion.tasks.prompts import Prompts
    from diffusion.workflows.detected import check_prompts

    law = task.law if prompts is None else Prompts.read(prompts)
    if output is not None:
        check_file(output)
    shared.check_lora(job.folder)
    evaluation, constraints = job.config.evaluation, asked_of(task.constraints, job.folder)
    check_recount(constraints, evaluation)
    for each in constraints:
        law.within(each.group)
    detectors = {name: detector_of(given) for name, given in task.detectors.items()}
    denoiser, config = open_at_law(shared.model_of(task), job.config)
    check_prompts(denoiser, law)
    base, certified = fingerprint(denoiser.pipeline), certified_model(job.folder)
    put_in(denoiser, job.folder)
    found = count(denoiser, law, detectors, constraints, config.sampling, evaluation)
    missed = [each for each in found if not each.met]
    typer.echo("\n".join(map(str, found)))
    typer.echo("every level is shown again" if not missed else f"not shown again: {len(missed)} of {len(found)} levels")
    if (other := of_another(base, certified)) is not None:
        typer.echo(other)
    if output is not None and is_main():
        said = Recount(
            result=job.folder.name,
            model_fingerprint=base,
            certified_fingerprint=certified,
            prompts=None if prompts is None else law.plain()["prompts"],
            evaluation=evaluation.plain(),
            sampling=config.sampling.plain(),
            levels=found,
            shown=not missed,
        )
        write_text(output, said.to_json())
        typer.echo(f"written to {output}")
