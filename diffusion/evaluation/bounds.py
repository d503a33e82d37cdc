r"""One-sided bounds on measured levels, by what kind of number a level is the mean of.

::

    clopper_pearson    yes or no of a detector, n independent samples                    exact at every n
    betting            probabilities in [0, 1] (the ratio classifier's posterior)         valid at every n
    anytime            either of them, looked at as samples come until enough was seen    valid at all n at once
    student_t          mean ± t_{n-1} s/sqrt(n): nats, which have no bound                 a normal approximation

Nats (log ratios, integrals over noise) lie in no known interval and have heavy tails, so no bound that holds at every n
exists for them without assumptions; the approximation is named wherever it stands.

Confidence is that of each bound, and also that of the verdict made of them: it says that *all* levels hold, and is
wrong only if a level that does not hold passes its own bound, which happens with probability 1 - confidence at most
(an intersection-union test; R. L. Berger, Technometrics 24 (1982)). No correction for their number is needed, however
they depend on each other. Read as intervals that hold all at once they would need one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import stats

from diffusion.runtime.documents import Estimate as Estimate
from diffusion.runtime.documents import Plain as Plain
from duality.confidence import MeanSequence, clopper_pearson, clopper_pearson_lower, mean_lower, mean_upper

Side = Literal["upper", "lower"]
Rule = Literal["clopper_pearson", "betting", "anytime", "student_t"]


class Bound(Plain):
    """A one-sided bound on what an estimate estimates."""

    side: Side
    value: float
    confidence: float
    rule: Rule


def mean_estimate(values: np.ndarray) -> Estimate:
    """Of values (n,)."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    spread = float(values.std(ddof=1)) / n**0.5 if n > 1 else float("nan")
    return Estimate(mean=float(values.mean()), stderr=spread, n=n)


def bound(values: np.ndarray, side: Side, rule: Rule, confidence: float) -> Bound:
    """A bound on the mean of the law of values (n,).

    Raises ``ValueError`` for values that the rule is not for: other than 0 and 1 (clopper_pearson), outside [0, 1]
    (betting, anytime), or not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values: a vector of finite numbers is needed, got shape {values.shape}")
    if rule == "clopper_pearson":
        if not np.isin(values, (0.0, 1.0)).all():
            raise ValueError("values: zeros and ones are needed for clopper_pearson")
        exact = clopper_pearson if side == "upper" else clopper_pearson_lower
        value = float(exact(int(values.sum()), len(values), confidence))
    elif rule == "betting":
        value = (mean_upper if side == "upper" else mean_lower)(np.clip(values, 0.0, 1.0), confidence)
    elif rule == "anytime":
        seen = MeanSequence(confidence)
        seen.update(np.clip(values if side == "upper" else 1 - values, 0.0, 1.0))
        value = seen.upper if side == "upper" else 1 - seen.upper
    else:
        return bound_of(mean_estimate(values), side, confidence)
    return Bound(side=side, value=value, confidence=confidence, rule=rule)


def bound_of(found: Estimate, side: Side, confidence: float) -> Bound:
    """``mean ± t_{n-1} stderr`` by the rule student_t; infinite for one sample, which bounds nothing."""
    sign = 1.0 if side == "upper" else -1.0
    value = sign * float("inf")
    if found.n >= 2:
        value = found.mean + sign * float(stats.t.ppf(confidence, found.n - 1)) * found.stderr
    return Bound(side=side, value=value, confidence=confidence, rule="student_t")


class Counted(Estimate):
    """A share that was counted: ``mean`` is hits/n, ``stderr`` binomial, ``bound`` exact (Clopper and Pearson)."""

    hits: int
    bound: Bound


def counted(hits: np.ndarray, side: Side = "upper", confidence: float = 0.95) -> Counted:
    """Of yes or no (n,). ``ValueError`` where there is none."""
    values = np.asarray(hits, dtype=bool)
    shown = bound(values.astype(float), side, "clopper_pearson", confidence)
    share, n = float(values.mean()), len(values)
    return Counted(mean=share, stderr=(share * (1 - share) / n) ** 0.5, n=n, hits=int(values.sum()), bound=shown)


def meets(found: Bound, level: float) -> bool:
    """Whether a bound shows that a level is kept: an upper one at most, a lower one at least the level."""
    return found.value <= level if found.side == "upper" else found.value >= level
