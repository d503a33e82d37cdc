"""A network that was fitted under a law of prompts: what detectors, chains and classifiers say of its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.evaluation.before_after import Shown, before_and_after
from diffusion.evaluation.bounds import bound, mean_estimate, meets
from diffusion.evaluation.counted_prompts import Counted, Make, count_prompts, expected, rule_of
from diffusion.evaluation.measured import AtScale, CostFound, LevelFound, Measurement, PromptAccuracy, level_found
from diffusion.evaluation.planning import Plan
from diffusion.evaluation.samples import ImageClassifier
from diffusion.methods.chain import chain_of, path_cost
from diffusion.pipelines import Denoiser
from diffusion.pipelines.latents import decode
from diffusion.ratios.detected import DetectedSamples, detect, sample_prompts
from diffusion.runtime.progress import Bar
from diffusion.tasks.config import EvaluationConfig, Sampling
from diffusion.tasks.detector_levels import Constraint
from diffusion.tasks.detectors import CheckedDetector
from diffusion.tasks.prompts import Prompts
from diffusion.training.lora import merged_adapters

SCALES = (0.5, 2.0)  # other guidance scales that are looked at, in units of the task's


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

    See :mod:`diffusion.evaluation.counted_prompts` for how many samples and which bounds. Another guidance scale has
    prompts of its own, as many as a quarter of the samples at most, of the whole law or of each group with a level.
    With 0 samples there are images to look at, and nothing is counted.
    """
    seeds, ask = _seeds(evaluation, estimate), list(detectors.values())
    if not evaluation.samples:
        return Measurement(levels=(), costs=()), before_and_after(denoiser, estimate, seeds[3], evaluation)

    law, constraints = estimate.prompts, estimate.constraints
    with bar("evaluation samples", expected(law, constraints, plan.samples, plan.each)) as shown:
        make = made(denoiser, law, estimate.sampling, ask, shown.update)
        counted = count_prompts(make, law, constraints, plan, seeds[0], evaluation.batch)
    levels = [
        level_of(each, float(asked), counted[each.group], plan, ask[each.column].name)
        for each, asked in zip(constraints, plan.asked.levels, strict=True)
    ]
    at_scales: list[AtScale] = []
    scale = estimate.sampling.scale(denoiser)
    few = plan.of(0.25)
    for factor in SCALES if scale > 1 and evaluation.other_scales else ():
        other = max(1.0, factor * scale)
        sampling = estimate.sampling.but(guidance_scale=other)
        total = expected(law, constraints, few.samples, few.each)
        with bar(f"evaluation samples at guidance scale {other:g}", total) as shown:
            make = made(denoiser, law, sampling, ask, shown.update)
            some = count_prompts(make, law, constraints, few, seeds[1], evaluation.batch)
        at_scales += [
            _at_scale(each, other, some[each.group], plan.confidence, ask[each.column].name) for each in constraints
        ]
    integrated = min(evaluation.integrated, plan.samples)
    with bar("evaluation of cost", integrated) as shown:
        cost = _cost(denoiser, estimate, integrated, seeds[2])
        shown.update(integrated)
    pictures = before_and_after(denoiser, estimate, seeds[3], evaluation)
    found = Measurement(levels=tuple(levels), costs=(cost,), at_scales=tuple(at_scales))
    if image_classifier is not None:
        seen = _seen(levels, constraints, plan, image_classifier, denoiser, counted)
        kept = _retained(denoiser, estimate, counted[None], image_classifier, plan)
        found = found.model_copy(update={"levels": (*levels, *seen), "retained": kept})
    return found, pictures


def made(
    denoiser: Denoiser,
    prompts: Prompts,
    sampling: Sampling,
    detectors: Sequence[CheckedDetector],
    say: Callable[[int], object],
) -> Make:
    """Samples of the fitted network under prompts as they are asked, and what detectors say of them."""

    def make(rows: NDArray[np.int64], seed: int) -> tuple[Tensor, NDArray[np.float64]]:
        with merged_adapters(denoiser):
            latents = sample_prompts(denoiser, prompts, rows, sampling, seed=seed, own=True, progress=say)
        return latents, detect(denoiser.pipeline, latents, detectors).numpy()

    return make


def _seeds(evaluation: EvaluationConfig, estimate: DetectedSamples) -> list[int]:
    words = np.random.SeedSequence([evaluation.seed, estimate.budget.seed, 40]).generate_state(4, np.uint64)
    return [int(word >> np.uint64(2)) for word in words]


def level_of(constraint: Constraint, asked: float, counted: Counted, plan: Plan, by: str) -> LevelFound:
    """A level by the detector that it was solved with."""
    values = counted.said[:, constraint.column]
    found = level_found(
        values, asked, constraint.side, rule_of(values, plan.sequential), plan.confidence,
        concept=constraint.concept, prompts="prompts", by=by,
    )  # fmt: skip
    told = counted.bounds.get(constraint, found.bound)  # the best of all looks
    hits = int(values.sum()) if np.isin(values, (0.0, 1.0)).all() else None
    return found.model_copy(update={"group": constraint.group, "bound": told, "met": meets(told, asked), "hits": hits})


def _at_scale(constraint: Constraint, scale: float, counted: Counted, confidence: float, by: str) -> AtScale:
    values = counted.said[:, constraint.column]
    return AtScale(
        concept=constraint.concept, by=by, guidance_scale=scale, group=constraint.group,
        estimate=mean_estimate(values),
        bound=bound(values, constraint.side, rule_of(values, False), confidence),
    )  # fmt: skip


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


def _seen(
    levels: list[LevelFound], constraints: tuple[Constraint, ...], plan: Plan, classifier: ImageClassifier,
    denoiser: Denoiser, counted: Mapping[str | None, Counted],
) -> list[LevelFound]:  # fmt: skip
    """The same levels by independent classifiers, for concepts whose name they know."""
    said = {group: classifier(decode(denoiser.pipeline, some.latents)) for group, some in counted.items()}
    found = []
    for each, level in zip(constraints, levels, strict=True):
        label = classifier.asked(each.concept)
        for by, labels in said[each.group].items() if label is not None else ():
            hits = (labels == label).astype(float)
            seen = level_found(
                hits, level.asked, each.side, rule_of(hits, plan.sequential), plan.confidence,
                concept=each.concept, prompts="prompts", by=by,
            )  # fmt: skip
            found.append(seen.model_copy(update={"group": each.group, "hits": int(hits.sum())}))
    return found


def _retained(
    denoiser: Denoiser, estimate: DetectedSamples, after: Counted, classifier: ImageClassifier, plan: Plan
) -> tuple[PromptAccuracy, ...]:
    """How often prompts without an anchor bring what they ask for, all together and by what that is."""
    prompts = estimate.prompts
    sides = []
    for rows, latents in ((estimate.rows.numpy(), estimate.latents), (after.rows, after.latents)):
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
            values = right[1].astype(float)
            shown = bound(values, "lower", rule_of(values, plan.sequential), plan.confidence)
            name = "all" if kind is None else classifier.classes[kind]
            found.append(PromptAccuracy(prompts=name, by=by, before=before, after=now, bound=shown))
    return tuple(found)
