"""The solver on numbers that are known, on statuses, and on input that is hostile."""

from dataclasses import replace

import numpy as np
import pytest
from instances import finite_space, mixture_draws, own_levels, worked_mixture
from kkt import assert_optimal
from scipy.special import logsumexp

import duality as du
from duality import slices
from duality.answers import read_climb
from duality.grouped_duals import dual_of
from duality.solve import finish, optimise


@pytest.mark.parametrize(
    ("problem", "multiplier", "value"),
    [
        (du.ReverseKL(30.0), 0.0515382, 0.342066),
        (du.ForwardKL(4.0), 0.287227, 0.604254),
        (du.Likelihood(0.01), 3.789455, 0.310807),
        (du.Likelihood(0.001, kind="density"), 36.1876, 0.284300),
    ],
    ids=["reverse", "forward", "posterior", "density"],
)
def test_worked_mixture(problem, multiplier, value):
    ratios = worked_mixture(161)
    solution = du.solve(problem, ratios)
    # The reference figures are printed to six digits; the 161² grid agrees with a 321² grid to 1e-8.
    np.testing.assert_allclose(solution.multipliers, multiplier, rtol=2e-6)
    np.testing.assert_allclose(solution.primal, value, rtol=2e-6)
    assert solution.status is du.Status.OPTIMAL
    assert_optimal(solution, ratios)


@pytest.mark.parametrize("problem", [du.ReverseKL(25.0), du.ForwardKL(4.0), du.Likelihood(0.02)])
def test_two_concepts_by_symmetry(problem):
    # Components 0 and 2 are mirror images: equal levels need equal multipliers.
    ratios = worked_mixture(121, concepts=(0, 2))
    solution = du.solve(problem, ratios)
    assert_optimal(solution, ratios)
    np.testing.assert_allclose(solution.multipliers[0], solution.multipliers[1], rtol=1e-8)


def test_inactive_means_nothing_is_to_be_done():
    ratios = worked_mixture(81)
    for problem in (du.ReverseKL(0.0), du.ForwardKL(0.0), du.Likelihood(0.9), du.Likelihood(5.0, kind="log-ratio")):
        edge = own_levels(problem, ratios)
        inside = edge - problem.direction * 1e-6 * np.abs(edge)
        outside = edge + problem.direction * 1e-6 * np.abs(edge)
        solution = du.solve(type(problem)(inside, **_kind(problem)), ratios)
        assert solution.status is du.Status.INACTIVE
        assert solution.inactive
        np.testing.assert_array_equal(solution.multipliers, 0.0)
        np.testing.assert_allclose(solution.log_weights, ratios.log_weights, rtol=1e-15, atol=1e-14)
        beyond = du.solve(type(problem)(outside, **_kind(problem)), ratios)
        assert beyond.status is du.Status.OPTIMAL
        assert (beyond.multipliers > 0).all()


def _kind(problem):
    return {"kind": problem.kind} if isinstance(problem, du.Likelihood) else {}


def test_reverse_and_log_ratio_likelihood_are_one_family():
    # Likelihood(log-ratio) at the level that ReverseKL's target reaches: lam_LU = lam/(1 - lam), the same target.
    ratios = worked_mixture(81)
    reverse = du.solve(du.ReverseKL(30.0), ratios)
    level = float(np.exp(reverse.log_weights) @ ratios.values[:, 0])
    likelihood = du.solve(du.Likelihood(level, kind="log-ratio"), ratios)
    lam = reverse.multipliers[0]
    np.testing.assert_allclose(likelihood.multipliers[0], lam / (1 - lam), rtol=1e-9)
    np.testing.assert_allclose(np.exp(likelihood.log_weights), np.exp(reverse.log_weights), atol=1e-12)


@pytest.mark.parametrize(
    "problem", [du.ReverseKL(30.0), du.ForwardKL(4.0), du.Likelihood(0.01)], ids=["reverse", "forward", "posterior"]
)
def test_a_start_changes_the_way_and_not_the_answer(problem):
    ratios = worked_mixture(61)
    cold = du.solve(problem, ratios)
    for start in (cold.multipliers, 0.9 * cold.multipliers, [0.0], [1e3], [-1.0]):  # the last two are outside, or far
        warm = du.solve(problem, ratios, start)
        np.testing.assert_allclose(warm.multipliers, cold.multipliers, rtol=1e-9)
        assert warm.status is cold.status
    assert du.solve(problem, ratios, cold.multipliers).iterations < cold.iterations
    with pytest.raises(ValueError, match="start: 2 multipliers given for 1"):
        du.solve(problem, ratios, [0.1, 0.1])


def test_slices_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    ratios = finite_space(rng, 1000, 3)
    problems = [
        du.ReverseKL(own_levels(du.ReverseKL(0.0), ratios) + 1),
        du.ForwardKL(own_levels(du.ForwardKL(0.0), ratios) * 1.1),
        du.Likelihood(own_levels(du.Likelihood(1.0), ratios) * 0.7),
    ]
    whole = [du.solve(p, ratios).multipliers for p in problems]
    monkeypatch.setattr(slices, "SLICE", 64)
    for problem, expected in zip(problems, whole, strict=True):
        # Sums in another order: eps times the condition of the Hessian, here below 1e4.
        np.testing.assert_allclose(du.solve(problem, ratios).multipliers, expected, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-3, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("excess", [1e-3, 1.0, 3.0])
def test_reverse_at_every_scale_of_ratio(scale, excess):
    rng = np.random.default_rng(1)
    values = scale * rng.normal(size=(400, 2))
    log_q = np.full(400, -np.log(400))
    values -= logsumexp(values + log_q[:, None], axis=0)
    ratios = du.LogRatios(values, log_q)
    solution = du.solve(du.ReverseKL(own_levels(du.ReverseKL(0.0), ratios) + excess), ratios)
    # Two constraints compete through E_p[rho_1 - rho_2] ~ scale, and levels of one nat are known to 1e-16: what is left
    # of that in the split between them is 1e-16 / scale, and the levels keep about its product with the tilt.
    assert_optimal(solution, ratios, tolerance=1e-10 if scale > 1e-9 else 1e-8)
    # Far out ReverseKL is nearly free: |rho| ~ scale, so a ~ 1/scale tilts by one nat.
    assert (solution.natural > 0).any()


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e2, 1e4])
def test_log_ratio_likelihood_at_every_scale(scale):
    rng = np.random.default_rng(2)
    values = scale * rng.normal(size=(400, 3))
    ratios = du.LogRatios(values, np.full(400, -np.log(400)))
    level = values.mean(axis=0) - 0.4 * values.std(axis=0)
    solution = du.solve(du.Likelihood(level, kind="log-ratio"), ratios)
    assert_optimal(solution, ratios)


@pytest.mark.parametrize("level", [0.2, 1e-3, 1e-8, 1e-30, 1e-100, 1e-300])
def test_posterior_levels_down_to_the_smallest_number(level):
    # Disjoint supports: the target keeps the concept with mass b exactly.
    log_q = np.log(np.full(10, 0.1))
    ratios = du.LogRatios(np.where(np.arange(10) < 3, np.log(1 / 0.3), -np.inf), log_q, priors=0.3)
    solution = du.solve(du.Likelihood(level), ratios)
    expected = du.gaussians.disjoint_posterior(0.3, level)
    np.testing.assert_allclose(solution.multipliers[0], expected.multiplier, rtol=1e-12)
    np.testing.assert_allclose(solution.primal, expected.value, rtol=1e-12)
    np.testing.assert_allclose(solution.levels[0], level, rtol=1e-10)


def test_weights_over_three_hundred_decades():
    n = 500
    log_q = np.linspace(0.0, -700.0, n)
    log_q -= logsumexp(log_q)
    values = np.linspace(2.0, -50.0, n)
    values -= logsumexp(values + log_q)
    ratios = du.LogRatios(values, log_q, priors=0.1)
    for problem in (du.ReverseKL(8.0), du.ForwardKL(1.0), du.Likelihood(0.02), du.Likelihood(-20.0, kind="log-ratio")):
        solution = du.solve(problem, ratios)
        assert_optimal(solution, ratios)
        assert solution.multipliers[0] > 0


def test_concept_absent_on_part_of_the_support():
    rng = np.random.default_rng(3)
    log_q = np.full(200, -np.log(200))
    values = rng.normal(size=(200, 2))
    values[:50, 0] = -np.inf
    values -= logsumexp(values + log_q[:, None], axis=0)
    ratios = du.LogRatios(values, log_q, priors=[0.2, 0.2])
    # KL(q‖q_1) = inf already: the first constraint asks for nothing, the second is solved beside it.
    reverse = du.solve(du.ReverseKL([100.0, 1.5]), ratios)
    assert reverse.multipliers[0] == 0.0
    assert reverse.levels[0] == np.inf
    assert reverse.slack[0] == np.inf
    alone = du.solve(du.ReverseKL(1.5), du.LogRatios(values[:, 1], log_q))
    np.testing.assert_allclose(reverse.multipliers[1], alone.multipliers[0], rtol=1e-12)
    likelihood = du.solve(du.Likelihood([-100.0, -0.9], kind="log-ratio"), ratios)
    assert likelihood.multipliers[0] == 0.0
    assert likelihood.levels[0] == -np.inf
    # The other problems read e^rho = 0 there.
    for problem in (du.ForwardKL([0.9, 0.7]), du.Likelihood([0.1, 0.1])):
        assert_optimal(du.solve(problem, ratios), ratios)


def test_more_draws_than_one_slice_holds():
    ratios = mixture_draws(np.random.default_rng(4), 200_000, concepts=(0, 1, 2))
    for problem in (du.ReverseKL([20.0, 5.0, 20.0]), du.ForwardKL([1.5, 0.5, 1.4]), du.Likelihood([0.2, 0.6, 0.25])):
        assert_optimal(du.solve(problem, ratios), ratios)


@pytest.mark.parametrize(("off", "status"), [(0.0, du.Status.OPTIMAL), (2e-9, du.Status.INEXACT)])
@pytest.mark.parametrize(
    "problem", [du.ReverseKL(1.5), du.ForwardKL(0.7), du.Likelihood(0.2)], ids=["reverse", "forward", "likelihood"]
)
def test_what_is_a_billionth_off_is_not_optimal(problem, off, status):
    """A level missed by less than 1e-8 had been enough, and the bounds on the value were not looked at."""
    ratios = finite_space(np.random.default_rng(5), 40, 1)
    problem = problem.bind(ratios)
    answer = optimise(problem, ratios, dual_of(problem, ratios))
    dual = answer.climb.dual
    x = dual.from_natural(dual.to_natural(answer.climb.x) * (1 + off))
    moved = read_climb(replace(answer.climb, x=x, at=dual.evaluate(x)))
    found = finish(problem, ratios, moved)
    assert found.kkt_residual < 1e-8
    assert (found.kkt_residual > 1e-10) == (off > 0)
    assert found.status is status


def test_bounds_that_are_a_billionth_apart_are_not_optimal_where_every_level_is_met():
    ratios = finite_space(np.random.default_rng(5), 40, 1)
    problem = du.ReverseKL(1.5).bind(ratios)
    answer = optimise(problem, ratios, dual_of(problem, ratios))
    for short, status in ((0.0, du.Status.OPTIMAL), (1e-8, du.Status.INEXACT)):
        found = finish(problem, ratios, replace(answer, value=answer.value - short))
        assert found.kkt_residual < 1e-10
        assert found.status is status
