r"""Integrals over noise levels that measure a network in nats, by common noise.

    surprise      L(x)    = 1/2 E int |eps - eps_f(x_t)|^2 d log SNR          = -log f(x) + const of x   (the ELBO)
    divergence    D(x)    = 1/2 E int |eps_f(x_t) - eps_T(x_t)|^2 d log SNR,  E_{x ~ f} D(x) = KL(f‖T)
    loss          L(x; f) - L(x; T),                                          E_{x ~ q_i} = KL(q_i‖f) - KL(q_i‖T)

and E_{x ~ T} D(x) = KL(T‖f). f the student, T the frozen teacher; each is one number per draw, (n,), double. The
integral is taken by stratified values of log SNR between the ends of the schedule, one noise each, a function of the
seed alone: two networks (or one network at two times) are compared under the same noise, without which its variance
hides a constraint of a few nats.
Source: Kingma et al., Variational Diffusion Models (NeurIPS 2021); theory, "Forgetting images".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..head import log_snr
from ..lora import teacher
from ..models import Condition, Denoiser, add_noise, rows

# The ends carry nothing: pure noise says nothing of x_0, and at SNR > e^8 all networks predict alike.
LOG_SNR = (-7.0, 8.0)

# A context in which the network predicts as the teacher; outside of it, as the student.
Plain = Callable[[], AbstractContextManager[Any]]

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
    draws: Tensor,
    condition: Condition,
    error: Error,
    *,
    levels: int,
    seed: int,
    batch: int = 256,
) -> Tensor:
    """``1/2 int error d log SNR`` (n,) at draws (n, ...) under a condition of n rows, without gradient."""
    device = next(denoiser.network.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    every, low, high = span(denoiser)
    result = torch.zeros(len(draws), dtype=torch.float64)
    for j in range(levels):
        wanted = low + (high - low) * (j + torch.rand(len(draws), generator=generator)) / levels
        t = (every[None] - wanted[:, None]).abs().argmin(1)
        eps = torch.randn(draws.shape, generator=generator)
        for start in range(0, len(draws), batch):
            part = slice(start, start + batch)
            x0, noise, level = draws[part].to(device), eps[part].to(device, draws.dtype), t[part].to(device)
            with torch.no_grad():
                value = error(add_noise(denoiser, x0, noise, level), level, noise, rows(condition, part))
            result[part] += 0.5 * value.double().cpu() * (high - low) / levels
    return result


def surprise(denoiser: Denoiser, draws: Tensor, condition: Condition, *, levels: int, seed: int) -> Tensor:
    """``L(x)`` (n,) of the network as it stands (adapters on or off), in nats up to a constant per draw."""

    def error(x: Tensor, t: Tensor, eps: Tensor, some: Condition) -> Tensor:
        return _square(eps - denoiser.epsilon(denoiser.predict(x, t, some), x, t))

    return integrate(denoiser, draws, condition, error, levels=levels, seed=seed)


def divergence(
    denoiser: Denoiser, draws: Tensor, condition: Condition, *, levels: int, seed: int, plain: Plain | None = None
) -> Tensor:
    """``D(x)`` (n,) between student and teacher; its mean over draws of the student is KL(student‖teacher).

    ``plain``: what makes the student the teacher; left out, its adapters off or its old weights in.
    """
    plain = plain or partial(teacher, denoiser)

    def error(x: Tensor, t: Tensor, _eps: Tensor, some: Condition) -> Tensor:
        f = denoiser.epsilon(denoiser.predict(x, t, some), x, t)
        with plain():
            said = denoiser.epsilon(denoiser.predict(x, t, some), x, t)
        return _square(f - said)

    return integrate(denoiser, draws, condition, error, levels=levels, seed=seed)


def loss(
    denoiser: Denoiser, draws: Tensor, condition: Condition, *, levels: int, seed: int, plain: Plain | None = None
) -> Tensor:
    """``L(x; student) - L(x; teacher)`` (n,): the log likelihood that the student has given up at each draw.

    ``plain``: as in :func:`divergence`.
    """
    plain = plain or partial(teacher, denoiser)

    def error(x: Tensor, t: Tensor, eps: Tensor, some: Condition) -> Tensor:
        f = denoiser.epsilon(denoiser.predict(x, t, some), x, t)
        with plain():
            said = denoiser.epsilon(denoiser.predict(x, t, some), x, t)
        return _square(eps - f) - _square(eps - said)

    return integrate(denoiser, draws, condition, error, levels=levels, seed=seed)


def _square(value: Tensor) -> Tensor:
    return value.double().square().flatten(1).sum(1)
