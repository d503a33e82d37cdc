"""Wealth of a gambler who bets that a mean lies below m: the one quantity behind the bounds on means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, rel_entr

SLICE = 1 << 12  # values at a time: temporaries of 2 MiB at most
Bets = Callable[[float], np.ndarray]  # m -> stakes theta (J,), each in [0, 1]


def log_wealth(stakes: np.ndarray, log_weights: np.ndarray, values: np.ndarray, counts: np.ndarray, m: float) -> float:
    """log sum_j w_j prod_i ( 1 + theta_j (m - x_i)/(1 - m) ): the capital made of 1, a share w_j on each stake.

    Args:
        stakes: theta `(J,)` in [0, 1]; at 1 a sample x = 1 takes all.
        log_weights: log w `(J,)`, with sum w ≤ 1.
        values: distinct x `(u,)` in [0, 1].
        counts: how often each was seen `(u,)`.
        m: the mean that is bet against, inside (0, 1).
    """
    capital = log_weights.copy()
    with np.errstate(divide="ignore"):  # log 0 where a stake of 1 meets a sample of 1
        for start in range(0, values.size, SLICE):
            part = slice(start, start + SLICE)
            capital += np.log1p(stakes[:, None] * ((m - values[part]) / (1 - m))) @ counts[part]
    return float(logsumexp(capital))


def refuted_from(bets: Bets, log_weights: np.ndarray, values: np.ndarray, counts: np.ndarray, alpha: float) -> float:
    """The least m at which wealth reaches 1/alpha; 1 where it does at none. Wealth grows with m (docs/theory).

    At the samples' own mean no stake gains (the logarithm is concave), so the search begins there.
    """
    goal = -np.log(alpha)

    def short(m: float) -> float:
        return log_wealth(bets(m), log_weights, values, counts, m) - goal

    top = 1 - 1e-9
    mean = float(values @ counts / counts.sum())
    if mean >= top or not short(top) > 0:
        return 1.0
    low = max(mean, 1e-300)
    return float(brentq(short, low, top, xtol=1e-300, rtol=8 * np.finfo(float).eps, maxiter=500))


def below(m: float, budgets: np.ndarray) -> np.ndarray:
    """p `(J,)` in [0, m] with kl(p, m) = c_j, 0 where kl(0, m) ≤ c_j; kl is the divergence between two coins.

    By bisection: each halving is sure, and p need not be exact for a bound to hold, only for it to be tight.
    """
    low, high = np.zeros(budgets.size), np.full(budgets.size, m)
    for _ in range(60):
        middle = (low + high) / 2
        far = rel_entr(middle, m) + rel_entr(1 - middle, 1 - m) > budgets
        low, high = np.where(far, middle, low), np.where(far, high, middle)
    return np.where(-np.log1p(-m) <= budgets, 0.0, high)
