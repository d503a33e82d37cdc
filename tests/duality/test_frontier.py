"""The trade-off curve: convex, with the multiplier as slope, and never above a curve of fixed weights."""

import numpy as np
import pytest
from instances import finite_space, own_levels, worked_mixture
from kkt import assert_optimal

import duality as du


@pytest.mark.parametrize(
    ("problem", "levels"),
    [
        (du.ReverseKL(0.0), np.linspace(18.0, 60.0, 22)),
        (du.ForwardKL(0.0), np.linspace(1.0, 16.0, 16)),
        (du.Likelihood(1.0), np.geomspace(0.31, 1e-4, 15)),
    ],
    ids=["reverse", "forward", "posterior"],
)
def test_convex_with_the_multiplier_as_slope(problem, levels):
    ratios = worked_mixture(61)
    curve = du.frontier(problem, ratios, levels)
    assert len(curve) == len(levels)
    for solution, level in zip(curve, levels, strict=True):
        assert solution.problem.levels[0] == level
        assert_optimal(solution, ratios)
        np.testing.assert_allclose(
            solution.multipliers, du.solve(solution.problem, ratios).multipliers, rtol=1e-7, atol=1e-12
        )
    order = np.argsort(levels)
    b, value = levels[order], np.array([curve[k].dual for k in order])
    slope = problem.direction * np.array([curve[k].multipliers[0] for k in order])
    # Convexity and slopes in one: every tangent lies below the curve; equality at its own level.
    tangents = value[:, None] + slope[:, None] * (b[None, :] - b[:, None])
    assert (tangents <= value[None, :] + 1e-10).all()
    # And the chords converge to the tangents.
    step = 1e-5 * b[5]
    near = du.frontier(problem, ratios, [b[5] - step, b[5] + step])
    chord = (near[1].dual - near[0].dual) / (2 * step)
    np.testing.assert_allclose(chord, slope[5], rtol=1e-5, atol=1e-9)


def test_warm_start_saves_steps():
    ratios = worked_mixture(61)
    levels = np.geomspace(0.3, 1e-3, 60)
    warm = sum(s.iterations for s in du.frontier(du.Likelihood(1.0), ratios, levels))
    cold = sum(du.solve(du.Likelihood(b), ratios).iterations for b in levels)
    assert warm < 0.8 * cold


def test_back_from_beyond_the_critical_level_the_start_is_warm():
    ratios = worked_mixture(61)
    levels = np.array([16.0, 25.0, 30.0, 16.1])
    curve = du.frontier(du.ForwardKL(0.0), ratios, levels)
    assert [s.attained for s in curve] == [True, False, False, True]
    cold = du.solve(du.ForwardKL(16.1), ratios)
    assert curve[-1].iterations < 0.7 * cold.iterations
    np.testing.assert_allclose(curve[-1].dual, cold.dual, rtol=1e-10)


@pytest.mark.parametrize(
    ("problem", "levels"),
    [
        (du.ReverseKL(0.0), np.linspace(17.0, 30.0, 9)),  # q has less than 17
        (du.ForwardKL(0.0), np.linspace(2.0, 17.0, 9)),
        (du.Likelihood(1.0), np.geomspace(0.3, 1e-4, 9)),
    ],
    ids=["RU", "FU", "LU"],
)
def test_a_tolerance_is_paid_for_with_its_square(problem, levels):
    ratios = worked_mixture(61)
    exact, quick = du.frontier(problem, ratios, levels), du.frontier(problem, ratios, levels, tolerance=1e-6)
    np.testing.assert_allclose([s.dual for s in quick], [s.dual for s in exact], rtol=1e-10, atol=1e-12)
    assert sum(s.iterations for s in quick) < sum(s.iterations for s in exact)


def test_past_the_critical_level_the_curve_is_a_straight_line():
    ratios = worked_mixture(61)
    curve = du.frontier(du.ForwardKL(0.0), ratios, np.array([10.0, 25.0, 30.0, 35.0, 12.0]))
    assert [s.attained for s in curve] == [True, False, False, False, True]
    np.testing.assert_allclose(np.diff([s.dual for s in curve[1:4]]), 5 * 0.3, rtol=1e-6)


def test_many_constraints_and_infeasible_levels():
    ratios = finite_space(np.random.default_rng(0), 200, 3)
    own = own_levels(du.Likelihood(1.0), ratios)
    curve = du.frontier(du.Likelihood(1.0), ratios, own * np.array([1.1, 0.9, 0.8])[:, None])
    assert curve[0].inactive
    for solution in curve:
        assert_optimal(solution, ratios)
    with pytest.raises(du.InfeasibleError):
        du.frontier(du.Likelihood(1.0), ratios, own * np.array([0.9, 1e-6])[:, None])
    with pytest.raises(ValueError, match=r"levels: shape \(2, 2\) given"):
        du.frontier(du.Likelihood(1.0), ratios, np.ones((2, 2)))


@pytest.mark.parametrize(
    ("problem", "weights"),
    [
        (du.ReverseKL(0.0), [0.0, 0.02, 0.05, 0.1]),
        (du.ForwardKL(0.0), [0.0, 0.05, 0.15, 0.22]),
        (du.Likelihood(1.0), [0.0, 0.5, 2.0, 8.0]),
    ],
    ids=["reverse", "forward", "posterior"],
)
def test_every_weight_is_some_level(problem, weights):
    ratios = worked_mixture(61, concepts=(0, 1))
    for weight, (cost, levels) in zip(weights, du.fixed_weights(problem, ratios, weights), strict=True):
        if weight == 0:
            assert cost < 1e-14
            continue
        solution = du.solve(type(problem)(levels), ratios)
        np.testing.assert_allclose(solution.multipliers, weight, rtol=1e-7)
        # A level that is missed by 1e-10 of its unit moves the cost by its multiplier times that.
        missed = 1e-10 * weight * float(solution.problem.units(ratios).sum())
        np.testing.assert_allclose(solution.primal, cost, rtol=1e-9, atol=missed)


def test_equal_weights_are_off_the_frontier():
    # Two concepts of different prior, the same level asked for both: the smallest equal weight that meets both levels
    # overshoots one of them and costs more than the optimum.
    ratios = worked_mixture(61, concepts=(0, 1))
    level = 0.02
    optimal = du.solve(du.Likelihood(level), ratios)
    low, high = 0.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        ((_, reached),) = du.fixed_weights(du.Likelihood(1.0), ratios, [middle])
        low, high = (low, middle) if (reached <= level).all() else (middle, high)
    ((cost, reached),) = du.fixed_weights(du.Likelihood(1.0), ratios, [high])
    assert (reached <= level).all()
    assert reached.min() < 0.9 * level
    assert cost > optimal.primal + 1e-3


def test_fixed_weights_outside_the_domain():
    ratios = worked_mixture(61)
    with pytest.raises(ValueError, match=r"multipliers: .* outside the dual domain of ReverseKL"):
        du.fixed_weights(du.ReverseKL(0.0), ratios, [1.0])
    with pytest.raises(ValueError, match=r"multipliers: at .* not a density"):
        du.fixed_weights(du.ForwardKL(0.0), ratios, [0.31])
