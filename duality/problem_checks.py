"""What several kinds of problem check and compute alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from duality._arrays import vector
from duality.ratios import LogRatios


def odds(ratios: LogRatios, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p/q at draws `(n,)`, of mean one, and its logarithm."""
    tilt = log_weights - ratios.log_weights
    return np.exp(tilt), tilt


def check_nonnegative(levels: np.ndarray) -> None:
    """ValueError for levels of a divergence that are negative."""
    if (levels < 0).any():
        raise ValueError(
            f"levels: {levels.min()} given, but a Kullback-Leibler divergence is never negative;"
            " levels of at least 0 nats are needed"
        )


def checked_error(error: Any, levels: np.ndarray) -> np.ndarray:
    """The error of `Problem.robust`, one or `(m,)`; ValueError where it is negative or of another shape."""
    given = vector("error", error)
    if (given < 0).any() or not np.isfinite(given).all():
        raise ValueError(f"error: {error} given, finite numbers ≥ 0 are needed")
    if given.size not in (1, levels.size) and levels.size != 1:
        raise ValueError(f"error: {given.size} given for {levels.size} levels")
    return given


def refuse_weighed(ratios: LogRatios, kind: str) -> None:
    """ValueError where constraints weigh groups by shares of their own, which this kind cannot."""
    if ratios.constraint_shares is not None:
        raise ValueError(
            f"values: ratios that weigh groups by shares of their own (LogRatios.weighed) given, but {kind} cannot:"
            " with KL(p‖q_i) weighed by a_i(c) every group would have natural parameters of its own, and log ratios"
            " that are shifted by a constant do not say that; weigh ForwardKL or Likelihood of posteriors, or solve the"
            " groups apart"
        )
