r"""The ratio classifier against q itself, as an independent check: samples of q_i against samples of q, nothing else.

::

    min over eta of  - sum_i s_i E_{q_i} log( s_i r_i / S ) - s_q E_q log( s_q / S ),    S = s_q + sum_i s_i r_i,

(:mod:`diffusion.ratios.positive_unlabelled`, without a labelled rest; s the shares of both kinds among the samples that
it learns from). r_i = q_i/q = eta_i/pi_i is bounded by 1/pi_i by construction. It asks for no contrast prompts, but
takes the difference between the network's prompted and unprompted samples for a difference between concept and rest,
and
posteriors of the very samples that it learned from are too low: so samples of q are cross-fitted, each classified by a
classifier that never saw it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.pipelines import Denoiser
from diffusion.pipelines.base import device_of
from diffusion.ratios.classifier import log_snr, noised_features, train_classifier
from diffusion.ratios.classifier_ratios import CLEAN_LEVELS
from diffusion.ratios.ratio_estimate import RatioEstimate

FOLDS = 2


def against_q(
    denoiser: Denoiser,
    estimate: RatioEstimate,
    *,
    steps: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """``rho`` (n, m) at the estimate's samples of q, from two classifiers of which each saw one half of them.

    ``progress`` counts noised samples, ``len(CLEAN_LEVELS)`` for each sample of q or of a concept.
    """
    m, priors = len(estimate.prompts.concepts), estimate.prompts.priors
    asks = estimate.labels < m
    samples, n = torch.cat([estimate.anchor, estimate.labelled[asks]]), len(estimate.anchor)
    labels = torch.cat([torch.full((n,), m + 1), estimate.labels[asks]])
    fold = torch.arange(len(samples)) % FOLDS
    generator, empty = torch.Generator().manual_seed(seed), denoiser.condition([""])
    features, snrs = [], []
    for share in CLEAN_LEVELS:
        t = torch.full((len(samples),), round(share * (denoiser.levels - 1)))
        features.append(noised_features(denoiser, samples, t, empty, generator, progress=progress))
        snrs.append(log_snr(denoiser, t))
    total = torch.zeros(n, m + 1)
    for number in range(FOLDS):
        # All of the concepts' samples teach, but of q only the other folds.
        teaches = (labels < m) | (fold != number)
        classifier = train_classifier(
            torch.cat([feature[teaches] for feature in features]),
            torch.cat([snr[teaches] for snr in snrs]),
            labels[teaches].repeat(len(CLEAN_LEVELS)),
            priors,
            steps=steps,
            seed=seed + number,
            device=device_of(denoiser),
        )
        held_out = fold[:n] == number
        with torch.no_grad():
            for feature, snr in zip(features, snrs, strict=True):
                total[held_out] += classifier.log_posterior(feature[:n][held_out], snr[:n][held_out]).cpu()
    posterior = (total / len(CLEAN_LEVELS)).log_softmax(-1)
    return posterior[:, :m] - torch.tensor(priors).log()
