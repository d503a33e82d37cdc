"""The commands ``audit`` and ``bench``: what is left of a concept, and what every method makes of the same task."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from diffusion.cli import options as shared
from diffusion.cli.derived import OF_GUIDANCE, OF_RUNS, Job, with_job
from diffusion.cli.task_options import CONCEPT_OPTIONS, NO_LEVEL
from diffusion.tasks.config import Config

BENCH = Path("out/bench")
NOT_COMPARED = ("early_stopping_rounds", "fixed_multipliers", "robust_rounds")  # of a fit
OF_ONE_RUN = ("evaluation_sequential", "evaluation_aim")
COUNTED = 400  # samples of the anchor that say how often a detector sees its concept there
CHAINS = {
    "cost_chains": Annotated[
        int | None,
        typer.Option(
            help="of a sweep, chains along which nats are measured (default: a fourth of images)", show_default=False
        ),
    ]
}


@with_job("audit", "sampling", "ratios", "runtime", task=CONCEPT_OPTIONS, without=(*OF_RUNS, *OF_GUIDANCE))
def audit(
    job: Job,
    lora: Annotated[
        Path | None, typer.Option(help="folder of the LoRA or network, where the model is no result's folder")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for audit.json, audit.txt and audit.png")] = None,
    overwrite: shared.OverwriteOption = False,
) -> None:
    """Is it gone, or hidden? Paraphrases, prompts near it, guidance scales, samplers, and how fast it comes back."""
    lora = lora or job.folder
    if lora is None:
        raise ValueError("lora must be given: the folder of a LoRA or network, or a result's folder as the model")
    shared.check_lora(lora)
    task = job.concept_task(levels=NO_LEVEL)
    model = shared.model_of(task)
    from diffusion.api import open_at_law, output_of
    from diffusion.evaluation.audit import audit as look_for
    from diffusion.evaluation.audit import audit_config, check_auditable, counted_shares
    from diffusion.evaluation.recount import certified_model, of_another
    from diffusion.pipelines.fingerprint import fingerprint
    from diffusion.pipelines.fitted import put_in
    from diffusion.pipelines.latents import decode
    from diffusion.ratios.estimate import estimate_ratios
    from diffusion.reports.figures import Pairs, save_pairs
    from diffusion.runtime.distributed import is_main
    from diffusion.tasks.detectors import detector_of

    detectors = [detector_of(each.detector) for each in task.concepts if task.by_detectors]
    config, settings = job.config, job.config.audit
    with output_of(output, overwrite) as folder:
        after, law = open_at_law(model, config, of_ratios=not detectors)
        if detectors and after.classifier_free:
            # Ratios between prompts are of guidance scale 1; the result's own scale is one of those that are looked at.
            config = config.but(sampling=config.sampling.but(guidance_scale=None, negative_prompt=""))
            scale = law.sampling.scale(after)
            if scale > 1 and scale not in settings.guidance_scales:
                settings = settings.but(guidance_scales=(scale, *settings.guidance_scales))
        check_auditable(after)
        certified = certified_model(lora)
        other = None if certified is None else of_another(fingerprint(after.pipeline), certified)
        put_in(after, lora)
        before, given = open_at_law(model, config, of_ratios=True)
        if detectors:
            count, steps = min(given.ratios.num_samples, COUNTED), given.sampling.steps(before)
            task = task.of_ratios(counted_shares(before, detectors, task.anchor, steps, count, given.ratios.seed))
        prompts = shared.prompts_for(before, task)
        store = shared.store_of(before, given)
        estimate = estimate_ratios(before, prompts, given.ratios, given.sampling, store)
        classifier = shared.image_classifier_of(task)
        plan = audit_config(settings, config.runtime.seed)
        found = look_for(
            before, after, estimate, image_classifier=classifier, detectors=detectors, config=plan, cache=store
        )
        text = "\n".join([*found.lines(), *([] if other is None else ["", other])])
        typer.echo(text)
        if folder is not None and is_main():
            (folder / "audit.json").write_text(found.data().to_json(), encoding="utf-8")
            (folder / "audit.txt").write_text(text + "\n", encoding="utf-8")
            to_images = partial(decode, before.pipeline)
            strips = [
                Pairs(each.title, to_images(each.before), to_images(each.after), each.labels) for each in found.looked
            ]
            save_pairs(folder / "audit.png", strips)
    if output is not None:
        typer.echo(f"written to {output}")


@with_job(
    "sampling",
    "ratios",
    "fit",
    "evaluation",
    "runtime",
    task=CONCEPT_OPTIONS | CHAINS,
    defaults=Config(evaluation={"samples": 1000, "concept_samples": 200, "retained_samples": 333}),
    without=(*OF_RUNS, *NOT_COMPARED, *OF_ONE_RUN),
)
def bench(
    job: Job,
    output: Annotated[Path, typer.Option(help="folder for one JSON a run and the table; goes on from there")] = BENCH,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "--methods", help="only this one; repeat; default all, and guidance alone"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="training seeds of each method")] = 2,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="wardrobe: baselines over their own strengths, steps and rates; a frontier")
    ] = False,
    images: Annotated[int, typer.Option(help="of a sweep, images of each kind of prompt")] = 48,
    points: Annotated[int | None, typer.Option(help="of a sweep, at most so many settings in this call")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="a sweep of one setting of each method, two steps each")
    ] = False,
) -> None:
    """Every method, baselines too, on one task: same ratios, adapters, budget and seeds; a table and JSON; resumes."""
    from diffusion.pipelines import DIGITS

    if sweep or quick:
        from diffusion.cli.sweep import sweep_of

        sweep_of(job, output, method, seeds, (quick, images, points))
        return
    ours = job.model or job.said.get("model", DIGITS)
    seven = {"concepts": ["a handwritten seven"]} if ours == DIGITS else {}
    task = job.concept_task(model=DIGITS, levels=["1%"], **seven)
    model, config = shared.model_of(task), job.config
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    seen = config.evaluation
    if seen.sequential or seen.aim is not None or any(getattr(config.fit, name) for name in NOT_COMPARED):
        raise ValueError(f"{', '.join((*NOT_COMPARED, *OF_ONE_RUN))}: every method is compared as it is, without them")
    from diffusion.api import open_at_law
    from diffusion.evaluation.benchmark import Bench, chosen_methods, run_bench
    from diffusion.evaluation.planning import check_measured
    from diffusion.ratios.estimate import estimate_ratios
    from diffusion.runtime.files import check_folder

    check_measured(config.evaluation.samples, "a comparison")
    chosen = chosen_methods(method)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {str(output)!r} is a file; a folder is needed")
    check_folder(output, "output")
    denoiser, config = open_at_law(model, config, of_ratios=True)
    prompts = shared.prompts_for(denoiser, task)
    store = shared.store_of(denoiser, config)
    estimate = estimate_ratios(denoiser, prompts, config.ratios, config.sampling, store)
    seed = config.runtime.seed
    plan = Bench(chosen, tuple(range(seed, seed + seeds)), config.fit.but(seed=0), config.evaluation)
    classifier = shared.image_classifier_of(task)
    found = run_bench(denoiser, estimate, task.asked.problem(estimate.ratios), plan, classifier, output)
    typer.echo("\n".join(found.lines()))
    typer.echo(f"written to {output}")
