"""What cannot work is refused before anything is sampled."""

from __future__ import annotations

from typing import Any

import duality as du
from diffusion.evaluation.planning import Plan
from diffusion.methods import Method
from diffusion.pipelines import Denoiser
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.distributed import Part, world
from diffusion.tasks.concepts import TaskPrompts
from diffusion.tasks.config import Config, EvaluationConfig, FitConfig
from diffusion.tasks.levels import KINDS, Asked
from diffusion.training.lora import check_as_given


class NothingToDo(ValueError):
    """The model meets every level already."""


def check_something_to_do(estimate: RatioEstimate, plan: Plan, solution: du.Solution) -> None:
    """Raise :class:`NothingToDo` where q itself meets the levels that are solved for, and say what holds already."""
    if not solution.inactive:
        return
    problem = plan.asked
    now = problem.levels_of(estimate.ratios, estimate.ratios.log_weights)
    unit, room = "" if problem.probability else " nats", room_for(plan.samples)
    said = "; ".join(
        f"{concept.name!r} is at {level:.4g}{unit}, {'at most' if problem.direction < 0 else 'at least'} {asked:.4g}"
        f"{unit} was asked"
        for concept, level, asked in zip(estimate.prompts.concepts, now, problem.levels, strict=True)
    )
    raise NothingToDo(
        f"level: nothing is to be done, no training was begun: by {len(estimate.anchor)} samples of the model under "
        f"{estimate.prompts.anchor!r}, {said}{room}. Prompts that ask for the concept are another matter: what they "
        "bring is not bounded by this"
    )


def room_for(samples: int) -> str:
    """What is said of levels that hold already."""
    return ", and that with room for the evaluation's samples to show it" if samples else ""


def check_images(config: Config) -> None:
    """``ValueError`` for a setting that forgetting images has no use for, and would pass over in silence."""
    default = EvaluationConfig()
    useless = {
        "fixed_multipliers": config.fit.fixed_multipliers,
        "robust_rounds": bool(config.fit.robust_rounds),
        "confidence": config.evaluation.confidence != default.confidence,
        "concept_samples": config.evaluation.concept_samples is not None,
        "sequential": config.evaluation.sequential,
        "aim": config.evaluation.aim is not None,
        "gain": config.fit.gain != FitConfig().gain,
        "foresee": config.fit.foresee,
    }
    given = [name for name, said in useless.items() if said]
    if given:
        raise ValueError(
            f"{', '.join(given)}: forgetting images has no use for it: "
            f"multipliers move with the network, and bounds are at {default.confidence:g}"
        )


def check_looks(evaluation: EvaluationConfig) -> None:
    """``ValueError`` for a sequential evaluation of levels that are read off ratios."""
    if evaluation.sequential:
        raise ValueError(
            "sequential: samples are counted as they come where detectors define the concepts; levels by ratios are "
            "measured on all evaluation samples at once"
        )


def check_split(fit: FitConfig, retains: bool) -> None:
    """Raise ``ValueError`` where a step's rows cannot be split evenly over all processes and parts."""
    parts = Part(0, world().num_processes * fit.gradient_accumulation_steps)
    kept = round(fit.train_batch_size * fit.retain_share) if retains else 0
    for count in (fit.train_batch_size - kept, kept):
        parts.rows(count)


def check(
    denoiser: Denoiser, prompts: TaskPrompts, problem: du.Problem | Asked | None = None, method: Method | None = None
) -> None:
    """Raise ``ValueError`` for what cannot work, with the reason, before anything is sampled."""
    check_as_given(denoiser)
    wordless = [concept for concept in prompts.concepts if not concept.prompts]
    if not denoiser.prompt_inputs and (len(wordless) < len(prompts.concepts) or prompts.contrast or prompts.anchor):
        raise ValueError(
            f"concepts are given by prompts, and {type(denoiser.pipeline).__name__} takes none: give examples "
            "(images that show them), no contrast prompts and no anchor, or forget images"
        )
    for concept in wordless:
        shape = concept.examples.samples.shape[1:] if concept.examples else ()
        if tuple(shape) != denoiser.sample_shape:
            raise ValueError(f"examples must have shape (k, *{denoiser.sample_shape}), got (k, *{tuple(shape)})")
    kind: Any = problem.kind if isinstance(problem, Asked) else type(problem)
    if wordless and method is not None and problem is not None and method.needs_prompts(kind):
        others = "" if all(map(method.needs_prompts, KINDS.values())) else " of this problem"
        raise ValueError(
            f"method {type(method).__name__}{others} needs a prompt for every concept, and {wordless[0].name!r} has "
            "none: use tilted, guidance, neggrad, siss or erasediff"
        )
    if problem is None:
        return
    m, count = len(prompts.concepts), problem.count if isinstance(problem, Asked) else problem.levels.size
    if count not in (1, m):
        given = str(problem) if isinstance(problem, Asked) else problem.levels.tolist()
        raise ValueError(f"levels must be one for all or one for each of {m} concepts, got {given}")
    if isinstance(problem, du.Likelihood):
        levels = problem.levels
        if problem.kind == "density":
            raise ValueError("kind 'density' needs densities, which no pipeline has: use 'posterior' or 'log-ratio'")
        if problem.kind == "posterior" and not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"levels must lie strictly between 0 and 1 (probabilities), got {levels.tolist()}")
