"""Levels that the value reaches and no density does."""

import numpy as np
import pytest
from instances import mixture_draws, trapezoid, worked_mixture
from kkt import assert_optimal, cost_and_levels

import duality as du

# KL(q_1‖q_r) for q_r = (.4 q_2 + .3 q_3)/.7, summed directly on a grid of 901² nodes; nearly all of it is the mean of a
# single exponent, E_{q_1}[-6 (x_1 + x_2)] = 18, plus log(.7/.4).
CRITICAL = 18.556322512631542


@pytest.mark.parametrize("side", [81, 161, 321])
def test_worked_mixture_on_grids(side):
    ratios = worked_mixture(side)
    solution = du.solve(du.ForwardKL(19.556), ratios)
    _check(solution, ratios, tolerance=0.04)


def test_worked_mixture_on_draws():
    ratios = mixture_draws(np.random.default_rng(0), 100_000)
    solution = du.solve(du.ForwardKL(19.556), ratios)
    # The critical level is a mean over 30,000 draws of q_1 of a variable of standard deviation 6.
    _check(solution, ratios, tolerance=0.15)
    assert np.isnan(solution.multipliers_stderr).all()


def _check(solution, ratios, tolerance):
    assert solution.status is du.Status.NOT_ATTAINED
    assert not solution.attained
    np.testing.assert_allclose(solution.multipliers, 0.3, rtol=1e-6)
    np.testing.assert_allclose(solution.critical_levels, CRITICAL, atol=tolerance)
    np.testing.assert_array_equal(solution.critical_levels, solution.levels)
    # V(b) = V(b_crit) + lam_max (b - b_crit), and primal is V(b_crit).
    missing = solution.problem.levels - solution.critical_levels
    np.testing.assert_allclose(solution.dual, solution.primal + solution.multipliers @ missing, rtol=1e-12)
    cost, levels = cost_and_levels(solution.problem, ratios, solution.log_weights)
    np.testing.assert_allclose(cost, solution.primal, rtol=1e-12)
    np.testing.assert_allclose(levels, solution.levels, rtol=1e-12)
    # Exact forgetting: the limit is q without q_1, so the concept keeps the mass that its overlap with q_r explains.
    assert float(np.exp(solution.log_weights) @ (0.3 * np.exp(ratios.values[:, 0]))) < 2e-3


def test_the_critical_level_is_where_attainment_ends():
    ratios = worked_mixture(161)
    beyond = du.solve(du.ForwardKL(25.0), ratios)
    for level in (5.0, 12.0, 17.0):
        below = du.solve(du.ForwardKL(level), ratios)
        assert below.attained
        # At 17 nats u is down to 1e-9 on part of q_1, so a rounding of lam shows as 1e-16 / u in the level.
        assert_optimal(below, ratios, tolerance=1e-8)
    again = du.solve(du.ForwardKL(float(beyond.critical_levels[0]) + 0.05), ratios)
    assert not again.attained
    np.testing.assert_allclose(again.critical_levels, beyond.critical_levels, rtol=1e-9)


def test_value_is_a_bound_that_minimising_sequences_approach():
    # Take the limit density and move a vanishing mass off ever smaller parts of q_1: the levels are met, and the cost
    # tends to the dual value from above (weak duality), on the finest grid that still has nodes to spare.
    ratios = worked_mixture(321)
    solution = du.solve(du.ForwardKL(19.556), ratios)
    log_p = solution.log_weights
    q_1 = np.exp(ratios.log_weights + ratios.values[:, 0])
    order = np.argsort(-ratios.values[:, 0], kind="stable")
    costs = []
    for share in (0.3, 0.03, 0.003):
        chosen = order[np.cumsum(q_1[order]) <= share]
        mass = q_1[chosen].sum()
        lowered = log_p.copy()
        lowered[chosen] -= (19.556 + 1e-6 - solution.levels[0]) / mass
        top = lowered.max()
        lowered -= top + np.log(np.exp(lowered - top).sum())
        cost, levels = cost_and_levels(solution.problem, ratios, lowered)
        assert levels[0] >= 19.556
        costs.append(cost)
    assert all(cost >= solution.dual - 1e-9 for cost in costs)
    # Lowering by D on a set A of q_1-mass s costs q(A) D = D .3 s (1 + small): lam_max times the level gained.
    np.testing.assert_allclose(costs[-1], solution.dual, rtol=1e-4)


def test_two_concepts_both_beyond_their_critical_levels():
    ratios = worked_mixture(161, concepts=(0, 2))
    solution = du.solve(du.ForwardKL([40.0, 50.0]), ratios)
    assert not solution.attained
    np.testing.assert_allclose(solution.multipliers, [0.3, 0.3], rtol=1e-6)
    assert (solution.critical_levels < solution.problem.levels).all()
    missing = solution.problem.levels - solution.critical_levels
    np.testing.assert_allclose(solution.dual, solution.primal + solution.multipliers @ missing, rtol=1e-12)


def test_one_concept_beyond_and_one_within():
    ratios = worked_mixture(161, concepts=(0, 2))
    solution = du.solve(du.ForwardKL([40.0, 3.0]), ratios)
    assert not solution.attained
    np.testing.assert_allclose(solution.multipliers[0], 0.3, rtol=1e-6)
    assert 0 < solution.multipliers[1] < 0.299
    assert solution.slack[0] < -1
    np.testing.assert_allclose(solution.levels[1], 3.0, rtol=1e-9)
    assert solution.kkt_residual < 1e-9


def test_forgetting_all_of_q_lets_mass_escape():
    # q = .3 q_1 + .4 q_2 + .3 q_3, and all three are to go: with supports (nearly) apart, levels b need masses e^{-b_i}
    # that sum to less than one. Minimising sequences hide the rest on a set of vanishing volume, the limit is no
    # density at all, and the value is the cost of the defective measure sum_i e^{-b_i} q_i.
    ratios = worked_mixture(161, concepts=(0, 1, 2))
    levels = np.array([2.0, 1.2, 1.5])
    solution = du.solve(du.ForwardKL(levels), ratios)
    assert not solution.attained
    np.testing.assert_allclose(solution.multipliers, [0.3, 0.4, 0.3], rtol=1e-9)
    pi = np.array([0.3, 0.4, 0.3])
    # The components overlap by about 1e-3 of their mass, at a few nats.
    np.testing.assert_allclose(solution.dual, pi @ (np.log(pi) + levels), atol=1e-2)


def test_unbounded_ratio_costs_nothing_and_is_not_attained():
    # q = N(0,1), q_1 = N(1,1): ess inf q/q_1 = 0, so lam_max = 0 and V(b) = 0 for every b, reached by none.
    q, q_1 = du.gaussians.Gaussian(0.0, 1.0), du.gaussians.Gaussian(1.0, 1.0)
    values = []
    for reach in (8.0, 12.0, 16.0):
        solution = du.solve(du.ForwardKL(2.0), trapezoid(q, [q_1], 1001, reach))
        assert not solution.attained
        values.append(solution.dual)
    # lam_max = e^{1/2 - reach} on the grid: a finite grid can only show that the value falls with its reach.
    np.testing.assert_allclose(values, 1.5 * np.exp(0.5 - np.array([8.0, 12.0, 16.0])), rtol=0.02)


def test_flat_faces_are_attained():
    # Disjoint supports: q_1 itself is the face, so every level is attained (until lam runs out of digits).
    log_q = np.log(np.full(10, 0.1))
    ratios = du.LogRatios(np.where(np.arange(10) < 3, np.log(1 / 0.3), -np.inf), log_q)
    for level in (1.3, 2.0, 5.0, 10.0, 20.0):
        solution = du.solve(du.ForwardKL(level), ratios)
        expected = du.gaussians.disjoint_forward_kl(0.3, level)
        assert solution.attained
        # 1 - lam/.3 = O(e^-b) is known to eps/e^-b.
        tolerance = 1e-12 + 4e-16 * np.exp(level)
        np.testing.assert_allclose(solution.multipliers[0], expected.multiplier, rtol=1e-12)
        np.testing.assert_allclose(solution.primal, expected.value, rtol=tolerance)
        np.testing.assert_allclose(solution.dual, expected.value, rtol=1e-12)
        assert solution.gap <= tolerance


def test_reverse_on_atoms_has_a_last_level():
    # On nodes KL(p‖q_1) cannot exceed -log q_1 at the node where q/q_1 is largest, by tilts; there lam = 1.
    rng = np.random.default_rng(1)
    log_q = np.log(rng.dirichlet(np.ones(20)))
    log_1 = np.log(rng.dirichlet(np.ones(20)))
    ratios = du.LogRatios(log_1 - log_q, log_q)
    extreme = int(np.argmax(log_q - log_1))
    last = -log_1[extreme]
    inside, outside = du.solve(du.ReverseKL(last - 1e-3), ratios), du.solve(du.ReverseKL(last + 1.0), ratios)
    assert_optimal(inside, ratios, tolerance=1e-9)
    assert not outside.attained
    np.testing.assert_allclose(outside.critical_levels, last, rtol=1e-9)
    np.testing.assert_allclose(outside.primal, -log_q[extreme], rtol=1e-9)
    # The dual function at lam = 1 is b + min rho.
    np.testing.assert_allclose(outside.dual, last + 1.0 + (log_1 - log_q)[extreme], rtol=1e-9)


@pytest.mark.parametrize("levels", [2.0, 10.0, [2.0, 40.0]])
def test_everything_forgotten_leaves_a_value_and_no_density(levels):
    # q = .3 q_1 + .4 q_2 + .3 q_3, all three to be forgotten: lam* are the weights, u = 0, and what is left of the
    # nodes is rounding. The value is that of the cheapest combination that the multipliers price.
    ratios = worked_mixture(81, concepts=(0, 1, 2))
    levels = np.resize(levels, 3)
    solution = du.solve(du.ForwardKL(levels), ratios)
    assert solution.status is du.Status.NOT_ATTAINED
    np.testing.assert_allclose(solution.multipliers, [0.3, 0.4, 0.3], atol=1e-10)
    assert np.isnan(solution.critical_levels).all()
    assert np.isnan(solution.levels).all()
    assert np.isnan(solution.primal)
    # g at u = 0: lam·(b - E_{q_i}[rho_i]), straight from the table of dual functions.
    own = np.exp(ratios.values + ratios.log_weights[:, None])
    exact = solution.multipliers @ (levels - (own * ratios.values).sum(axis=0))
    np.testing.assert_allclose(solution.dual, exact, rtol=1e-9)
    assert "everything of q is to be forgotten" in str(solution)
    again = du.Solution.from_json(solution.to_json())
    assert str(again) == str(solution)


@pytest.mark.filterwarnings("ignore::duality.MassWarning")
@pytest.mark.parametrize("beside", [False, True])
def test_a_concept_that_is_absent_somewhere_leaves_the_others_their_limit(beside):
    # Densities next to the limit charge the set where it is absent a little, and so are infinitely far from it.
    rng = np.random.default_rng(0)
    for _ in range(20):
        q = rng.dirichlet(np.ones(25))
        values = rng.normal(size=(25, 3))
        values[rng.random(25) < 0.2, 0] = -np.inf
        seen = rng.random(25)
        levels = rng.uniform(1.0, 6.0, 3)
        with_it = du.LogRatios(values, np.log(q), detectors=seen)
        without = du.LogRatios(values[:, 1:], np.log(q), detectors=seen)

        def problem(levels):
            far = du.ReverseKL(levels)
            return du.Joint([far, du.Likelihood(q @ seen, kind="detector")]) if beside else far  # noqa: B023

        one, other = du.solve(problem(levels), with_it), du.solve(problem(levels[1:]), without)
        assert one.status is not du.Status.INEXACT
        assert one.dual == pytest.approx(other.dual, abs=1e-9)
        assert one.gap <= 1e-9
