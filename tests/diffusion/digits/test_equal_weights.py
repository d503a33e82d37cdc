"""Equal weights against solved ones: the least that keeps all levels, and when it costs more."""

import numpy as np
import pytest

import duality as du
from diffusion.digits.experiments.equal_weights import compared, dearer, least_equal, lines


def ratios(shift):
    """log q_i/q of Gaussians of unit variance about q = N(0, 1) in the plane, at two means."""
    x = np.random.default_rng(0).normal(size=(800, 2))
    means = np.array([[1.0, 0.0], [0.0, shift]])
    return du.LogRatios(x @ means.T - 0.5 * (means**2).sum(1))


def test_the_least_equal_weight_keeps_all_and_one_exactly():
    problem, given = du.ReverseKL([0.6, 1.0]), ratios(1.0)
    weight = least_equal(problem, given)
    ((_, reached),) = du.fixed_weights(problem, given, [weight])
    assert (reached / problem.levels).min() == pytest.approx(1, abs=1e-9)
    ((_, less),) = du.fixed_weights(problem, given, [0.99 * weight])
    assert (less < problem.levels).any()
    assert least_equal(du.ReverseKL([0.6, 1e4]), given) is None
    assert least_equal(du.ReverseKL([0.01, 0.01]), given) == 0.0


def test_solved_multipliers_cost_less_where_levels_differ_and_the_same_where_all_is_alike():
    asked = du.ReverseKL([0.6, 1.0])
    rows = compared(asked, ratios(1.0))
    assert rows[0].name == "solved"
    assert rows[0].kept(asked.levels) == rows[-1].kept(asked.levels) == 2
    assert rows[-1].cost > 1.05 * rows[0].cost
    assert rows[1].kept(asked.levels) < 2  # a quarter of the solved mean
    assert (dearer(asked, np.asarray(ratios(1.0).values), 3, 0) > 0).all()

    x = np.random.default_rng(1).normal(size=(400, 2))
    alike = du.LogRatios(np.concatenate([x, x[:, ::-1]]) - 0.5)  # symmetric in both
    one, *_, last = compared(du.ReverseKL([0.9, 0.9]), alike)
    assert last.cost == pytest.approx(one.cost, rel=1e-6)


def test_a_table_says_how_many_levels_are_kept():
    problem = du.ReverseKL([0.6, 1.0])
    text = lines(compared(problem, ratios(1.0)), problem.levels, ("a handwritten seven", "b"))
    assert text[1].split() == ["asked", "0.600", "1.000"]
    assert text[2].split()[0] == "solved"
    assert text[2].split()[-2] == "2"
    assert len({len(line.split()) for line in text[2:4]}) == 2
