"""Behind :func:`diffusion.unlearn` and :func:`diffusion.forget`: from a task and a configuration to a run, saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from diffusion.digits.prompts import prompts_for as prompts_of_digits
from diffusion.evaluation.planning import check_samples
from diffusion.evaluation.samples import ImageClassifier
from diffusion.methods import ImageMethod, Method, configured, configured_for_images, image_method_of, method_of
from diffusion.pipelines import DIGITS, EMBEDDED, Denoiser, denoiser_of, load_pipeline
from diffusion.pipelines.images import read_folder, read_images
from diffusion.pipelines.latents import encode
from diffusion.pipelines.textual_inversion import load_tokens
from diffusion.reports.detector_results import DetectedUnlearned
from diffusion.reports.export import check_export, write_export
from diffusion.reports.image_results import Forgotten
from diffusion.reports.job import write_job
from diffusion.reports.results import Unlearned
from diffusion.reports.save import save
from diffusion.reports.save_detected import save_detected
from diffusion.reports.save_images import save as save_forgotten
from diffusion.runtime.distributed import is_main, world
from diffusion.runtime.output_folder import OutputFolder
from diffusion.runtime.precision import device_named
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.concepts import ConceptLaw, Examples, TaskPrompts
from diffusion.tasks.config import Config, RuntimeConfig
from diffusion.tasks.contrast_prompts import propose
from diffusion.tasks.detectors import detector_of
from diffusion.tasks.image_task import ImageTask
from diffusion.tasks.images import read_task
from diffusion.tasks.sampling import IMAGE_STEPS, at_law
from diffusion.tasks.sampling import of_ratios as ratios_law
from diffusion.tasks.task import Concept, ConceptTask
from diffusion.wardrobe.prompts import prompts_for as prompts_of_wardrobe
from diffusion.workflows.concepts import unlearn as run
from diffusion.workflows.detected import unlearn_detected
from diffusion.workflows.images import forget as run_on_images
from diffusion.workflows.validation import check, check_images

Task = TypeVar("Task", ConceptTask, ImageTask)


def unlearn(
    pipeline: Any,
    task: ConceptTask,
    config: Config,
    *,
    output: Path | str | None,
    overwrite: bool,
    method: Method | None,
    image_classifier: ImageClassifier | None,
    bar: Bar | None,
) -> Unlearned | DetectedUnlearned:
    """See :func:`diffusion.unlearn`, which has the defaults."""
    if task.by_detectors:
        if method is not None:
            raise ValueError("method: concepts with detectors are fitted by tilted denoising; leave method out")
        return unlearn_by_detectors(
            pipeline, task, config, output=output, overwrite=overwrite, image_classifier=image_classifier, bar=bar
        )
    return unlearn_by_ratios(
        pipeline, task, config, output=output, overwrite=overwrite, method=method,
        image_classifier=image_classifier, bar=bar,
    )  # fmt: skip


def unlearn_by_ratios(
    pipeline: Any,
    task: ConceptTask,
    config: Config,
    *,
    output: Path | str | None,
    overwrite: bool,
    method: Method | None,
    image_classifier: ImageClassifier | None,
    bar: Bar | None,
) -> Unlearned:
    """For concepts that prompts or images define."""
    chosen = configured(config.fit) if method is None else method_of(method)
    check_samples(task.asked, config.evaluation.fewest, config.evaluation.confidence)
    with output_of(output, overwrite) as folder:  # an output that cannot be had is found out before a model is loaded
        denoiser, config = open_at_law(pipeline, config, of_ratios=True)
        check_export(denoiser, config, folder)
        prompts = prompts_of(denoiser, task)
        check(denoiser, prompts, task.asked, chosen)
        result = run(
            denoiser,
            prompts,
            task.asked,
            config,
            method=chosen,
            image_classifier=image_classifier,
            bar=bar or progress_bar,
            folder=folder,
        )
        if folder is not None and is_main():
            save(result, denoiser, folder)
            write_export(config, folder)
            write_job(folder, named(task, pipeline), config)
    return result


def unlearn_by_detectors(
    pipeline: Any,
    task: ConceptTask,
    config: Config,
    *,
    output: Path | str | None,
    overwrite: bool,
    image_classifier: ImageClassifier | None,
    bar: Bar | None,
) -> DetectedUnlearned:
    """For concepts that detectors define, under a law of prompts."""
    detectors = {name: detector_of(given) for name, given in task.detectors.items()}
    if config.fit.method not in ("tilted", "guidance"):
        raise ValueError(f"method: concepts with detectors are fitted by tilted or guidance, got {config.fit.method!r}")
    with output_of(output, overwrite) as folder:
        denoiser, config = open_at_law(pipeline, config)
        check_export(denoiser, config, folder)
        result = unlearn_detected(
            denoiser,
            task.law,
            detectors,
            task.constraints,
            config,
            image_classifier=image_classifier,
            bar=bar or progress_bar,
            folder=folder,
        )
        if folder is not None and is_main():
            save_detected(result, denoiser, folder)
            write_export(config, folder)
            write_job(folder, named(task, pipeline), config)
    return result


def forget(
    pipeline: Any,
    task: ImageTask,
    config: Config,
    *,
    output: Path | str | None,
    overwrite: bool,
    method: ImageMethod | None,
    bar: Bar | None,
) -> Forgotten:
    """See :func:`diffusion.forget`, which has the defaults."""
    check_images(config)
    chosen = configured_for_images(config.fit) if method is None else image_method_of(method)
    with output_of(output, overwrite) as folder:
        denoiser, config = open_at_law(pipeline, config, of_ratios=True, steps=IMAGE_STEPS)
        check_export(denoiser, config, folder)
        read = read_task(denoiser, task)
        result = run_on_images(denoiser, read, config, method=chosen, bar=bar or progress_bar, folder=folder)
        if folder is not None and is_main():
            save_forgotten(result, denoiser, folder)
            write_export(config, folder)
            write_job(folder, named(task, pipeline), config)
    return result


@contextmanager
def output_of(output: Path | str | None, overwrite: bool) -> Iterator[Path | None]:
    """The folder that results are written into; None where nothing is to be written."""
    if output is None:
        yield None
        return
    with OutputFolder(Path(output), overwrite) as folder:
        yield folder


def open_denoiser(pipeline: Any, runtime: RuntimeConfig | None = None) -> Denoiser:
    """The network of a pipeline; one that is named (a folder, a hub name, ``digits``) is loaded as ``runtime`` says, on
    this process's device where it names none. ``ValueError`` for a device that torch does not have."""
    import torch

    runtime = runtime or RuntimeConfig()
    if runtime.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if not isinstance(pipeline, str):
        if runtime.textual_inversion:
            raise ValueError("textual_inversion is of a model that is named: load it into the pipeline that is given")
        return denoiser_of(pipeline)
    device = device_named(runtime.device) if runtime.device else world().device
    loaded = load_pipeline(pipeline, getattr(torch, runtime.dtype), variant=runtime.variant, revision=runtime.revision)
    load_tokens(loaded, runtime.textual_inversion)
    return denoiser_of(loaded.to(device))


def open_at_law(
    pipeline: Any, config: Config, *, of_ratios: bool = False, steps: str = "num_inference_steps"
) -> tuple[Denoiser, Config]:
    """:func:`open_denoiser` under the law that ``config.sampling`` means, and the configuration with that law in full.

    ``of_ratios``: at guidance scale 1, which log ratios between prompts are of. Raises ``ValueError`` for a scheduler,
    size or guidance that the pipeline does not have.
    """
    denoiser = open_denoiser(pipeline, config.runtime)
    sampling = ratios_law(denoiser, config.sampling) if of_ratios else config.sampling
    denoiser, filled = at_law(denoiser, sampling, steps)
    return denoiser, config.but(sampling=filled)


def named(task: Task, pipeline: Any) -> Task:
    """The task with the name of its model, as far as one is known."""
    if task.model is not None:
        return task
    name = pipeline if isinstance(pipeline, str) else getattr(pipeline, "name_or_path", None)
    name = embedded(pipeline) or name
    return task.but(model=str(name)) if name else task


def embedded(pipeline: Any) -> str | None:
    """The name of the embedded pipeline that this is: by its name, or as loaded from its folder."""
    name = pipeline if isinstance(pipeline, str) else getattr(pipeline, "name_or_path", None)
    return next((each for each, folder in EMBEDDED.items() if name in (each, str(folder))), None)


def is_digits(pipeline: Any) -> bool:
    """Whether a pipeline was loaded from the embedded folder."""
    return embedded(pipeline) == DIGITS


def prompts_of(denoiser: Denoiser, task: ConceptTask) -> TaskPrompts:
    """What a task is about, for one model.

    For ``digits`` and ``wardrobe``, whose other digits, objects or styles are the contrast, nothing but concepts need
    be said. Elsewhere, where retained prompts are left out, the concepts' neighbours in the vocabulary and samples of q
    are the contrast; without a vocabulary, samples of q alone. Raises ``ValueError`` where something is missing or
    does not fit.
    """
    if task.by_detectors:
        raise ValueError("concepts with detectors have no ratios: distill, sample, recount and audit take them")
    plain = not task.retained_prompts and not task.words and all(concept.prompts for concept in task.concepts)
    known = {"digits": prompts_of_digits, "wardrobe": prompts_of_wardrobe}.get(embedded(denoiser.pipeline) or "")
    if known is not None and plain:
        found = known([concept.prompts[0] for concept in task.concepts], task.anchor)
        priors = [concept.prior for concept in task.concepts if concept.prior is not None]
        return found.with_priors(priors) if priors else found
    made = tuple(law_of(denoiser.pipeline, concept) for concept in task.concepts)
    if task.retained_prompts:
        return TaskPrompts(made, task.retained_prompts, task.anchor)
    near = propose(denoiser, made, task.words) if task.words else ()
    return TaskPrompts(made, tuple((neighbour.prompt,) for neighbour in near), task.anchor, unlabelled=True)


def law_of(pipeline: Any, concept: Concept) -> ConceptLaw:
    """A concept's law, from its prompts, a tensor of samples (k, ...), or images (a folder, paths, Pillow images).

    Raises ``ValueError`` for images that the pipeline could not have made, or fewer than ten of them.
    """
    given = concept.images
    if given is None:
        return ConceptLaw(concept.prompts, concept.prior)
    if isinstance(given, Tensor):
        given = Examples(given)
    elif not isinstance(given, Examples):
        some = read_folder(Path(given), "images")[0] if isinstance(given, str | Path) else given
        given = Examples(encode(pipeline, read_images(pipeline, some)))
    return ConceptLaw((), concept.prior, given)
