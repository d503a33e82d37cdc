"""Misses read on a scale where tilts move them in proportion: what the factors are, and what steps gain by them."""

import math

import numpy as np
import pytest
from instances import finite_space, own_levels

import duality as du
from duality import quick
from duality.aim import aim, log_factors, root_factors

PROBLEMS = {
    "reverse": lambda own: du.ReverseKL(own(du.ReverseKL(0.0)) * 1.5),
    "posterior": lambda own: du.Likelihood(own(du.Likelihood(1.0)) * 0.6),
}


def test_factors_are_those_of_their_scales():
    levels = np.array([2.0, 2.0, 0.3, 1e-5])
    reached = np.array([0.5, 3.0, 0.3, 2e-5])
    roots = root_factors(levels - reached, levels)
    logs = log_factors(reached - levels, levels)
    for i, (b, level) in enumerate(zip(levels, reached, strict=True)):
        if b == level:
            assert roots[i] == logs[i] == 1.0
            continue
        # The differences in the definitions keep all but two digits here.
        assert roots[i] == pytest.approx(2 * math.sqrt(level) * (math.sqrt(b) - math.sqrt(level)) / (b - level))
        assert logs[i] == pytest.approx(level * math.log(level / b) / (level - b))


def test_close_to_the_level_nothing_changes():
    levels = np.array([1.0])
    for miss in (1e-4, -1e-4, 1e-9):  # 1 ± miss/4 and 1 ± miss/2, to first order
        assert root_factors(np.array([miss]), levels)[0] == pytest.approx(1 - miss / 4, abs=miss**2)
        assert log_factors(np.array([miss]), levels)[0] == pytest.approx(1 + miss / 2, abs=miss**2)


def test_levels_that_have_no_such_scale_are_left_alone():
    misses, levels = np.array([0.5, -0.5, 0.5]), np.array([0.0, -1.0, -1e-300])
    np.testing.assert_array_equal(root_factors(misses, levels), 1.0)
    np.testing.assert_array_equal(log_factors(misses, levels), 1.0)
    below = np.array([5.0, np.inf])  # more than the whole level is missing: nothing beyond a hundredth of it
    assert np.isfinite(root_factors(below, np.ones(2))).all()
    ratios = finite_space(np.random.default_rng(0), 3000, 2)
    for problem in (du.ForwardKL(own_levels(du.ForwardKL(0.0), ratios) * 1.1), du.Likelihood(-0.5, kind="log-ratio")):
        dual = problem.bind(ratios).dual(ratios)
        at = dual.evaluate(np.zeros(2))
        assert aim(dual, np.zeros(2), at) is at.gradient  # FU, and a statistic of either sign


def test_for_normal_laws_of_one_covariance_a_single_step_arrives():
    """KL(p‖q_1) = (1 + a)² mu²/2 exactly on the line; quadrature that ends at 12 deviations leaves it to 1e-10."""
    x = np.linspace(-12, 12, 40_001)
    log_q = -0.5 * x**2
    log_q -= np.logaddexp.reduce(log_q)
    mu = 1.0
    ratios = du.LogRatios(mu * x - mu**2 / 2, log_q)
    problem = du.ReverseKL(0.9).bind(ratios)
    dual, origin = problem.dual(ratios), np.zeros(1)
    at = dual.evaluate(origin)
    for goal, arrives in ((aim(dual, origin, at), True), (at.gradient, False)):
        step = goal / at.curvature[0, 0]
        miss = abs(dual.evaluate(step).misses[0])
        assert (miss < 1e-9) == arrives
    assert dual.to_natural(aim(dual, origin, at) / at.curvature[0])[0] == pytest.approx(math.sqrt(2 * 0.9) - 1)


def climbed(problem, ratios):
    """Where plain steps from the origin arrive, and the number of points that they look at."""
    dual, seen = problem.dual(ratios), set()
    known = dual._sums
    dual._sums = lambda x, curved: seen.add(x.tobytes()) or known(x, curved)
    halt = quick.quick(dual, np.zeros(dual.m), problem.units(ratios), 5e-11)
    assert halt.arrived
    return dual.to_natural(halt.climb.x), len(seen)


@pytest.mark.parametrize("name", PROBLEMS)
def test_fewer_points_are_needed_and_the_answer_is_the_same(name, monkeypatch):
    points = []
    for m in (1, 2, 4):
        for seed in range(3):
            ratios = finite_space(np.random.default_rng(seed), 3000, m, spread=0.7)
            problem = PROBLEMS[name](lambda asked, ratios=ratios: own_levels(asked, ratios)).bind(ratios)
            aimed, few = climbed(problem, ratios)
            with monkeypatch.context() as patch:
                patch.setattr(quick, "aim", lambda dual, x, at: at.gradient)
                plain, many = climbed(problem, ratios)
            points.append((few, many))
            np.testing.assert_allclose(aimed, plain, rtol=1e-8)
    few, many = np.transpose(points)
    assert (few <= many).all()
    assert (few < many).sum() > len(points) / 2
