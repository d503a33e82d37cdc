"""What samples show, with a stated confidence: bounds on a share or a mean, valid at every sample size.

::

    clopper_pearson(hits, n), clopper_pearson_lower     exact, for a detector that says yes or no
    mean_upper(values), mean_lower                      values in [0, 1], any distribution
    MeanSequence()                                      the same at every sample size at once: look when you like
    plan(level, n), solve_for(level, n), fewest(level)  how few hits show a level, and what to solve for
    share_upper(hits, n, sensitivity=...)               the true share behind a detector that errs (Rogan-Gladen)

All are one-sided: at confidence 0.95 the bound fails in at most 5 % of repetitions of the whole experiment. The
samples are to be independent draws of one law; a bound says nothing of another sampler, prompt or guidance scale.
"""

from __future__ import annotations

from duality.confidence.means import mean_lower, mean_upper
from duality.confidence.rogan_gladen import share_upper
from duality.confidence.sequences import MeanSequence
from duality.confidence.shares import clopper_pearson, clopper_pearson_lower, fewest, plan, solve_for

__all__ = [
    "MeanSequence",
    "clopper_pearson",
    "clopper_pearson_lower",
    "fewest",
    "mean_lower",
    "mean_upper",
    "plan",
    "share_upper",
    "solve_for",
]
