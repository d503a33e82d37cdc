"""Log ratios by the classifier classifier at the lowest noise levels, and the posteriors that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffusion.pipelines import Denoiser
from diffusion.ratios.classifier import RatioClassifier, log_snr, noised_features

Progress = Callable[[int], object]


# Where the clean image is looked at: lower levels add nothing (the posterior is a martingale in t and has all but
# converged there), and t = 0 lies at the edge of what networks are trained on.
CLEAN_LEVELS = (0.01, 0.03, 0.06)


def classifier_ratios(
    denoiser: Denoiser, classifier: RatioClassifier, latents: Tensor, *, seed: int, progress: Progress | None = None
) -> Tensor:
    """``rho`` (n, m): the classifier's mean log posterior over :data:`CLEAN_LEVELS`, less the log prior."""
    generator, empty = torch.Generator().manual_seed(seed), denoiser.condition([""])
    total = torch.zeros(len(latents), len(classifier.log_priors))
    for share in CLEAN_LEVELS:
        t = torch.full((len(latents),), round(share * (denoiser.levels - 1)))
        feature = noised_features(denoiser, latents, t, empty, generator, progress=progress)
        with torch.no_grad():
            total += classifier.log_posterior(feature, log_snr(denoiser, t)).cpu()
    posterior = (total / len(CLEAN_LEVELS)).log_softmax(-1)
    return (posterior - classifier.log_priors.cpu())[:, :-1]


def posterior(values: Tensor, priors: Sequence[float]) -> Tensor:
    """``Pr(i | x) = min(1, pi_i exp(rho_i))`` (n, m); above 1 only for ratios that no joint law has."""
    return (values.double() + torch.tensor(list(priors), dtype=torch.float64).log()).exp().clamp_max(1.0)
