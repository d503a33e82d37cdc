"""From a pipeline and its prompts to log ratios that can be trusted: samples, a ratio classifier, and its validation.

Samples of the concept's prompts and of the contrast prompts train the classifier (four fifths) and validate it (one
fifth). Samples of the anchor are the samples of q that the problem is solved on; the classifier never sees them in
training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.pipelines import Denoiser
from diffusion.pipelines.base import device_of
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.latents import try_out
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.calibration import Calibration, calibration
from diffusion.ratios.classifier import DROPPED, RatioClassifier, log_snr, noised_features, train_classifier
from diffusion.ratios.classifier_ratios import classifier_ratios
from diffusion.ratios.elbo import elbo_differences
from diffusion.ratios.positive_unlabelled import validate as validate_unlabelled
from diffusion.ratios.priors import mixture_priors, unlabelled_prior
from diffusion.ratios.ratio_estimate import RatioEstimate, training_rows
from diffusion.runtime.cache import Cache
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.concepts import TaskPrompts
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.sampling import of_ratios


def estimate_ratios(
    denoiser: Denoiser,
    prompts: TaskPrompts,
    budget: RatiosConfig,
    sampling: Sampling,
    cache: Cache | None,
    bar: Bar = progress_bar,
) -> RatioEstimate:
    """Sample, train the classifier, validate it, estimate. Every stage is kept in ``cache`` and taken from there the
    next time."""
    sampling = of_ratios(denoiser, sampling).resolved(denoiser)
    store, steps = cache or _NoCache(), sampling.steps(denoiser)
    asked = {"prompts": prompts.described(), "steps": steps, "seed": budget.seed}
    pipeline, m, device = denoiser.pipeline, len(prompts.concepts), device_of(denoiser)
    wanted, label_list = prompts.labelled(budget.concept_samples, budget.retained_samples)
    labels = torch.tensor(label_list)
    given = [concept.examples for concept in prompts.concepts]
    drawn = torch.tensor([label >= m or given[label] is None for label in label_list])

    def sampled(title: str, some: list[str], seed: int) -> Callable[[], dict[str, Tensor]]:
        def make() -> dict[str, Tensor]:
            try_out(pipeline, some[0] if some else "", steps=steps)
            with bar(title, len(some)) as shown:
                latents = sample_latents(pipeline, some, seed=seed, steps=steps, progress=shown.update)
            return {"latents": latents}

        return make

    seed = 10 * budget.seed
    counts = {"concept": budget.concept_samples, "contrast": budget.retained_samples}
    asking = [prompt for prompt, is_drawn in zip(wanted, drawn.tolist(), strict=True) if is_drawn]
    made = store.get("labelled", asked | counts, sampled("samples of known prompts", asking, seed + 1))["latents"]
    labelled = made.new_empty(len(labels), *made.shape[1:])
    labelled[drawn] = made
    for index, examples in enumerate(given):
        if examples is not None:
            labelled[labels == index] = examples.samples[: int((labels == index).sum())]
    some = [prompts.anchor] * budget.num_samples
    anchor = store.get("anchor", asked | {"n": len(some)}, sampled("samples of q", some, budget.anchor_seed))["latents"]

    training = training_rows(len(labels))

    def make_classifier() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed + 3)
        latents, label = labelled[training], labels[training]
        n, k = len(latents), budget.noisings
        # Levels are stratified per sample and denser at low noise, where the solver reads the ratio.
        share = (torch.arange(k)[None] + torch.rand(n, k, generator=generator)) / k
        t = (share**1.5 * (denoiser.levels - 1)).long().flatten()
        with bar("features for the classifier", n * k) as shown:
            feature = noised_features(
                denoiser,
                latents.repeat_interleave(k, 0),
                t,
                denoiser.condition([""]),
                generator,
                progress=shown.update,
            )
        label, snr = label.repeat_interleave(k), log_snr(denoiser, t)

        def fitted(some: Tensor, label: Tensor, priors: Sequence[float]) -> RatioClassifier:
            with bar("ratio classifier", budget.classifier_steps) as shown:
                return train_classifier(
                    feature[some],
                    snr[some],
                    label[some],
                    priors,
                    steps=budget.classifier_steps,
                    seed=seed + 4,
                    device=device,
                    progress=shown.update,
                )

        everything = torch.ones_like(label, dtype=torch.bool)
        held_out = [labelled[(labels == index) & ~training] for index in range(m)]
        if prompts.has_priors:
            return _state(fitted(everything, label, prompts.priors))
        priors, errors = _estimated_priors(denoiser, prompts, fitted, label, held_out, anchor, seed)
        state = _state(fitted(everything, label, priors.tolist()))
        return state | {"priors": torch.from_numpy(priors), "priors_stderr": torch.from_numpy(errors)}

    classifier_request = (
        asked | counts | {"noises": budget.noisings, "classifier_steps": budget.classifier_steps, "dropped": DROPPED}
    )
    if not prompts.has_priors:
        classifier_request |= {"n": len(anchor)}
    state = store.get("classifier", classifier_request, make_classifier)
    priors_stderr: tuple[float, ...] = ()
    if not prompts.has_priors:
        state = dict(state)
        prompts = prompts.with_priors(state.pop("priors").tolist())
        priors_stderr = tuple(state.pop("priors_stderr").tolist())
    classifier = RatioClassifier(state["center"].shape[0], state["log_shares"].exp().tolist(), prompts.priors)
    classifier.load_state_dict(state)
    classifier.to(device).eval()

    def make_values() -> dict[str, Tensor]:
        with bar("log ratios", 3 * (len(anchor) + int((~training).sum()))) as shown:
            return {
                "anchor": classifier_ratios(denoiser, classifier, anchor, seed=seed + 5, progress=shown.update),
                "held out": classifier_ratios(
                    denoiser, classifier, labelled[~training], seed=seed + 6, progress=shown.update
                ),
            }

    estimated = store.get("ratios", classifier_request | {"n": len(anchor)}, make_values)

    def make_elbo() -> dict[str, Tensor]:
        looked_at = anchor[: budget.elbo_samples]
        if any(examples is not None for examples in given):
            return {"values": torch.full((len(looked_at), m), float("nan"))}
        with bar("ELBO check", len(looked_at) * budget.elbo_noise_levels * (m + 1)) as shown:
            value = elbo_differences(
                denoiser, looked_at, prompts, levels=budget.elbo_noise_levels, seed=seed + 7, progress=shown.update
            )
        return {"values": value}

    elbo_request = asked | {"n": len(anchor), "k": budget.elbo_samples, "levels": budget.elbo_noise_levels}
    elbo = store.get("elbo", elbo_request, make_elbo)["values"]
    validation = tuple(
        _validate(classifier, estimated["held out"], labels[~training], index) for index in range(len(prompts.concepts))
    )
    return RatioEstimate(
        prompts,
        classifier,
        labelled,
        labels,
        tuple(wanted),
        anchor,
        estimated["anchor"],
        elbo,
        validation,
        cache.model if cache else fingerprint(pipeline),
        budget,
        sampling,
        priors_stderr,
    )


def _state(classifier: RatioClassifier) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in classifier.state_dict().items()}


def _estimated_priors(
    denoiser: Denoiser,
    prompts: TaskPrompts,
    fitted: Callable[[Tensor, Tensor, Sequence[float]], RatioClassifier],
    label: Tensor,
    held_out: Sequence[Tensor],
    anchor: Tensor,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Priors and standard errors (m,), by a classifier under provisional ones, which change nothing but its constants.

    ``label``: of the noised samples that it learns from; ``held_out``: of each concept, samples that it never sees.
    """
    m = len(prompts.concepts)
    provisional = np.full(m, 1 / (m + 2))
    if not prompts.unlabelled:
        classifier = fitted(label <= m, label, provisional.tolist())
        of_q = classifier_ratios(denoiser, classifier, anchor, seed=seed + 8)
        return mixture_priors(of_q.double().numpy(), provisional)
    # Samples of q take the place of the rest; what contrast prompts there are say nothing of a concept's share in q.
    classifier = fitted(label != m, torch.where(label == m + 1, m, label), provisional.tolist())
    shares = classifier.log_shares.exp().cpu()
    found, errors = np.zeros(m), np.zeros(m)
    for index in range(m):
        values = classifier_ratios(denoiser, classifier, held_out[index], seed=seed + 8)
        # Relative to the samples of q themselves, which are this classifier's rest.
        rest = (1 - (values.double().exp() * torch.from_numpy(provisional)).sum(1)).clamp_min(1e-12)
        ratio = values[:, index].double() - (rest.log() - float(np.log1p(-provisional.sum())))
        found[index], errors[index] = unlabelled_prior(ratio.numpy(), float(shares[index]), float(shares[m]))
    if found.sum() >= 1:
        raise ValueError(f"priors could not be estimated: together {found.sum():.3g}, which must be below 1; give them")
    return found, errors


def _validate(classifier: RatioClassifier, values: Tensor, labels: Tensor, index: int) -> Calibration:
    """The classifier's posterior under the labels' own shares against the labels, for one concept on held-out
    samples."""
    m = values.shape[1]
    if bool((labels == m + 1).any()):
        if not bool((labels == m).any()):
            return validate_unlabelled(values, labels, index, float(classifier.log_priors[index].exp()))
        values, labels = values[labels <= m], labels[labels <= m]
    shares = torch.bincount(labels, minlength=m + 1).double() / len(labels)
    log_priors = classifier.log_priors.cpu().double()
    # rho gives every concept's posterior under the priors; the rest has what is left. Re-weigh to the labels' shares.
    of_concepts = (values.double() + log_priors[:-1]).exp()
    rest = (1 - of_concepts.sum(1, keepdim=True)).clamp_min(1e-12)
    score = torch.cat([of_concepts, rest], dim=1).log() - log_priors + shares.log()
    return calibration(score.softmax(-1)[:, index].numpy(), np.asarray(labels == index))


class _NoCache:
    """Computes everything and keeps nothing."""

    def get(self, name: str, request: Any, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return make()
