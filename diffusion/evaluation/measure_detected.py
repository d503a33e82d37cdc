"""A network that was fitted under a law of prompts: what detectors, chains and classifiers say of its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.evaluation.bounds import Rule, bound, mean_estimate
from diffusion.evaluation.measured import AtScale, CostFound, LevelFound, Measurement, PromptAccuracy, level_found
from diffusion.evaluation.planning import Plan
from diffusion.evaluation.samples import ImageClassifier
from diffusion.methods.chain import chain_of, path_cost
from diffusion.pipelines import Denoiser
from diffusion.pipelines.latents import decode
from diffusion.ratios.detected import DetectedSamples, detect, sample_prompts
from diffusion.runtime.progress import Bar
from diffusion.tasks.config import EvaluationConfig
from diffusion.tasks.detectors import CheckedDetector
from diffusion.training.lora import merged_adapters

SCALES = (0.5, 2.0)  # other guidance scales that are looked at, in units of the task's
SHOWN = 48  # images before and after, from the same noise under the same prompts


@dataclass(frozen=True)
class Shown:
    """Images (k, c, height, width) before and after from common noise, and their prompts (k,)."""

    prompts: tuple[str, ...]
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def measure_detected(
    denoiser: Denoiser,
    estimate: DetectedSamples,
    plan: Plan,
    detectors: Mapping[str, CheckedDetector],
    evaluation: EvaluationConfig,
    image_classifier: ImageClassifier | None,
    bar: Bar,
) -> tuple[Measurement, Shown]:
    """Sample prompts of the law, independently, and one image for each; count, and integrate the cost.

    Samples of the law of prompts and images are independent, so counts of a yes-or-no detector are binomial and
    their bounds exact. Another guidance scale shares prompts and noise with the first.
    """
    count, seeds = evaluation.samples, _seeds(evaluation, estimate)
    chosen = estimate.prompts.drawn(count, seeds[0])
    ask = list(detectors.values())
    with bar("evaluation samples", count) as shown, merged_adapters(denoiser):
        latents = sample_prompts(
            denoiser, estimate.prompts, chosen, estimate.sampling, seed=seeds[1], own=True, progress=shown.update
        )
    said = detect(denoiser.pipeline, latents, ask).numpy()
    levels = [
        level_found(
            said[:, i], float(plan.asked.levels[i]), "upper", _rule(said[:, i]), plan.confidence,
            concept=name, prompts="prompts", by=ask[i].name,
        )
        for i, name in enumerate(detectors)
    ]  # fmt: skip
    scale = estimate.sampling.scale(denoiser)
    at_scales: list[AtScale] = []
    few = max(1, count // 4)
    for factor in SCALES if scale > 1 else ():
        other = max(1.0, factor * scale)
        sampling = estimate.sampling.but(guidance_scale=other)
        with bar(f"evaluation samples at guidance scale {other:g}", few) as shown, merged_adapters(denoiser):
            some = sample_prompts(
                denoiser, estimate.prompts, chosen[:few], sampling, seed=seeds[1], own=True, progress=shown.update
            )
        values = detect(denoiser.pipeline, some, ask).numpy()
        at_scales += [
            AtScale(
                concept=name, by=ask[i].name, guidance_scale=other, estimate=mean_estimate(values[:, i]),
                bound=bound(values[:, i], "upper", _rule(values[:, i]), plan.confidence),
            )
            for i, name in enumerate(detectors)
        ]  # fmt: skip
    integrated = min(evaluation.integrated, count)
    with bar("evaluation of cost", integrated) as shown:
        cost = _cost(denoiser, estimate, integrated, seeds[2])
        shown.update(integrated)
    pictures = _shown(denoiser, estimate, seeds[3])
    retained = (
        _retained(denoiser, estimate, (chosen, latents), image_classifier, evaluation.confidence)
        if image_classifier is not None
        else ()
    )
    found = Measurement(levels=tuple(levels), costs=(cost,), retained=retained, at_scales=tuple(at_scales))
    if image_classifier is not None:
        found = found.model_copy(
            update={"levels": (*found.levels, *_seen(found.levels, plan, image_classifier, denoiser, latents))}
        )
    return found, pictures


def _seeds(evaluation: EvaluationConfig, estimate: DetectedSamples) -> list[int]:
    words = np.random.SeedSequence([evaluation.seed, estimate.budget.seed, 40]).generate_state(4, np.uint64)
    return [int(word >> np.uint64(2)) for word in words]


def _rule(values: NDArray[np.float64]) -> Rule:
    return "clopper_pearson" if np.isin(values, (0.0, 1.0)).all() else "betting"


def _cost(denoiser: Denoiser, estimate: DetectedSamples, count: int, seed: int) -> CostFound:
    """Nats along a stochastic chain at the task's own guidance scale, against the base model under the anchors."""
    sampling, prompts = estimate.sampling, estimate.prompts
    chain = replace(
        chain_of(denoiser, sampling.steps(denoiser)),
        scale=sampling.mixed_scale(denoiser),
        negative=sampling.negative_prompt,
    )
    chosen = prompts.drawn(count, seed)
    asked, anchors = ([texts[int(j)] for j in chosen] for texts in (prompts.texts, prompts.sampled))
    values = path_cost(denoiser, asked, chain, seed=seed + 1, based_on=anchors)
    return CostFound(
        prompts="prompts",
        estimate=mean_estimate(values.numpy()),
        median=float(torch.quantile(values, 0.5)),
        steps=chain.steps,
        exact=chain.own,
    )


def _shown(denoiser: Denoiser, estimate: DetectedSamples, seed: int) -> Shown:
    """Prompts in turn, as they are asked, from the same noise before and after."""
    from diffusion.training.lora import base_model

    prompts = estimate.prompts
    chosen = np.resize(np.flatnonzero(prompts.probabilities > 0), min(SHOWN, max(8, len(prompts))))
    images = []
    for context in (base_model(denoiser), merged_adapters(denoiser)):
        with context:
            some = sample_prompts(denoiser, prompts, chosen, estimate.sampling, seed=seed, own=True)
        images.append(decode(denoiser.pipeline, some).astype(np.float32))
    return Shown(tuple(prompts.texts[int(j)] for j in chosen), *images)


def _seen(
    levels: tuple[LevelFound, ...], plan: Plan, classifier: ImageClassifier, denoiser: Denoiser, latents: Tensor
) -> list[LevelFound]:
    """The same levels by independent classifiers, for concepts whose name they know."""
    said = classifier(decode(denoiser.pipeline, latents))
    found = []
    for level in levels:
        label = classifier.asked(level.concept)
        for by, labels in said.items() if label is not None else ():
            hits = (labels == label).astype(float)
            found.append(
                level_found(
                    hits, level.asked, "upper", "clopper_pearson", plan.confidence,
                    concept=level.concept, prompts="prompts", by=by,
                )
            )  # fmt: skip
    return found


def _retained(
    denoiser: Denoiser, estimate: DetectedSamples, after: tuple[NDArray[np.int64], Tensor],
    classifier: ImageClassifier, confidence: float,
) -> tuple[PromptAccuracy, ...]:  # fmt: skip
    """How often prompts without an anchor bring what they ask for, all together and by what that is."""
    prompts = estimate.prompts
    sides = []
    for rows, latents in ((estimate.rows.numpy(), estimate.latents), after):
        own = np.array([prompts.prompts[int(j)].anchor is None for j in rows])
        label = np.array([-1 if (k := classifier.asked(prompts.texts[int(j)])) is None else k for j in rows])
        kept = own & (label >= 0)
        if not kept.any():
            return ()
        said = classifier(decode(denoiser.pipeline, latents[torch.from_numpy(np.flatnonzero(kept))]))
        sides.append((label[kept], said))
    found = []
    for kind in (None, *sorted(set(sides[0][0].tolist()) & set(sides[1][0].tolist()))):
        for by in sides[0][1]:
            right = [(said[by] == label)[(label >= 0) if kind is None else label == kind] for label, said in sides]
            before, now = (mean_estimate(each.astype(float)) for each in right)
            shown = bound(right[1].astype(float), "lower", "clopper_pearson", confidence)
            name = "all" if kind is None else classifier.classes[kind]
            found.append(PromptAccuracy(prompts=name, by=by, before=before, after=now, bound=shown))
    return tuple(found)
