"""The commands ``audit`` and ``bench``: what is left of a concept, and what every method makes of the same task."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from diffusion.cli import options as shared

BENCH = Path("out/bench")


def audit(
    model: shared.Model,
    lora: Annotated[Path, typer.Option(help="folder of the LoRA or network, as `unlearn distill` leaves it")],
    concept: shared.ConceptOption = None,
    output: Annotated[Path | None, typer.Option(help="folder for audit.json and audit.txt")] = None,
    paraphrase: shared.WordingOption = None,
    examples: shared.ExamplesOption = None,
    contrast: shared.ContrastOption = None,
    vocabulary: shared.VocabularyOption = None,
    prior: shared.PriorOption = None,
    anchor: shared.AnchorOption = "",
    samples_per_image: Annotated[int, typer.Option(help="samples of each row of the table")] = 100,
    scale: Annotated[list[float] | None, typer.Option(help="guidance scales besides 1; default 3 and 7.5")] = None,
    taught: Annotated[int, typer.Option(help="most steps of teaching it again; 0: not at all")] = 160,
    images: Annotated[int, typer.Option(help="images that it is taught again from")] = 16,
    seeds: Annotated[int, typer.Option(help="seeds of teaching it again")] = 2,
    samples: shared.DrawsOption = shared.DRAWS,
    labelled: shared.LabelledOption = 600,
    seed: shared.SeedOption = 0,
    cache: shared.CacheOption = None,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """Is it gone, or hidden? Every paraphrase, prompts near it, guidance scales, samplers, and how fast it comes
    back."""
    task = shared.make_task(model, concept, paraphrase, examples, contrast, vocabulary, prior, anchor)
    if not lora.is_dir():
        raise ValueError(f"lora {str(lora)!r} is no folder")
    if taught < 0:
        raise ValueError(f"taught must be at least 0, got {taught}")
    from diffusion.evaluation.audit import SCALES, AuditConfig
    from diffusion.evaluation.audit import audit as look_for
    from diffusion.evaluation.relearning import RelearnConfig
    from diffusion.pipelines.fitted import holds_fit, put_in
    from diffusion.ratios.estimate import estimate_ratios
    from diffusion.runtime.distributed import is_main
    from diffusion.runtime.output_folder import OutputFolder

    if not holds_fit(lora):
        raise ValueError(f"lora folder {str(lora)!r} holds neither a LoRA nor a network")
    relearn_config = None
    if taught:
        steps = tuple(sorted({0, *(max(1, round(taught * share)) for share in (0.125, 0.25, 0.5, 1))}))
        relearn_config = RelearnConfig(images=images, steps=steps, samples=max(2, samples_per_image // 2), seeds=seeds)
    config = AuditConfig(
        samples=samples_per_image, scales=tuple(scale or SCALES), relearn_config=relearn_config, seed=70_000 + seed
    )
    place = OutputFolder(output, overwrite) if output is not None else nullcontext(None)
    with place as folder:
        after = shared.open_model(model)
        put_in(after, lora)
        before = shared.open_model(model)
        prompts = task(before)
        store = shared.store_of(before, cache)
        estimate = estimate_ratios(before, prompts, shared.make_budget(samples, seed, labelled), store)
        found = look_for(
            before, after, estimate, image_classifier=shared.image_classifier_of(model, prompts), config=config
        )
        text = "\n".join(found.lines())
        typer.echo(text)
        if folder is not None and is_main():
            (folder / "audit.json").write_text(found.data().to_json(), encoding="utf-8")
            (folder / "audit.txt").write_text(text + "\n", encoding="utf-8")
    if output is not None:
        typer.echo(f"written to {output}")


def bench(
    model: Annotated[str, typer.Argument(help="'digits', a folder or a hub name that diffusers can load")] = "digits",
    output: Annotated[Path, typer.Option(help="folder for one JSON a run and the table; goes on from there")] = BENCH,
    concept: shared.ConceptOption = None,
    problem: shared.ProblemOption = "likelihood",
    level: Annotated[list[str] | None, typer.Option("--level", help=shared.LEVEL_HELP + "; default 0.01")] = None,
    method: Annotated[list[str] | None, typer.Option(help="only these; default all, and guidance alone")] = None,
    paraphrase: shared.WordingOption = None,
    contrast: shared.ContrastOption = None,
    vocabulary: shared.VocabularyOption = None,
    prior: shared.PriorOption = None,
    anchor: shared.AnchorOption = "",
    seeds: Annotated[int, typer.Option(help="training seeds of each method")] = 2,
    steps: Annotated[int, typer.Option(help="training steps of each fit")] = 340,
    rank: Annotated[int, typer.Option(help="rank of the LoRA")] = 8,
    judged: Annotated[int, typer.Option(help="samples of the anchor that are counted")] = 1000,
    samples: shared.DrawsOption = shared.DRAWS,
    labelled: shared.LabelledOption = 600,
    seed: shared.SeedOption = 0,
    cache: shared.CacheOption = None,
) -> None:
    """Every method, baselines too, on one task: same ratios, adapters, budget and seeds; a table and JSON; resumes."""
    from diffusion.pipelines import DIGITS

    if model == DIGITS and not concept:
        concept = ["a handwritten seven"]
    task = shared.make_task(model, concept, paraphrase, None, contrast, vocabulary, prior, anchor)
    target = shared.make_problem(problem, level or ["0.01"])
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    from diffusion.evaluation.benchmark import Bench, chosen_methods, run_bench
    from diffusion.evaluation.measure import Evaluation
    from diffusion.ratios.estimate import estimate_ratios
    from diffusion.runtime.files import check_folder
    from diffusion.training.trainer import Fit

    methods = chosen_methods(method)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {str(output)!r} is a file; a folder is needed")
    check_folder(output, "output")
    denoiser = shared.open_model(model)
    prompts = task(denoiser)
    store = shared.store_of(denoiser, cache)
    estimate = estimate_ratios(denoiser, prompts, shared.make_budget(samples, seed, labelled), store)
    plan = Bench(
        methods,
        tuple(range(seed, seed + seeds)),
        Fit(steps=steps, rank=rank),
        Evaluation(judged, asked=max(1, judged // 5), retained=max(1, judged // 3)),
    )
    found = run_bench(
        denoiser, estimate, target.problem(estimate.ratios), plan, shared.image_classifier_of(model, prompts), output
    )
    typer.echo("\n".join(found.lines()))
    typer.echo(f"written to {output}")
