"""The command ``unlearn``. The one place that sees duality, toy and diffusion together."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

try:
    import typer
except ImportError:  # pragma: no cover - exercised by a subprocess without typer
    sys.exit("unlearn: the command line needs typer: install unlearning-duality[cli]")

from diffusion import need_extra
from diffusion.cli import options as shared
from diffusion.cli.evaluate import audit, bench
from diffusion.cli.forget import forget
from diffusion.cli.toy import explore, frontier, solve, verify
from diffusion.runtime.interrupts import terminable

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
app.command()(bench)

METHOD_HELP = (
    "how it is fitted: tilted, guidance, primal-dual; for comparison esd, esd-x, neggrad, siss, erasediff, "
    "equal-weights"
)


@app.command()
def distill(
    model: shared.Model,
    output: Annotated[Path, typer.Option(help="folder for the LoRA, the certificate, the card and the images")],
    level: shared.LevelOption,
    concept: shared.ConceptOption = None,
    problem: shared.ProblemOption = "likelihood",
    paraphrase: shared.WordingOption = None,
    examples: shared.ExamplesOption = None,
    contrast: shared.ContrastOption = None,
    vocabulary: shared.VocabularyOption = None,
    prior: shared.PriorOption = None,
    anchor: shared.AnchorOption = "",
    samples: shared.DrawsOption = shared.DRAWS,
    labelled: shared.LabelledOption = 600,
    steps: shared.StepsOption = 340,
    batch: shared.BatchOption = 48,
    rank: shared.RankOption = 8,
    full: shared.FullOption = False,
    rate: shared.RateOption = None,
    precision: shared.PrecisionOption = "no",
    accumulate: shared.AccumulateOption = 1,
    gradient_checkpointing: shared.CheckpointingOption = False,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "tilted",
    uncorrected: Annotated[
        bool,
        typer.Option("--uncorrected", help="tilted, guidance: keep the solved multipliers, measure at the end only"),
    ] = False,
    patience: Annotated[
        int | None, typer.Option(help="primal-dual: stop after so many rounds with all levels met and still")
    ] = None,
    checkpointing_steps: shared.CheckpointingStepsOption = 100,
    track: shared.TrackOption = None,
    track_folder: shared.TrackFolderOption = Path("runs"),
    evaluation_samples: shared.EvaluationSamplesOption = 2000,
    seed: shared.SeedOption = 0,
    cache: shared.CacheOption = None,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """Solve for the target, fit it into a LoRA or all weights, and certify: ratios, multipliers, training, evidence."""
    target = shared.make_problem(problem, level)
    task = shared.make_task(model, concept, paraphrase, examples, contrast, vocabulary, prior, anchor)
    need_extra()
    from diffusion.evaluation.measure import Evaluation
    from diffusion.evaluation.planning import check_samples
    from diffusion.methods import method_of
    from diffusion.reports.model_card import findings
    from diffusion.reports.save import save
    from diffusion.runtime.cache import default_folder
    from diffusion.runtime.distributed import is_main
    from diffusion.runtime.output_folder import OutputFolder
    from diffusion.workflows.concepts import unlearn
    from diffusion.workflows.validation import check

    evaluation = Evaluation(samples=evaluation_samples)
    check_samples(target, evaluation.fewest, evaluation.confidence)
    chosen = method_of(method) if patience is None else method_of(method).with_patience(patience)
    if uncorrected:
        chosen = chosen.uncorrected()
    fit = shared.make_fit(steps, batch, rank, full, rate, seed, precision, accumulate, gradient_checkpointing)
    tracked = shared.make_tracked(track, track_folder, method, fit)
    with OutputFolder(output, overwrite) as folder:
        denoiser = shared.open_model(model)
        prompts = task(denoiser)
        check(denoiser, prompts, target, chosen)
        result = unlearn(
            denoiser,
            prompts,
            target,
            method=chosen,
            budget=shared.make_budget(samples, seed, labelled),
            fit=fit,
            evaluation=evaluation,
            image_classifier=shared.image_classifier_of(model, prompts),
            cache_folder=cache or default_folder(),
            tracked=tracked,
            folder=folder,
            checkpointing_steps=checkpointing_steps,
        )
        if is_main():
            save(result, denoiser, folder)
    if not is_main():
        return
    typer.echo("\n".join([*result.plan.lines(), str(result.solution), *findings(result)]))
    typer.echo("\n".join(result.certificate.lines()))
    typer.echo(f"written to {output}")


@app.command()
def sample(
    model: shared.Model,
    output: Annotated[Path, typer.Option(help="folder for the images")],
    level: shared.LevelOption,
    concept: shared.ConceptOption = None,
    problem: shared.ProblemOption = "likelihood",
    prompt: Annotated[str, typer.Option(help="what to sample; a concept's paraphrase falls back to the anchor")] = "",
    count: Annotated[int, typer.Option(help="how many samples")] = 64,
    lora: Annotated[
        Path | None, typer.Option(help="folder of a LoRA or network to sample with, instead of guidance")
    ] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="measure guidance's own levels first, and move the multipliers by them")
    ] = False,
    paraphrase: shared.WordingOption = None,
    examples: shared.ExamplesOption = None,
    contrast: shared.ContrastOption = None,
    vocabulary: shared.VocabularyOption = None,
    prior: shared.PriorOption = None,
    anchor: shared.AnchorOption = "",
    samples: shared.DrawsOption = shared.DRAWS,
    labelled: shared.LabelledOption = 600,
    seed: shared.SeedOption = 0,
    cache: shared.CacheOption = None,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """Sample the optimal target by guidance, without training (or through a LoRA that was distilled before)."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    target = shared.make_problem(problem, level)
    task = shared.make_task(model, concept, paraphrase, examples, contrast, vocabulary, prior, anchor)
    import duality as du
    from diffusion.guidance.guided import Strength
    from diffusion.guidance.sampling import guided_samples
    from diffusion.methods import corrected_guidance
    from diffusion.pipelines.fitted import holds_fit, put_in
    from diffusion.pipelines.latents import decode
    from diffusion.pipelines.sampling import sample_latents
    from diffusion.ratios.estimate import estimate_ratios
    from diffusion.reports.figures import save_each, save_images
    from diffusion.reports.model_card import rounds_table
    from diffusion.runtime.distributed import is_main
    from diffusion.runtime.output_folder import OutputFolder

    if lora is not None and corrected:
        raise ValueError("corrected: it is guidance that is corrected, and a fitted network is sampled without any")
    if lora is not None and not holds_fit(lora):
        raise ValueError(f"lora folder {str(lora)!r} holds neither a LoRA nor a network")
    with OutputFolder(output, overwrite) as folder:
        denoiser = shared.open_model(model)
        prompts = task(denoiser)
        wanted = [prompt] * count
        if lora is not None:
            put_in(denoiser, lora)
            latents = sample_latents(denoiser.pipeline, wanted, seed=seed)
        else:
            estimate = estimate_ratios(
                denoiser,
                prompts,
                shared.make_budget(samples, seed, labelled),
                shared.store_of(denoiser, cache),
            )
            solution = du.solve(target.problem(estimate.ratios), estimate.ratios)
            typer.echo(str(solution))
            strength: Strength = solution.guidance
            if corrected:
                strength, rounds = corrected_guidance(denoiser, estimate, solution, seed=seed)
                typer.echo("\n".join(rounds_table(rounds)))
            latents = guided_samples(denoiser, estimate, strength, wanted, seed=seed + 77)
        images = decode(denoiser.pipeline, latents)
        if is_main():
            save_images(folder / "sheet.png", [(prompt or "(empty prompt)", images)], 12, panel_columns=1)
            save_each(folder, images)
    typer.echo(f"{count} images written to {output}")


@app.command()
def ratios(
    model: shared.Model,
    concept: shared.ConceptOption = None,
    paraphrase: shared.WordingOption = None,
    examples: shared.ExamplesOption = None,
    contrast: shared.ContrastOption = None,
    vocabulary: shared.VocabularyOption = None,
    prior: shared.PriorOption = None,
    anchor: shared.AnchorOption = "",
    samples: shared.DrawsOption = shared.DRAWS,
    labelled: shared.LabelledOption = 600,
    elbo_samples: Annotated[int, typer.Option(help="samples at which the ELBO estimators are computed as well")] = 200,
    elbo_noise_levels: Annotated[int, typer.Option(help="noise levels of the ELBO estimators")] = 40,
    path_steps: Annotated[int, typer.Option(help="steps of the trajectories of the path estimator")] = 20,
    problem: shared.ProblemOption = "likelihood",
    level: Annotated[list[str] | None, typer.Option("--level", help="solve here as well; " + shared.LEVEL_HELP)] = None,
    output: Annotated[Path | None, typer.Option(help="write the table as JSON as well")] = None,
    seed: shared.SeedOption = 0,
    cache: shared.CacheOption = None,
) -> None:
    """Estimate and keep log ratios, examine every estimator, and say what levels mean for this model."""
    target = shared.make_problem(problem, level) if level else None
    task = shared.make_task(model, concept, paraphrase, examples, contrast, vocabulary, prior, anchor)
    from dataclasses import replace

    from diffusion.evaluation.ratio_comparison import compare
    from diffusion.ratios.estimate import estimate_ratios
    from diffusion.ratios.level_table import level_table
    from diffusion.reports.ratios import ratios_report
    from diffusion.runtime.files import check_file, write_text

    if output is not None:
        check_file(output)
    denoiser = shared.open_model(model)
    prompts = task(denoiser)
    budget = replace(
        shared.make_budget(samples, seed, labelled),
        elbo_samples=min(elbo_samples, samples),
        elbo_noise_levels=elbo_noise_levels,
    )
    store = shared.store_of(denoiser, cache)
    estimate = estimate_ratios(denoiser, prompts, budget, store)
    compared = compare(denoiser, estimate, shared.image_classifier_of(model, prompts), store, path_steps=path_steps)
    table = level_table(estimate, target)
    report = ratios_report(estimate, compared, table)
    typer.echo("\n".join([*compared.lines(), *table.lines(), *report.lines()]))
    if output is not None:
        write_text(output, report.to_json())


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder for the page")] = Path("out/demo"),
    concept: Annotated[str, typer.Option(help="which digit goes")] = "a handwritten seven",
    level: Annotated[float, typer.Option(help="at most this share of samples may show it")] = 0.01,
    evaluation_samples: shared.EvaluationSamplesOption = 2000,
    seed: shared.SeedOption = 0,
    cache: shared.CacheOption = None,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """The main job, end to end: three problems on densities, then a digit unlearned; leaves one page with images."""
    asked = shared.make_problem("likelihood", [str(level)])
    need_extra()
    from diffusion.evaluation.measure import Evaluation
    from diffusion.evaluation.planning import check_samples

    check_samples(asked, evaluation_samples, Evaluation().confidence)
    from diffusion.cli.toy import demo_section
    from diffusion.runtime.cache import default_folder
    from diffusion.runtime.output_folder import OutputFolder
    from diffusion.workflows.demo import run_demo

    with OutputFolder(output, overwrite) as folder:
        opening = demo_section(folder)
        summary = run_demo(folder, opening, concept, level, evaluation_samples, seed, cache or default_folder())
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
