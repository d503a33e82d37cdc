"""Behind :func:`diffusion.unlearn`: from what a caller says to prompts, a denoiser, a method, and a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

import duality as du
from diffusion.digits import PIPELINE_FOLDER
from diffusion.digits.prompts import prompts_for
from diffusion.evaluation.measure import Evaluation
from diffusion.evaluation.samples import ImageClassifier
from diffusion.methods import Method, method_of
from diffusion.pipelines import DIGITS, Denoiser, denoiser_of, load_pipeline
from diffusion.pipelines.images import read_images
from diffusion.pipelines.latents import encode
from diffusion.ratios.ratio_estimate import Budget
from diffusion.reports.results import Unlearned
from diffusion.reports.save import save
from diffusion.runtime.distributed import is_main
from diffusion.runtime.output_folder import OutputFolder
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.runtime.trackers import Tracked
from diffusion.tasks.concepts import Concept, Examples, TaskPrompts
from diffusion.tasks.contrast_prompts import propose
from diffusion.tasks.levels import Asked
from diffusion.training.trainer import Fit
from diffusion.workflows.concepts import unlearn as run
from diffusion.workflows.validation import check

Paraphrases = str | Sequence[str]
Kind = TypeVar("Kind")


def unlearn(
    pipeline: Any,
    concepts: Sequence[Any],
    problem: du.Problem | Asked,
    *,
    contrast: Sequence[Paraphrases],
    vocabulary: Sequence[str],
    priors: float | Sequence[float] | None,
    anchor: str,
    method: str | Method,
    output: Path | str | None,
    overwrite: bool,
    budget: Budget | None,
    fit: Fit | None,
    evaluation: Evaluation | None,
    image_classifier: ImageClassifier | None,
    cache_folder: Path | str | None,
    bar: Bar | None,
    tracked: Tracked | None,
    checkpointing_steps: int,
) -> Unlearned:
    """See :func:`diffusion.unlearn`, which has the defaults."""
    chosen = method_of(method)
    if isinstance(pipeline, str):
        pipeline = load_pipeline(pipeline)
    denoiser = denoiser_of(pipeline)
    prompts = prompts_of(denoiser, concepts, contrast, priors, anchor, vocabulary)
    check(denoiser, prompts, problem, chosen)
    place = OutputFolder(Path(output), overwrite) if output is not None else nullcontext(None)
    with place as folder:
        result = run(
            denoiser,
            prompts,
            problem,
            method=chosen,
            budget=budget,
            fit=fit,
            evaluation=evaluation,
            image_classifier=image_classifier,
            cache_folder=Path(cache_folder) if cache_folder is not None else None,
            bar=bar or progress_bar,
            tracked=tracked,
            folder=folder,
            checkpointing_steps=checkpointing_steps,
        )
        if folder is not None and is_main():
            save(result, denoiser, folder)
    return result


def is_digits(pipeline: Any) -> bool:
    """Whether a pipeline was loaded from the embedded folder."""
    return getattr(pipeline, "name_or_path", None) in (DIGITS, str(PIPELINE_FOLDER))


def prompts_of(
    denoiser: Denoiser,
    concepts: Sequence[Any],
    contrast: Sequence[Paraphrases] = (),
    priors: float | Sequence[float] | None = None,
    anchor: str = "",
    vocabulary: Sequence[str] = (),
) -> TaskPrompts:
    """What a task is about, from what a caller says; see :func:`diffusion.unlearn`.

    For ``digits``, whose other digits are the contrast, nothing but concepts need be said. Elsewhere, where contrast
    prompts are left out, the concepts' neighbours in the vocabulary and samples of q stand for the rest; without a
    vocabulary, samples of q alone. Raises ``ValueError`` where something is missing, or a number of priors does not
    fit.
    """
    for name, some in (("concepts", concepts), ("contrast", contrast), ("vocabulary", vocabulary)):
        if isinstance(some, str):
            raise ValueError(f"{name} must be a list of prompts, got the string {some!r}")
    shares: list[float | None] = [None] * len(concepts)
    if priors is not None:
        shares = [priors] * len(concepts) if isinstance(priors, int | float) else list(priors)
    if len(shares) != len(concepts):
        raise ValueError(f"priors must be one for all or one for each of {len(concepts)} concepts, got {len(shares)}")
    plain = not contrast and not vocabulary and all(isinstance(concept, str) for concept in concepts)
    if is_digits(denoiser.pipeline) and plain:
        digits, given = prompts_for(list(concepts), anchor), [share for share in shares if share is not None]
        return digits.with_priors(given) if given else digits
    made = tuple(
        concept_of(denoiser.pipeline, concept, None if share is None else float(share))
        for concept, share in zip(concepts, shares, strict=True)
    )
    if contrast:
        return TaskPrompts(made, tuple(_paraphrases(group) for group in contrast), anchor)
    near = propose(denoiser, made, vocabulary) if made and vocabulary else ()
    return TaskPrompts(made, tuple((neighbour.prompt,) for neighbour in near), anchor, unlabelled=True)


def concept_of(pipeline: Any, given: Any, prior: float | None) -> Concept:
    """A concept from a prompt, several paraphrases, a tensor of samples (k, ...), or images (paths or Pillow images).

    Raises ``ValueError`` for images that the pipeline could not have drawn, or fewer than ten of them.
    """
    if isinstance(given, Concept):
        return given
    if isinstance(given, Examples):
        return Concept((), prior, given)
    if isinstance(given, Tensor):
        return Concept((), prior, Examples(given))
    some = _paraphrases(given)
    if some and not any(isinstance(each, str) for each in some):
        return Concept((), prior, Examples(encode(pipeline, read_images(pipeline, some))))
    return Concept(some, prior)


def _paraphrases(some: Any) -> tuple[Any, ...]:
    return (some,) if isinstance(some, str) else tuple(some)
