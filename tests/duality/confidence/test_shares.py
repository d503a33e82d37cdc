"""Exact bounds on a share: against SciPy's, by exact coverage, by repetition, and against bounds that are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from coverage_of_bounds import REPETITIONS, too_many
from scipy.stats import binom, binomtest

import duality as du
from duality.confidence import clopper_pearson, clopper_pearson_lower, fewest, plan, solve_for


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 50), (3, 50), (50, 50), (12, 2000), (7, 1_000_000)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_clopper_pearson_is_that_of_scipy(hits: int, n: int, confidence: float) -> None:
    high = binomtest(hits, n, alternative="less").proportion_ci(confidence, method="exact").high
    low = binomtest(hits, n, alternative="greater").proportion_ci(confidence, method="exact").low
    assert clopper_pearson(hits, n, confidence) == pytest.approx(high, rel=1e-9)
    assert clopper_pearson_lower(hits, n, confidence) == pytest.approx(low, rel=1e-9)


def test_arrays_of_hits() -> None:
    hits = np.arange(11)
    both = np.array([[clopper_pearson(int(k), 10), clopper_pearson_lower(int(k), 10)] for k in hits])
    np.testing.assert_array_equal(clopper_pearson(hits, 10), both[:, 0])
    np.testing.assert_array_equal(clopper_pearson_lower(hits, 10), both[:, 1])
    assert clopper_pearson(10, 10) == 1.0
    assert clopper_pearson_lower(0, 10) == 0.0


@pytest.mark.parametrize("n", [1, 7, 40, 300])
@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.001])
def test_exact_coverage_at_every_share(n: int, alpha: float) -> None:
    hits = np.arange(n + 1)
    upper, lower = clopper_pearson(hits, n, 1 - alpha), clopper_pearson_lower(hits, n, 1 - alpha)
    # The bounds' own values are where coverage is worst: just above one, the samples that gave it miss as well.
    shares = np.concatenate([np.linspace(0.001, 0.999, 300), upper[:-1] * (1 + 1e-9), upper[:-1] * (1 - 1e-9)])
    masses = binom.pmf(hits, n, shares[:, None])
    # Probabilities are sums of at most n + 1 terms, each good to a few eps times n.
    assert (masses * (upper < shares[:, None])).sum(axis=1).max() <= alpha * (1 + 1e-7)
    assert (masses * (lower > shares[:, None])).sum(axis=1).max() <= alpha * (1 + 1e-7)
    # And it is exact: somewhere no smaller failure rate is had.
    assert (masses * (upper < shares[:, None])).sum(axis=1).max() == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize("share", [0.0005, 0.004, 0.02, 0.3])
def test_coverage_by_repetition_and_what_wrong_bounds_do(share: float) -> None:
    n, alpha = 1000, 0.05
    hits = np.random.default_rng(int(1e4 * share)).binomial(n, share, size=REPETITIONS)
    assert not too_many(clopper_pearson(hits, n, 1 - alpha) < share, alpha)
    assert not too_many(clopper_pearson_lower(hits, n, 1 - alpha) > share, alpha)
    seen = hits / n
    assert too_many(seen < share, alpha)  # the plain estimate
    normal = seen + 1.645 * np.sqrt(seen * (1 - seen) / n)
    assert too_many(normal < share, alpha) == (share < 0.1)  # at small shares the normal law is wrong


@pytest.mark.parametrize("level", [0.5, 0.05, 0.01, 0.0003])
@pytest.mark.parametrize("n", [1, 20, 299, 2000])
def test_plan_is_the_greatest_count_that_shows_the_level(level: float, n: int) -> None:
    shows = np.flatnonzero(clopper_pearson(np.arange(n + 1), n) <= level)
    assert plan(level, n) == (shows.max() if shows.size else -1)
    assert (plan(level, n) < 0) == (n < fewest(level))


def test_figures_that_the_pages_give() -> None:
    assert plan(0.01, 2000) == 12
    assert plan(0.01, 5000) == 38
    assert fewest(0.01) == 299
    assert du.confidence.plan is plan


@pytest.mark.parametrize("success", [0.5, 0.9, 0.999])
def test_solving_for_less_succeeds_as_often_as_asked(success: float) -> None:
    level, n = 0.01, 2000
    share = solve_for(level, n, success=success)
    assert binom.cdf(plan(level, n), n, share) == pytest.approx(success, rel=1e-9)
    assert share < level
    hits = np.random.default_rng(1).binomial(n, share, size=REPETITIONS)
    shown = clopper_pearson(hits, n) <= level
    assert abs(shown.mean() - success) < 6 * np.sqrt(success * (1 - success) / REPETITIONS)
    # Solving for the level itself does not: it is shown in 1 - confidence of the cases at most.
    at_level = clopper_pearson(np.random.default_rng(2).binomial(n, level, size=REPETITIONS), n) <= level
    assert not too_many(at_level, 0.05)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: clopper_pearson(3, 2), "hits: 3 given, whole numbers between 0 and n = 2"),
        (lambda: clopper_pearson(-1, 2), "hits: -1"),
        (lambda: clopper_pearson(0.5, 2), "hits: 0.5"),
        (lambda: clopper_pearson(float("nan"), 2), "hits: nan"),
        (lambda: clopper_pearson("x", 2), "hits: an array of real numbers"),
        (lambda: clopper_pearson(1, 0), "n: 0 given, at least 1"),
        (lambda: clopper_pearson(1, 2.0), "n: a whole number is needed"),
        (lambda: clopper_pearson(1, 2, 95), "confidence: 95.0 given"),
        (lambda: clopper_pearson_lower(1, 2, 1.0), "confidence: 1.0 given"),
        (lambda: plan(0, 100), "level: 0.0 given"),
        (lambda: plan(0.1, 100, None), "confidence: a number inside"),
        (lambda: fewest(1), "level: 1.0 given"),
        (lambda: solve_for(0.01, 100), "n: 100 samples cannot show .* at least 299 are needed"),
        (lambda: solve_for(0.01, 1000, success=1), "success: 1.0 given"),
    ],
)
def test_bad_input(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("level", [1e-3, 1e-6, 1e-9, 1e-12])
def test_rare_shares_are_planned_for_as_quickly_as_others(level):
    """Beyond 2^31 samples, and where the quotient of logarithms rounds: the fewest shows the level, one less does not.

    (1 - level)^n is known to n eps relative, so at 1e-12 the answer is one of some thousands that differ by rounding.
    """
    n = du.confidence.fewest(level)
    slip = 1 + int(8 * np.finfo(float).eps * n)
    assert du.confidence.plan(level, n) == 0
    assert du.confidence.plan(level, n - slip) == -1
    assert n == pytest.approx(-np.log(0.05) / level, rel=1e-12 + level + 1 / n)
