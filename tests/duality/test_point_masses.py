"""Water-filling: optimal by its conditions and by the solver, and right where doubles cannot tell lam from pi."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import duality as du
from duality.point_masses import water_filling


@given(st.integers(0, 10_000), st.floats(0, 100))
@example(0, 0.0)
@example(1, 40.0)  # multipliers equal to the shares in double precision
@example(279, 2.0)  # next to nothing but images: what is left of one is known to seven digits
def test_conditions_of_optimality(seed, largest):
    """p is a density that meets the levels, with equality where lam > 0, and no gap is left."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 7))
    pi = rng.dirichlet(np.ones(m + 1) * rng.choice([0.2, 1.0, 5.0]))[:m].clip(1e-12) * (1 - 1e-9)
    b = -np.log(pi) + rng.normal(size=m) * 0.3 + largest * rng.uniform(size=m)
    found = water_filling(pi, b)
    lam, p = found.multipliers, np.exp(found.log_masses)
    assert ((lam >= 0) & (lam <= pi)).all()
    # Sums of a few terms below b, each right to some units in the last place.
    assert (found.slack >= -1e-12 * (1 + b)).all()
    np.testing.assert_allclose(found.slack[lam > 1e-9 * pi], 0, atol=1e-9)
    rest = (1 - pi.sum()) * np.exp(-found.log_scale)
    # 1 - Pi, from which s is made, has the rounding of a sum near one: so many parts of itself.
    assert p.sum() + rest == pytest.approx(1, abs=1e-9 + 1e-15 / (1 - pi.sum()))
    assert np.exp(found.log_scale) == pytest.approx(1 - lam.sum(), abs=1e-12)
    assert found.gap < 1e-9
    assert found.primal >= -1e-12


@given(st.integers(0, 10_000))
@example(2582)  # a level that comes out negative, which none may be
def test_the_solver_says_the_same(seed):
    """Images and a rest as nodes: rho = -log pi_i at image i, -inf elsewhere. Levels that a double can hold."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 5))
    pi = rng.dirichlet(np.ones(m + 1))[:m] * 0.9 + 1e-4
    b = np.maximum(-np.log(pi) + rng.uniform(-0.3, 12.0, size=m), 0.0)
    values = np.full((m + 1, m), -np.inf)
    values[np.arange(m), np.arange(m)] = -np.log(pi)
    solved = du.solve(du.ForwardKL(b), du.LogRatios(values, np.log([*pi, 1 - pi.sum()])))
    found = water_filling(pi, b)
    np.testing.assert_allclose(found.multipliers, solved.multipliers, atol=1e-9)
    assert found.primal == pytest.approx(solved.primal, rel=1e-9, abs=1e-9)


def test_more_copies_and_higher_levels_mean_larger_multipliers():
    by_share = water_filling([0.1, 0.05, 0.01], -np.log([0.1, 0.05, 0.01]) + 2.0).multipliers
    assert (np.diff(by_share) < 0).all()
    by_level = water_filling(np.full(3, 0.05), -np.log(0.05) + np.array([0.5, 1.0, 4.0])).multipliers
    assert (np.diff(by_level) > 0).all()


def test_far_beyond_doubles_the_cost_is_still_right():
    """At 100 nats image i has no mass that counts: it costs pi_i (log pi_i + b_i), and the rest grows to all."""
    pi = np.array([0.05, 0.02])
    found = water_filling(pi, 100 - np.log(pi))
    np.testing.assert_array_equal(found.multipliers, pi)
    assert found.primal == pytest.approx(100 * pi.sum() + 0.93 * np.log(0.93), rel=1e-14)
    assert found.gap < 1e-15


@pytest.mark.parametrize(
    ("shares", "levels", "message"),
    [([0.1], [1.0, 2.0], "levels"), ([0.5, 0.5], [1.0, 1.0], "shares"), ([0.0], [1.0], "shares"), ([], [], "shares")],
)
def test_bad_input(shares, levels, message):
    with pytest.raises(ValueError, match=message):
        water_filling(shares, levels)
