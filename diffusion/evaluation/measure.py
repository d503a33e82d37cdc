"""What is asked of a fitted network, and what is counted and integrated in its answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import duality as du
from diffusion.evaluation.bounds import Estimate, Rule, Side, bound, mean_estimate
from diffusion.evaluation.fresh import fresh_seed, wanted_prompts
from diffusion.evaluation.measured import (
    CLASSIFIER,
    Condition,
    CostFound,
    LevelFound,
    Measurement,
    Moved,
    PromptAccuracy,
    Share,
    level_found,
)
from diffusion.evaluation.pairs import PAIR_IMAGES, PAIRED, looked_at, pairs
from diffusion.evaluation.planning import Plan
from diffusion.evaluation.samples import ImageClassifier, SampleSet, retained, take_samples, weighted_frequency
from diffusion.methods.level_estimates import Meter
from diffusion.pipelines import Denoiser
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier_ratios import CLEAN_LEVELS, classifier_ratios, posterior
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.progress import Bar
from diffusion.tasks.config import EvaluationConfig
from diffusion.training.lora import base_model, merged_adapters

PICTURES = 96  # of the anchor from the noise of q's own samples, to be looked at beside them


def measure_lora(
    denoiser: Denoiser, estimate: RatioEstimate, plan: Plan, solution: du.Solution, evaluation: EvaluationConfig,
    image_classifier: ImageClassifier | None, bar: Bar,
) -> tuple[dict[str, SampleSet], Measurement]:  # fmt: skip
    """Sample the adapted pipeline under the anchor, the concepts' paraphrases and the retained prompts, and
    count. With 0 samples there are images to look at, and nothing is counted."""
    if not evaluation.samples:
        return looked_at(denoiser, estimate, evaluation, bar), Measurement(levels=(), costs=())
    wanted = wanted_prompts(evaluation, estimate)
    samples = _drawn(denoiser, estimate, wanted, evaluation, image_classifier, bar)
    # The classifier reads the *base model's* features: the ratio is a property of the image, not of the student.
    rho = {"before, anchor": estimate.values}  # the estimate's own samples: their ratios are known
    rest = {name: sample.latents for name, sample in samples.items() if name not in (*rho, PAIRED)}
    seed, features = fresh_seed(evaluation, estimate, 10), len(CLEAN_LEVELS) * sum(map(len, rest.values()))
    with bar("log ratios of evaluation samples", features) as shown, base_model(denoiser):
        for name, latents in rest.items():
            rho[name] = classifier_ratios(denoiser, estimate.classifier, latents, seed=seed, progress=shown.update)
    rho = {name: rho[name] for name in samples if name in rho}  # in the order that reports have
    count = min(evaluation.integrated, evaluation.samples)
    meter = Meter(denoiser, estimate, plan.asked, count, seed=fresh_seed(evaluation, estimate, 11))
    if meter.lagrangian.of_q:
        meter = replace(meter, of_q=_fresh_q(denoiser, estimate, evaluation, bar))
    conditions: tuple[Condition, ...] = ("anchor", "concept") if "concept" in wanted else ("anchor",)
    asked = tuple(text for concept in estimate.prompts.concepts for text in concept.prompts)
    costs = []
    with bar("evaluation of levels and cost", 1 + len(conditions)) as shown:
        levels = _levels(estimate, plan, samples, rho, meter, image_classifier)
        shown.update(1)
        for prompts in conditions:
            costs.append(_cost(meter if prompts == "anchor" else replace(meter, asked=asked), prompts))
            shown.update(1)
    found = Measurement(
        levels=tuple(levels), costs=tuple(costs), shares=tuple(_shares(estimate, samples, rho, image_classifier))
    )
    if image_classifier is not None:
        found = found.model_copy(update=_by_classifiers(estimate, solution, samples, image_classifier, evaluation))
    count, seed = min(PAIR_IMAGES, evaluation.samples), fresh_seed(evaluation, estimate, 30)
    return samples | pairs(denoiser, estimate, count, seed, bar), found


def _drawn(
    denoiser: Denoiser,
    estimate: RatioEstimate,
    wanted: dict[str, list[str]],
    evaluation: EvaluationConfig,
    image_classifier: ImageClassifier | None,
    bar: Bar,
) -> dict[str, SampleSet]:
    pipeline, anchor, noise = denoiser.pipeline, estimate.prompts.anchor, estimate.budget.anchor_seed
    plan = [
        (f"LoRA, {name}", some, fresh_seed(evaluation, estimate, j)) for j, (name, some) in enumerate(wanted.items())
    ]
    plan.append((PAIRED, [anchor] * min(PICTURES, evaluation.samples), noise))
    samples: dict[str, SampleSet] = {}
    with bar("evaluation samples", sum(len(some) for _, some, _ in plan)) as shown, merged_adapters(denoiser):
        for name, some, seed in plan:
            latents = sample_latents(
                pipeline, some, seed=seed, steps=estimate.sampling.steps(denoiser), progress=shown.update
            )
            samples[name] = take_samples(name, pipeline, some, latents, image_classifier, seed)
    before = [anchor] * len(estimate.anchor)
    samples["before, anchor"] = take_samples(
        "before, anchor", pipeline, before, estimate.anchor, image_classifier, noise
    )
    m = len(estimate.prompts.concepts)
    for name, of_kind in (("concept", estimate.labels < m), ("retained", estimate.labels == m)):
        rows = of_kind.nonzero()[:, 0]
        if name not in wanted:
            continue
        some = [estimate.labelled_prompts[int(j)] for j in rows]
        samples[f"before, {name}"] = take_samples(
            f"before, {name}", pipeline, some, estimate.labelled[rows], image_classifier
        )
    return samples


def _fresh_q(
    denoiser: Denoiser, estimate: RatioEstimate, evaluation: EvaluationConfig, bar: Bar
) -> tuple[Tensor, Tensor]:
    """Samples of q that nothing was solved on, with their log ratios."""
    with bar("fresh samples of q", evaluation.samples) as shown, base_model(denoiser):
        wanted, seed = [estimate.prompts.anchor] * evaluation.samples, fresh_seed(evaluation, estimate, 20)
        steps = estimate.sampling.steps(denoiser)
        latents = sample_latents(denoiser.pipeline, wanted, seed=seed, steps=steps, progress=shown.update)
        return latents, classifier_ratios(
            denoiser, estimate.classifier, latents, seed=fresh_seed(evaluation, estimate, 21)
        )


def _levels(
    estimate: RatioEstimate,
    plan: Plan,
    samples: dict[str, SampleSet],
    rho: dict[str, Tensor],
    meter: Meter,
    image_classifier: ImageClassifier | None,
) -> list[LevelFound]:
    problem, found = plan.asked, list[LevelFound]()
    rule: Rule = "betting" if problem.probability else "student_t"
    side: Side = "upper" if problem.direction < 0 else "lower"
    at_anchor = meter.of(samples["LoRA, anchor"].latents, rho["LoRA, anchor"]).values
    for i, concept in enumerate(estimate.prompts.concepts):
        parts: list[tuple[Condition, str, np.ndarray, np.ndarray]] = []
        every = np.arange(len(samples["LoRA, anchor"]))
        parts.append(("anchor", "LoRA, anchor", at_anchor[:, i], every))
        if "LoRA, concept" in samples and concept.prompts:
            sample = samples["LoRA, concept"]
            rows = np.array([j for j, text in enumerate(sample.prompts) if estimate.prompts.asks_for(text) == i])
            own = replace(meter, asked=concept.prompts).of(sample.latents[rows], rho["LoRA, concept"][rows])
            parts.append(("concept", "LoRA, concept", own.values[:, i], rows))
        for prompts, name, values, rows in parts:
            level = float(problem.levels[i])
            found.append(
                level_found(
                    values, level, side, rule, plan.confidence, concept=concept.name, prompts=prompts, by=CLASSIFIER
                )
            )
            label = image_classifier.asked(concept.name) if image_classifier is not None else None
            if not problem.probability or label is None:
                continue
            for classifier, said in samples[name].said.items():
                hits = (said[rows] == label).astype(float)
                counted: Rule = "clopper_pearson"
                found.append(
                    level_found(
                        hits,
                        level,
                        side,
                        counted,
                        plan.confidence,
                        concept=concept.name,
                        prompts=prompts,
                        by=classifier,
                    )
                )
    return found


def _cost(meter: Meter, prompts: Condition) -> CostFound:
    values, chain = meter.cost()
    return CostFound(
        prompts=prompts,
        estimate=mean_estimate(values.numpy()),
        median=float(torch.quantile(values, 0.5)),
        steps=chain.steps,
        exact=chain.own,
    )


def _shares(
    estimate: RatioEstimate,
    samples: dict[str, SampleSet],
    rho: dict[str, Tensor],
    image_classifier: ImageClassifier | None,
) -> list[Share]:
    found = []
    for name, values in rho.items():
        for concept, column in zip(
            estimate.prompts.concepts, posterior(values, estimate.prompts.priors).T, strict=True
        ):
            seen = mean_estimate(column.double().numpy())
            found.append(Share(sample=name, concept=concept.name, by=CLASSIFIER, estimate=seen))
        if image_classifier is not None:
            for classifier, labels in samples[name].said.items():
                hits = np.isin(labels, _classes(estimate, image_classifier))
                found.append(Share(sample=name, concept=None, by=classifier, estimate=_counted(hits)))
    return found


def _classes(estimate: RatioEstimate, image_classifier: ImageClassifier) -> list[int]:
    asked = [image_classifier.asked(concept.name) for concept in estimate.prompts.concepts]
    return [value for value in asked if value is not None]


def _counted(hits: np.ndarray) -> Estimate:
    share = float(np.mean(hits))
    return Estimate(mean=share, stderr=(share * (1 - share) / len(hits)) ** 0.5, n=len(hits))


def _by_classifiers(
    estimate: RatioEstimate,
    solution: du.Solution,
    samples: dict[str, SampleSet],
    image_classifier: ImageClassifier,
    evaluation: EvaluationConfig,
) -> dict[str, object]:
    """What only independent detectors can say."""
    classes, before, after = _classes(estimate, image_classifier), samples["before, anchor"], samples["LoRA, anchor"]
    rest = [sum(~np.isin(list(sample.said.values())[-1], classes)) for sample in (before, after)]
    moved = None
    if min(rest) >= 2:  # a distance needs two samples without the concept on either side
        change = retained(before, after, classes, image_classifier, evaluation.seed)
        moved = Moved(energy_distance=change.energy, noise_floor=change.floor, largest_class_shift=change.class_shift)
    names = {name: sample for name, sample in samples.items() if name in ("before, anchor", "LoRA, anchor")}
    return {
        "moved": moved,
        "target_shares": weighted_frequency(before, solution.log_weights, classes),
        "class_shares": {name: sample.classes(len(image_classifier.classes)) for name, sample in names.items()},
        "retained": tuple(_prompt_accuracy(samples, image_classifier, evaluation.confidence)),
    }


def _prompt_accuracy(
    samples: dict[str, SampleSet], image_classifier: ImageClassifier, confidence: float
) -> list[PromptAccuracy]:
    """All retained prompts together, then one by one by what they ask for."""
    if "LoRA, retained" not in samples:
        return []
    before, after = samples["before, retained"], samples["LoRA, retained"]
    labels = [
        np.array([-1 if (k := image_classifier.asked(p)) is None else k for p in s.prompts]) for s in (before, after)
    ]
    found = []
    for kind in (None, *sorted(set(labels[1].tolist()) & set(labels[0].tolist()) - {-1})):
        for classifier in after.said:
            right = [
                (sample.said[classifier] == label)[(label >= 0) if kind is None else (label == kind)].astype(float)
                for sample, label in zip((before, after), labels, strict=True)
            ]
            if not len(right[0]) or not len(right[1]):
                continue
            found.append(
                PromptAccuracy(
                    prompts="all" if kind is None else image_classifier.classes[kind],
                    by=classifier,
                    before=_counted(right[0]),
                    after=_counted(right[1]),
                    bound=bound(right[1], "lower", "clopper_pearson", confidence),
                )
            )
    return found
