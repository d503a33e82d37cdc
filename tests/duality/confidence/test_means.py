"""Bounds on a mean by betting: coverage under many laws, against bounds that are wrong, and how tight they are."""

from __future__ import annotations

import numpy as np
import pytest
from coverage_of_bounds import REPETITIONS, too_many
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, rel_entr

from duality.confidence import clopper_pearson, mean_lower, mean_upper
from duality.confidence.betting import log_wealth
from duality.confidence.means import fixed_bets

# Each law is (values, probabilities): samples are counts, so that 20,000 repetitions are one draw of multinomials.
LAWS = {
    "rare": ([0.0, 1.0], [0.995, 0.005]),
    "coin": ([0.0, 1.0], [0.5, 0.5]),
    "detector": ([0.001, 0.01, 0.2, 0.9, 1.0], [0.8, 0.17, 0.02, 0.005, 0.005]),
    "narrow": ([0.45, 0.5, 0.55], [0.25, 0.5, 0.25]),
    "nearly one": ([0.0, 0.99, 1.0], [0.02, 0.48, 0.5]),
}


def misses(values: np.ndarray, counts: np.ndarray, mean: float, alpha: float) -> np.ndarray:
    """Whether wealth against the true mean reaches 1/alpha, for counts `(repetitions, u)`: the bound lies below it."""
    bets, weights = fixed_bets(int(counts[0].sum()), alpha)
    with np.errstate(divide="ignore"):
        gains = np.log1p(bets(mean)[:, None] * (mean - values) / (1 - mean))
    gains = np.maximum(gains, -1e9)  # so that none of a ruinous value costs nothing
    return logsumexp(counts @ gains.T + np.log(weights), axis=1) >= -np.log(alpha)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [20, 400])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.005])
def test_coverage_by_repetition(law: str, n: int, alpha: float) -> None:
    values, shares = (np.array(part) for part in LAWS[law])
    counts = np.random.default_rng(n).multinomial(n, shares, size=REPETITIONS)
    assert not too_many(misses(values, counts, float(values @ shares), alpha), alpha)
    assert not too_many(misses(1 - values, counts, 1 - float(values @ shares), alpha), alpha)  # the lower bound


def test_the_same_check_refuses_wrong_bounds() -> None:
    values, shares = (np.array(part) for part in LAWS["rare"])
    counts = np.random.default_rng(3).multinomial(100, shares, size=REPETITIONS)
    mean = counts @ values / 100
    spread = np.sqrt(counts @ values**2 / 100 - mean**2)
    for bound in (mean, mean + 1.645 * spread / 10, mean + 3 * spread / 10):
        assert too_many(bound < values @ shares, 0.05)


@pytest.mark.parametrize("law", LAWS)
def test_the_bound_lies_below_a_mean_just_where_the_check_says(law: str) -> None:
    values, shares = (np.array(part) for part in LAWS[law])
    counts = np.random.default_rng(4).multinomial(30, shares, size=60)
    bounds = np.array([mean_upper(np.repeat(values, row), 0.5) for row in counts])
    for m in (*np.quantile(bounds, [0.3, 0.7]) * (1 + 1e-9), float(values @ shares)):
        np.testing.assert_array_equal(bounds < m, misses(values, counts, float(m), 0.5))
    assert bounds.min() < bounds.max()


samples = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(values=samples, alpha=st.floats(1e-6, 0.9), seed=st.integers(0, 99))
def test_laws_of_the_bound(values: list[float], alpha: float, seed: int) -> None:
    upper = mean_upper(values, 1 - alpha)
    assert np.mean(values) * (1 - 1e-12) <= upper <= 1
    # The order does not matter, and what was not seen cannot lower it: larger samples give a larger bound.
    shuffled = np.random.default_rng(seed).permutation(values)
    assert mean_upper(shuffled, 1 - alpha) == pytest.approx(upper, rel=1e-9)
    assert mean_upper(np.minimum(np.asarray(values) + 0.1, 1), 1 - alpha) >= upper * (1 - 1e-9)
    assert mean_lower(values, 1 - alpha) == pytest.approx(1 - mean_upper(1 - np.asarray(values), 1 - alpha), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(values=samples, alpha=st.floats(1e-6, 0.9), m=st.floats(1e-6, 0.999), factor=st.floats(1.001, 3))
def test_wealth_grows_with_the_mean_that_is_bet_against(
    values: list[float], alpha: float, m: float, factor: float
) -> None:
    bets, weights = fixed_bets(len(values), alpha)
    x, more = np.array(values), 1 - (1 - m) / factor

    def wealth(m: float) -> float:
        return log_wealth(bets(m), np.log(weights), x, np.ones(x.size), m)

    # Stakes are known to 2^-60 and wealth to eps for each sample, relative to logarithms of at most 1/(1 - m) = 3e3.
    assert wealth(more) >= wealth(m) - 1e-10 * x.size or wealth(m) == -np.inf


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [10, 300, 5000])
def test_never_above_the_chernoff_bound_at_a_slightly_higher_confidence(law: str, n: int) -> None:
    values, shares = (np.array(part) for part in LAWS[law])
    x = np.random.default_rng(5).choice(values, size=n, p=shares)
    upper, mean, alpha = mean_upper(x), float(x.mean()), 0.05
    kl = rel_entr(mean, upper) + rel_entr(1 - mean, 1 - upper)
    assert n * kl <= -np.log(0.83 * alpha) * (1 + 1e-9)
    # Hoeffding at 0.95, but for what the weight 0.83 costs: at most 3.1 % more in width.
    assert upper - mean <= 1.031 * np.sqrt(-np.log(alpha) / (2 * n))
    if law == "narrow" and n >= 300:
        assert upper - mean < 0.45 * np.sqrt(-np.log(alpha) / (2 * n))


def test_zeros_are_as_good_as_counted() -> None:
    # Without a hit every stake is all of it, and the bound is Clopper and Pearson's.
    assert mean_upper(np.zeros(500)) == pytest.approx(clopper_pearson(0, 500), rel=1e-9)
    assert mean_upper(np.ones(500)) == 1.0
    assert mean_lower(np.zeros(500)) == 0.0
    assert mean_upper(0.25) < 1
    assert clopper_pearson(5, 500) < mean_upper(np.arange(500) < 5) < 1.25 * clopper_pearson(5, 500)


@pytest.mark.parametrize(
    ("values", "confidence", "words"),
    [
        ([0.5, 1.2], 0.95, "values: 1.2 at position 1"),
        ([-0.1], 0.95, "values: -0.1"),
        ([float("nan")], 0.95, "values: nan"),
        ([], 0.95, r"values: .* got shape \(0,\)"),
        ([[0.1]], 0.95, r"got shape \(1, 1\)"),
        (["a"], 0.95, "values: an array of real numbers"),
        ([0.1], 1.0, "confidence: 1.0 given"),
    ],
)
def test_bad_input(values, confidence, words: str) -> None:
    for bound in (mean_upper, mean_lower):
        with pytest.raises(ValueError, match=words):
            bound(values, confidence)
