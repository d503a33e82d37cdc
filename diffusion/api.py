"""Behind :func:`diffusion.unlearn`: from what a caller says to prompts, a denoiser, a method, and a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duality as du

from .concepts import Concept, Prompts
from .digits import PIPELINE_FOLDER
from .digits.witness import prompts_for
from .measure import Witness
from .methods import METHODS, Method
from .models import DIGITS, denoiser_of, load_pipeline
from .output import OutputFolder
from .run import Evaluation, Unlearned, check, save
from .run import unlearn as run
from .survey import Bar, Budget, progress_bar
from .training import Fit

Wordings = str | Sequence[str]


def unlearn(
    pipeline: Any,
    concepts: Sequence[Wordings | Concept],
    problem: du.Problem,
    *,
    contrast: Sequence[Wordings],
    priors: float | Sequence[float] | None,
    anchor: str,
    method: str | Method,
    output: Path | str | None,
    overwrite: bool,
    budget: Budget | None,
    fit: Fit | None,
    evaluation: Evaluation | None,
    witness: Witness | None,
    cache_folder: Path | str | None,
    bar: Bar | None,
) -> Unlearned:
    """See :func:`diffusion.unlearn`, which has the defaults."""
    chosen = method_of(method)
    if isinstance(pipeline, str):
        pipeline = load_pipeline(pipeline)
    prompts = prompts_of(concepts, contrast, priors, anchor, is_digits(pipeline))
    denoiser = denoiser_of(pipeline)
    check(denoiser, prompts, problem)
    place = OutputFolder(Path(output), overwrite) if output is not None else None
    result = run(
        denoiser,
        prompts,
        problem,
        method=chosen,
        budget=budget,
        fit=fit,
        evaluation=evaluation,
        witness=witness,
        cache_folder=Path(cache_folder) if cache_folder is not None else None,
        bar=bar or progress_bar,
    )
    if place is not None:
        with place as folder:
            save(result, denoiser, folder)
    return result


def method_of(method: str | Method) -> Method:
    """The method of that name, or the method itself. ``ValueError`` for a name that is not known."""
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return METHODS[method]()


def is_digits(pipeline: Any) -> bool:
    """Whether a pipeline was loaded from the embedded folder."""
    return getattr(pipeline, "name_or_path", None) in (DIGITS, str(PIPELINE_FOLDER))


def prompts_of(
    concepts: Sequence[Wordings | Concept],
    contrast: Sequence[Wordings],
    priors: float | Sequence[float] | None,
    anchor: str,
    digits: bool = False,
) -> Prompts:
    """The prompts of a task from lists of prompts, each entry one prompt or several wordings of one thing.

    Raises ``ValueError`` where something is missing, or a number of priors does not fit the concepts.
    """
    for name, some in (("concepts", concepts), ("contrast", contrast)):
        if isinstance(some, str):
            raise ValueError(f"{name} must be a list of prompts, got the string {some!r}")
    if digits and not contrast and all(isinstance(concept, str) for concept in concepts):
        return prompts_for([concept for concept in concepts if isinstance(concept, str)], anchor)
    if not contrast:
        raise ValueError("contrast must hold prompts that stand for the rest of what the model makes, got none")
    missing = [concept for concept in concepts if not isinstance(concept, Concept)]
    if missing and priors is None:
        raise ValueError("priors must say how large a share of what the model makes unasked each concept is, got None")
    shares = [priors] * len(concepts) if isinstance(priors, int | float) else list(priors or [])
    if priors is not None and len(shares) != len(concepts):
        raise ValueError(f"priors must be one for all or one for each of {len(concepts)} concepts, got {len(shares)}")
    made = tuple(
        concept if isinstance(concept, Concept) else Concept(_wordings(concept), float(shares[index]))
        for index, concept in enumerate(concepts)
    )
    return Prompts(made, tuple(_wordings(group) for group in contrast), anchor)


def _wordings(some: Wordings) -> tuple[str, ...]:
    return (some,) if isinstance(some, str) else tuple(some)
