"""A frequency with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

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
