r"""Integrals over noise levels of a network's squared errors, by common stratified noise: what every ELBO here is.

::

    I(x) = 1/2 int E error(x_t, t, eps) d log SNR,        x_t = signal x + noise eps

The values of log SNR are stratified between the ends of the schedule, one noise each, a function of the seed alone: two
networks, or one under two conditions, are compared under the same noise, so that what they share cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.pipelines import Denoiser, add_noise
from diffusion.pipelines.batch_size import evaluation_limit
from diffusion.ratios.classifier import log_snr
from diffusion.runtime.memory import in_batches

# The ends carry nothing: pure noise says nothing of x_0, and at SNR > e^8 all networks predict alike.
LOG_SNR = (-7.0, 8.0)


# Squared errors (b,) or (b, k) at states x, levels t and noises eps of some samples, of which the slice says which.
Error = Callable[[Tensor, Tensor, Tensor, slice], Tensor]


def span(denoiser: Denoiser) -> tuple[Tensor, float, float]:
    """log SNR of every noise level (T,), and the ends of the integral over it."""
    every = log_snr(denoiser, torch.arange(denoiser.levels))
    return every, float(every.min().clamp_min(LOG_SNR[0])), float(every.max().clamp_max(LOG_SNR[1]))


class Zone(NamedTuple):
    """Where rows are looked at more often: ``share`` in (0, 1) of them between log SNRs ``low`` < ``high``."""

    low: float
    high: float
    share: float

    def within(self, low: float, high: float) -> Zone | None:
        """The part of it between two ends; None where that is nothing or all."""
        a, b = max(low, self.low), min(high, self.high)
        return Zone(a, b, self.share) if 0 < b - a < high - low else None


def spread_log_snr(denoiser: Denoiser, count: int, generator: torch.Generator, zone: Zone | None = None) -> Tensor:
    """Noise levels (count,) at which a mean over rows estimates the integral: one stratified pass over log SNR.

    With a ``zone`` that is the mean over rows times :func:`row_weights`.
    """
    every, low, high = span(denoiser)
    u = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
    u = u[torch.randperm(count, generator=generator)]
    zone = zone and zone.within(low, high)
    if zone is None:
        wanted = low + (high - low) * u
    else:
        a, b, share = zone
        inside, beyond = a + (b - a) * u / share, low + (high - low - (b - a)) * (u - share) / (1 - share)
        wanted = torch.where(u < share, inside, torch.where(beyond < a, beyond, beyond + (b - a)))
    return (every[None] - wanted[:, None]).abs().argmin(1)


def row_weights(denoiser: Denoiser, t: Tensor, zone: Zone) -> Tensor:
    """How much rows at noise levels t (n,) count, 1 in the mean: by how much less often they come than evenly."""
    _, low, high = span(denoiser)
    part = zone.within(low, high)
    if part is None:
        return torch.ones(len(t))
    level = log_snr(denoiser, t).cpu()
    inside = (level >= part.low) & (level <= part.high)
    width = (part.high - part.low) / (high - low)
    return torch.where(inside, width / part.share, (1 - width) / (1 - part.share))


def integrate(
    denoiser: Denoiser,
    samples: Tensor,
    error: Error,
    *,
    levels: int,
    seed: int,
    antithetic: bool = False,
    batch: int = 256,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """``1/2 int error d log SNR`` (n,) at samples (n, ...), or (n, k) for errors of k columns; without gradient.

    Args:
        levels: how many states of each sample are looked at.
        antithetic: half as many noises, each with its mirror image, so that what is odd in the noise cancels.
        progress: called with the number of errors that are known.

    Raises:
        ValueError: for fewer than one level, and for an odd number of levels with antithetic noise.
    """
    signs = (1, -1) if antithetic else (1,)
    if levels < 1 or levels % len(signs):
        raise ValueError(f"levels must be positive, and even with antithetic noise, got {levels}")
    device = next(denoiser.network.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    every, low, high = span(denoiser)
    strata = levels // len(signs)
    total: Tensor | float = 0.0
    limit = evaluation_limit(denoiser, batch)
    for j in range(strata):
        wanted = low + (high - low) * (j + torch.rand(len(samples), generator=generator)) / strata
        t = (every[None] - wanted[:, None]).abs().argmin(1)
        drawn = torch.randn(samples.shape, generator=generator)
        for eps in (sign * drawn for sign in signs):

            def at(start: int, stop: int, eps: Tensor = eps, t: Tensor = t) -> Tensor:
                part = slice(start, stop)
                x0, noise, level = samples[part].to(device), eps[part].to(device, samples.dtype), t[part].to(device)
                with torch.no_grad():
                    value = error(add_noise(denoiser, x0, noise, level), level, noise, part)
                if progress is not None:
                    progress(value.numel())
                return value.cpu().double()

            total = total + 0.5 * torch.cat(in_batches(at, len(samples), limit)) * (high - low) / levels
    return torch.as_tensor(total)
