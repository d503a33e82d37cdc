"""The command ``unlearn``. The one place that sees duality, toy and diffusion together."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# What a library lacks that nobody needs here (torchvision) is no news to who asked for something else.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

try:
    import typer
except ImportError:  # pragma: no cover - exercised by a subprocess without typer
    sys.exit("unlearn: the command line needs typer: install unlearning-duality[cli]")

from diffusion import need_extra
from diffusion.cli import options as shared
from diffusion.cli.derived import OF_GUIDANCE, OF_RUNS, Job, with_job
from diffusion.cli.evaluate import audit, bench
from diffusion.cli.export import export
from diffusion.cli.forget import forget
from diffusion.cli.recount import recount
from diffusion.cli.task_options import CONCEPT_OPTIONS, NO_LEVEL
from diffusion.cli.toy import explore, frontier, solve, verify
from diffusion.runtime.interrupts import terminable
from diffusion.tasks.config import Config

# Of a law of prompts on Stable Diffusion 1.5.
PRESETS = {
    "quick": "a look: 20 steps, 256 samples, a short fit, nothing measured or certified; under 25,000 evaluations",
    "frugal": "of detectors: the same, measured on 400 samples; under 50,000",
}
app = typer.Typer(
    help="Unlearning in diffusion models, solved exactly: problems, certificates, LoRAs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(verify)
app.command()(solve)
app.command()(frontier)
app.command()(explore)
app.command()(forget)
app.command()(audit)
app.command()(recount)
app.command()(bench)
app.command()(export)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unlearn {version('unlearning-duality')}")
        raise typer.Exit


@app.callback()
def unlearn_options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """What holds for `unlearn` itself rather than for one of its commands."""


@app.command()
@with_job("sampling", "ratios", "fit", "evaluation", "runtime", task=CONCEPT_OPTIONS, presets=PRESETS)
def distill(
    output: Annotated[Path, typer.Option(help="folder for LoRA, certificate, card and images")],
    job: Job,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print stages, network evaluations, time and memory; do nothing")
    ] = False,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """Solve for the target, fit it into a LoRA or all weights, and certify: ratios, multipliers, training, evidence."""
    task, config = job.concept_task(), shared.with_cache(job.config)
    model = shared.model_of(task)
    from diffusion.api import open_at_law, unlearn_by_ratios
    from diffusion.reports.export import check_export
    from diffusion.reports.model_card import findings
    from diffusion.runtime.distributed import is_main
    from diffusion.workflows.dry_run import cost_lines

    classifier = shared.image_classifier_of(task)
    if task.by_detectors:
        from diffusion.cli.detectors import distill_detected, plan_detected

        if dry_run:
            plan_detected(model, task, config, output)
        else:
            distill_detected(model, task, config, output=output, overwrite=overwrite, image_classifier=classifier)
        return
    if dry_run:
        denoiser, config = open_at_law(model, config, of_ratios=True)
        check_export(denoiser, config, output)
        prompts = shared.prompts_for(denoiser, task)
        typer.echo("\n".join(cost_lines(denoiser, prompts, task.asked, config)))
        return
    result = unlearn_by_ratios(
        model, task, config, output=output, overwrite=overwrite, method=None, image_classifier=classifier, bar=None
    )
    if not is_main():
        return
    shared.say_rest(task, result.estimate.prompts)
    typer.echo("\n".join([*result.plan.lines(), str(result.solution), *findings(result)]))
    typer.echo("\n".join(result.certificate.lines()))
    typer.echo(f"written to {output}")


@app.command()
@with_job("sampling", "ratios", "runtime", task=CONCEPT_OPTIONS, without=OF_RUNS)
def sample(
    output: Annotated[Path, typer.Option(help="folder for the images")],
    job: Job,
    prompt: Annotated[str, typer.Option(help="what to sample; a concept's prompt falls back to the anchor")] = "",
    count: Annotated[int, typer.Option(help="number of samples")] = 64,
    lora: Annotated[
        Path | None, typer.Option(help="folder of a LoRA or network to sample with, instead of guidance")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="of detectors: rejection (exact; default) or particles (exact in the limit)")
    ] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="measure guidance's own levels first, and move the multipliers by them")
    ] = False,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """Sample the optimal target by guidance, without training; or what a result's folder holds, or another LoRA."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    lora = lora or job.folder
    if by not in (None, "rejection", "particles"):
        raise ValueError(f"by must be rejection or particles, got {by!r}")
    if lora is not None and corrected:
        raise ValueError("corrected: it is guidance that is corrected, and a fitted network is sampled without any")
    task = None if lora is not None and (job.model or job.said.get("model")) else job.concept_task()
    if by is not None and (lora is not None or task is None or not task.by_detectors):
        raise ValueError(f"by: {by} draws the target of detectors, and there are none, or a fitted network is sampled")
    if task is not None and task.by_detectors and corrected:
        raise ValueError("corrected: it is guidance that is corrected, and rejection is exact")
    model = shared.model_of(task) if task else str(job.model or job.said["model"])
    from diffusion.api import open_at_law
    from diffusion.pipelines.fitted import put_in
    from diffusion.pipelines.latents import decode
    from diffusion.pipelines.sampling import sample_latents
    from diffusion.reports.figures import save_each, save_images
    from diffusion.runtime.distributed import is_main
    from diffusion.runtime.output_folder import OutputFolder

    if lora is not None:
        shared.check_lora(lora)
    config = shared.with_cache(job.config)
    with OutputFolder(output, overwrite) as folder:
        # A law of prompts is at the sampler's own guidance scale; what was fitted on ratios is at 1, unless said.
        concepts = job.said.get("concepts") or () if task is None else task.concepts
        law = any((each.get("detector") if isinstance(each, dict) else each.detector) for each in concepts)
        free = lora is not None and config.sampling.guidance_scale is not None
        denoiser, config = open_at_law(model, config, of_ratios=not (law or free))
        wanted = [prompt] * count
        if lora is not None:
            put_in(denoiser, lora)
            call = config.sampling.call(denoiser)
            latents = sample_latents(denoiser.pipeline, wanted, seed=config.runtime.seed, **call)
        elif task is not None and task.by_detectors:
            from diffusion.cli.detectors import sample_target

            latents = sample_target(denoiser, task, config, prompt, count, by or "rejection")
        else:
            assert task is not None
            latents = _guided(denoiser, task, config, wanted, corrected)
        images = decode(denoiser.pipeline, latents)
        if is_main():
            save_images(folder / "sheet.png", [(prompt or "(empty prompt)", images)], 12, panel_columns=1)
            save_each(folder, images)
    typer.echo(f"{count} images written to {output}")


def _guided(denoiser: Any, task: Any, config: Any, wanted: list[str], corrected: bool) -> Any:
    """Samples of the optimal target, by guidance at the solved (or corrected) strengths."""
    import duality as du
    from diffusion.guidance.guided import Strength
    from diffusion.guidance.sampling import guided_samples
    from diffusion.methods import corrected_guidance
    from diffusion.ratios.estimate import estimate_ratios
    from diffusion.reports.model_card import rounds_table
    from diffusion.tasks.levels import check_tilt

    prompts, seed = shared.prompts_for(denoiser, task), config.runtime.seed
    store = shared.store_of(denoiser, config)
    estimate = estimate_ratios(denoiser, prompts, config.ratios, config.sampling, store)
    solution = du.solve(task.asked.problem(estimate.ratios), estimate.ratios)
    typer.echo(str(solution))
    check_tilt(solution)
    strength: Strength = solution.guidance
    if corrected:
        strength, rounds = corrected_guidance(denoiser, estimate, solution, seed=seed)
        typer.echo("\n".join(rounds_table(rounds)))
    return guided_samples(denoiser, estimate, strength, wanted, seed=seed + 77)


@app.command()
@with_job(
    "sampling",
    "ratios",
    "runtime",
    task=CONCEPT_OPTIONS,
    defaults=Config(ratios={"elbo_noise_levels": 40}),
    without=(*OF_RUNS, *OF_GUIDANCE),
)
def ratios(
    job: Job,
    path_steps: Annotated[int, typer.Option(help="steps of the trajectories of the path estimator")] = 20,
    output: Annotated[Path | None, typer.Option(help="write the table as JSON as well")] = None,
) -> None:
    """Estimate and keep log ratios, validate every estimator, and say what levels mean for this model."""
    solved = bool(job.flags["level"] or job.said.get("levels"))
    task = job.concept_task(levels=NO_LEVEL)
    model = shared.model_of(task)
    from diffusion.api import open_at_law
    from diffusion.evaluation.ratio_comparison import compare
    from diffusion.ratios.estimate import estimate_ratios
    from diffusion.ratios.level_table import level_table
    from diffusion.reports.ratios import ratios_report
    from diffusion.runtime.files import check_file, write_text

    if output is not None:
        check_file(output)
    config = job.config
    config = config.but(
        ratios=config.ratios.but(elbo_samples=min(config.ratios.elbo_samples, config.ratios.num_samples))
    )
    denoiser, config = open_at_law(model, config, of_ratios=True)
    prompts = shared.prompts_for(denoiser, task)
    store = shared.store_of(denoiser, config)
    estimate = estimate_ratios(denoiser, prompts, config.ratios, config.sampling, store)
    compared = compare(denoiser, estimate, shared.image_classifier_of(task), store, path_steps=path_steps)
    table = level_table(estimate, task.asked if solved else None)
    report = ratios_report(estimate, compared, table)
    typer.echo("\n".join([*compared.lines(), *table.lines(), *report.lines()]))
    if output is not None:
        write_text(output, report.to_json())


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder for the page")] = Path("out/demo"),
    concept: Annotated[str, typer.Option(help="which digit goes")] = "a handwritten seven",
    level: Annotated[str, typer.Option(help="target level")] = "1%",
    evaluation_samples: Annotated[int, typer.Option(help="fresh samples on which levels are measured")] = 2000,
    seed: Annotated[int, typer.Option(help="seed of every sample and of training")] = 0,
    cache_folder: Annotated[Path | None, typer.Option(help="where samples and ratios are kept between runs")] = None,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """The main job, end to end: three problems on densities, then a digit unlearned; leaves one page with images."""
    from diffusion.tasks.task import ConceptTask

    task = ConceptTask(model="digits", concepts=[concept], levels=[level])
    need_extra()
    from diffusion.evaluation.planning import check_measured, check_samples
    from diffusion.workflows.demo import demo_config, run_demo

    check_measured(evaluation_samples, "the demo")
    config = shared.with_cache(demo_config(evaluation_samples, seed, cache_folder))
    check_samples(task.asked, config.evaluation.fewest, config.evaluation.confidence)
    from diffusion.cli.toy import demo_section
    from diffusion.runtime.output_folder import OutputFolder

    with OutputFolder(output, overwrite) as folder:
        summary = run_demo(folder, demo_section(folder), task, config)
    typer.echo(summary)
    typer.echo(f"open {output / 'index.html'}")


def main() -> None:
    """Entry point: errors in the input are one clear line and exit code 2; nothing is half-written."""
    try:
        with terminable():
            app()
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        typer.echo(f"unlearn: error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
