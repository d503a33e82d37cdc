"""Energy distance: against its definition, unbiased, and under common noise only where related pairs are left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duality import two_sample
from duality.two_sample import energy_distance, energy_null

EPS = np.finfo(float).eps


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**31))
def test_against_its_definition(n, k, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)), rng.normal(1.0, 2.0, size=(k, 3))
    cross = np.mean([np.linalg.norm(a - b) for a in x for b in y])
    within = [
        np.mean([np.linalg.norm(z[i] - z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)
    ]
    # Three means of at most (n + k)^2 terms >= 0: each errs by eps times their number, of the size of the mean.
    size = 2 * cross + sum(within)
    assert energy_distance(x, y) == pytest.approx(2 * cross - sum(within), abs=2 * (n + k) ** 2 * EPS * size)


def test_unbiased_under_equal_laws_and_sees_a_shift():
    rng = np.random.default_rng(1)
    values = [energy_distance(rng.normal(size=(40, 2)), rng.normal(size=(40, 2))) for _ in range(200)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    x, y = rng.normal(size=(400, 2)), rng.normal(0.5, 1, size=(400, 2))
    assert energy_distance(x, y) > energy_null(x, y, 20, rng).max()


def test_biased_under_common_noise_unless_related_pairs_are_left_out():
    """One law, row j of both from one noise: unbiased without those pairs, clearly negative with them."""
    rng = np.random.default_rng(3)
    naive, mended = [], []
    for _ in range(200):
        x = rng.normal(size=(40, 2))
        y = 0.8 * x + 0.6 * rng.normal(size=(40, 2))
        naive.append(energy_distance(x, y))
        mended.append(energy_distance(x, y, np.column_stack([np.arange(40)] * 2)))
    error = np.std(mended) / 200**0.5
    assert abs(np.mean(mended)) < 4 * error
    assert np.mean(naive) < -4 * error


def test_without_related_pairs_it_is_the_mean_over_the_others():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(5, 2, 2)), rng.normal(size=(4, 2, 2))  # images: their pixels in a row
    pairs = [(0, 3), (4, 0)]
    others = [np.linalg.norm(x[i] - y[j]) for i in range(5) for j in range(4) if (i, j) not in pairs]
    all_pairs = [np.linalg.norm(x[i] - y[j]) for i in range(5) for j in range(4)]
    moved = energy_distance(x, y, pairs) - energy_distance(x, y)
    assert moved == pytest.approx(2 * (np.mean(others) - np.mean(all_pairs)), abs=81 * 8 * EPS * np.mean(all_pairs))


@pytest.mark.parametrize("block", [7, two_sample.BLOCK])
def test_null_is_that_of_dealing_by_hand(monkeypatch, block):
    monkeypatch.setattr(two_sample, "BLOCK", block)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 2)), rng.normal(0.3, 1, size=(20, 2))
    pool, again = np.concatenate([x, y]), np.random.default_rng(5)
    values = []
    for _ in range(7):
        order = again.permutation(50)
        first = np.isin(np.arange(50), order[:30])
        values.append(energy_distance(pool[first], pool[~first]))
    found = energy_null(x, y, 7, np.random.default_rng(5))
    np.testing.assert_allclose(found, values, rtol=0, atol=50**2 * EPS * 8)


@pytest.mark.parametrize(
    ("x", "y", "related", "words"),
    [
        (np.zeros((1, 2)), np.zeros((3, 2)), None, "at least two samples each"),
        (0.0, np.zeros((3, 2)), None, "at least two samples each"),
        (np.zeros((3, 2)), np.zeros((3, 4)), None, "rows of one size"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), None, "NaN"),
        (np.zeros((3, 2)), np.zeros((4, 2)), [(0, -1)], "related: rows of x below 3 and of y below 4"),
        (np.zeros((3, 2)), np.zeros((4, 2)), [(3, 0)], "related: rows of x below 3"),
        (np.zeros((3, 2)), np.zeros((4, 2)), [(0, 1), (0, 1)], "named once"),
        (np.zeros((2, 2)), np.zeros((2, 2)), [(0, 0), (0, 1), (1, 0), (1, 1)], "some pair must be left"),
    ],
)
def test_bad_input_is_named(x, y, related, words):
    with pytest.raises(ValueError, match=words):
        energy_distance(x, y, related)


def test_a_null_needs_a_permutation():
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        energy_null(np.zeros((2, 1)), np.zeros((2, 1)), 0, np.random.default_rng(0))
