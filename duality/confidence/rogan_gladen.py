"""The true share behind a detector that errs."""

from __future__ import annotations

from typing import Any

from duality.confidence.inputs import probability, whole
from duality.confidence.shares import clopper_pearson, clopper_pearson_lower


def share_upper(
    hits: int,
    n: int,
    sensitivity: tuple[int, int],
    false_alarms: tuple[int, int] | None = None,
    confidence: float = 0.95,
) -> float:
    """(R - F)/(S - F), cut to [0, 1]: an upper bound on the share of samples that truly show the concept.

    A detector flags a share r = share·s + (1 - share)·f of samples, with sensitivity s and false-alarm rate f (Rogan
    and Gladen). R is the upper bound on r from hits and n, S and F are the lower bounds on s and f from labelled
    images, each by Clopper and Pearson at confidence 1 - (1 - confidence)/k, with k = 3 counts that are used (2 where
    false_alarms is left out). By the union bound all hold at once with the confidence asked for, whatever their
    dependence. What is assumed: the detector errs on the samples as it does on the labelled images.

    Args:
        hits: how many of the n samples the detector flagged.
        n: how many samples it looked at.
        sensitivity: (flagged, labelled): of so many labelled images of the concept, how many it flagged.
        false_alarms: likewise of labelled images without the concept. Left out, every flag counts as the concept, which
            is never too low.
        confidence: inside (0, 1).

    Returns:
        The bound; 1 where the detector is not shown to tell the concept from the rest (S ≤ F). Where R < F, which the
        bounds on r and f rule out if they hold, false alarms are not subtracted.

    Raises:
        ValueError: for counts that are none, or a confidence outside (0, 1).

    >>> round(share_upper(4, 2000, sensitivity=(190, 200)), 4)
    0.0056

    Source: W. J. Rogan, B. Gladen, American Journal of Epidemiology 107 (1978); docs/theory, "detectors that err".
    """
    whole("n", n)
    confidence = probability("confidence", confidence)
    caught, positives = _pair("sensitivity", sensitivity)
    used = 2 if false_alarms is None else 3
    each = 1 - (1 - confidence) / used
    flagged = clopper_pearson(whole("hits", hits, 0), n, each)
    sensitive = clopper_pearson_lower(caught, positives, each)
    alarm = 0.0
    if false_alarms is not None:
        alarm = clopper_pearson_lower(*_pair("false_alarms", false_alarms), each)
    if flagged < alarm:
        alarm = 0.0
    if sensitive <= alarm:
        return 1.0
    return float(min((flagged - alarm) / (sensitive - alarm), 1.0))


def _pair(name: str, given: Any) -> tuple[int, int]:
    try:
        some, of = given
    except (TypeError, ValueError):
        raise ValueError(f"{name}: a pair (flagged, labelled) of whole numbers is needed, got {given!r}") from None
    of = whole(f"{name}: labelled", of)
    some = whole(f"{name}: flagged", some, 0)
    if some > of:
        raise ValueError(f"{name}: {some} of {of} flagged, at most all are needed")
    return some, of
