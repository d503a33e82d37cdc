"""Bounds that hold at every sample size at once: look as often as you like, and stop when you have seen enough."""

from __future__ import annotations

from typing import Any

import numpy as np

from duality.confidence.betting import refuted_from
from duality.confidence.inputs import probability, unit_values

STEPS = 56  # the smallest stake, 2^-27.5, serves means known to within 1e-8: 1e16 samples


class MeanSequence:
    """Bounds on the mean of values in [0, 1] (0 and 1 for a share) with Pr(at some n: mean > upper) ≤ 1 - confidence.

    Wealth `M_n(m) = sum_j w_j prod_{i ≤ n} (1 + theta_j (m - x_i)/(1 - m))`, theta_j = 2^(-j/2) and w_j = 2.4/((j + 2)
    (j + 4)), which add up to 1: a nonnegative supermartingale while the mean is m or more, so by Ville's inequality it
    reaches 1/(1 - confidence) at any time with probability at most 1 - confidence. `upper` is the least m at which it
    has, at any time that was looked at.

    Samples may come one at a time or in batches, from a loop that ends when `decided` says so. The bounds are
    evaluated when they are read and not before. Each of `upper` and `lower` holds with the confidence asked for; both
    at once hold with 2·confidence - 1.

    Args:
        confidence: inside (0, 1).

    Raises:
        ValueError: for a confidence outside (0, 1).

    >>> import numpy as np
    >>> seen = MeanSequence(confidence=0.95)
    >>> seen.update([0, 0, 1, 0])
    >>> seen.update(np.zeros(996))
    >>> seen.n, round(seen.upper, 4), seen.decided(0.02)
    (1000, 0.0082, True)

    Source: docs/theory, "bounds at all times"; J. Ville, Étude critique de la notion de collectif (1939).
    """

    def __init__(self, confidence: float = 0.95) -> None:
        self.confidence = probability("confidence", confidence)
        self._alpha = 1 - self.confidence
        j = np.arange(STEPS)
        self._stakes = 2.0 ** (-j / 2)
        self._log_weights = np.log(2.4 / ((j + 2) * (j + 4)))
        self._pending: list[np.ndarray] = []
        self._values: np.ndarray = np.empty(0)
        self._counts: np.ndarray = np.empty(0)
        self._n = 0
        self._upper, self._lower = 1.0, 0.0
        self._upper_at = self._lower_at = 0  # the n at which each was evaluated last

    def update(self, values: Any) -> None:
        """Take further samples: a number or `(k,)` in [0, 1]. ValueError, and nothing taken, for anything else."""
        x = unit_values("values", values)
        self._pending.append(x)
        self._n += x.size

    @property
    def n(self) -> int:
        """Number of samples so far."""
        return self._n

    @property
    def mean(self) -> float:
        """Their mean; NaN before the first."""
        self._gather()
        return float(self._values @ self._counts / self._n) if self._n else float("nan")

    @property
    def upper(self) -> float:
        """An upper bound on the mean, never larger than at the last look; 1 before the first sample."""
        if self._upper_at < self._n:
            self._gather()
            self._upper = min(self._upper, self._refuted_from(self._values))
            self._upper_at = self._n
        return self._upper

    @property
    def lower(self) -> float:
        """A lower bound on the mean, never smaller than at the last look; 0 before the first sample."""
        if self._lower_at < self._n:
            self._gather()
            self._lower = max(self._lower, 1 - self._refuted_from(1 - self._values))
            self._lower_at = self._n
        return self._lower

    def decided(self, level: float) -> bool | None:
        """True where the mean is shown to be at most `level`, False where it is shown to lie above, None while open."""
        level = probability("level", level)
        if self.upper <= level:
            return True
        return False if self.lower > level else None

    def _refuted_from(self, values: np.ndarray) -> float:
        return refuted_from(lambda m: self._stakes, self._log_weights, values, self._counts, self._alpha)

    def _gather(self) -> None:
        """Equal samples are kept once, with a count: a share of a billion samples is two numbers."""
        if not self._pending:
            return
        values = np.concatenate([self._values, *self._pending])
        counts = np.concatenate([self._counts, np.ones(values.size - self._values.size)])
        self._values, where = np.unique(values, return_inverse=True)
        self._counts = np.bincount(where.ravel(), weights=counts)
        self._pending = []
