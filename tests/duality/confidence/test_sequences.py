"""Bounds at all times: coverage along whole paths, which bounds for one sample size do not have."""

from __future__ import annotations

import numpy as np
import pytest
from coverage_of_bounds import REPETITIONS, too_many
from scipy.special import logsumexp

from duality.confidence import MeanSequence, clopper_pearson, mean_upper

LAWS = {
    "share": ([0.0, 1.0], [0.97, 0.03]),
    "detector": ([0.001, 0.05, 0.4, 1.0], [0.8, 0.15, 0.04, 0.01]),
}
LOOKS, EACH = 30, 30


def paths(law: str, seed: int, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Values `(u,)`, counts at each look `(size, LOOKS, u)`, and the mean."""
    values, shares = (np.array(part) for part in LAWS[law])
    drawn = np.random.default_rng(seed).multinomial(EACH, shares, size=(size, LOOKS))
    return values, drawn.cumsum(axis=1), float(values @ shares)


def crossed(values: np.ndarray, counts: np.ndarray, mean: float, alpha: float) -> np.ndarray:
    """Whether at some look the wealth against the true mean has reached 1/alpha, for each path."""
    fresh = MeanSequence(1 - alpha)
    stakes, log_weights = fresh._stakes, fresh._log_weights
    with np.errstate(divide="ignore"):
        gains = np.maximum(np.log1p(stakes[:, None] * (mean - values) / (1 - mean)), -1e9)
    out = np.zeros(len(counts), dtype=bool)
    for look in range(counts.shape[1]):
        out |= logsumexp(counts[:, look] @ gains.T + log_weights, axis=1) >= -np.log(alpha)
    return out


@pytest.mark.parametrize("law", LAWS)
def test_coverage_at_all_looks_at_once(law: str) -> None:
    for alpha in (0.2, 0.05):
        values, counts, mean = paths(law, 1, REPETITIONS // 2)
        assert not too_many(crossed(values, counts, mean, alpha), alpha)
        assert not too_many(crossed(1 - values, counts, 1 - mean, alpha), alpha)


def test_a_bound_for_one_sample_size_does_not_hold_at_all_of_them() -> None:
    _, counts, mean = paths("share", 1, REPETITIONS // 2)
    n = EACH * np.arange(1, LOOKS + 1)
    bounds = np.stack([clopper_pearson(counts[:, k, 1], int(n[k])) for k in range(LOOKS)], axis=1)
    assert not too_many(bounds[:, -1] < mean, 0.05)  # right at one
    assert too_many((bounds < mean).any(axis=1), 0.05)  # wrong for whoever stops when it pleases


@pytest.mark.parametrize("law", LAWS)
def test_the_object_crosses_where_the_check_says(law: str) -> None:
    values, counts, mean = paths(law, 2, 20)
    alpha = 0.7
    found = []
    for path in counts:
        seen, before = MeanSequence(1 - alpha), np.zeros(values.size, dtype=int)
        for now in path:
            seen.update(np.repeat(values, now - before))
            bound, before = seen.upper, now
        found.append(bound < mean)
    np.testing.assert_array_equal(found, crossed(values, counts, mean, alpha))
    assert any(found)


def test_one_at_a_time_in_batches_and_when_it_is_looked() -> None:
    x = np.random.default_rng(3).beta(0.3, 4, size=120)
    single, batch, rarely = MeanSequence(), MeanSequence(), MeanSequence()
    uppers, lowers = [], []
    for value in x:
        single.update(value)
        uppers.append(single.upper)
        lowers.append(single.lower)
    batch.update(x[:50])
    batch.update(x[50:])
    rarely.update(list(x))
    assert (np.diff(uppers) <= 0).all()
    assert (np.diff(lowers) >= 0).all()
    assert batch.n == single.n == 120
    assert batch.mean == pytest.approx(x.mean(), rel=1e-12)
    assert batch.upper == pytest.approx(rarely.upper, rel=1e-9)
    assert single.upper <= batch.upper * (1 + 1e-9)  # it has looked more often
    assert single.lower >= batch.lower * (1 - 1e-9)
    assert abs(batch.upper - mean_upper(x)) < 0.05
    flipped = MeanSequence()
    flipped.update(1 - x)
    assert flipped.upper == pytest.approx(1 - batch.lower, rel=1e-9)


def test_decided() -> None:
    generator = np.random.default_rng(4)
    seen = MeanSequence()
    assert (seen.upper, seen.lower, seen.n, seen.decided(0.01)) == (1.0, 0.0, 0, None)
    assert np.isnan(seen.mean)
    while seen.decided(0.01) is None and seen.n < 20_000:
        seen.update(generator.random(100) < 0.003)
    assert seen.decided(0.01) is True
    assert seen.n < 5000
    other = MeanSequence()
    while other.decided(0.01) is None and other.n < 20_000:
        other.update(generator.random(100) < 0.03)
    assert other.decided(0.01) is False
    # A billion samples, all alike but for a few, are as quick as a few.
    many = MeanSequence()
    many.update(np.zeros(1_000_000))
    many.update([1.0])
    assert 1e-6 < many.upper < 2e-5


def test_bad_input_takes_nothing() -> None:
    seen = MeanSequence()
    for values, words in ([0.1, 2.0], "values: 2.0 at position 1"), ([], "values: "), ([float("nan")], "values: nan"):
        with pytest.raises(ValueError, match=words):
            seen.update(values)
    assert seen.n == 0
    with pytest.raises(ValueError, match=r"confidence: 2\.0 given"):
        MeanSequence(2)
    with pytest.raises(ValueError, match=r"level: 0\.0 given"):
        seen.decided(0)
