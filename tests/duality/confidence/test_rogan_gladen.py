"""The share behind a detector that errs: coverage, and that the detector's own bound does not have it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from coverage_of_bounds import REPETITIONS, too_many

from duality.confidence import clopper_pearson, share_upper

quick = lru_cache(maxsize=None)(share_upper)


@pytest.mark.parametrize(("share", "sensitivity", "alarm"), [(0.02, 0.8, 0.0), (0.02, 0.7, 0.05), (0.0, 0.9, 0.01)])
def test_coverage_and_what_the_detector_alone_would_say(share: float, sensitivity: float, alarm: float) -> None:
    n, alpha, generator = 3000, 0.2, np.random.default_rng(5)
    hits = generator.binomial(n, share * sensitivity + (1 - share) * alarm, size=REPETITIONS // 2)
    caught = generator.binomial(300, sensitivity, size=hits.size)
    alarms = generator.binomial(1000, alarm, size=hits.size)
    rows = list(zip(hits.tolist(), caught.tolist(), alarms.tolist(), strict=True))
    both = np.array([quick(k, n, (s, 300), (f, 1000), confidence=1 - alpha) for k, s, f in rows])
    one = np.array([quick(k, n, (s, 300), confidence=1 - alpha) for k, s, _ in rows])
    assert not too_many(both < share, alpha)
    assert not too_many(one < share, alpha)
    if alarm == 0:  # what the detector misses is missing: neither its own bound nor the plain correction covers
        assert too_many(clopper_pearson(hits, n, 1 - alpha) < share, alpha)
        assert too_many(hits / n / (caught / 300) < share, alpha)
    if alarm > 0:
        assert both.mean() < one.mean()  # knowing its false alarms helps


def test_a_perfect_detector_is_taken_at_its_word() -> None:
    exact = clopper_pearson(12, 2000, 1 - 0.05 / 2)
    assert share_upper(12, 2000, (10**9, 10**9)) == pytest.approx(exact, rel=1e-6)


def test_a_detector_that_is_not_shown_to_tell_anything() -> None:
    assert share_upper(500, 1000, (5, 10), (400, 800)) == 1.0
    assert share_upper(0, 1000, (0, 10)) == 1.0
    # Fewer flags than false alarms allow: nothing is subtracted, and the bound stays one.
    assert share_upper(0, 1000, (95, 100), (500, 1000)) == share_upper(0, 1000, (95, 100), (0, 1000))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, 10, 0.9), "sensitivity: a pair"),
        ((1, 10, (11, 10)), "sensitivity: 11 of 10 flagged"),
        ((1, 10, (1, 0)), "sensitivity: labelled: 0 given"),
        ((1, 10, (9, 10), (1.5, 10)), "false_alarms: flagged: a whole number"),
        ((11, 10, (9, 10)), "hits: 11 given"),
        ((1, 0, (9, 10)), "n: 0 given"),
        ((1, 10, (9, 10), None, 0), "confidence: 0.0 given"),
    ],
)
def test_bad_input(arguments, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        share_upper(*arguments)
