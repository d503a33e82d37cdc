"""Every estimator of the log ratio against the others, against every classifier, and against what the labels say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from diffusion.evaluation.bounds import mean_estimate
from diffusion.evaluation.ratio_table import RATIO_CLASSIFIER, Agreement, Comparison, Prior, calibration_found
from diffusion.evaluation.samples import ImageClassifier, SampleSet, take_samples
from diffusion.pipelines import Denoiser
from diffusion.ratios.calibration import calibration
from diffusion.ratios.classifier_ratios import CLEAN_LEVELS, classifier_ratios, posterior
from diffusion.ratios.cross_fitted import against_q
from diffusion.ratios.elbo import elbo_posterior_ratios
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.ratios.trajectory import path_ratios
from diffusion.runtime.cache import Cache
from diffusion.runtime.progress import Bar, progress_bar


@dataclass(frozen=True)
class RatioColumn:
    """Log ratios (n, m) by one estimator, and by the ratio classifier at the very same samples.

    ``own``: those samples (n, ...), None where they are the first n of the estimate's.
    """

    name: str
    values: Tensor
    classifier: Tensor
    own: Tensor | None = None


def compare(
    denoiser: Denoiser,
    estimate: RatioEstimate,
    image_classifier: ImageClassifier | None,
    cache: Cache | None = None,
    bar: Bar = progress_bar,
    path_steps: int = 20,
    thorough: bool = True,
    seen: SampleSet | None = None,
) -> Comparison:
    """The ratio classifier, the classifier against q, both ELBO estimators and the path ratio, on samples of q.

    The ELBO estimators are computed at the first ``budget.elbo_samples`` of the estimate's samples, the path ratio at
    as many of its own, in ``path_steps`` steps; each is compared with the classifier at the same samples. Estimators
    that need prompts are left out where a concept has none, the normalised ELBO where there are no contrast prompts.
    Calibration is on held-out labelled samples (of q_i and of the contrast) and, where there is an image
    classifier, on samples of q, for every estimator. Not ``thorough``: only the estimators that the estimate brings,
    which cost nothing more. ``seen``: the estimate's samples of q with what the image classifier says of them, where
    that has been asked before.
    """
    prompts, m = estimate.prompts, len(estimate.prompts.concepts)
    estimates = _of_estimate(estimate)
    if thorough:
        estimates += _further(denoiser, estimate, cache, bar, path_steps)
    agreements = [_agreement(estimate, each, index) for index in range(m) for each in estimates]
    names = [concept.name for concept in prompts.concepts]
    rows = [
        calibration_found(
            name, f"{RATIO_CLASSIFIER}, labelled samples", "the prompts", int((~estimate.training).sum()), seen
        )
        for name, seen in zip(names, estimate.validation, strict=True)
    ]
    if image_classifier is not None:
        pipeline = denoiser.pipeline

        def classified(samples: Tensor) -> SampleSet:
            return take_samples("q", pipeline, [prompts.anchor] * len(samples), samples, image_classifier)

        of_estimate = seen or classified(estimate.anchor)
        for each in estimates:
            said = (of_estimate if each.own is None else classified(each.own)).said
            for index, name in enumerate(names):
                p = posterior(each.values, prompts.priors)[:, index].numpy()
                for classifier, labels in said.items():
                    shows = labels[: len(p)] == image_classifier.asked(name)
                    if shows.any() and not shows.all():  # else there is nothing to tell apart
                        rows.append(calibration_found(name, each.name, classifier, len(p), calibration(p, shows)))
    errors: tuple[float | None, ...] = estimate.priors_stderr or (None,) * m
    priors = tuple(
        Prior(concept=name, mean=prior, stderr=error)
        for name, prior, error in zip(names, prompts.priors, errors, strict=True)
    )
    return Comparison(priors=priors, agreement=tuple(agreements), calibration=tuple(rows))


def _beside(estimate: RatioEstimate, name: str, values: Tensor) -> RatioColumn:
    n = len(values)
    return RatioColumn(name, values, estimate.values[:n])


def _of_estimate(estimate: RatioEstimate) -> list[RatioColumn]:
    found = [_beside(estimate, RATIO_CLASSIFIER, estimate.values)]
    if not bool(estimate.elbo.isnan().any()):
        found.append(_beside(estimate, "ELBO against the empty prompt", estimate.elbo))
    return found


def _further(
    denoiser: Denoiser, estimate: RatioEstimate, cache: Cache | None, bar: Bar, path_steps: int
) -> list[RatioColumn]:
    prompts, budget, m = estimate.prompts, estimate.budget, len(estimate.prompts.concepts)
    seed, first = 10 * budget.seed, len(estimate.elbo)
    request = {"prompts": prompts.described(), "budget": budget.plain()}

    def kept(name: str, more: dict[str, Any], title: str, calls: int, make: Callable[[Any], Any]) -> dict[str, Tensor]:
        def made() -> dict[str, Tensor]:
            with bar(title, calls) as shown:
                result: dict[str, Tensor] = make(shown.update)
            return result

        return cache.get(name, request | more, made) if cache else made()

    asks = int((estimate.labels < m).sum())
    steps = {"steps": budget.classifier_steps, "levels": list(CLEAN_LEVELS)}
    values = kept(
        "against-q",
        steps,
        "classifier against q",
        (len(estimate.anchor) + asks) * len(CLEAN_LEVELS),
        lambda update: {
            "values": against_q(denoiser, estimate, steps=budget.classifier_steps, seed=seed + 9, progress=update)
        },
    )["values"]
    found = [_beside(estimate, "classifier against q, cross-fitted", values)]
    if not denoiser.prompt_inputs or not all(concept.prompts for concept in prompts.concepts):
        return found
    if prompts.contrast:
        values = kept(
            "elbo-normalised",
            {},
            "normalised ELBO",
            first * budget.elbo_noise_levels * (m + len(prompts.contrast)),
            lambda update: {
                "values": elbo_posterior_ratios(
                    denoiser,
                    estimate.anchor[:first],
                    prompts,
                    levels=budget.elbo_noise_levels,
                    seed=seed + 8,
                    progress=update,
                )
            },
        )["values"]
        found.append(_beside(estimate, "ELBO over contrast prompts", values))

    def walk(update: Callable[[int], object]) -> dict[str, Tensor]:
        paths = path_ratios(denoiser, prompts, first, steps=path_steps, seed=seed + 10, progress=update)
        classifier = classifier_ratios(denoiser, estimate.classifier, paths.latents, seed=seed + 11)
        return {"values": paths.values, "latents": paths.latents, "classifier": classifier}

    paths = kept("path", {"path steps": path_steps}, "paths", first, walk)
    found.append(RatioColumn("path, at its own samples", paths["values"], paths["classifier"], paths["latents"]))
    return found


def _agreement(estimate: RatioEstimate, column: RatioColumn, index: int) -> Agreement:
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    prior, values = estimate.prompts.priors[index], column.values[:, index].double().numpy()
    share = posterior(column.values, estimate.prompts.priors)[:, index].numpy() / prior
    called = (posterior(column.classifier, estimate.prompts.priors)[:, index] > 0.5).numpy()
    auc = float(roc_auc_score(called, values)) if called.any() and not called.all() else float("nan")
    return Agreement(
        concept=estimate.prompts.concepts[index].name,
        estimator=column.name,
        coverage=mean_estimate(share),
        mass=mean_estimate(np.exp(values)),
        rank=float(spearmanr(values, column.classifier[:, index].numpy()).statistic),
        auc=auc,
    )
