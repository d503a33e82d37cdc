"""The linear programs and the interior-point method behind values at the ends of dual domains."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

import duality as du
from duality import linear_program
from duality.exponential_dual import ExponentialDual
from duality.interior import maximise_inside
from duality.matrix_game import saddle
from duality.newton import Patience, climb
from duality.packing import packing
from duality.quadratic import newton_step


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e4])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 3), (30, 1), (30, 2), (200, 5), (3000, 12)])
def test_saddle_is_bounded_from_both_sides(n, m, scale):
    table = 3.0 + scale * np.random.default_rng([n, m]).normal(size=(n, m))
    found = saddle(table)
    assert (found.multipliers >= 0).all()
    assert (found.masses >= 0).all()
    np.testing.assert_allclose([found.multipliers.sum(), found.masses.sum()], 1.0, rtol=1e-14)
    # Each side from its own answer: what they prove agrees to the rounding of a sum over m.
    assert found.value == (table @ found.multipliers).min()
    np.testing.assert_allclose(found.least, (found.masses @ table[found.nodes]).max(), rtol=1e-14)
    assert abs(found.least - found.value) <= 1e-14 * m * float(np.abs(table).max())


def test_saddle_of_a_constant_and_of_ties():
    assert saddle(np.full((5, 3), 2.0)).value == 2.0
    # v_1 + v_2 = 0 everywhere: lam = (1/2, 1/2), and any p with mean zero.
    x = np.linspace(-3, 3, 13)
    found = saddle(np.stack([x, -x], axis=1))
    np.testing.assert_allclose(found.multipliers, 0.5, rtol=1e-12)
    np.testing.assert_allclose([found.value, found.least], 0.0, atol=1e-14)


@pytest.mark.parametrize(("n", "m"), [(5, 1), (40, 3), (2000, 8)])
def test_packing_is_bounded_from_both_sides(n, m):
    rng = np.random.default_rng([n, m])
    rows = rng.uniform(size=(n, m)) ** 3
    rows /= rows.max(axis=0)
    gain = rng.normal(size=m)
    gain[0] = 1.0
    found = packing(rows, gain, np.arange(min(n, 3)))
    assert (found.point >= 0).all()
    assert (rows @ found.point).max() <= 1 + 1e-15
    assert (found.prices >= 0).all()
    assert (found.prices @ rows[found.nodes] >= gain - 1e-14).all()
    np.testing.assert_allclose(found.bound, found.prices.sum(), rtol=1e-14)
    np.testing.assert_allclose(gain @ found.point, found.bound, rtol=1e-8)
    whole = linprog(-gain, A_ub=rows, b_ub=np.ones(n))
    np.testing.assert_allclose(found.bound, -whole.fun, rtol=1e-6)


def test_packing_without_gain_and_without_limit():
    rows = np.array([[1.0, 0.0], [0.5, 0.0]])
    nothing = packing(rows, np.array([-1.0, -2.0]), np.array([0]))
    assert nothing.bound == 0.0
    assert not nothing.point.any()
    assert packing(rows, np.array([1.0, 1.0]), np.array([0])).bound == np.inf  # nobody charges the second
    # A wish of 1e-12 beside one of 1: the price of the one is not raised to serve the other.
    apart = packing(np.array([[1.0, 1e-6], [1e-6, 1.0]]), np.array([1.0, 1e-12]), np.array([0]))
    np.testing.assert_allclose(apart.bound, 1.0, rtol=1e-9)


def test_a_program_given_up_at_one_tolerance_is_solved_at_the_next(monkeypatch):
    solved = linear_program.linprog
    tried = []

    def moody(**arguments):
        tolerance = arguments["options"]["primal_feasibility_tolerance"]
        tried.append(tolerance)
        found = solved(**arguments)
        if tolerance < 1e-9:
            found.x = None
        return found

    monkeypatch.setattr(linear_program, "linprog", moody)
    found = packing(np.eye(2), np.array([1.0, 2.0]), np.array([0]))
    np.testing.assert_allclose(found.bound, 3.0, rtol=1e-8)
    np.testing.assert_allclose(saddle(np.array([[1.0, -1.0], [-1.0, 1.0]])).value, 0.0, atol=1e-9)
    assert tried == [1e-10, 1e-9, 1e-10, 1e-9]
    monkeypatch.setattr(linear_program, "linprog", lambda **_: type("Nothing", (), {"x": None}))
    assert packing(np.eye(2), np.array([1.0, 2.0]), np.array([0])).bound == np.inf  # and no bound is made up


def test_a_climb_out_of_patience_returns_the_highest_point_that_it_saw():
    ratios = du.LogRatios(np.random.default_rng(0).normal(size=(50, 3)))
    problem = du.ReverseKL([3.0, 2.0, 4.0]).bind(ratios)
    seen = []

    class Watched(ExponentialDual):
        def evaluate(self, x):
            at = super().evaluate(x)
            seen.append(at.value)
            return at

    for steps in range(6):
        seen.clear()
        dual = Watched(ratios.values, ratios.log_weights, -problem.levels, shared=True)
        found = climb(dual, np.zeros(3), problem.units(ratios), patience=Patience(steps=steps))
        assert found.gave_up
        assert found.at.value >= max(seen) - 1e-14


@pytest.mark.parametrize("gain_size", [0.05, 0.5, 5.0])
def test_interior_point_against_a_general_optimiser(gain_size):
    rng = np.random.default_rng(int(100 * gain_size))
    n, m = 40, 3
    q = rng.dirichlet(np.ones(n))
    rows = rng.uniform(size=(n, m)) ** 2
    rows /= rows.max(axis=0)
    gain = gain_size * rng.uniform(0.2, 1.0, size=m)

    def value(y, u):
        return float(gain @ y - (q * u) @ np.log(u / (q @ u)))

    found = maximise_inside(q, rows, gain)
    np.testing.assert_allclose(found.u, 1 - rows @ found.y, atol=1e-14)
    assert found.residual < 1e-12
    assert (found.y >= 0).all()
    assert (found.prices >= 0).all()
    given = minimize(
        lambda y: -value(y, np.maximum(1 - rows @ y, 1e-14)),
        np.full(m, 0.1),
        bounds=[(0, 1)] * m,
        constraints={"type": "ineq", "fun": lambda y: 1 - rows @ y - 1e-12},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    y = np.clip(given.x, 0, None)
    y = y * min(1.0, (1 - 1e-12) / float((rows @ y).max()))
    best = value(found.y, found.u)
    assert value(y, 1 - rows @ y) <= best + 1e-11
    np.testing.assert_allclose(value(y, 1 - rows @ y), best, atol=1e-3)  # and SLSQP is no straw man


def test_a_coordinate_along_which_nothing_moves_is_left_alone_and_one_that_has_a_slope_is_not():
    """Range 1, slope and curvature below rounding: 1e-16 moves the value by less than 1e-14."""
    curvature, x = np.diag([0.15, 0.0]), np.array([0.5, 0.5])
    rows, limits = np.eye(2), np.ones(2)
    step, _ = newton_step(curvature, np.array([0.01, 1e-16]), x, rows, limits, noise=1e-14, faint=1e-13)
    np.testing.assert_allclose(step, [0.01 / 0.15, 0.0], rtol=1e-12)
    step, _ = newton_step(curvature, np.array([0.01, 1e-6]), x, rows, limits, noise=1e-14, faint=1e-13)
    np.testing.assert_allclose(step, [0.01 / 0.15, 0.5], rtol=1e-4)
