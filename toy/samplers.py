"""Reverse processes from any score: DDPM, DDIM with eta, and the probability-flow ODE; in diffusers' convention.

A score function takes (x, alpha_bar), x (n, d), and returns grad log p_t(x), (n, d), of the law at that noise level.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from toy.mixtures import Array

Score = Callable[[Array, float], Array]


def predicted_clean(x: Array, score: Array, alpha_bar: float) -> Array:
    """E[x_0 | x_t] = (x_t + (1 - alpha_bar) score) / sqrt(alpha_bar), (n, d) (Tweedie)."""
    return (x + (1 - alpha_bar) * score) / np.sqrt(alpha_bar)


def predicted_noise(score: Array, alpha_bar: float) -> Array:
    """eps = E[z | x_t] = -sqrt(1 - alpha_bar) score, (n, d)."""
    return -np.sqrt(1 - alpha_bar) * score


def ddpm_mean(x: Array, score: Array, alpha_bar: float, next_alpha_bar: float) -> Array:
    """Mean of q(x_s | x_t, x_0 = E[x_0|x_t]), (n, d), from level alpha_bar to next_alpha_bar > alpha_bar."""
    step = alpha_bar / next_alpha_bar
    clean = predicted_clean(x, score, alpha_bar)
    weight_clean = np.sqrt(next_alpha_bar) * (1 - step) / (1 - alpha_bar)
    weight_state = np.sqrt(step) * (1 - next_alpha_bar) / (1 - alpha_bar)
    return weight_clean * clean + weight_state * x


def ddpm_variance(alpha_bar: float, next_alpha_bar: float) -> float:
    """(1 - next)/(1 - alpha_bar) (1 - alpha_bar/next): variance of q(x_s | x_t, x_0), zero on the last step."""
    return (1 - next_alpha_bar) / (1 - alpha_bar) * (1 - alpha_bar / next_alpha_bar)


def ddpm_step(x: Array, score: Array, alpha_bar: float, next_alpha_bar: float, noise: Array) -> Array:
    """x_s = ddpm_mean + sqrt(ddpm_variance) noise; diffusers' DDPMScheduler with ``fixed_small`` variance."""
    _check_levels(np.array([alpha_bar, next_alpha_bar]))
    scale = np.sqrt(ddpm_variance(alpha_bar, next_alpha_bar))
    return ddpm_mean(x, score, alpha_bar, next_alpha_bar) + scale * noise


def ddim_step(x: Array, score: Array, alpha_bar: float, next_alpha_bar: float, eta: float, noise: Array) -> Array:
    """x_s = sqrt(next) E[x_0|x_t] + sqrt(1 - next - s^2) eps + s noise, s = eta sqrt(ddpm_variance).

    eta in [0, 1]: 0 is deterministic, 1 has DDPM's mean and variance. Source: Song, Meng & Ermon, 2021.
    """
    _check_levels(np.array([alpha_bar, next_alpha_bar]))
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: a number in [0, 1] is needed, given {eta!r}")
    variance = eta**2 * ddpm_variance(alpha_bar, next_alpha_bar)
    clean = predicted_clean(x, score, alpha_bar)
    # At eta = 1 the bracket is (1-next)^2 alpha_bar/(next (1-alpha_bar)), positive; rounding may cross zero at next=1.
    direction = np.sqrt(max(1 - next_alpha_bar - variance, 0.0)) * predicted_noise(score, alpha_bar)
    return np.sqrt(next_alpha_bar) * clean + direction + np.sqrt(variance) * noise


def sample_ddpm(score: Score, levels: Array, start: Array, generator: np.random.Generator) -> Array:
    """x_0, (n, d), by DDPM steps from start (n, d), a draw of the law at levels[0], along increasing levels (s,)."""
    return sample_ddim(score, levels, start, 1.0, generator)


def sample_ddim(score: Score, levels: Array, start: Array, eta: float, generator: np.random.Generator) -> Array:
    """x_0, (n, d), by DDIM steps with eta from start (n, d), a draw of the law at levels[0], along levels (s,).

    Args:
        levels: increasing alpha_bar that end at 1, as ``Schedule.levels`` gives them.

    Raises:
        ValueError: levels that do not increase or do not end at 1.
    """
    _check_levels(levels)
    x = start
    for now, after in itertools.pairwise(levels):
        noise = generator.standard_normal(x.shape)
        x = ddim_step(x, score(x, float(now)), float(now), float(after), eta, noise)
    return x


def sample_ode(score: Score, alpha_bar: float, start: Array, rtol: float = 1e-6, least: float = 1 - 1e-6) -> Array:
    """x_0, (n, d), along the probability-flow ODE d y/d sigma = eps(x_t), y = x_t/sqrt(alpha_bar), by SciPy's DOP853.

    sigma = sqrt((1 - alpha_bar)/alpha_bar) runs from start's level down to the level ``least`` < 1, from where one
    step E[x_0|x_t] leads to the data: its error is of order sigma, 1e-3 of a unit. ``rtol`` is per step, relative.

    Raises ``ValueError`` for levels out of order and ``RuntimeError`` with SciPy's message where it gives up.
    """
    _check_levels(np.array([alpha_bar, least]))

    def velocity(sigma: float, flat: Array) -> Array:
        level = 1 / (1 + sigma**2)
        x = np.sqrt(level) * flat.reshape(start.shape)
        return predicted_noise(score(x, level), level).ravel()

    span = [np.sqrt((1 - level) / level) for level in (alpha_bar, least)]
    answer = solve_ivp(velocity, span, (start / np.sqrt(alpha_bar)).ravel(), "DOP853", rtol=rtol, atol=rtol)
    if not answer.success:
        raise RuntimeError(f"the probability-flow ODE was not solved: {answer.message}")
    x = np.sqrt(least) * answer.y[:, -1].reshape(start.shape)
    return predicted_clean(x, score(x, least), least)


class Trajectory(NamedTuple):
    """x_0 (n, d) of stochastic reverse trajectories of q, and the log ratios (n, m) in nats that came for free."""

    clean: Array
    log_ratios: Array


def free_log_ratios(
    score: Score, others: Sequence[Score], levels: Array, start: Array, generator: np.random.Generator
) -> Trajectory:
    """`rho_i(x_0) ~ sum_t (|x_s - mean_q(x_t)|^2 - |x_s - mean_i(x_t)|^2)/(2 s_t^2)` along DDPM trajectories of q.

    The sum runs over the steps with s_t > 0 (all but the last). It is the exact log likelihood ratio of two discrete
    chains; against rho(x_0) its mean error is of the order of the step size. The law at levels[0] is taken to be
    shared.

    Args:
        score: of q.
        others: of the q_i, m of them.
        levels, start: as for ``sample_ddpm``.
    """
    _check_levels(levels)
    x = start
    total = np.zeros((len(start), len(others)))
    for now, after in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        mean = ddpm_mean(x, score(x, now), now, after)
        variance = ddpm_variance(now, after)
        if variance == 0:
            return Trajectory(mean, total)
        means = [ddpm_mean(x, other(x, now), now, after) for other in others]
        noise = generator.standard_normal(x.shape)
        x = mean + np.sqrt(variance) * noise
        for i, mean_i in enumerate(means):
            # |x - mean|^2 - |x - mean_i|^2 with x - mean = s noise: no difference of large squares.
            gap = mean - mean_i
            total[:, i] -= (np.square(gap).sum(axis=1) / 2 + np.sqrt(variance) * (noise * gap).sum(axis=1)) / variance
    return Trajectory(x, total)


def _check_levels(levels: Array) -> None:
    given = np.asarray(levels, dtype=np.float64)
    if given.ndim != 1 or given.size < 2 or np.any(np.diff(given) <= 0) or given[0] <= 0 or given[-1] > 1:
        raise ValueError("levels: alpha_bar increasing from above 0 to at most 1, at least two of them, are needed")
