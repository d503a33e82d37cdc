"""What a run will cost, before it is begun: network evaluations of every stage, time and memory from a timed probe.

::

    seconds of a stage  ≈  evaluations · seconds of one evaluation in a batch of the probe's size

An evaluation is one sample through the network once. A training step counts the base model and the student, and for the
student's gradient twice its forward pass. Time spent outside the network (text encoder, VAE, solver, classifiers of
images) is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duality as du
from diffusion.evaluation.attacks.soft_prompt import SoftPrompt
from diffusion.evaluation.before_after import shown_count
from diffusion.evaluation.counted_prompts import expected, shares_of_groups
from diffusion.evaluation.measure import PICTURES
from diffusion.evaluation.measure_detected import SCALES
from diffusion.evaluation.pairs import PAIR_IMAGES, PAIR_PROMPTS
from diffusion.methods.chain import chain_of
from diffusion.methods.correction import Correction
from diffusion.methods.detected import FEW, DetectedTilt
from diffusion.pipelines import Denoiser
from diffusion.pipelines.stepping import scheduler_of
from diffusion.ratios.classifier_ratios import CLEAN_LEVELS
from diffusion.tasks.concepts import TaskPrompts, normalised
from diffusion.tasks.config import Config, Sampling
from diffusion.tasks.detector_levels import Constraint
from diffusion.tasks.levels import Asked
from diffusion.tasks.prompts import Prompts
from diffusion.workflows.probe import probe
from diffusion.workflows.robust import SEARCHED, steps_of_round

GRADIENT = 3  # a forward pass with its gradient, in forward passes


@dataclass(frozen=True)
class Stage:
    """A stage of a run and the network evaluations that it takes at most."""

    name: str
    evaluations: int


def stages(denoiser: Denoiser, prompts: TaskPrompts, asked: Asked, config: Config) -> list[Stage]:
    """The stages of :func:`diffusion.workflows.concepts.unlearn`, in their order.

    A round of attacks searches every concept, and goes on with the fit.
    Levels of a Likelihood are counted on samples, those of the KL problems integrated over noise. Corrections of the
    multipliers: all rounds that a fit may take.
    """
    ratios, fit, steps = config.ratios, config.fit, evaluations(denoiser, config.sampling)
    m = len(prompts.concepts)
    made = [c.examples is None for c in prompts.concepts]
    given = sum(min(ratios.concept_samples, len(c.examples)) for c in prompts.concepts if c.examples is not None)
    sampled = ratios.concept_samples * sum(made) + ratios.retained_samples
    labelled = sampled + given
    held_out = labelled // 5
    elbo = 0 if given else min(ratios.elbo_samples, ratios.num_samples) * ratios.elbo_noise_levels * (m + 1)
    rounds = 0
    if fit.method in ("tilted", "guidance") and not fit.fixed_multipliers:
        plan = Correction()
        each = (ratios.num_samples // 2) * (steps + len(CLEAN_LEVELS))
        if asked.kind is not du.Likelihood:
            each = plan.integrated * (steps + 2 * plan.noise_levels)
        rounds = (len(plan.at) + 1 + plan.extra) * each
    wanted = config.evaluation
    count = wanted.samples + (wanted.concept_samples or wanted.samples) * sum(made)
    count += wanted.retained_samples if prompts.contrast and wanted.samples else 0
    chain = chain_of(denoiser, config.sampling.steps(denoiser)).steps
    conditions, integrated = 2 if any(made) else 1, min(wanted.integrated, wanted.samples)
    costs = integrated * 2 * chain * conditions
    if asked.kind is not du.Likelihood:
        costs += integrated * 2 * Correction().noise_levels * conditions
    attack, each = SoftPrompt(), steps_of_round(fit)
    search = attack.restarts * (attack.steps * attack.batch * (1 + GRADIENT) + SEARCHED * steps)
    attacks = fit.robust_rounds * (m * search + each * fit.train_batch_size * (1 + GRADIENT))
    return [
        Stage("samples of the base model", (sampled + ratios.num_samples) * steps),
        Stage("ratio classifier", labelled * ratios.noisings),
        Stage("log ratios", (ratios.num_samples + held_out) * len(CLEAN_LEVELS)),
        Stage("ELBO check", elbo),
        Stage("training", fit.max_train_steps * fit.train_batch_size * (1 + GRADIENT)),
        Stage("corrections of the multipliers", rounds),
        *([Stage("attacks and fits against them", attacks)] if attacks else []),
        Stage("evaluation samples", (count + _looked_at(prompts, wanted.samples)) * steps + count * len(CLEAN_LEVELS)),
        Stage("evaluation of cost and KL levels", costs),
    ]


def _looked_at(prompts: TaskPrompts, samples: int) -> int:
    """Samples that are looked at and not counted, before and after (:mod:`diffusion.evaluation.pairs`)."""
    asked = {text for concept in prompts.concepts for text in concept.prompts}
    kept = {text for group in prompts.contrast for text in group}
    each = min(PAIR_IMAGES, samples or PAIR_IMAGES)
    strips = sum(min(PAIR_PROMPTS, len(texts)) for texts in (asked, kept))
    return (min(PICTURES, samples) if samples else PAIR_IMAGES) + 2 * each * strips


def evaluations(denoiser: Denoiser, sampling: Sampling) -> int:
    """How often a sampler asks the network for one sample of one prompt, which some do twice in a step."""
    return len(scheduler_of(denoiser, sampling.steps(denoiser)).timesteps)


def stages_detected(
    denoiser: Denoiser, prompts: Prompts, constraints: Sequence[Constraint], config: Config
) -> list[Stage]:
    """The stages of :func:`diffusion.workflows.detected.unlearn_detected`, in their order.

    A step of a sampler asks the network twice at a guidance scale above 1, a row of training as often without
    gradient, and once more where a prompt of the law is that of the branch without prompt, which then moves. A
    sequential evaluation takes no more samples, and mostly fewer.
    """
    ratios, fit, sampling, wanted = config.ratios, config.fit, config.sampling, config.evaluation
    scale = sampling.scale(denoiser)
    times = 2 if sampling.mixed_scale(denoiser) > 1 else 1
    empty = normalised(sampling.negative_prompt)
    asked = [text for text, p in zip(prompts.texts, prompts.probabilities, strict=True) if p > 0]
    moves = empty in map(normalised, asked)  # the branch without prompt, which then takes part in what is asked
    row = times + GRADIENT + (times - 1) * moves
    if fit.method == "guidance":  # the base model's with a gradient as well, and the student's branch without prompt
        row = 2 * GRADIENT + (times - 1) * (2 if moves else 1 + GRADIENT)
    n = int(prompts.counts(ratios.num_samples).sum())
    ahead = (n // 5) * ratios.noisings if fit.foresee else 0
    step = evaluations(denoiser, sampling) * times
    tilt = DetectedTilt()
    rounds = 0 if fit.fixed_multipliers else len(tilt.at) + 1 + tilt.extra
    few = sum(max(0.0, FEW - share) for share in shares_of_groups(prompts, constraints))
    counts = wanted.counts([each.group for each in constraints])
    measured = expected(prompts, constraints, wanted.samples, counts)
    if scale > 1 and wanted.samples and wanted.other_scales:
        fewer = [max(1, n // 4) for n in (wanted.samples, *counts)]
        measured += len(SCALES) * expected(prompts, constraints, fewer[0], fewer[1:])
    chain = chain_of(denoiser, sampling.steps(denoiser)).steps
    return [
        Stage("samples of the prompts", n * step),
        Stage("noised detector", (n - n // 5) * ratios.noisings + n // 5),
        Stage("training", fit.max_train_steps * fit.train_batch_size * row + ahead),
        Stage("corrections of the multipliers", round(rounds * (n // 2) * (1 + few) * step)),
        Stage(
            "evaluation samples",
            (measured + 2 * shown_count(prompts, wanted)) * step,
        ),
        Stage("evaluation of cost", min(wanted.integrated, wanted.samples) * chain * 2 * times),
    ]


def cost_lines(denoiser: Denoiser, prompts: TaskPrompts, asked: Asked, config: Config) -> list[str]:
    """The plan of a run on ratios, for people."""
    return said(denoiser, stages(denoiser, prompts, asked, config), config, prompts.anchor)


def said(denoiser: Denoiser, plan: list[Stage], config: Config, prompt: str = "") -> list[str]:
    """Numbered stages, evaluations, time, and memory by a probe (:mod:`diffusion.workflows.probe`)."""
    found = probe(denoiser, prompt, config.fit)
    lines = [f"{'stage':<40}{'network evaluations':>20}{'about':>12}"]
    for number, stage in enumerate(plan, 1):
        title, time_ = f"{number}/{len(plan)} {stage.name}", _duration(found.seconds * stage.evaluations)
        lines.append(f"{title:<40}{stage.evaluations:>20,}{time_:>12}")
    total = sum(stage.evaluations for stage in plan)
    lines.append(f"{'in all, at most':<40}{total:>20,}{_duration(found.seconds * total):>12}")
    return [*lines, *found.lines(config.fit)]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
