"""Noise schedules in the one convention of diffusers schedulers: alpha_bar[t] for t = 0 .. T-1, and 1 before t = 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toy.mixtures import Array


@dataclass(frozen=True, eq=False)
class Schedule:
    """x_t = sqrt(alpha_bars[t]) x_0 + sqrt(1 - alpha_bars[t]) z,  t = 0 .. T-1.

    Attributes:
        alpha_bars: (T,), strictly decreasing in (0, 1): diffusers' ``alphas_cumprod``. The data itself is the level 1,
            one step before t = 0 (diffusers' ``set_alpha_to_one=True``).
        name: what it is called in tables.

    Raises ``ValueError`` where alpha_bars is not such a sequence.
    """

    alpha_bars: Array
    name: str = "own"

    def __post_init__(self) -> None:
        levels = np.array(self.alpha_bars, dtype=np.float64)
        if levels.ndim != 1 or levels.size == 0:
            raise ValueError(f"alpha_bars: shape (T,) with T >= 1 is needed, given shape {levels.shape}")
        if not np.all(np.diff(levels) < 0) or not levels[-1] > 0 or not levels[0] < 1:
            raise ValueError("alpha_bars: strictly decreasing levels inside (0, 1) are needed")
        levels.flags.writeable = False
        object.__setattr__(self, "alpha_bars", levels)

    def __len__(self) -> int:
        return len(self.alpha_bars)

    def timesteps(self, steps: int) -> np.ndarray:
        """The ``steps`` timesteps of a short chain, (steps,), decreasing to 0: diffusers' "leading" spacing.

        Raises ``ValueError`` where steps is not in 1 .. T.
        """
        if not 1 <= steps <= len(self):
            raise ValueError(f"steps: 1 to {len(self)} are needed, given {steps}")
        return (np.arange(steps) * (len(self) // steps))[::-1]

    def levels(self, steps: int) -> Array:
        """alpha_bar along a short chain from noise to data, (steps + 1,), increasing, the last one exactly 1."""
        return np.append(self.alpha_bars[self.timesteps(steps)], 1.0)


def linear(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta_t linear between its ends; `alpha_bar_t = prod_{s<=t} (1 - beta_s)`. diffusers' "linear"."""
    _check_betas(steps, beta_start, beta_end)
    return from_betas(np.linspace(beta_start, beta_end, steps), "linear")


def scaled_linear(steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """sqrt(beta_t) linear between the roots of its ends (Stable Diffusion's choice). diffusers' "scaled_linear"."""
    _check_betas(steps, beta_start, beta_end)
    return from_betas(np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), steps) ** 2, "scaled_linear")


def squaredcos_cap_v2(steps: int = 1000, max_beta: float = 0.999) -> Schedule:
    """beta_t = min(1 - f((t+1)/T)/f(t/T), max_beta), f(s) = cos^2(pi/2 (s + .008)/1.008). diffusers' name.

    Source: Nichol & Dhariwal, Improved denoising diffusion probabilistic models, 2021.
    """
    _check_betas(steps, max_beta, max_beta)
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return from_betas(np.minimum(1 - f[1:] / f[:-1], max_beta), "squaredcos_cap_v2")


def from_betas(betas: ArrayLike, name: str = "own") -> Schedule:
    """`alpha_bar_t = prod_{s<=t} (1 - beta_s)` for given step variances beta, (T,), each in (0, 1)."""
    given = np.asarray(betas, dtype=np.float64)
    if given.ndim != 1 or np.any(given <= 0) or np.any(given >= 1):
        raise ValueError("betas: shape (T,) with every entry inside (0, 1) is needed")
    # Summed logs: a thousand factors near one keep their last digits.
    return Schedule(np.exp(np.cumsum(np.log1p(-given))), name)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "squaredcos_cap_v2": squaredcos_cap_v2,
}


def _check_betas(steps: int, start: float, end: float) -> None:
    if steps < 1:
        raise ValueError(f"steps: at least 1 is needed, given {steps}")
    if not 0 < start <= end < 1:
        raise ValueError(f"beta_start, beta_end: 0 < start <= end < 1 is needed, given {start} and {end}")
