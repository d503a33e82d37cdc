r"""Log ratios ``rho_i(x_0) = log q_i(x_0) / q(x_0)`` of a pipeline's own samples, by three estimators.

Two more live by themselves: the free ratio of a path (:mod:`diffusion.ratios.trajectory`), which brings its own
samples, and the classifier against q (:mod:`diffusion.ratios.cross_fitted`), which is trained on the very samples and
cross-fitted.

- :func:`classifier_ratios`: the ratio classifier (:mod:`diffusion.ratios.classifier`) at the lowest noise levels; the
  one to solve with;
- :func:`elbo_differences`: ``ELBO(x | u_i) - ELBO(x | "")`` under common noise, needs no training; raw ratios of a
  network whose unconditional and conditional predictions are not of one law, so biased in scale;
- :func:`elbo_posterior_ratios`: ELBOs normalised over all contrast prompts, where that inconsistency cancels.

All in nats, at samples (n, ...), giving (n, m).
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.pipelines import Condition, Denoiser, add_noise, repeat, rows
from diffusion.pipelines.base import device_of
from diffusion.ratios.classifier import log_snr
from diffusion.ratios.classifier_ratios import Progress
from diffusion.runtime.precision import squares
from diffusion.tasks.concepts import TaskPrompts


def elbos(
    denoiser: Denoiser,
    latents: Tensor,
    conditions: Condition,
    *,
    levels: int,
    seed: int,
    antithetic: bool = False,
    batch: int = 256,
    progress: Progress | None = None,
) -> Tensor:
    r"""ELBOs (n, k) in nats, up to one constant per sample, of samples under k conditions with common noise.

    ::

        ELBO = -1/2 integral |x_0 - x0hat(x_t, t, c)|^2 d SNR  =  1/2 integral |eps - epshat|^2 d log SNR,

    (the sign of d log SNR is negative along t) by ``levels`` stratified values of log SNR between the schedule's ends,
    one noise each, the same for every condition, so that what the conditions share cancels in their differences.
    ``antithetic``: half as many values, each with a noise and its mirror image, at the same cost, so that what is odd
    in the noise cancels. It pays only where values are many: with 10 of them on ``digits`` a difference had the
    standard deviation 8.4 nats against 5.6 without. Raises ``ValueError`` for an odd number of levels then.
    """
    signs = (1, -1) if antithetic else (1,)
    if levels < 1 or levels % len(signs):
        raise ValueError(f"levels must be positive, and even with antithetic noise, got {levels}")
    values, device = levels // len(signs), device_of(denoiser)
    generator = torch.Generator().manual_seed(seed)
    every = log_snr(denoiser, torch.arange(denoiser.levels))
    # The ends carry nothing: pure noise says nothing of x_0, and at SNR > e^8 every condition predicts alike.
    high, low = float(every.max().clamp_max(8.0)), float(every.min().clamp_min(-7.0))
    count = len(next(iter(conditions.values())))
    result = torch.zeros(len(latents), count, dtype=torch.float64)
    for j in range(values):
        wanted = low + (high - low) * (j + torch.rand(len(latents), generator=generator)) / values
        t = (every[None] - wanted[:, None]).abs().argmin(1)
        noise = torch.randn(latents.shape, generator=generator)
        for eps in (sign * noise for sign in signs):
            for start in range(0, len(latents), batch):
                part = slice(start, start + batch)
                x0, level, chance = (some[part].to(device) for some in (latents, t, eps))
                x = add_noise(denoiser, x0, chance, level)
                for c in range(count):
                    with torch.no_grad():
                        condition = repeat(rows(conditions, slice(c, c + 1)), len(x))
                        said = denoiser.epsilon(denoiser.predict(x, level, condition), x, level)
                    result[part, c] -= 0.5 * squares(chance - said) * (high - low) / levels
                if progress is not None:
                    progress(len(x) * count)
    return result


def elbo_differences(
    denoiser: Denoiser,
    latents: Tensor,
    prompts: TaskPrompts,
    *,
    levels: int = 40,
    seed: int,
    antithetic: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """``rho_i = ELBO(x | u_i) - ELBO(x | "")`` (n, m)."""
    conditions = denoiser.condition(["", *(concept.name for concept in prompts.concepts)])
    value = elbos(denoiser, latents, conditions, levels=levels, seed=seed, antithetic=antithetic, progress=progress)
    return (value[:, 1:] - value[:, :1]).float()


def elbo_posterior_ratios(
    denoiser: Denoiser,
    latents: Tensor,
    prompts: TaskPrompts,
    *,
    levels: int = 40,
    seed: int,
    antithetic: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """``rho_i`` (n, m) from ELBOs of concepts and of one prompt per contrast group, normalised under the priors.

    The groups share what the concepts leave, equally.
    """
    names = [concept.name for concept in prompts.concepts] + [group[0] for group in prompts.contrast]
    rest = (1 - sum(prompts.priors)) / len(prompts.contrast)
    log_priors = torch.tensor([*prompts.priors, *[rest] * len(prompts.contrast)], dtype=torch.float64).log()
    value = elbos(
        denoiser, latents, denoiser.condition(names), levels=levels, seed=seed, antithetic=antithetic, progress=progress
    )
    log_posterior = (value + log_priors).log_softmax(-1)
    m = len(prompts.concepts)
    return (log_posterior[:, :m] - log_priors[:m]).float()
