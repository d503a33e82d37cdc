"""A share that is counted: exact bounds by Clopper and Pearson, and how to plan for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import betaincc, betaincinv

from duality.confidence.inputs import counts, probability, whole
from duality.ratios import EPS


def clopper_pearson(hits: Any, n: int, confidence: float = 0.95) -> Any:
    """The largest share b with Pr(Bin(n, b) ≤ hits) ≥ 1 - confidence: an exact upper bound on a share.

    The quantile at `confidence` of a Beta(hits + 1, n - hits) law; 1 where hits = n. One-sided.

    Args:
        hits: how many of n independent samples show the concept; a whole number, or an array of them.
        n: how many samples were looked at.
        confidence: inside (0, 1).

    Returns:
        The bound, a float, or an array in the shape of hits.

    Raises:
        ValueError: for counts that are no whole numbers between 0 and n, or a confidence outside (0, 1).

    >>> round(clopper_pearson(12, 2000), 5), round(clopper_pearson(13, 2000), 5)
    (0.0097, 0.01031)

    Source: C. J. Clopper, E. S. Pearson, Biometrika 26 (1934); docs/theory, "exact bounds on a share".
    """
    n, confidence = whole("n", n), probability("confidence", confidence)
    k = counts("hits", hits, n)
    # betaincinv takes no zero for its second argument; there, at hits = n, every share is possible.
    bound = np.where(k < n, betaincinv(k + 1, np.where(k < n, n - k, 1), confidence), 1.0)
    return float(bound) if bound.ndim == 0 else bound


def clopper_pearson_lower(hits: Any, n: int, confidence: float = 0.95) -> Any:
    """The smallest share b with Pr(Bin(n, b) ≥ hits) ≥ 1 - confidence: an exact lower bound on a share.

    Arguments, result and errors as for `clopper_pearson`. Together the two are an interval at 2·confidence - 1.
    """
    n, confidence = whole("n", n), probability("confidence", confidence)
    k = counts("hits", hits, n)
    bound = np.where(k > 0, betaincinv(np.where(k > 0, k, 1), n - k + 1, 1 - confidence), 0.0)
    return float(bound) if bound.ndim == 0 else bound


def at_most(k: int, n: int, share: float) -> float:
    """Pr(Bin(n, share) ≤ k), k < n, by the Beta law: SciPy's binomial law takes no n beyond 2^31."""
    return float(betaincc(k + 1.0, float(n - k), share))


def plan(level: float, n: int, confidence: float = 0.95) -> int:
    """The greatest number of hits among n samples that still shows a share of at most `level`; -1 for none.

    max{k : clopper_pearson(k, n, confidence) ≤ level} = max{k : Pr(Bin(n, level) ≤ k) ≤ 1 - confidence}. With -1 not
    even samples without a single hit show the level: `fewest` says how many samples would.

    Raises:
        ValueError: for a level or confidence outside (0, 1), or n < 1.

    >>> plan(0.01, 2000), plan(0.01, 5000), plan(0.01, 298)
    (12, 38, -1)
    """
    level, n, confidence = probability("level", level), whole("n", n), probability("confidence", confidence)
    low, high = -1, n  # low shows the level, high does not: Pr(Bin ≤ n) = 1
    while high - low > 1:
        middle = (low + high) // 2
        if at_most(middle, n, level) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def fewest(level: float, confidence: float = 0.95) -> int:
    """The fewest samples that can show a level: min{n : (1 - level)^n ≤ 1 - confidence}, if none of them is a hit.

    >>> fewest(0.01)
    299
    """
    level, confidence = probability("level", level), probability("confidence", confidence)
    n = max(int(np.ceil(np.log1p(-confidence) / np.log1p(-level))), 1)
    # The quotient of logarithms rounds: to the one side or the other of a whole number, by eps of itself.
    slip = 1 + int(4 * EPS * n)
    return next((m for m in range(max(n - slip, 1), n + slip) if plan(level, m, confidence) >= 0), n + slip)


def solve_for(level: float, n: int, confidence: float = 0.95, success: float = 0.9) -> float:
    """The greatest true share at which n samples show `level` with probability `success`: the level to solve for.

    max{b : Pr(Bin(n, b) ≤ plan(level, n, confidence)) ≥ success}. A problem that is solved at the very level that is to
    be shown fails the test of its own samples 95 times in 100; this says how far below it to aim.

    Raises:
        ValueError: where n samples cannot show the level at all (it names how many can), or for arguments outside
            their ranges.

    >>> round(solve_for(0.01, 2000), 5)
    0.00433
    """
    success = probability("success", success)
    most = plan(level, n, confidence)
    if most < 0:
        raise ValueError(
            f"n: {n} samples cannot show a share of at most {level} at confidence {confidence}, even without a hit;"
            f" at least {fewest(level, confidence)} are needed"
        )
    return float(betaincinv(most + 1, n - most, 1 - success))
