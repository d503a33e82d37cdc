"""The command ``forget``: given images out of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion import need_extra
from diffusion.cli import options as shared


def forget(
    model: shared.Model,
    image: Annotated[list[Path], typer.Option("--image", help="an image that must go, or a folder of them; repeat")],
    output: Annotated[Path, typer.Option(help="folder for the LoRA, the certificate, the card and a sheet of samples")],
    level: Annotated[
        list[str] | None,
        typer.Option(
            "--level",
            help="nats of surprise above the present, one for all images or one each; left out, 'unseen': as "
            "surprising as the images of --held-out in the mean; 'unseen 90%': at least as nine tenths of them",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="under which they are forgotten; a folder's metadata.jsonl or .csv may say it")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="folder of training data, the images among it; left out, samples of the model"),
    ] = None,
    held_out: Annotated[
        list[Path] | None, typer.Option("--held-out", help="folder of like images, never trained on")
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(
            "--share",
            help="copies of an image over the size of the data of its prompt, one for all or one each; left out, "
            "counted in the data or among samples",
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="tilted or primal-dual; for comparison neggrad, siss, erasediff")
    ] = "tilted",
    steps: shared.StepsOption = 600,
    batch: shared.BatchOption = 48,
    rank: shared.RankOption = 16,
    full: shared.FullOption = False,
    rate: shared.RateOption = None,
    precision: shared.PrecisionOption = "no",
    accumulate: shared.AccumulateOption = 1,
    gradient_checkpointing: shared.CheckpointingOption = False,
    patience: Annotated[
        int | None, typer.Option(help="tilted, primal-dual: stop after so many rounds with all levels met")
    ] = None,
    samples_per_image: Annotated[
        int, typer.Option(help="samples before and after, among which copies are counted")
    ] = 1000,
    sampler_steps: Annotated[int, typer.Option(help="steps of the pipeline's sampler in each of these samples")] = 25,
    comparison: Annotated[
        Path | None, typer.Option(help="PNG of the images beside the samples nearest to them; shows the images")
    ] = None,
    checkpointing_steps: shared.CheckpointingStepsOption = 100,
    track: shared.TrackOption = None,
    track_folder: shared.TrackFolderOption = Path("runs"),
    seed: shared.SeedOption = 0,
    cache: shared.CacheOption = None,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """Forget given images: one constraint and one multiplier each, into a LoRA or all weights, with a certificate."""
    from diffusion.pipelines.images import gather

    levels = _levels(level)
    forgotten, prompts = gather(image, "image", prompt)
    rest, rest_prompts = gather(data or [], "data", None)
    unseen, unseen_prompts = gather(held_out or [], "held-out", None)
    need_extra()
    from diffusion.methods import image_method_of
    from diffusion.reports.images import findings
    from diffusion.reports.save_images import save, save_comparison
    from diffusion.runtime.cache import default_folder
    from diffusion.runtime.distributed import is_main
    from diffusion.runtime.files import check_file
    from diffusion.runtime.output_folder import OutputFolder
    from diffusion.tasks.images import task_of
    from diffusion.workflows.images import forget as run

    chosen = image_method_of(method) if patience is None else image_method_of(method).with_patience(patience)
    if comparison is not None:
        check_file(comparison, "comparison")
    fit = shared.make_fit(steps, batch, rank, full, rate, seed, precision, accumulate, gradient_checkpointing)
    tracked = shared.make_tracked(track, track_folder, method, fit)
    with OutputFolder(output, overwrite) as folder:
        denoiser = shared.open_model(model)
        task = task_of(
            denoiser,
            forgotten,
            prompts=prompts,
            data=rest or None,
            data_prompts=rest_prompts if any(rest_prompts) else None,
            held_out=unseen or None,
            held_out_prompts=unseen_prompts if any(unseen_prompts) else None,
            levels=levels,
            shares=share if share is None or len(share) > 1 else share[0],
        )
        result = run(
            denoiser,
            task,
            chosen,
            fit=fit,
            samples_per_image=samples_per_image,
            sampler_steps=sampler_steps,
            cache_folder=cache or default_folder(),
            tracked=tracked,
            folder=folder,
            checkpointing_steps=checkpointing_steps,
        )
        if is_main():
            save(result, denoiser, folder)
    if not is_main():
        return
    if comparison is not None:
        save_comparison(result, comparison)
    for number, path in enumerate(forgotten, 1):
        typer.echo(f"image {number}: {path}")
    typer.echo("\n".join([*findings(result), *result.certificate.lines()]))
    typer.echo(f"written to {output}")


def _levels(given: list[str] | None) -> str | list[float]:
    from diffusion.tasks.images import UNSEEN

    if not given:
        return UNSEEN
    if given[0].startswith(UNSEEN):
        if len(given) > 1:
            raise ValueError(f"level {UNSEEN!r} is for all images, and goes with no other, got {given}")
        return given[0]
    try:
        return [float(text.removesuffix("nats")) for text in given]
    except ValueError:
        raise ValueError(f"level must be nats, one for all images or one each, or {UNSEEN!r}, got {given}") from None
