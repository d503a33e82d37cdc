"""Integrals over noise levels of a network's squared errors, by common stratified noise: what every ELBO here is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.pipelines import Condition, Denoiser, add_noise, rows
from diffusion.ratios.classifier import log_snr

# The ends carry nothing: pure noise says nothing of x_0, and at SNR > e^8 all networks predict alike.
LOG_SNR = (-7.0, 8.0)


# Squared errors (n,) at states x, levels t, noises eps, condition: what is integrated.
Error = Callable[[Tensor, Tensor, Tensor, Condition], Tensor]


def span(denoiser: Denoiser) -> tuple[Tensor, float, float]:
    """log SNR of every noise level (T,), and the ends of the integral over it."""
    every = log_snr(denoiser, torch.arange(denoiser.levels))
    return every, float(every.min().clamp_min(LOG_SNR[0])), float(every.max().clamp_max(LOG_SNR[1]))


def spread_log_snr(denoiser: Denoiser, count: int, generator: torch.Generator) -> Tensor:
    """Noise levels (count,) at which a mean over rows estimates the integral: one stratified pass over log SNR."""
    every, low, high = span(denoiser)
    u = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
    wanted = low + (high - low) * u[torch.randperm(count, generator=generator)]
    return (every[None] - wanted[:, None]).abs().argmin(1)


def integrate(
    denoiser: Denoiser,
    samples: Tensor,
    condition: Condition,
    error: Error,
    *,
    levels: int,
    seed: int,
    batch: int = 256,
) -> Tensor:
    """``1/2 int error d log SNR`` (n,) at samples (n, ...) under a condition of n rows, without gradient."""
    device = next(denoiser.network.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    every, low, high = span(denoiser)
    result = torch.zeros(len(samples), dtype=torch.float64)
    for j in range(levels):
        wanted = low + (high - low) * (j + torch.rand(len(samples), generator=generator)) / levels
        t = (every[None] - wanted[:, None]).abs().argmin(1)
        eps = torch.randn(samples.shape, generator=generator)
        for start in range(0, len(samples), batch):
            part = slice(start, start + batch)
            x0, noise, level = samples[part].to(device), eps[part].to(device, samples.dtype), t[part].to(device)
            with torch.no_grad():
                value = error(add_noise(denoiser, x0, noise, level), level, noise, rows(condition, part))
            result[part] += 0.5 * value.cpu().double() * (high - low) / levels
    return result
