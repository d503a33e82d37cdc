"""The densities of a view: q under each prompt, the q_i, and what is to be kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from toy.explorer.state import EntryError, Mode, State, numbers_of
from toy.mixtures import GaussianMixture


@dataclass(frozen=True, eq=False)
class Scene:
    """q, the q_i, and the largest priors (m,) for which pi_i q_i <= q; 0 where q lacks a mode of q_i.

    Attributes:
        keeping: the modes that are to be kept, with their weights in q, ``shares``.
    """

    pretrained: GaussianMixture
    unlearn: tuple[GaussianMixture, ...]
    priors: tuple[float, ...]
    keeping: tuple[GaussianMixture, ...] = ()
    shares: tuple[float, ...] = ()


def check_mode(number: int, mode: Mode) -> None:
    """``EntryError`` at "mode number" (from 1) where a mode is no Gaussian or a weight is negative."""
    place = f"mode {number}"
    if not all(math.isfinite(entry) for entry in numbers_of(mode)):
        raise EntryError(place, f"{place}: every entry must be a finite number")
    if min(mode.weight, *mode.shares, mode.weight if mode.other is None else mode.other) < 0:
        raise EntryError(place, f"{place}: weights must not be negative")
    if mode.keep < 0:
        raise EntryError(place, f"{place}: what is kept of it must not be negative, given {100 * mode.keep:g} %")
    if mode.c11 <= 0 or mode.c22 <= 0:
        raise EntryError(place, f"{place}: both variances must be above 0, given {mode.c11:g} and {mode.c22:g}")
    if mode.c12**2 < 0.999 * mode.c11 * mode.c22:
        return
    try:
        GaussianMixture([1.0], [[mode.x, mode.y]], [mode.covariance])
    except ValueError:
        raise EntryError(
            place,
            f"{place}: the covariance is singular or indefinite: the square of c12 must stay below c11 · c22, but "
            f"{mode.c12:g}² = {mode.c12**2:.6g} and {mode.c11:g} · {mode.c22:g} = {mode.c11 * mode.c22:.6g}",
        ) from None


def scenes(state: State) -> tuple[Scene, ...]:
    """The densities under each prompt. Raises ``EntryError`` that names the entry and what is wrong with it."""
    return tuple(
        scene(modes, f" under prompt {number}" if state.prompts else "")
        for number, modes in enumerate(state.under_prompts, 1)
    )


def scene(modes: tuple[Mode, ...], where: str = "") -> Scene:
    """The densities of some modes. Raises ``EntryError`` that names the entry and what is wrong with it."""
    for number, mode in enumerate(modes, 1):
        check_mode(number, mode)
    weights = np.array([mode.weight for mode in modes])
    shares = np.array([mode.shares for mode in modes])
    if not weights.sum() > 0:
        raise EntryError("problem", f"q has no mode{where}: give at least one a weight above 0")
    for i in np.flatnonzero(shares.sum(axis=0) <= 0):
        raise EntryError(f"concept {i + 1}", f"q_{i + 1} has no mode: give it a share of at least one mode")
    weights, shares = weights / weights.sum(), shares / shares.sum(axis=0)

    def mixture(part: np.ndarray) -> GaussianMixture:
        used = [k for k in range(len(modes)) if part[k] > 0]
        means = [[modes[k].x, modes[k].y] for k in used]
        return GaussianMixture(part[used], means, [modes[k].covariance for k in used])

    priors = []
    for column in shares.T:
        held = column > 0
        priors.append(float((weights[held] / column[held]).min()))
    held = [k for k, mode in enumerate(modes) if mode.keep > 0]
    return Scene(
        mixture(weights),
        tuple(mixture(column) for column in shares.T),
        tuple(priors),
        tuple(mixture(row) for row in np.eye(len(modes))[held]),
        tuple(float(weights[k]) for k in held),
    )
