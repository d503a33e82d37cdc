"""Bounds on the mean of values in [0, 1] from n samples, by betting."""

from __future__ import annotations

from typing import Any

import numpy as np

from duality.confidence.betting import Bets, below, refuted_from
from duality.confidence.inputs import probability, unit_values


def mean_upper(values: Any, confidence: float = 0.95) -> float:
    """inf{m : sum_j w_j prod_i (1 + theta_j(m) (m - x_i)/(1 - m)) ≥ 1/(1 - confidence)}: an upper bound on a mean.

    For independent samples of any law on [0, 1]; holds at every n, not only for large n. The order of the samples does
    not matter. The first stake is the best one where the values are 0 or 1 (the law of largest variance), the others
    are for smaller variances by factors of 4. With w_0 ≥ 0.83 the bound is never above the Chernoff bound by kl(mean,
    m) at confidence 1 - 0.83 (1 - confidence), itself below Hoeffding's there; for rare hits and for values of small
    variance it is far below Hoeffding's at any confidence. For values that are 0 or 1 by their nature
    `clopper_pearson` is tighter still.

    Args:
        values: samples `(n,)` in [0, 1], such as a detector's probabilities.
        confidence: inside (0, 1).

    Raises:
        ValueError: for values outside [0, 1] or none, or a confidence outside (0, 1).

    >>> round(mean_upper([0.0] * 299), 4)
    0.01

    Source: docs/theory, "bounds on a mean by betting"; I. Waudby-Smith, A. Ramdas, J. Royal Statistical Society B 86
    (2024), for the idea of betting.
    """
    x, confidence = unit_values("values", values), probability("confidence", confidence)
    distinct, counts = np.unique(x, return_counts=True)
    bets, weights = fixed_bets(x.size, 1 - confidence)
    return refuted_from(bets, np.log(weights), distinct, counts.astype(float), 1 - confidence)


def mean_lower(values: Any, confidence: float = 0.95) -> float:
    """1 - mean_upper(1 - values, confidence): a lower bound on a mean. Arguments and errors as for `mean_upper`."""
    return 1 - mean_upper(1 - unit_values("values", values), confidence)


def fixed_bets(n: int, alpha: float) -> tuple[Bets, np.ndarray]:
    """Stakes theta_j(m) = 1 - p_j/m with kl(p_j, m) = 4^j log(1/(alpha w_0))/n, and weights w_j ~ 1/(j + 1)³.

    Against coins of bias m the stake 1 - p/m makes the most at a mean of p, exp(n kl(p, m)). Asking for 1/(alpha w_0)
    there makes w_0 times this wealth 1/alpha just where the Chernoff bound at alpha w_0 lies. A law whose standard
    deviation is 2^-j of a coin's calls for stakes about 2^j times as large: budgets 4^j times as large.
    """
    steps = np.arange(1 + int(np.ceil(np.log(n) / np.log(4))))
    weights = (steps + 1.0) ** -3
    weights /= weights.sum()
    budgets = 4.0**steps * (-np.log(alpha * weights[0]) / n)

    def bets(m: float) -> np.ndarray:
        return 1 - below(m, budgets) / m

    return bets, weights
