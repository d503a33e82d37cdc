"""What repetitions of an experiment may say of a bound that is to fail in at most a share alpha of them."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

REPETITIONS = 20_000


def too_many(misses: np.ndarray, alpha: float) -> bool:
    """Whether a bound that fails with probability alpha would fail so often less than once in 1e9 such tests.

    The number of misses of a valid bound is at most that of Bin(repetitions, alpha) in distribution.
    """
    return int(misses.sum()) > binom.isf(1e-9, misses.size, alpha)
