"""The measure of copies: its scale by hand, what it takes for a copy, and laws it obeys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.digits.data import load_digits
from diffusion.evaluation.near_duplicates import HALF, distances, small, spacing


def real(part="train"):
    return load_digits(part).images[:, None]


def test_spacing_is_the_median_distance_to_the_nearest_others():
    line = np.array([0.0, 1.0, 3.0, 7.0])[:, None, None, None]  # all others are the nearest fifty
    means = [(1 + 3 + 7) / 3, (1 + 2 + 6) / 3, (3 + 2 + 4) / 3, (7 + 6 + 4) / 3]
    assert spacing(line) == pytest.approx(np.median(means))


def test_a_copy_is_near_and_another_digit_is_not():
    data, unseen = real(), real("held-out")
    unit = spacing(data)
    rng = np.random.default_rng(0)
    noisy = unseen[:50] + 0.05 * rng.normal(size=unseen[:50].shape)
    found = distances(noisy, unseen[:50], unit) <= HALF
    assert np.diag(found).all()
    assert found.sum() - 50 <= 5  # of 2,450 pairs of different digits
    assert (distances(unseen, data, unit) <= HALF).mean() < 0.002  # a third have a neighbour as near among 1,437
    copied = np.concatenate([data, np.repeat(unseen[:1], 400, axis=0)])
    assert spacing(copied) == pytest.approx(unit, rel=0.15)  # a fifth of copies hardly moves the scale


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
def test_distances_do_not_depend_on_the_unit_of_pictures(seed, factor):
    rng = np.random.default_rng(seed)
    data, drawn = rng.normal(size=(9, 3, 4, 4)), rng.normal(size=(5, 3, 4, 4))
    one = distances(drawn, data, spacing(data))
    np.testing.assert_allclose(distances(factor * drawn, factor * data, spacing(factor * data)), one, rtol=1e-9)
    np.testing.assert_allclose(np.diag(distances(data, data, 1.0)), 0)


def test_grain_of_large_pictures_does_not_count():
    rng = np.random.default_rng(1)
    coarse = rng.normal(size=(6, 3, 32, 32))
    large = np.kron(coarse, np.ones((4, 4)))
    np.testing.assert_allclose(small(large), small(coarse))
    assert small(rng.normal(size=(2, 1, 7, 50))).shape == (2, 7 * 32)


def test_bad_pictures_are_refused():
    with pytest.raises(ValueError, match="shape"):
        small(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="finite"):
        small(np.full((1, 1, 2, 2), np.nan))
    with pytest.raises(ValueError, match="at least three"):
        spacing(np.zeros((2, 1, 2, 2)))
    with pytest.raises(ValueError, match="alike"):
        spacing(np.zeros((5, 1, 2, 2)))
