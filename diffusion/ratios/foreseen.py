r"""What a detector would say of the image that a state predicts, where it can be differentiated.

::

    z_i(x_t, c) = log odds of l_i at the image of xhat_0(x_t, c),        xhat_0 the frozen network's under that prompt,
    logit eta_i(x_t, c) = (1 + b_i) logit eta'_i(x_t, c) + a_i z_i(x_t, c) + d_i

with eta' the noised detector's word (:mod:`diffusion.ratios.noised_detector`) and a, b, d piecewise linear in log SNR:
a logistic regression with a ridge, on noised samples that the noised detector has never seen. So eta' stands where z
says nothing (high noise, where predicted images are means), and z is believed as far as it has been right.

A noised detector knows what a few thousand labels tell it; the detector itself knows more, and its slope in the image
is a slope in the state. How much of a target's drift either has: ``wardrobe.experiments.slope_gain``.

Source: guidance by a loss at the predicted image: Chung et al., Diffusion Posterior Sampling (ICLR 2023); Bansal et
al., Universal Guidance for Diffusion Models (2023). The regression is what makes of it a probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from diffusion.pipelines import Denoiser, add_noise, rows
from diffusion.pipelines.base import device_of, predicted_x0
from diffusion.pipelines.latents import differentiable_images
from diffusion.ratios.classifier import Bottleneck, log_snr, pooled
from diffusion.ratios.detected import DetectedSamples, held_out, noise_levels
from diffusion.tasks.detectors import CheckedDetector, LogOdds

# Log SNRs between which a, b and d are linear; constant beyond.
KNOTS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0)
# A prior for every coefficient: one of standard deviation one.
RIDGE = 1.0
SURE = 1e-6  # a noised detector's word is cut there: a sigmoid of float32 may have rounded to zero or one
ROWS = 64


@dataclass(frozen=True)
class Foreseen:
    """``coefficients`` (m, knots, 3) of z, logit eta' and one; ``log_odds`` (m,): None for a detector that has
    none, of which eta' stays as it is."""

    log_odds: tuple[LogOdds | None, ...]
    coefficients: Tensor

    @property
    def complete(self) -> bool:
        """Whether every detector has log odds."""
        return None not in self.log_odds

    def __call__(self, denoiser: Denoiser, predicted: Tensor, eta: Tensor, level: Tensor) -> Tensor:
        """eta (n, m) with a slope in ``predicted`` x_0 (n, ...) and in eta' (n, m); ``level``: log SNR (n,)."""
        z = seen_ahead(denoiser, predicted, self.log_odds).to(eta)
        at = hats(level.to(eta)) @ self.coefficients.to(eta)  # (m, n, 3)
        logit = torch.logit(eta, SURE)
        better = torch.sigmoid((1 + at[..., 1].T) * logit + at[..., 0].T * z + at[..., 2].T)
        told = torch.tensor([each is not None for each in self.log_odds], device=eta.device)
        return torch.where(told, better, eta)


def seen_ahead(denoiser: Denoiser, predicted: Tensor, log_odds: Sequence[LogOdds | None]) -> Tensor:
    """z (n, m) at predicted x_0 (n, ...); 0 for detectors without log odds."""
    images = differentiable_images(denoiser.pipeline, predicted)
    none = images.new_zeros(len(images))
    return torch.stack([none if each is None else each(images).to(none) for each in log_odds], dim=1)


def foresee(
    denoiser: Denoiser, estimate: DetectedSamples, detectors: Sequence[CheckedDetector], batch: int = ROWS
) -> Foreseen | None:
    """The regression above, by the samples that the noised detector never saw; None where no detector has log odds.

    Raises ``ValueError`` naming a detector whose log odds are not one finite number an image.
    """
    log_odds = tuple(each.log_odds for each in detectors)
    if all(each is None for each in log_odds):
        return None
    kept = held_out(len(estimate.latents)).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(10 * estimate.budget.seed + 8)
    t, of = noise_levels(denoiser, len(kept), estimate.budget.noisings, generator)
    of, conditions = kept[of], denoiser.condition(estimate.prompts.sampled)
    device, parts = device_of(denoiser), []
    for some, level in zip(of.split(batch), t.split(batch), strict=True):
        x0 = estimate.latents[some]
        x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator), level).to(device)
        level = level.to(device)
        with torch.no_grad(), Bottleneck(denoiser) as caught:
            said = denoiser.predict(x, level, rows(conditions, estimate.rows[some]))
            eta = estimate.noised_detector(pooled(cast(Tensor, caught.last), said), log_snr(denoiser, level))
            z = seen_ahead(denoiser, predicted_x0(denoiser, said, x, level), log_odds)
        parts.append([part.cpu().double() for part in (z, eta, log_snr(denoiser, level))])
    z, eta, snr = (torch.cat(part) for part in zip(*parts, strict=True))
    if not bool(z.isfinite().all()):
        names = [detectors[i].name for i in range(len(detectors)) if not bool(z[:, i].isfinite().all())]
        raise ValueError(f"log_odds of {', '.join(names)} must be finite numbers")
    near, logit, said_ = hats(snr).numpy(), torch.logit(eta, SURE).numpy(), estimate.detected[of].numpy()
    found = [
        regressed(near, z[:, i].numpy(), logit[:, i], said_[:, i])
        if log_odds[i] is not None
        else np.zeros((len(KNOTS), 3))
        for i in range(len(detectors))
    ]
    return Foreseen(log_odds, torch.from_numpy(np.stack(found)).float())


def hats(level: Tensor) -> Tensor:
    """Weights (n, knots) of the knots at log SNR (n,): linear between neighbours, adding up to one."""
    knots = torch.tensor(KNOTS, dtype=level.dtype, device=level.device)
    inside = level.clamp(KNOTS[0], KNOTS[-1])[:, None]
    return (1 - (inside - knots).abs() / (KNOTS[1] - KNOTS[0])).clamp_min(0)


def regressed(
    near: NDArray[np.float64], z: NDArray[np.float64], logit: NDArray[np.float64], said: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Coefficients (knots, 3) of least cross-entropy, summed over rows (n,), plus half of :data:`RIDGE` times their
    square."""
    inputs = np.stack([z, logit, np.ones_like(z)], axis=1)
    design = (near[:, :, None] * inputs[:, None]).reshape(len(z), 3 * near.shape[1])

    def loss(beta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value = logit + design @ beta
        slope = expit(value) - said
        return (
            float((np.logaddexp(0, value) - said * value).sum() + RIDGE / 2 * beta @ beta),
            design.T @ slope + RIDGE * beta,
        )

    found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(found.x).reshape(near.shape[1], 3)
