"""Measures of calibration and of change, each with its standard error where it is an average over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion.runtime.documents import Estimate


@dataclass(frozen=True)
class Frequency:
    """``hits / samples`` with its binomial standard error ``sqrt(f (1 - f) / samples)``."""

    hits: int
    samples: int

    @property
    def value(self) -> float:
        return self.hits / self.samples

    @property
    def stderr(self) -> float:
        return math.sqrt(self.value * (1 - self.value) / self.samples)

    @property
    def estimate(self) -> Estimate:
        return Estimate(mean=self.value, stderr=self.stderr, n=self.samples)

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} ± {100 * self.stderr:.2f} %"


def frequency(hits: ArrayLike) -> Frequency:
    """The frequency of True in (n,) booleans. Raises ``ValueError`` when there are none."""
    array = np.asarray(hits, dtype=bool)
    if array.size == 0:
        raise ValueError("hits must hold at least one sample, got none")
    return Frequency(int(array.sum()), array.size)


def _mean_distance(
    a: NDArray[np.float64], b: NDArray[np.float64], wa: NDArray[np.float64], wb: NDArray[np.float64]
) -> float:
    from scipy.spatial.distance import cdist

    return float(sum(wa[i : i + 512] @ cdist(a[i : i + 512], b) @ wb for i in range(0, len(a), 512)))


def energy_distance(x: ArrayLike, y: ArrayLike, related: ArrayLike | None = None) -> float:
    """Unbiased ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` of samples (n, ...) and (k, ...), Euclidean distance.

    Zero in the mean where both laws agree, so a single value may be negative. Units: those of x. ``related`` (p, 2):
    pairs of rows of x and y that are not independent (common noise) and say nothing of E|X - Y|; left out of it.
    """
    a, b = (np.asarray(z, float).reshape(len(np.asarray(z)), -1) for z in (x, y))
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"x and y must hold at least two samples each, got {len(a)} and {len(b)}")
    one_a, one_b = np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))
    within_a = _mean_distance(a, a, one_a, one_a) * len(a) / (len(a) - 1)
    within_b = _mean_distance(b, b, one_b, one_b) * len(b) / (len(b) - 1)
    cross = _mean_distance(a, b, one_a, one_b)
    if related is not None:
        i, j = np.asarray(related, int).reshape(-1, 2).T
        pairs = len(a) * len(b)
        cross = (cross * pairs - float(np.linalg.norm(a[i] - b[j], axis=1).sum())) / (pairs - len(i))
    return 2 * cross - within_a - within_b


def energy_noise(x: ArrayLike, y: ArrayLike, repetitions: int, rng: np.random.Generator) -> tuple[float, float]:
    """Mean and 95 % quantile of :func:`energy_distance` when samples are dealt to x and y at random: its noise floor.

    Every distance is computed once: a deal's value is a quadratic form of the pool's distances in its indicators.
    """
    from scipy.spatial.distance import cdist

    a, b = np.asarray(x, float), np.asarray(y, float)
    n, k = len(a), len(b)
    pool = np.concatenate([a.reshape(n, -1), b.reshape(k, -1)])
    dealt = np.zeros((n + k, repetitions))
    for column in dealt.T:
        column[rng.permutation(n + k)[:n]] = 1
    first, second = dealt / n, (1 - dealt) / k
    cross, within_first, within_second = np.zeros((3, repetitions))
    for start in range(0, n + k, 512):
        part = slice(start, start + 512)
        distances = cdist(pool[part], pool)
        to_first, to_second = distances @ first, distances @ second
        cross += (first[part] * to_second).sum(0)
        within_first += (first[part] * to_first).sum(0)
        within_second += (second[part] * to_second).sum(0)
    values = 2 * cross - within_first * n / (n - 1) - within_second * k / (k - 1)
    return float(np.mean(values)), float(np.quantile(values, 0.95))
